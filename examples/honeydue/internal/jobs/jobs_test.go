package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"example.com/honeydue/internal/store"
)

// memory behaves as the tables do: tasks are unique by residence, title and
// day, and belong to a residence that exists.
type memory struct {
	residences map[int64]bool
	tasks      []string
	failAfter  int // CreateTask fails once this many tasks exist; 0 never
	counts     store.Counts
	digests    []store.Digest
}

var errDown = errors.New("connection refused")

func (m *memory) CreateTask(_ context.Context, residence int64, title string, due store.Date) (store.Task, error) {
	if !m.residences[residence] {
		return store.Task{}, store.ErrNotFound
	}
	if m.failAfter > 0 && len(m.tasks) >= m.failAfter {
		return store.Task{}, errDown
	}
	row := fmt.Sprintf("%d %s %s", residence, due, title)
	if slices.Contains(m.tasks, row) {
		return store.Task{}, store.ErrDuplicate
	}
	m.tasks = append(m.tasks, row)
	return store.Task{}, nil
}

func (m *memory) Count(context.Context, store.Date) (store.Counts, error) { return m.counts, nil }

func (m *memory) RecordDigest(_ context.Context, digest store.Digest) (int64, error) {
	m.digests = append(m.digests, digest)
	return int64(len(m.digests)), nil
}

func (m *memory) MarkEmailed(_ context.Context, id int64) error {
	m.digests[id-1].Emailed = true
	return nil
}

func at(text string) func() time.Time {
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return func() time.Time { return moment }
}

func TestStarterTasksSurviveARetryOnAnotherDay(t *testing.T) {
	rows := &memory{residences: map[int64]bool{7: true}, failAfter: 1}
	jobs := &Jobs{Store: rows, Now: at("2026-04-13T23:59:00Z")}
	task, err := NewStarterTasks(7, store.DateOf(jobs.Now()))
	if err != nil {
		t.Fatal(err)
	}
	mux := jobs.Mux()
	if err := mux.ProcessTask(context.Background(), task); !errors.Is(err, errDown) || errors.Is(err, asynq.SkipRetry) {
		t.Fatalf("first try: %v, want a failure that is tried again", err)
	}
	rows.failAfter = 0
	jobs.Now = at("2026-04-14T00:01:00Z")
	for range 2 {
		if err := mux.ProcessTask(context.Background(), task); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"7 2026-04-20 Test the smoke detectors",
		"7 2026-05-13 Replace the furnace filter",
		"7 2026-07-12 Clean the gutters",
	}
	if !slices.Equal(rows.tasks, want) {
		t.Errorf("got %q, want %q", rows.tasks, want)
	}
}

func TestHopelessTasksAreNotRetried(t *testing.T) {
	mux := (&Jobs{Store: &memory{}}).Mux()
	gone, err := NewStarterTasks(8, store.Date{})
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range []*asynq.Task{gone, asynq.NewTask(TypeStarterTasks, []byte("{"))} {
		if err := mux.ProcessTask(context.Background(), task); !errors.Is(err, asynq.SkipRetry) {
			t.Errorf("payload %s: %v", task.Payload(), err)
		}
	}
}

func TestDigest(t *testing.T) {
	rows := &memory{counts: store.Counts{Residences: 1, OpenTasks: 4, OverdueTasks: 2}}
	var mailed string
	jobs := &Jobs{Store: rows, Worker: "hive", Now: at("2026-04-13T08:00:00Z"), Send: func(subject, body string) error {
		mailed = subject + "\n" + body
		return nil
	}}
	if err := jobs.Mux().ProcessTask(context.Background(), NewDigest()); err != nil {
		t.Fatal(err)
	}
	body := "2026-04-13: 1 residence with 4 open tasks. Overdue: 2."
	if mailed != "honeydue digest for 2026-04-13\n"+body {
		t.Errorf("mailed %q", mailed)
	}
	want := store.Digest{Worker: "hive", Counts: rows.counts, Body: body, Emailed: true}
	if len(rows.digests) != 1 || rows.digests[0] != want {
		t.Errorf("recorded %+v", rows.digests)
	}
}

func TestDigestIsKeptWhenMailFails(t *testing.T) {
	rows := &memory{}
	jobs := &Jobs{Store: rows, Now: at("2026-04-13T08:00:00Z"), Send: func(string, string) error { return errDown }}
	if err := jobs.Mux().ProcessTask(context.Background(), NewDigest()); !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
	if len(rows.digests) != 1 || rows.digests[0].Emailed || rows.digests[0].Body != "2026-04-13: 0 residences with 0 open tasks." {
		t.Errorf("recorded %+v", rows.digests)
	}
}
