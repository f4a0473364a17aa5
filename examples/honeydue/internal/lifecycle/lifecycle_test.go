package lifecycle

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener without a network: a dial is one end of a pipe.
type pipes struct {
	ends chan net.Conn
	once sync.Once
	done chan struct{}
}

func newPipes() *pipes { return &pipes{ends: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case end := <-p.ends:
		return end, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) get(t *testing.T, path string) string {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	select {
	case p.ends <- theirs:
	case <-p.done:
		return "closed"
	}
	if _, err := io.WriteString(ours, "GET "+path+" HTTP/1.1\r\nHost: hive\r\nConnection: close\r\n\r\n"); err != nil {
		t.Error(err)
		return ""
	}
	response, err := http.ReadResponse(bufio.NewReader(ours), nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

func TestServeAnswersDuringThePauseAndFinishesRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		var draining bool
		leave := make(chan struct{})
		mux := http.NewServeMux()
		mux.HandleFunc("/quick", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "quick") })
		mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
			<-leave
			io.WriteString(w, "slow")
		})
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, listener, mux, Ending{
				Begin: func() { draining = true }, Pause: 5 * time.Second, Timeout: 20 * time.Second,
			})
		}()

		slow := make(chan string, 1)
		go func() { slow <- listener.get(t, "/slow") }()
		synctest.Wait()
		stop()
		synctest.Wait()
		if !draining {
			t.Error("the server does not know that it is stopping")
		}
		time.Sleep(4 * time.Second)
		if got := listener.get(t, "/quick"); got != "quick" {
			t.Errorf("during the pause: %q", got)
		}
		time.Sleep(2 * time.Second)
		if got := listener.get(t, "/quick"); got != "closed" {
			t.Errorf("after the pause: %q", got)
		}
		select {
		case err := <-ended:
			t.Errorf("ended with a request open: %v", err)
		default:
		}
		close(leave)
		if got := <-slow; got != "slow" {
			t.Errorf("the open request got %q", got)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestServeGivesUpAfterTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		ctx, stop := context.WithCancel(context.Background())
		stuck := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ended := make(chan error, 1)
		go func() { ended <- Serve(ctx, listener, stuck, Ending{Begin: func() {}, Timeout: 20 * time.Second}) }()
		ours, theirs := net.Pipe()
		listener.ends <- theirs
		go io.WriteString(ours, "GET / HTTP/1.1\r\nHost: hive\r\n\r\n")
		synctest.Wait()
		stop()
		start := time.Now()
		if err := <-ended; err == nil {
			t.Error("a request was cut off without a word")
		}
		if waited := time.Since(start); waited != 20*time.Second {
			t.Errorf("gave up after %s", waited)
		}
		ours.Close()
	})
}
