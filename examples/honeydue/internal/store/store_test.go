package store

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestDateRoundTrip(t *testing.T) {
	var task Task
	if err := json.Unmarshal([]byte(`{"due_on":"2028-02-29"}`), &task); err != nil {
		t.Fatal(err)
	}
	if got := task.DueOn.AddDays(1).String(); got != "2028-03-01" {
		t.Errorf("the day after the leap day is %s", got)
	}
	text, err := json.Marshal(task.DueOn)
	if err != nil || string(text) != `"2028-02-29"` {
		t.Errorf("written as %s, %v", text, err)
	}
	var scanned Date
	if err := scanned.Scan(time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)); err != nil || scanned != task.DueOn {
		t.Errorf("scanned %v, %v", scanned, err)
	}
	if err := scanned.Scan(int64(7)); err == nil {
		t.Error("a number was scanned as a date")
	}
}

func TestDateRefusesWhatIsNoDay(t *testing.T) {
	for _, text := range []string{"", "2026-02-29", "13.04.2026", "2026-04-13T00:00:00Z"} {
		if date, err := ParseDate(text); err == nil {
			t.Errorf("%q was read as %s", text, date)
		}
	}
}

func TestDateOfIsInUTC(t *testing.T) {
	moment := time.Date(2026, 4, 13, 23, 30, 0, 0, time.FixedZone("west", -2*60*60))
	if got := DateOf(moment).String(); got != "2026-04-14" {
		t.Errorf("got %s", got)
	}
}

func TestWrap(t *testing.T) {
	other := errors.New("broken pipe")
	for _, test := range []struct{ err, want error }{
		{nil, nil},
		{pgx.ErrNoRows, ErrNotFound},
		{&pgconn.PgError{Code: "23503"}, ErrNotFound},
		{&pgconn.PgError{Code: "23505"}, ErrDuplicate},
		{other, other},
	} {
		if got := wrap("try", test.err); !errors.Is(got, test.want) {
			t.Errorf("%v became %v, want %v", test.err, got, test.want)
		}
	}
}
