// Package migrations knows which schema this build of the code was written
// for. It does not apply anything: goose does, from the same files.
package migrations

import (
	"embed"
	"fmt"
	"strconv"
	"strings"
)

//go:embed *.sql
var files embed.FS

// Latest returns the version of the newest migration file, which is the
// number before the first underscore of its name.
func Latest() (int64, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return 0, fmt.Errorf("list embedded migrations: %w", err)
	}
	var latest int64
	for _, entry := range entries {
		version, err := versionOf(entry.Name())
		if err != nil {
			return 0, err
		}
		latest = max(latest, version)
	}
	return latest, nil
}

func versionOf(name string) (int64, error) {
	number, _, found := strings.Cut(name, "_")
	if !found {
		return 0, fmt.Errorf("migration `%s` has no `_` after its version", name)
	}
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil || version < 1 {
		return 0, fmt.Errorf("migration `%s` does not start with a version", name)
	}
	return version, nil
}
