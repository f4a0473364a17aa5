package migrations

import (
	"strings"
	"testing"
)

func TestVersionsAreConsecutiveAndReversible(t *testing.T) {
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for i, entry := range entries {
		version, err := versionOf(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		if version != int64(i+1) {
			t.Errorf("%s: version %d, want %d", entry.Name(), version, i+1)
		}
		content, err := files.ReadFile(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		up := strings.Index(string(content), "-- +goose Up\n")
		down := strings.Index(string(content), "-- +goose Down\n")
		if up < 0 || down < up {
			t.Errorf("%s: wants an Up section, then a Down section", entry.Name())
		}
	}

	latest, err := Latest()
	if err != nil {
		t.Fatal(err)
	}
	if latest != int64(len(entries)) {
		t.Errorf("latest is %d, want %d", latest, len(entries))
	}
}

func TestVersionOf(t *testing.T) {
	for name, want := range map[string]int64{
		"00001_residences.sql":   1,
		"20260413120000_two.sql": 20260413120000,
		"00001.sql":              0,
		"first_one.sql":          0,
		"-1_negative.sql":        0,
		"00000_nothing.sql":      0,
	} {
		got, err := versionOf(name)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("versionOf(%q) = %d, %v; want %d", name, got, err, want)
		}
	}
}
