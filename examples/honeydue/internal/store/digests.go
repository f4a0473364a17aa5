package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Digest is one report that a worker wrote. Two workers write two.
type Digest struct {
	ID     int64  `json:"id" db:"id"`
	Worker string `json:"worker" db:"worker"`
	Counts
	Body      string    `json:"body" db:"body"`
	Emailed   bool      `json:"emailed" db:"emailed"`
	CreatedAt time.Time `json:"created_at" db:"created_at"`
}

// Counts is what a digest reports.
type Counts struct {
	Residences   int64 `json:"residences" db:"residences"`
	OpenTasks    int64 `json:"open_tasks" db:"open_tasks"`
	OverdueTasks int64 `json:"overdue_tasks" db:"overdue_tasks"`
}

// Count counts as of a day: what is due on that day is not overdue.
func (s *Store) Count(ctx context.Context, today Date) (Counts, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT (SELECT count(*) FROM residences) AS residences,
		       count(*) AS open_tasks,
		       count(*) FILTER (WHERE due_on < $1) AS overdue_tasks
		FROM tasks WHERE completed_at IS NULL`, today)
	counts, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Counts])
	return counts, wrap("count for a digest", err)
}

// RecordDigest stores a digest and returns its id.
func (s *Store) RecordDigest(ctx context.Context, digest Digest) (int64, error) {
	var id int64
	err := s.pool.QueryRow(ctx, `INSERT INTO digests (worker, residences, open_tasks, overdue_tasks, body)
		VALUES ($1, $2, $3, $4, $5) RETURNING id`,
		digest.Worker, digest.Residences, digest.OpenTasks, digest.OverdueTasks, digest.Body,
	).Scan(&id)
	return id, wrap("record digest", err)
}

// MarkEmailed notes that a digest went out.
func (s *Store) MarkEmailed(ctx context.Context, id int64) error {
	_, err := s.pool.Exec(ctx, `UPDATE digests SET emailed = true WHERE id = $1`, id)
	return wrap("mark digest", err)
}

// Digests lists the newest first, at most limit.
func (s *Store) Digests(ctx context.Context, limit int) ([]Digest, error) {
	rows, _ := s.pool.Query(ctx, `SELECT id, worker, residences, open_tasks, overdue_tasks, body, emailed, created_at
		FROM digests ORDER BY id DESC LIMIT $1`, limit)
	digests, err := pgx.CollectRows(rows, pgx.RowToStructByName[Digest])
	return digests, wrap("list digests", err)
}
