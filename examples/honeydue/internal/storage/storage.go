// Package storage keeps uploads, in a bucket or in a directory. It knows
// keys and bytes, and nothing of what they show.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"

	"example.com/honeydue/internal/config"
)

// ErrNotFound means that nothing is stored under a key.
var ErrNotFound = errors.New("no such object")

// Objects stores bytes under keys. Keys are never written twice.
type Objects interface {
	Put(ctx context.Context, key, contentType string, content []byte) error
	// Open returns ErrNotFound for an unknown key; the caller closes the reader.
	Open(ctx context.Context, key string) (io.ReadCloser, error)
}

// Open returns the backend that the settings name.
func Open(settings config.Storage) (Objects, error) {
	if settings.Bucket != nil {
		return openBucket(*settings.Bucket)
	}
	return openVolume(settings.Directory)
}

// keys are ours, but they come back in addresses: what is not of this form
// reaches neither a file system nor a bucket.
var keyForm = regexp.MustCompile(`^[a-z0-9]+(/[a-z0-9]+)*\.[a-z]+$`)

func checkKey(key string) error {
	if len(key) > 200 || !keyForm.MatchString(key) {
		return fmt.Errorf("key `%.40s`: %w", key, ErrNotFound)
	}
	return nil
}
