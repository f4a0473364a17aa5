// Package lifecycle begins a service, runs its HTTP server until it is told to
// stop, and then stops it without losing a request.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Ending is how a server stops.
type Ending struct {
	// Begin is called first; it makes health checks fail.
	Begin func()
	// Pause is how long requests are still taken after that: proxies learn of
	// a stopping replica late.
	Pause time.Duration
	// Timeout is how long the last requests may take after the pause.
	Timeout time.Duration
}

// Serve returns once ctx is done and every request has been answered, or the
// server has failed.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, ending Ending) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	ending.Begin()
	slog.Info("stopping", "pause", ending.Pause.String())
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-time.After(ending.Pause):
	}

	last, cancel := context.WithTimeout(context.Background(), ending.Timeout)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return fmt.Errorf("requests were cut off after %s: %w", ending.Timeout, errors.Join(err, server.Close()))
	}
	return nil
}
