// Package store holds every SQL statement of the services, and no rule about
// what a statement is for.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNotFound means that the row, or the row it belongs to, does not exist.
var ErrNotFound = errors.New("not found")

// ErrDuplicate means that an equal row exists.
var ErrDuplicate = errors.New("exists already")

// Store reads and writes through one pool.
type Store struct {
	pool *pgxpool.Pool
}

// New returns a store on a pool that stays the caller's to close.
func New(pool *pgxpool.Pool) *Store {
	return &Store{pool: pool}
}

// Residence is a home that somebody keeps in order.
type Residence struct {
	ID        int64     `json:"id" db:"id"`
	Name      string    `json:"name" db:"name"`
	City      string    `json:"city" db:"city"`
	OpenTasks int64     `json:"open_tasks" db:"open_tasks"`
	CreatedAt time.Time `json:"created_at" db:"created_at"`
}

// Residences lists the newest first, at most limit.
func (s *Store) Residences(ctx context.Context, limit int) ([]Residence, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT r.id, r.name, r.city, r.created_at,
		       (SELECT count(*) FROM tasks t WHERE t.residence_id = r.id AND t.completed_at IS NULL) AS open_tasks
		FROM residences r ORDER BY r.id DESC LIMIT $1`, limit)
	residences, err := pgx.CollectRows(rows, pgx.RowToStructByName[Residence])
	return residences, wrap("list residences", err)
}

// CreateResidence stores a residence without tasks.
func (s *Store) CreateResidence(ctx context.Context, name, city string) (Residence, error) {
	residence := Residence{Name: name, City: city}
	err := s.pool.QueryRow(ctx,
		`INSERT INTO residences (name, city) VALUES ($1, $2) RETURNING id, created_at`, name, city,
	).Scan(&residence.ID, &residence.CreatedAt)
	return residence, wrap("create residence", err)
}

// Task is one thing to do in a residence.
type Task struct {
	ID          int64      `json:"id" db:"id"`
	ResidenceID int64      `json:"residence_id" db:"residence_id"`
	Title       string     `json:"title" db:"title"`
	DueOn       Date       `json:"due_on" db:"due_on"`
	CompletedAt *time.Time `json:"completed_at" db:"completed_at"`
}

const taskColumns = `id, residence_id, title, due_on, completed_at`

// Tasks lists what is open first, then by due date.
func (s *Store) Tasks(ctx context.Context, residenceID int64) ([]Task, error) {
	rows, _ := s.pool.Query(ctx, `SELECT `+taskColumns+` FROM tasks WHERE residence_id = $1
		ORDER BY completed_at IS NOT NULL, due_on, id`, residenceID)
	tasks, err := pgx.CollectRows(rows, pgx.RowToStructByName[Task])
	return tasks, wrap("list tasks", err)
}

// CreateTask returns ErrNotFound without its residence, and ErrDuplicate
// where the residence has a task of this title and day.
func (s *Store) CreateTask(ctx context.Context, residenceID int64, title string, dueOn Date) (Task, error) {
	rows, _ := s.pool.Query(ctx, `INSERT INTO tasks (residence_id, title, due_on) VALUES ($1, $2, $3)
		RETURNING `+taskColumns, residenceID, title, dueOn)
	task, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Task])
	return task, wrap("create task", err)
}

// CompleteTask keeps the first time of completion.
func (s *Store) CompleteTask(ctx context.Context, id int64) (Task, error) {
	rows, _ := s.pool.Query(ctx, `UPDATE tasks SET completed_at = coalesce(completed_at, now()) WHERE id = $1
		RETURNING `+taskColumns, id)
	task, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Task])
	return task, wrap("complete task", err)
}

// Photo is an upload: where it lies, never its bytes.
type Photo struct {
	ID          int64     `json:"id" db:"id"`
	ResidenceID int64     `json:"residence_id" db:"residence_id"`
	Key         string    `json:"-" db:"object_key"`
	ContentType string    `json:"content_type" db:"content_type"`
	Size        int64     `json:"size_bytes" db:"size_bytes"`
	CreatedAt   time.Time `json:"created_at" db:"created_at"`
}

// RecordPhoto returns ErrNotFound without its residence.
func (s *Store) RecordPhoto(ctx context.Context, photo Photo) (Photo, error) {
	err := s.pool.QueryRow(ctx, `INSERT INTO photos (residence_id, object_key, content_type, size_bytes)
		VALUES ($1, $2, $3, $4) RETURNING id, created_at`,
		photo.ResidenceID, photo.Key, photo.ContentType, photo.Size,
	).Scan(&photo.ID, &photo.CreatedAt)
	return photo, wrap("record photo", err)
}

// Photos lists a residence's photos in the order of their upload.
func (s *Store) Photos(ctx context.Context, residenceID int64) ([]Photo, error) {
	rows, _ := s.pool.Query(ctx, `SELECT id, residence_id, object_key, content_type, size_bytes, created_at
		FROM photos WHERE residence_id = $1 ORDER BY id`, residenceID)
	photos, err := pgx.CollectRows(rows, pgx.RowToStructByName[Photo])
	return photos, wrap("list photos", err)
}

// wrap names the statement and turns what callers branch on into our errors.
func wrap(what string, err error) error {
	var answer *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		err = ErrNotFound
	case errors.As(err, &answer) && answer.Code == "23503": // foreign_key_violation
		err = ErrNotFound
	case errors.As(err, &answer) && answer.Code == "23505": // unique_violation
		err = ErrDuplicate
	}
	return fmt.Errorf("%s: %w", what, err)
}
