package config

import (
	"io/fs"
	"strings"
	"testing"
	"time"
)

func reader(environment map[string]string, files map[string]string) *Reader {
	return &Reader{
		lookup: func(name string) (string, bool) {
			value, found := environment[name]
			return value, found
		},
		readFile: func(path string) ([]byte, error) {
			content, found := files[path]
			if !found {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			return []byte(content), nil
		},
	}
}

// check expects an error that holds every fragment, or none at all.
func check(t *testing.T, err error, fragments ...string) {
	t.Helper()
	if err == nil {
		if len(fragments) > 0 {
			t.Errorf("no error, want one with %q", fragments)
		}
		return
	}
	if len(fragments) == 0 {
		t.Errorf("unexpected error: %v", err)
	}
	for _, fragment := range fragments {
		if !strings.Contains(err.Error(), fragment) {
			t.Errorf("error %q lacks %q", err, fragment)
		}
	}
}

func TestSecret(t *testing.T) {
	files := map[string]string{"/run/secrets/key": "from a file\n", "/run/secrets/empty": "\n"}
	for _, test := range []struct {
		environment map[string]string
		want        string
		problem     []string
	}{
		{map[string]string{}, "", nil},
		{map[string]string{"KEY": "plain"}, "plain", nil},
		{map[string]string{"KEY_FILE": "/run/secrets/key"}, "from a file", nil},
		{map[string]string{"KEY": "", "KEY_FILE": "/run/secrets/key"}, "from a file", nil},
		{map[string]string{"KEY": "plain", "KEY_FILE": "/run/secrets/key"}, "", []string{"both `KEY` and `KEY_FILE`"}},
		{map[string]string{"KEY_FILE": "/run/secrets/none"}, "", []string{"`KEY_FILE`", "/run/secrets/none"}},
		{map[string]string{"KEY_FILE": "/run/secrets/empty"}, "", []string{"is empty"}},
	} {
		r := reader(test.environment, files)
		if got := r.Secret("KEY"); got != test.want {
			t.Errorf("%v: got %q, want %q", test.environment, got, test.want)
		}
		check(t, r.Err(), test.problem...)
	}
}

func TestDatabaseURL(t *testing.T) {
	for _, test := range []struct {
		environment map[string]string
		want        string
		problem     []string
	}{
		{map[string]string{"DATABASE_URL": "postgres://bee:pw@db/honey"}, "postgres://bee:pw@db/honey?sslmode=require", nil},
		{map[string]string{"DATABASE_URL": "postgresql://db/honey?sslmode=verify-full", "POSTGRES_SSLMODE": "disable"},
			"postgresql://db/honey?sslmode=verify-full", nil},
		{map[string]string{"POSTGRES_HOST": "db", "POSTGRES_USER": "bee", "POSTGRES_PASSWORD_FILE": "/pw", "POSTGRES_SSLMODE": "disable"},
			"postgres://bee:p%40ss%2Fword@db:5432/bee?sslmode=disable", nil},
		{map[string]string{"POSTGRES_HOST": "::1", "POSTGRES_PORT": "5433", "POSTGRES_USER": "bee", "POSTGRES_DB": "honey"},
			"postgres://bee@[::1]:5433/honey?sslmode=require", nil},
		{map[string]string{"DATABASE_URL": "postgres://db/honey?sslmode=prefer"}, "postgres://db/honey?sslmode=prefer", []string{"`prefer`", "require"}},
		{map[string]string{"POSTGRES_USER": "bee"}, "", []string{"no database"}},
	} {
		r := reader(test.environment, map[string]string{"/pw": "p@ss/word\n"})
		if got := r.Database().URL; got != test.want {
			t.Errorf("%v: got %q, want %q", test.environment, got, test.want)
		}
		check(t, r.Err(), test.problem...)
	}
}

func TestDatabaseErrorsHideThePassword(t *testing.T) {
	r := reader(map[string]string{"DATABASE_URL": "host=db password=hunter2"}, nil)
	r.Database()
	check(t, r.Err(), "`DATABASE_URL`")
	if strings.Contains(r.Err().Error(), "hunter2") {
		t.Error("the error shows the password")
	}
}

func TestPoolSettings(t *testing.T) {
	r := reader(map[string]string{
		"DATABASE_URL": "postgres://db/honey", "DB_MAX_OPEN_CONNS": "25", "DB_MAX_LIFETIME": "240",
	}, nil)
	database := r.Database()
	if database.MaxOpenConns != 25 || database.MaxLifetime != 240*time.Second {
		t.Errorf("got %d connections for %s", database.MaxOpenConns, database.MaxLifetime)
	}
	check(t, r.Err())

	r = reader(map[string]string{"DATABASE_URL": "postgres://db/honey", "DB_MAX_OPEN_CONNS": "many", "DB_MAX_LIFETIME": "-1s"}, nil)
	r.Database()
	check(t, r.Err(), "`DB_MAX_OPEN_CONNS` is `many`", "`DB_MAX_LIFETIME` is `-1s`")
}

func TestMigrationsAvoidThePooler(t *testing.T) {
	environment := map[string]string{"DATABASE_URL": "postgres://bee:pw@cool-name-pooler.example/honey"}
	r := reader(environment, nil)
	r.MigrationURL()
	check(t, r.Err(), "pooler", "`MIGRATION_DATABASE_URL`")

	environment["MIGRATION_DATABASE_URL"] = "postgres://bee:pw@cool-name.example/honey"
	r = reader(environment, nil)
	if got, want := r.MigrationURL(), "postgres://bee:pw@cool-name.example/honey?sslmode=require"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	check(t, r.Err())
}

func TestRedis(t *testing.T) {
	r := reader(map[string]string{"REDIS_URL": "redis://redis:6380/2", "REDIS_PASSWORD_FILE": "/pw"}, map[string]string{"/pw": "hive"})
	options := r.Redis()
	if options.Addr != "redis:6380" || options.DB != 2 || options.Password != "hive" {
		t.Errorf("got %s, database %d, password %q", options.Addr, options.DB, options.Password)
	}
	check(t, r.Err())

	r = reader(map[string]string{"REDIS_ADDR": "redis"}, nil)
	r.Redis()
	check(t, r.Err(), "`REDIS_ADDR`")
}

func TestStorageIsAllOrNone(t *testing.T) {
	all := map[string]string{
		"B2_ENDPOINT": "https://s3.us-west-004.example.com", "B2_KEY_ID": "id", "B2_APP_KEY_FILE": "/key", "B2_BUCKET_NAME": "combs",
	}
	files := map[string]string{"/key": "app key\n"}

	r := reader(map[string]string{"UPLOAD_DIR": "/uploads"}, nil)
	if storage := r.Storage(); storage.Bucket != nil || storage.Directory != "/uploads" {
		t.Errorf("without a bucket: %+v", storage)
	}
	check(t, r.Err())

	r = reader(all, files)
	storage := r.Storage()
	check(t, r.Err())
	want := Bucket{Endpoint: "s3.us-west-004.example.com", Secure: true, Region: "us-west-004", Name: "combs", KeyID: "id", Key: "app key"}
	if storage.Bucket == nil || *storage.Bucket != want {
		t.Errorf("got %+v, want %+v", storage.Bucket, want)
	}

	for removed := range all {
		partial := map[string]string{"UPLOAD_DIR": "/uploads"}
		for name, value := range all {
			if name != removed {
				partial[name] = value
			}
		}
		r := reader(partial, files)
		r.Storage()
		check(t, r.Err(), "half configured", "`"+strings.TrimSuffix(removed, "_FILE")+"`")
		if strings.Count(r.Err().Error(), "`") != 2 {
			t.Errorf("without %s: %v names more than what is missing", removed, r.Err())
		}
	}
}

func TestStorageEndpoint(t *testing.T) {
	for endpoint, problem := range map[string]string{
		"s3.example.com":            "",
		"http://127.0.0.1:9000":     "",
		"http://s3.example.com":     "must be https",
		"https://s3.example.com/my": "not a host",
	} {
		r := reader(map[string]string{"B2_ENDPOINT": endpoint, "B2_KEY_ID": "i", "B2_APP_KEY": "k", "B2_BUCKET_NAME": "b"}, nil)
		r.Storage()
		if problem == "" {
			check(t, r.Err())
		} else {
			check(t, r.Err(), problem)
		}
	}
}

func TestMail(t *testing.T) {
	r := reader(map[string]string{}, nil)
	if r.Mail() != nil || r.Err() != nil {
		t.Error("mail is configured by nothing")
	}
	r = reader(map[string]string{"EMAIL_HOST": "smtp.example", "EMAIL_HOST_USER": "bee", "EMAIL_FROM": "bee"}, nil)
	r.Mail()
	check(t, r.Err(), "`EMAIL_HOST_PASSWORD`", "`EMAIL_FROM` is `bee`", "`DIGEST_EMAIL_TO`")
}

func TestPushKeys(t *testing.T) {
	files := map[string]string{"/run/secrets/apns": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"}
	r := reader(map[string]string{}, files)
	if found := r.PushKeys(); len(found) != 0 {
		t.Errorf("found %q in nothing", found)
	}
	check(t, r.Err())

	r = reader(map[string]string{"APNS_AUTH_KEY_FILE": "/run/secrets/apns"}, files)
	if found := r.PushKeys(); len(found) != 1 || found[0] != "APNS_AUTH_KEY" {
		t.Errorf("found %q", found)
	}
	check(t, r.Err())

	r = reader(map[string]string{"APNS_AUTH_KEY_FILE": "/run/secrets/apns", "FCM_SERVER_KEY_FILE": "/run/secrets/fcm"}, files)
	r.PushKeys()
	check(t, r.Err(), "`FCM_SERVER_KEY_FILE`", "/run/secrets/fcm")
}

func TestSigningKeyLength(t *testing.T) {
	r := reader(map[string]string{"SECRET_KEY": "short"}, nil)
	r.SigningKey()
	check(t, r.Err(), "`SECRET_KEY` has 5 characters")
}
