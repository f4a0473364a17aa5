// Package httpapi is the API that people and the admin talk to. It checks
// and translates; what it needs done, it asks of the interfaces below.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.com/honeydue/internal/storage"
	"example.com/honeydue/internal/store"
)

// Store is what the API needs of the database.
type Store interface {
	Residences(ctx context.Context, limit int) ([]store.Residence, error)
	CreateResidence(ctx context.Context, name, city string) (store.Residence, error)
	Tasks(ctx context.Context, residenceID int64) ([]store.Task, error)
	CreateTask(ctx context.Context, residenceID int64, title string, dueOn store.Date) (store.Task, error)
	CompleteTask(ctx context.Context, id int64) (store.Task, error)
	Photos(ctx context.Context, residenceID int64) ([]store.Photo, error)
	RecordPhoto(ctx context.Context, photo store.Photo) (store.Photo, error)
	Digests(ctx context.Context, limit int) ([]store.Digest, error)
}

// API holds what the handlers share. All fields must be set.
type API struct {
	Store   Store
	Objects storage.Objects
	// ResidenceCreated tells the worker of a new residence.
	ResidenceCreated func(ctx context.Context, residence store.Residence) error
	Health           http.Handler
	SigningKey       []byte
	Now              func() time.Time
}

const (
	listLimit = 100
	bodyLimit = 64 << 10
)

// Routes returns the handler of every path under /api/.
func (a *API) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /api/health/{$}", a.Health)
	mux.HandleFunc("GET /api/residences/{$}", a.listResidences)
	mux.HandleFunc("POST /api/residences/{$}", a.createResidence)
	mux.HandleFunc("GET /api/residences/{id}/tasks/{$}", a.listTasks)
	mux.HandleFunc("POST /api/residences/{id}/tasks/{$}", a.createTask)
	mux.HandleFunc("POST /api/tasks/{id}/complete/{$}", a.completeTask)
	mux.HandleFunc("GET /api/residences/{id}/photos/{$}", a.listPhotos)
	mux.HandleFunc("POST /api/residences/{id}/photos/{$}", a.uploadPhoto)
	mux.HandleFunc("GET "+uploadPrefix+"{key...}", a.readUpload)
	mux.HandleFunc("GET /api/digests/{$}", a.listDigests)
	return mux
}

func (a *API) listResidences(w http.ResponseWriter, r *http.Request) {
	residences, err := a.Store.Residences(r.Context(), listLimit)
	answerList(w, r, residences, err)
}

func (a *API) createResidence(w http.ResponseWriter, r *http.Request) {
	var input struct {
		Name string `json:"name"`
		City string `json:"city"`
	}
	if !decode(w, r, &input) {
		return
	}
	name, city := strings.TrimSpace(input.Name), strings.TrimSpace(input.City)
	if !between(name, 1, 120) || !between(city, 0, 120) {
		refuse(w, http.StatusUnprocessableEntity, "`name` must have 1 to 120 characters, and `city` at most 120")
		return
	}
	residence, err := a.Store.CreateResidence(r.Context(), name, city)
	if err != nil {
		fail(w, r, err)
		return
	}
	// The residence exists, so the answer is not an error: without the queue
	// it merely starts without tasks.
	if err := a.ResidenceCreated(r.Context(), residence); err != nil {
		slog.ErrorContext(r.Context(), "the worker was not told of a residence", "residence", residence.ID, "error", err)
	}
	answer(w, http.StatusCreated, residence)
}

func (a *API) listTasks(w http.ResponseWriter, r *http.Request) {
	id, ok := pathID(w, r)
	if !ok {
		return
	}
	tasks, err := a.Store.Tasks(r.Context(), id)
	answerList(w, r, tasks, err)
}

func (a *API) createTask(w http.ResponseWriter, r *http.Request) {
	id, ok := pathID(w, r)
	if !ok {
		return
	}
	var input struct {
		Title string      `json:"title"`
		DueOn *store.Date `json:"due_on"`
	}
	if !decode(w, r, &input) {
		return
	}
	title := strings.TrimSpace(input.Title)
	if !between(title, 1, 200) || input.DueOn == nil {
		refuse(w, http.StatusUnprocessableEntity, "`title` must have 1 to 200 characters, and `due_on` must be a day")
		return
	}
	task, err := a.Store.CreateTask(r.Context(), id, title, *input.DueOn)
	if err != nil {
		fail(w, r, err)
		return
	}
	answer(w, http.StatusCreated, task)
}

func (a *API) completeTask(w http.ResponseWriter, r *http.Request) {
	id, ok := pathID(w, r)
	if !ok {
		return
	}
	task, err := a.Store.CompleteTask(r.Context(), id)
	if err != nil {
		fail(w, r, err)
		return
	}
	answer(w, http.StatusOK, task)
}

func (a *API) listDigests(w http.ResponseWriter, r *http.Request) {
	digests, err := a.Store.Digests(r.Context(), listLimit)
	answerList(w, r, digests, err)
}

func between(text string, lowest, highest int) bool {
	length := len([]rune(text))
	return length >= lowest && length <= highest
}

func pathID(w http.ResponseWriter, r *http.Request) (int64, bool) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		refuse(w, http.StatusNotFound, "not found")
		return 0, false
	}
	return id, true
}

func decode(w http.ResponseWriter, r *http.Request, input any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyLimit))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(input); err != nil {
		refuse(w, http.StatusBadRequest, "the body is not the JSON that is expected: "+err.Error())
		return false
	}
	return true
}

// answerList writes `[]`, never `null`, for no rows.
func answerList[T any](w http.ResponseWriter, r *http.Request, rows []T, err error) {
	if err != nil {
		fail(w, r, err)
		return
	}
	if rows == nil {
		rows = []T{}
	}
	answer(w, http.StatusOK, rows)
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		slog.Debug("a client hung up", "error", err)
	}
}

func refuse(w http.ResponseWriter, code int, message string) {
	answer(w, code, map[string]string{"error": message})
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, storage.ErrNotFound):
		refuse(w, http.StatusNotFound, "not found")
	case errors.Is(err, store.ErrDuplicate):
		refuse(w, http.StatusConflict, "exists already")
	default:
		slog.ErrorContext(r.Context(), "a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		refuse(w, http.StatusInternalServerError, "internal error")
	}
}
