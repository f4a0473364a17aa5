// Package config reads the environment of the services. It knows names,
// shapes and defaults, and opens no connection.
package config

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Reader collects every problem of an environment, so that one start names
// them all. The value it returns beside a problem must not be used.
type Reader struct {
	lookup   func(name string) (string, bool)
	readFile func(path string) ([]byte, error)
	problems []error
}

// FromProcess reads the environment of this process.
func FromProcess() *Reader {
	return &Reader{lookup: os.LookupEnv, readFile: os.ReadFile}
}

// Err returns every problem met so far, or nil.
func (r *Reader) Err() error {
	return errors.Join(r.problems...)
}

func (r *Reader) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf(format, args...))
}

// String returns a setting, or the fallback where it is unset or empty: an
// empty line in an environment file means "not set".
func (r *Reader) String(name, fallback string) string {
	if value, found := r.lookup(name); found && value != "" {
		return value
	}
	return fallback
}

// Secret returns NAME, or what the file that NAME_FILE names holds, without
// its last line break. Both set is a problem: which one wins would be a guess.
func (r *Reader) Secret(name string) string {
	value := r.String(name, "")
	path := r.String(name+"_FILE", "")
	if path == "" {
		return value
	}
	if value != "" {
		r.problem("both `%s` and `%s_FILE` are set: keep one", name, name)
		return ""
	}
	content, err := r.readFile(path)
	if err != nil {
		r.problem("`%s_FILE`: %w", name, err)
		return ""
	}
	secret := strings.TrimRight(string(content), "\r\n")
	if secret == "" {
		r.problem("`%s_FILE`: `%s` is empty", name, path)
	}
	return secret
}

// Int returns a whole number within lowest and highest.
func (r *Reader) Int(name string, fallback, lowest, highest int) int {
	text := r.String(name, "")
	if text == "" {
		return fallback
	}
	value, err := strconv.Atoi(text)
	if err != nil || value < lowest || value > highest {
		r.problem("`%s` is `%s`, and must be a whole number from %d to %d", name, text, lowest, highest)
		return fallback
	}
	return value
}

// Duration returns a span of time written as Go does (`90s`, `4m`) or as a
// plain number of seconds; it is never negative.
func (r *Reader) Duration(name string, fallback time.Duration) time.Duration {
	text := r.String(name, "")
	if text == "" {
		return fallback
	}
	value, err := time.ParseDuration(text)
	if seconds, numberErr := strconv.Atoi(text); numberErr == nil {
		value, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || value < 0 {
		r.problem("`%s` is `%s`, and must be a duration such as `90s` or a number of seconds", name, text)
		return fallback
	}
	return value
}
