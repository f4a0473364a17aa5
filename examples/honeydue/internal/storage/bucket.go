package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"example.com/honeydue/internal/config"
)

// bucket speaks S3. It connects at the first use, so a storage outage does
// not keep the API from starting.
type bucket struct {
	client *minio.Client
	name   string
}

func openBucket(settings config.Bucket) (*bucket, error) {
	client, err := minio.New(settings.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(settings.KeyID, settings.Key, ""),
		Secure: settings.Secure,
		Region: settings.Region,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the storage bucket: %w", err)
	}
	return &bucket{client: client, name: settings.Name}, nil
}

func (b *bucket) Put(ctx context.Context, key, contentType string, content []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := b.client.PutObject(ctx, b.name, key, bytes.NewReader(content), int64(len(content)),
		minio.PutObjectOptions{ContentType: contentType})
	if err != nil {
		return fmt.Errorf("store `%s` in bucket `%s`: %w", key, b.name, err)
	}
	return nil
}

func (b *bucket) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	object, err := b.client.GetObject(ctx, b.name, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, fmt.Errorf("open `%s` in bucket `%s`: %w", key, b.name, err)
	}
	// GetObject asks nothing yet; Stat does, and tells a missing key apart.
	if _, err := object.Stat(); err != nil {
		object.Close()
		if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
			return nil, fmt.Errorf("key `%s`: %w", key, ErrNotFound)
		}
		return nil, fmt.Errorf("open `%s` in bucket `%s`: %w", key, b.name, err)
	}
	return object, nil
}
