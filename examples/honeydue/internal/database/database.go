// Package database opens the connection pool and judges the schema. It never
// changes the schema: that is goose's part.
package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/honeydue/internal/config"
)

// ErrNotMigrated means that goose has never run on this database.
var ErrNotMigrated = errors.New("table `goose_db_version` is missing: run the migrations (`api migrate up`), then start again")

// StaleSchemaError means that the database lacks migrations that this build
// was written for. A newer schema is accepted: a rollback of the code leaves
// the schema where it is.
type StaleSchemaError struct {
	Have, Want int64
}

func (e *StaleSchemaError) Error() string {
	return fmt.Sprintf("the schema is at migration %d, and this build needs %d: run the migrations (`api migrate up`), then start again", e.Have, e.Want)
}

// Open returns a pool whose first connection answered, on a database to which
// the migrations up to schema have been applied. It asks for a connection for
// at most patience, as containers of one deployment start in any order.
func Open(ctx context.Context, settings config.Database, schema int64, patience time.Duration) (*pgxpool.Pool, error) {
	poolConfig, err := pgxpool.ParseConfig(settings.URL)
	if err != nil {
		return nil, fmt.Errorf("read the database settings: %w", err)
	}
	poolConfig.MaxConns = int32(settings.MaxOpenConns)
	poolConfig.MaxConnLifetime = settings.MaxLifetime
	poolConfig.MaxConnIdleTime = settings.MaxLifetime / 2
	// Prepared statements do not survive a pooler in transaction mode.
	poolConfig.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec

	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open the database pool: %w", err)
	}
	if err := ping(ctx, pool, patience); err != nil {
		pool.Close()
		return nil, fmt.Errorf("reach the database: %w", err)
	}
	if err := requireSchema(ctx, pool, schema); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// Connections counts the clients that the server has now, this one among them,
// whatever their database.
func Connections(ctx context.Context, settings config.Database) (int, error) {
	connConfig, err := pgx.ParseConfig(settings.URL)
	if err != nil {
		return 0, fmt.Errorf("read the database settings: %w", err)
	}
	connConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return 0, fmt.Errorf("reach the database: %w", err)
	}
	defer conn.Close(ctx)
	var count int
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'`).Scan(&count)
	if err != nil {
		return 0, fmt.Errorf("count the connections: %w", err)
	}
	return count, nil
}

func ping(ctx context.Context, pool *pgxpool.Pool, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := pool.Ping(ctx)
		if err == nil || refused(err) {
			return err
		}
		slog.Warn("the database does not answer yet", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// refused tells a server that said no, which waiting does not cure, from one
// that is starting (class 57) or not there.
func refused(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code[:2] != "57"
}

// requireSchema checks that the migrations up to want have been applied.
func requireSchema(ctx context.Context, pool *pgxpool.Pool, want int64) error {
	var exists bool
	err := pool.QueryRow(ctx, `SELECT to_regclass('goose_db_version') IS NOT NULL`).Scan(&exists)
	if err != nil {
		return fmt.Errorf("look for table `goose_db_version`: %w", err)
	}
	if !exists {
		return ErrNotMigrated
	}
	var have int64
	err = pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&have)
	if err != nil {
		return fmt.Errorf("read table `goose_db_version`: %w", err)
	}
	if have < want {
		return &StaleSchemaError{Have: have, Want: want}
	}
	return nil
}
