package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"example.com/honeydue/internal/storage"
	"example.com/honeydue/internal/store"
)

// memory is the tables and the bucket of one test.
type memory struct {
	residences []store.Residence
	tasks      []store.Task
	photos     []store.Photo
	objects    map[string][]byte
	queued     []int64
	broken     error // every call of the store fails with it
}

func (m *memory) has(residence int64) error {
	if m.broken != nil {
		return m.broken
	}
	if residence > int64(len(m.residences)) {
		return store.ErrNotFound
	}
	return nil
}

func (m *memory) Residences(context.Context, int) ([]store.Residence, error) {
	return m.residences, m.broken
}

func (m *memory) CreateResidence(_ context.Context, name, city string) (store.Residence, error) {
	residence := store.Residence{ID: int64(len(m.residences) + 1), Name: name, City: city}
	if m.broken == nil {
		m.residences = append(m.residences, residence)
	}
	return residence, m.broken
}

func (m *memory) Tasks(context.Context, int64) ([]store.Task, error) { return m.tasks, m.broken }

func (m *memory) CreateTask(_ context.Context, residence int64, title string, due store.Date) (store.Task, error) {
	if err := m.has(residence); err != nil {
		return store.Task{}, err
	}
	for _, task := range m.tasks {
		if task.ResidenceID == residence && task.Title == title && task.DueOn == due {
			return store.Task{}, store.ErrDuplicate
		}
	}
	task := store.Task{ID: int64(len(m.tasks) + 1), ResidenceID: residence, Title: title, DueOn: due}
	m.tasks = append(m.tasks, task)
	return task, nil
}

func (m *memory) CompleteTask(_ context.Context, id int64) (store.Task, error) {
	if id > int64(len(m.tasks)) {
		return store.Task{}, store.ErrNotFound
	}
	done := time.Unix(0, 0)
	m.tasks[id-1].CompletedAt = &done
	return m.tasks[id-1], nil
}

func (m *memory) Photos(context.Context, int64) ([]store.Photo, error) { return m.photos, m.broken }

func (m *memory) RecordPhoto(_ context.Context, photo store.Photo) (store.Photo, error) {
	if err := m.has(photo.ResidenceID); err != nil {
		return photo, err
	}
	photo.ID = int64(len(m.photos) + 1)
	m.photos = append(m.photos, photo)
	return photo, nil
}

func (m *memory) Digests(context.Context, int) ([]store.Digest, error) { return nil, m.broken }

func (m *memory) Put(_ context.Context, key, _ string, content []byte) error {
	m.objects[key] = content
	return nil
}

func (m *memory) Open(_ context.Context, key string) (io.ReadCloser, error) {
	content, found := m.objects[key]
	if !found {
		return nil, storage.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

type fixture struct {
	*memory
	*API
	handler http.Handler
}

func newFixture() *fixture {
	rows := &memory{objects: map[string][]byte{}}
	api := &API{
		Store: rows, Objects: rows, Health: http.NotFoundHandler(),
		SigningKey: []byte("a signing key of thirty-two bytes"),
		Now:        func() time.Time { return time.Unix(1_776_000_000, 0) },
		ResidenceCreated: func(_ context.Context, residence store.Residence) error {
			rows.queued = append(rows.queued, residence.ID)
			return nil
		},
	}
	return &fixture{memory: rows, API: api, handler: api.Routes()}
}

// do sends a request, and expects a status and a fragment of the body.
func (f *fixture) do(t *testing.T, method, path, body string, code int, fragment string) *httptest.ResponseRecorder {
	t.Helper()
	recorder := httptest.NewRecorder()
	f.handler.ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader(body)))
	if recorder.Code != code || !strings.Contains(recorder.Body.String(), fragment) {
		t.Errorf("%s %s: %d %.200s; want %d with %q", method, path, recorder.Code, recorder.Body, code, fragment)
	}
	return recorder
}

