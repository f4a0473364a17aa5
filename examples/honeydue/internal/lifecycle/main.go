package lifecycle

import (
	"fmt"
	"log/slog"
	"os"
)

// Main is the whole of a service's main: it logs to stderr as JSON, under the
// service's name, and ends the process with 1 where run fails on the arguments.
func Main(service string, run func(args []string) error) {
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("service", service))
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", service, err)
		os.Exit(1)
	}
}
