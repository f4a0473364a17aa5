package database

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestRefusedTellsAnswersFromSilence(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{errors.New("dial tcp: connection refused"), false},
		{&pgconn.PgError{Code: "57P03", Message: "the database system is starting up"}, false},
		{fmt.Errorf("connect: %w", &pgconn.PgError{Code: "28P01", Message: "password authentication failed"}), true},
		{&pgconn.PgError{Code: "3D000", Message: "database does not exist"}, true},
	} {
		if got := refused(test.err); got != test.want {
			t.Errorf("%v: refused is %t", test.err, got)
		}
	}
}