func TestResidences(t *testing.T) {
	f := newFixture()
	f.do(t, "GET", "/api/residences/", "", 200, "[]\n")
	f.do(t, "POST", "/api/residences/", `{"name":" Elm Street 1 ","city":"Bern"}`, 201, `"name":"Elm Street 1"`)
	f.do(t, "GET", "/api/residences/", "", 200, `"city":"Bern"`)
	if len(f.queued) != 1 || f.queued[0] != 1 {
		t.Errorf("told the worker of %v", f.queued)
	}
	for body, code := range map[string]int{
		`{"name":"  "}`: 422,
		`{"name":"` + strings.Repeat("é", 121) + `"}`:       422,
		`{"name":"a","owner":1}`:                            400,
		`nonsense`:                                          400,
		`{"name":"` + strings.Repeat("a", bodyLimit) + `"}`: 400,
	} {
		f.do(t, "POST", "/api/residences/", body, code, "error")
	}
	f.do(t, "POST", "/api/residences/", `{"name":"`+strings.Repeat("é", 120)+`"}`, 201, "")
}

func TestResidenceIsKeptWithoutTheQueue(t *testing.T) {
	f := newFixture()
	f.ResidenceCreated = func(context.Context, store.Residence) error { return errors.New("redis is down") }
	f.do(t, "POST", "/api/residences/", `{"name":"Elm"}`, 201, `"id":1`)
}

func TestTasks(t *testing.T) {
	f := newFixture()
	f.do(t, "POST", "/api/residences/", `{"name":"Elm"}`, 201, "")
	body := `{"title":"Sweep the chimney","due_on":"2026-09-01"}`
	f.do(t, "POST", "/api/residences/1/tasks/", body, 201, `"due_on":"2026-09-01"`)
	f.do(t, "POST", "/api/residences/1/tasks/", body, 409, "exists already")
	f.do(t, "POST", "/api/residences/2/tasks/", body, 404, "not found")
	f.do(t, "POST", "/api/residences/elm/tasks/", body, 404, "not found")
	f.do(t, "POST", "/api/residences/1/tasks/", `{"title":"Sweep"}`, 422, "due_on")
	f.do(t, "POST", "/api/residences/1/tasks/", `{"title":"Sweep","due_on":"soon"}`, 400, "soon")
	f.do(t, "GET", "/api/residences/1/tasks/", "", 200, `"completed_at":null`)
	f.do(t, "POST", "/api/tasks/1/complete/", "", 200, `"completed_at":"19`)
	f.do(t, "POST", "/api/tasks/9/complete/", "", 404, "")
}

func TestErrorsOfTheStoreAreNotShown(t *testing.T) {
	f := newFixture()
	f.broken = errors.New("password authentication failed for user bee")
	for _, path := range []string{"/api/residences/", "/api/residences/1/tasks/", "/api/residences/1/photos/", "/api/digests/"} {
		recorder := f.do(t, "GET", path, "", 500, "internal error")
		if strings.Contains(recorder.Body.String(), "bee") {
			t.Errorf("%s shows %s", path, recorder.Body)
		}
	}
}

func TestPhotos(t *testing.T) {
	f := newFixture()
	f.do(t, "POST", "/api/residences/", `{"name":"Elm"}`, 201, "")
	picture := "\x89PNG\r\n\x1a\n" + strings.Repeat("pixels", 500)

	f.do(t, "POST", "/api/residences/1/photos/", "<script>alert(1)</script>", 415, "JPEG, PNG or WebP")
	f.do(t, "POST", "/api/residences/1/photos/", picture+strings.Repeat("x", photoLimit), 413, "10485760")
	f.do(t, "POST", "/api/residences/2/photos/", picture, 404, "")
	uploaded := f.do(t, "POST", "/api/residences/1/photos/", picture, 201, `"content_type":"image/png"`)

	var photo linkedPhoto
	if err := json.Unmarshal(uploaded.Body.Bytes(), &photo); err != nil {
		t.Fatal(err)
	}
	read := f.do(t, "GET", photo.URL, "", 200, "pixels")
	if read.Body.String() != picture || read.Header().Get("Content-Type") != "image/png" {
		t.Errorf("read %d bytes of %s", read.Body.Len(), read.Header().Get("Content-Type"))
	}
	address, err := url.Parse(photo.URL)
	if err != nil {
		t.Fatal(err)
	}
	f.do(t, "GET", address.Path, "", 403, "not valid")
	f.do(t, "GET", "/api/residences/1/photos/", "", 200, address.Path)
	f.Now = func() time.Time { return time.Unix(1_776_000_000, 0).Add(linkLifetime + time.Second) }
	f.do(t, "GET", photo.URL, "", 403, "expired")
}
