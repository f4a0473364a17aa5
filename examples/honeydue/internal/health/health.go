// Package health answers whether this process can do its work, and asks
// another one the same question.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Timeout bounds one check: a probe must end before its prober gives up.
const Timeout = 2 * time.Second

// Check returns an error while a part is not usable.
type Check func(ctx context.Context) error

// Handler answers 200 while every check passes, and 503 while one fails or
// the process is on its way out.
type Handler struct {
	Release string
	Checks  map[string]Check

	draining atomic.Bool
}

type report struct {
	Status  string            `json:"status"`
	Release string            `json:"release"`
	Checks  map[string]string `json:"checks,omitempty"`
}

// Drain makes every later answer a 503, so that no new traffic is sent here.
func (h *Handler) Drain() {
	h.draining.Store(true)
}

// ServeHTTP answers one probe. What failed exactly goes to the log: an error
// may hold an address, and anybody may ask for health.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := report{Status: "ok", Release: h.Release}
	if h.draining.Load() {
		answer.Status = "draining"
	} else {
		answer.Checks = h.run(r.Context())
		for _, state := range answer.Checks {
			if state != "ok" {
				answer.Status = "unavailable"
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if answer.Status != "ok" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		slog.Debug("a prober hung up", "error", err)
	}
}

func (h *Handler) run(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	var (
		group  sync.WaitGroup
		lock   sync.Mutex
		states = make(map[string]string, len(h.Checks))
	)
	for name, check := range h.Checks {
		group.Go(func() {
			state := "ok"
			if err := check(ctx); err != nil {
				slog.Warn("a health check failed", "check", name, "error", err)
				state = "unreachable"
			}
			lock.Lock()
			defer lock.Unlock()
			states[name] = state
		})
	}
	group.Wait()
	return states
}

// Ask returns nil where the address answers 200, and else why not.
func Ask(ctx context.Context, client *http.Client, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask `%s`: %w", address, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask `%s`: %w", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	return fmt.Errorf("`%s` answers %s: %s", address, response.Status, body)
}
