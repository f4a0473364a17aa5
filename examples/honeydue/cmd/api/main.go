// Command api serves the HTTP API of honeydue.
//
//	api               serve
//	api healthcheck   ask the API on this machine; exit 0 where it is healthy
//	api connections   print how many connections the database serves, of every client
//	api migrate ARGS  become goose, on the database of the settings
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
	"example.com/honeydue/internal/httpapi"
	"example.com/honeydue/internal/jobs"
	"example.com/honeydue/internal/lifecycle"
	"example.com/honeydue/internal/storage"
	"example.com/honeydue/internal/store"
	"example.com/honeydue/migrations"
)

const (
	defaultPort = 8000
	// queueTimeout is how long a request waits for a queue that does not answer.
	queueTimeout = 2 * time.Second
)

func main() {
	lifecycle.Main("api", run)
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return serve()
	case args[0] == "healthcheck" && len(args) == 1:
		return healthcheck()
	case args[0] == "connections" && len(args) == 1:
		return connections()
	case args[0] == "migrate" && len(args) > 1:
		return migrate(args[1:])
	default:
		return errors.New("usage: api | api healthcheck | api connections | api migrate <goose command>")
	}
}

type settings struct {
	database config.Database
	redis    *redis.Options
	storage  config.Storage
	key      []byte
	port     string
	release  string
	patience time.Duration
	ending   lifecycle.Ending
}

func readSettings() (settings, error) {
	env := config.FromProcess()
	s := settings{
		database: env.Database(),
		redis:    env.Redis(),
		storage:  env.Storage(),
		key:      env.SigningKey(),
		port:     env.Port("PORT", defaultPort),
		release:  env.String("RELEASE", "development"),
		patience: env.Duration("STARTUP_TIMEOUT", 30*time.Second),
		ending: lifecycle.Ending{
			Pause:   env.Duration("SHUTDOWN_PAUSE", 5*time.Second),
			Timeout: env.Duration("SHUTDOWN_TIMEOUT", 20*time.Second),
		},
	}
	return s, env.Err()
}

func serve() error {
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
	objects, err := storage.Open(s.storage)
	if err != nil {
		return err
	}
	cache := redis.NewClient(s.redis)
	defer cache.Close()
	// On the same connections, as these end a call when its context does.
	tasks := asynq.NewClientFromRedisClient(cache)

	state := &health.Handler{Release: s.release, Checks: map[string]health.Check{
		"database": pool.Ping,
		"redis":    func(ctx context.Context) error { return cache.Ping(ctx).Err() },
	}}
	s.ending.Begin = state.Drain
	api := &httpapi.API{
		Store:      store.New(pool),
		Objects:    objects,
		Health:     state,
		SigningKey: s.key,
		Now:        time.Now,
		ResidenceCreated: func(ctx context.Context, residence store.Residence) error {
			task, err := jobs.NewStarterTasks(residence.ID, store.DateOf(residence.CreatedAt))
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, queueTimeout)
			defer cancel()
			_, err = tasks.EnqueueContext(ctx, task)
			return err
		},
	}
	listener, err := net.Listen("tcp", ":"+s.port)
	if err != nil {
		return err
	}
	slog.Info("serving", "address", listener.Addr().String(), "release", s.release,
		"schema", schema, "uploads", s.storage.Backend())
	return lifecycle.Serve(ctx, listener, api.Routes(), s.ending)
}

func healthcheck() error {
	env := config.FromProcess()
	address := "http://127.0.0.1:" + env.Port("PORT", defaultPort) + "/api/health/"
	if err := env.Err(); err != nil {
		return err
	}
	return health.Ask(context.Background(), http.DefaultClient, address)
}

func connections() error {
	env := config.FromProcess()
	settings := env.Database()
	if err := env.Err(); err != nil {
		return err
	}
	count, err := database.Connections(context.Background(), settings)
	if err != nil {
		return err
	}
	fmt.Println(count)
	return nil
}

// migrate replaces this process with goose, so that its exit status, output
// and signals are goose's own. The address goes through the environment: an
// argument would show the password in the list of processes.
func migrate(args []string) error {
	env := config.FromProcess()
	address := env.MigrationURL()
	goose := env.String("GOOSE_PATH", "/goose")
	directory := env.String("GOOSE_MIGRATION_DIR", "/migrations")
	if err := env.Err(); err != nil {
		return err
	}
	environment := append(os.Environ(),
		"GOOSE_DRIVER=postgres", "GOOSE_DBSTRING="+address, "GOOSE_MIGRATION_DIR="+directory)
	err := syscall.Exec(goose, append([]string{"goose"}, args...), environment)
	return fmt.Errorf("run `%s`: %w", goose, err)
}
