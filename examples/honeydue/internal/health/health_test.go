package health

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func probe(t *testing.T, handler http.Handler) (int, report) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/health", nil))
	var answer report
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return recorder.Code, answer
}

func TestHandler(t *testing.T) {
	var redis error
	handler := &Handler{Release: "r1", Checks: map[string]Check{
		"database": func(context.Context) error { return nil },
		"redis":    func(context.Context) error { return redis },
	}}

	code, answer := probe(t, handler)
	if code != 200 || answer.Status != "ok" || answer.Release != "r1" {
		t.Errorf("healthy: %d %+v", code, answer)
	}

	redis = errors.New("dial redis.internal:6379: connection refused")
	code, answer = probe(t, handler)
	want := map[string]string{"database": "ok", "redis": "unreachable"}
	if code != 503 || answer.Status != "unavailable" || !maps.Equal(answer.Checks, want) {
		t.Errorf("without redis: %d %+v", code, answer)
	}

	redis = nil
	handler.Drain()
	if code, answer = probe(t, handler); code != 503 || answer.Status != "draining" {
		t.Errorf("draining: %d %+v", code, answer)
	}
}

func TestChecksAreBounded(t *testing.T) {
	handler := &Handler{Checks: map[string]Check{"database": func(ctx context.Context) error {
		deadline, found := ctx.Deadline()
		if !found || deadline.IsZero() {
			return nil
		}
		return context.DeadlineExceeded
	}}}
	if code, _ := probe(t, handler); code != 503 {
		t.Error("a check ran without a deadline")
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func TestAsk(t *testing.T) {
	answers := func(code int, body string) transport {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{Status: http.StatusText(code), StatusCode: code, Body: io.NopCloser(strings.NewReader(body))}, nil
		}
	}
	refused := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

	for _, test := range []struct {
		transport transport
		problem   string
	}{
		{answers(200, "{}"), ""},
		{answers(503, `{"status":"draining"}`), "draining"},
		{answers(404, "not here"), "not here"},
		{refused, "connection refused"},
	} {
		err := Ask(context.Background(), &http.Client{Transport: test.transport}, "http://127.0.0.1:1/health")
		if (err == nil) != (test.problem == "") || (err != nil && !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("got %v, want %q", err, test.problem)
		}
	}
}
