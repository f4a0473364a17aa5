// Command worker does the tasks that the API queues, and writes a digest
// every so often. Run one: two schedulers write every digest twice.
//
//	worker               work
//	worker healthcheck   ask the worker on this machine; exit 0 where it is healthy
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"example.com/honeydue/internal/config"
	"example.com/honeydue/internal/database"
	"example.com/honeydue/internal/health"
	"example.com/honeydue/internal/jobs"
	"example.com/honeydue/internal/lifecycle"
	"example.com/honeydue/internal/mail"
	"example.com/honeydue/internal/queue"
	"example.com/honeydue/internal/store"
	"example.com/honeydue/migrations"
)

const defaultPort = 6060

func main() {
	lifecycle.Main("worker", run)
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return work()
	case args[0] == "healthcheck" && len(args) == 1:
		return healthcheck()
	default:
		return errors.New("usage: worker | worker healthcheck")
	}
}

type settings struct {
	database    config.Database
	redis       *redis.Options
	mail        *config.Mail
	pushKeys    []string
	interval    time.Duration
	concurrency int
	port        string
	release     string
	patience    time.Duration
	timeout     time.Duration
}

func readSettings() (settings, error) {
	env := config.FromProcess()
	s := settings{
		database:    env.Database(),
		redis:       env.Redis(),
		mail:        env.Mail(),
		pushKeys:    env.PushKeys(),
		interval:    env.Duration("DIGEST_INTERVAL", time.Hour),
		concurrency: env.Int("WORKER_CONCURRENCY", 5, 1, 100),
		port:        env.Port("HEALTH_PORT", defaultPort),
		release:     env.String("RELEASE", "development"),
		patience:    env.Duration("STARTUP_TIMEOUT", 30*time.Second),
		timeout:     env.Duration("SHUTDOWN_TIMEOUT", 20*time.Second),
	}
	if s.interval < time.Second {
		return s, errors.Join(env.Err(), errors.New("`DIGEST_INTERVAL` must be a second or more"))
	}
	return s, env.Err()
}

func work() error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	schema, err := migrations.Latest()
	if err != nil {
		return err
	}
	pool, err := database.Open(ctx, s.database, schema, s.patience)
	if err != nil {
		return err
	}
	defer pool.Close()
	cache := redis.NewClient(s.redis)
	defer cache.Close()
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this worker: %w", err)
	}
	todo := &jobs.Jobs{Store: store.New(pool), Worker: fmt.Sprintf("%s/%d", name, os.Getpid()), Now: time.Now}
	if s.mail != nil {
		todo.Send = mail.Sender(*s.mail)
	}

	server := asynq.NewServer(queue.Connection(s.redis), asynq.Config{
		Concurrency: s.concurrency, ShutdownTimeout: s.timeout, Logger: queue.Log{},
		ErrorHandler: asynq.ErrorHandlerFunc(func(ctx context.Context, task *asynq.Task, err error) {
			slog.ErrorContext(ctx, "a task failed", "task", task.Type(), "error", err)
		}),
	})
	if err := server.Start(todo.Mux()); err != nil {
		return fmt.Errorf("start taking tasks: %w", err)
	}
	defer server.Shutdown()
	scheduler, err := schedule(s)
	if err != nil {
		return err
	}
	defer scheduler.Shutdown()

	slog.Info("working", "worker", todo.Worker, "release", s.release, "schema", schema,
		"digests", s.interval.String(), "mail", s.mail != nil, "push keys", s.pushKeys)
	state := &health.Handler{Release: s.release, Checks: map[string]health.Check{
		"database": pool.Ping,
		"redis":    func(ctx context.Context) error { return cache.Ping(ctx).Err() },
	}}
	return serveHealth(ctx, s, state)
}

// schedule starts the clock that queues digests.
func schedule(s settings) (*asynq.Scheduler, error) {
	scheduler := asynq.NewScheduler(queue.Connection(s.redis), &asynq.SchedulerOpts{
		Logger: queue.Log{},
		PostEnqueueFunc: func(_ *asynq.TaskInfo, err error) {
			if err != nil {
				slog.Error("a digest was not queued", "error", err)
			}
		},
	})
	if _, err := scheduler.Register("@every "+s.interval.String(), jobs.NewDigest()); err != nil {
		return nil, fmt.Errorf("schedule the digest: %w", err)
	}
	if err := scheduler.Start(); err != nil {
		return nil, fmt.Errorf("start the scheduler: %w", err)
	}
	return scheduler, nil
}

// serveHealth blocks until the worker is told to stop.
func serveHealth(ctx context.Context, s settings, state *health.Handler) error {
	listener, err := net.Listen("tcp", ":"+s.port)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /health", state)
	return lifecycle.Serve(ctx, listener, mux, lifecycle.Ending{Begin: state.Drain, Timeout: s.timeout})
}

func healthcheck() error {
	env := config.FromProcess()
	address := "http://127.0.0.1:" + env.Port("HEALTH_PORT", defaultPort) + "/health"
	if err := env.Err(); err != nil {
		return err
	}
	return health.Ask(context.Background(), http.DefaultClient, address)
}
