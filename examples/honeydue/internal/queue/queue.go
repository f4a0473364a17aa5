// Package queue connects asynq to our settings and our log. It knows no task.
package queue

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// Connection returns asynq's form of a Redis connection.
func Connection(options *redis.Options) asynq.RedisClientOpt {
	return asynq.RedisClientOpt{
		Network:   options.Network,
		Addr:      options.Addr,
		Username:  options.Username,
		Password:  options.Password,
		DB:        options.DB,
		TLSConfig: options.TLSConfig,
	}
}

// Log passes asynq's messages on to slog.
type Log struct{}

// Debug is asynq's level of the same name, as are the others.
func (Log) Debug(args ...any) { slog.Debug(fmt.Sprint(args...), "from", "asynq") }

// Info is dropped to debug: asynq tells of every start and stop of a part.
func (Log) Info(args ...any) { slog.Debug(fmt.Sprint(args...), "from", "asynq") }

// Warn passes a warning on.
func (Log) Warn(args ...any) { slog.Warn(fmt.Sprint(args...), "from", "asynq") }

// Error passes an error on.
func (Log) Error(args ...any) { slog.Error(fmt.Sprint(args...), "from", "asynq") }

// Fatal ends the process, as asynq demands.
func (Log) Fatal(args ...any) {
	slog.Error(fmt.Sprint(args...), "from", "asynq")
	os.Exit(1)
}
