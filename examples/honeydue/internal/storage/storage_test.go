package storage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/honeydue/internal/config"
)

func TestVolumeKeepsBytes(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "new", "uploads")
	objects, err := Open(config.Storage{Directory: directory})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	content := bytes.Repeat([]byte("honey"), 1000)
	if err := objects.Put(ctx, "residences/7/c0ffee.png", "image/png", content); err != nil {
		t.Fatal(err)
	}
	reader, err := objects.Open(ctx, "residences/7/c0ffee.png")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	got, err := io.ReadAll(reader)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(content))
	}
	if _, err := objects.Open(ctx, "residences/7/other.png"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
	names, err := os.ReadDir(filepath.Join(directory, "residences", "7"))
	if err != nil || len(names) != 1 {
		t.Errorf("%d files are left beside the upload, %v", len(names)-1, err)
	}
}

func TestVolumeRefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uploads")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(config.Storage{Directory: path}); err == nil {
		t.Error("a plain file was taken for the upload directory")
	}
}

func TestForeignKeysReachNoBackend(t *testing.T) {
	for _, key := range []string{
		"", "photo", "../secret.png", "/etc/passwd.png", "residences//1.png", "residences/./1.png",
		"Residences/1.png", "residences/1.png/..", "residences/1.png\x00", strings.Repeat("a", 200) + ".png",
	} {
		if err := checkKey(key); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if err := checkKey("residences/12/00ff.jpeg"); err != nil {
		t.Error(err)
	}
}
