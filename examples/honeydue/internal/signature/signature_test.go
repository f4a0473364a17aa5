package signature

import (
	"errors"
	"net/url"
	"testing"
	"time"
)

func TestVerify(t *testing.T) {
	key := []byte("thirty-two bytes of a signing key")
	now := time.Unix(1_776_000_000, 0)
	signed := Sign(key, "/uploads/a.png", now.Add(time.Minute))
	later := url.Values{"expires": {"1876000000"}, "signature": signed["signature"]}

	for name, test := range map[string]struct {
		key   []byte
		path  string
		query url.Values
		now   time.Time
		want  error
	}{
		"valid":             {key, "/uploads/a.png", signed, now, nil},
		"the last second":   {key, "/uploads/a.png", signed, now.Add(time.Minute), nil},
		"a second too late": {key, "/uploads/a.png", signed, now.Add(61 * time.Second), ErrExpired},
		"another path":      {key, "/uploads/b.png", signed, now, ErrInvalid},
		"another key":       {[]byte("another key"), "/uploads/a.png", signed, now, ErrInvalid},
		"a later time":      {key, "/uploads/a.png", later, now, ErrInvalid},
		"nothing":           {key, "/uploads/a.png", url.Values{}, now, ErrInvalid},
	} {
		if got := Verify(test.key, test.path, test.query, test.now); !errors.Is(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestSignIsStable(t *testing.T) {
	got := Sign([]byte("key"), "/uploads/a.png", time.Unix(1_776_000_000, 999)).Encode()
	want := "expires=1776000000&signature=C13qsieo_7dmUF6MLOtVABPJPDqONNoob90n7w4OEoU"
	if got != want {
		t.Errorf("got %s", got)
	}
}
