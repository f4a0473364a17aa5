// Package jobs names the tasks that pass through the queue and does them. It
// runs no queue: the worker does.
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"

	"example.com/honeydue/internal/store"
)

// The types of tasks, as both services write them into Redis.
const (
	TypeStarterTasks = "residence:starter_tasks"
	TypeDigest       = "digest:write"
)

type starterTasks struct {
	ResidenceID int64 `json:"residence_id"`
	// From is fixed when the task is queued: a retry on the next day would
	// else make a second set of tasks.
	From store.Date `json:"from"`
}

// NewStarterTasks fills a new residence with what every home needs. Queued
// twice, it is refused while the first is known.
func NewStarterTasks(residenceID int64, from store.Date) (*asynq.Task, error) {
	payload, err := json.Marshal(starterTasks{ResidenceID: residenceID, From: from})
	if err != nil {
		return nil, fmt.Errorf("write task `%s`: %w", TypeStarterTasks, err)
	}
	return asynq.NewTask(TypeStarterTasks, payload,
		asynq.TaskID(fmt.Sprintf("starter-tasks-%d", residenceID)),
		asynq.MaxRetry(5), asynq.Timeout(30*time.Second)), nil
}

// NewDigest writes one digest. It is not retried, as the next one comes anyway.
func NewDigest() *asynq.Task {
	return asynq.NewTask(TypeDigest, nil, asynq.MaxRetry(0), asynq.Timeout(time.Minute))
}

// Store is what jobs need of the database.
type Store interface {
	CreateTask(ctx context.Context, residenceID int64, title string, dueOn store.Date) (store.Task, error)
	Count(ctx context.Context, today store.Date) (store.Counts, error)
	RecordDigest(ctx context.Context, digest store.Digest) (int64, error)
	MarkEmailed(ctx context.Context, id int64) error
}

// Jobs does the tasks.
type Jobs struct {
	Store  Store
	Worker string // who signs the digests
	Now    func() time.Time
	// Send mails a digest; nil where mail is not configured.
	Send func(subject, body string) error
}

// Mux routes each type of task.
func (j *Jobs) Mux() *asynq.ServeMux {
	mux := asynq.NewServeMux()
	mux.HandleFunc(TypeStarterTasks, j.createStarterTasks)
	mux.HandleFunc(TypeDigest, j.writeDigest)
	return mux
}

var starters = []struct {
	title string
	days  int
}{
	{"Test the smoke detectors", 7},
	{"Replace the furnace filter", 30},
	{"Clean the gutters", 90},
}

func (j *Jobs) createStarterTasks(ctx context.Context, task *asynq.Task) error {
	var payload starterTasks
	if err := json.Unmarshal(task.Payload(), &payload); err != nil {
		return fmt.Errorf("read task `%s`: %w: %w", TypeStarterTasks, err, asynq.SkipRetry)
	}
	for _, starter := range starters {
		_, err := j.Store.CreateTask(ctx, payload.ResidenceID, starter.title, payload.From.AddDays(starter.days))
		switch {
		case errors.Is(err, store.ErrDuplicate): // an earlier try came this far
		case errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("residence %d is gone: %w: %w", payload.ResidenceID, err, asynq.SkipRetry)
		case err != nil:
			return err
		}
	}
	slog.InfoContext(ctx, "starter tasks are in place", "residence", payload.ResidenceID, "tasks", len(starters))
	return nil
}

func (j *Jobs) writeDigest(ctx context.Context, _ *asynq.Task) error {
	today := store.DateOf(j.Now())
	counts, err := j.Store.Count(ctx, today)
	if err != nil {
		return err
	}
	digest := store.Digest{Worker: j.Worker, Counts: counts, Body: digestText(today, counts)}
	id, err := j.Store.RecordDigest(ctx, digest)
	if err != nil {
		return err
	}
	slog.InfoContext(ctx, "a digest is written", "digest", id, "overdue", counts.OverdueTasks)
	if j.Send == nil {
		return nil
	}
	if err := j.Send("honeydue digest for "+today.String(), digest.Body); err != nil {
		return fmt.Errorf("mail digest %d: %w", id, err)
	}
	return j.Store.MarkEmailed(ctx, id)
}

func digestText(today store.Date, counts store.Counts) string {
	text := fmt.Sprintf("%s: %s with %s.", today, count(counts.Residences, "residence"), count(counts.OpenTasks, "open task"))
	if counts.OverdueTasks > 0 {
		text += fmt.Sprintf(" Overdue: %d.", counts.OverdueTasks)
	}
	return text
}

func count(number int64, noun string) string {
	if number == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", number, noun)
}
