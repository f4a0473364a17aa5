package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// volume is a directory. Every replica on another node has another one.
type volume struct {
	root *os.Root
}

func openVolume(directory string) (*volume, error) {
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return nil, fmt.Errorf("create the upload directory: %w", err)
	}
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, fmt.Errorf("open the upload directory: %w", err)
	}
	// A volume that belongs to somebody else is found now, not at the first upload.
	const probe = ".writable"
	if err := root.WriteFile(probe, nil, 0o640); err != nil {
		return nil, fmt.Errorf("write to the upload directory `%s`: %w", directory, err)
	}
	if err := root.Remove(probe); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("write to the upload directory `%s`: %w", directory, err)
	}
	return &volume{root: root}, nil
}

func (v *volume) Put(_ context.Context, key, _ string, content []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := v.root.MkdirAll(path.Dir(key), 0o750); err != nil {
		return fmt.Errorf("store `%s`: %w", key, err)
	}
	// Written aside and renamed, so that a crash leaves no half of a photo.
	aside := key + ".part"
	if err := v.root.WriteFile(aside, content, 0o640); err != nil {
		return fmt.Errorf("store `%s`: %w", key, err)
	}
	if err := v.root.Rename(aside, key); err != nil {
		return fmt.Errorf("store `%s`: %w", key, err)
	}
	return nil
}

func (v *volume) Open(_ context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	file, err := v.root.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key `%s`: %w", key, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open `%s`: %w", key, err)
	}
	return file, nil
}
