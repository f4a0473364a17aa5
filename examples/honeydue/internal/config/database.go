package config

import (
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Database is where PostgreSQL is and how many connections one process of
// ours may hold.
type Database struct {
	// URL in PostgreSQL's form, always with an `sslmode`. It holds the password.
	URL string
	// MaxOpenConns is per process: replicas multiply it.
	MaxOpenConns int
	// MaxLifetime must stay below what the provider allows an idle connection.
	MaxLifetime time.Duration
}

var sslModes = []string{"disable", "require", "verify-ca", "verify-full"}

// Database reads `DATABASE_URL`, or the `POSTGRES_*` parts where it is unset.
func (r *Reader) Database() Database {
	return Database{
		URL:          r.databaseURL(),
		MaxOpenConns: r.Int("DB_MAX_OPEN_CONNS", 10, 1, 500),
		MaxLifetime:  r.Duration("DB_MAX_LIFETIME", 4*time.Minute),
	}
}

// MigrationURL returns where migrations run: `MIGRATION_DATABASE_URL`, or the
// database of the services. A pooler in transaction mode drops the advisory
// lock that keeps two migrations apart, so its host is refused.
func (r *Reader) MigrationURL() string {
	text := r.Secret("MIGRATION_DATABASE_URL")
	if text == "" {
		text = r.databaseURL()
	} else {
		text = r.withSSLMode("MIGRATION_DATABASE_URL", text)
	}
	if parsed, err := url.Parse(text); err == nil && strings.Contains(parsed.Hostname(), "-pooler") {
		r.problem("migrations would run through the pooler `%s`: set `MIGRATION_DATABASE_URL` to the direct host", parsed.Hostname())
	}
	return text
}

func (r *Reader) databaseURL() string {
	if text := r.Secret("DATABASE_URL"); text != "" {
		return r.withSSLMode("DATABASE_URL", text)
	}
	host := r.String("POSTGRES_HOST", "")
	user := r.String("POSTGRES_USER", "")
	name := r.String("POSTGRES_DB", user)
	password := r.Secret("POSTGRES_PASSWORD")
	if host == "" || user == "" {
		r.problem("no database: set `DATABASE_URL`, or `POSTGRES_HOST` and `POSTGRES_USER`")
		return ""
	}
	port := r.String("POSTGRES_PORT", "5432")
	built := url.URL{Scheme: "postgres", User: url.User(user), Host: net.JoinHostPort(host, port), Path: "/" + name}
	if password != "" {
		built.User = url.UserPassword(user, password)
	}
	return r.withSSLMode("POSTGRES_HOST", built.String())
}

// withSSLMode makes the mode explicit: libpq's default, `prefer`, silently
// falls back to plain text. The errors must not show the text: it holds a
// password.
func (r *Reader) withSSLMode(name, text string) string {
	parsed, err := url.Parse(text)
	if err != nil || (parsed.Scheme != "postgres" && parsed.Scheme != "postgresql") || parsed.Hostname() == "" {
		r.problem("`%s` is not a URL such as `postgres://user@host:5432/name`", name)
		return ""
	}
	query := parsed.Query()
	if query.Get("sslmode") == "" {
		query.Set("sslmode", r.String("POSTGRES_SSLMODE", "require"))
	}
	if mode := query.Get("sslmode"); !slices.Contains(sslModes, mode) {
		r.problem("sslmode `%s` is none of %s", mode, strings.Join(sslModes, ", "))
	}
	parsed.RawQuery = query.Encode()
	return parsed.String()
}
