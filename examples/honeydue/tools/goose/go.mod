// goose, built for PostgreSQL alone.
//
// go.mod and go.sum list what that build reads, and no more: the drivers of
// other databases would bring 89 further modules. After changing a version,
// run here, rather than `go mod tidy`, which lists them all:
//
//	go build -mod=mod -tags no_clickhouse,no_libsql,no_mssql,no_mysql,no_sqlite3,no_vertica,no_ydb -o /dev/null tool
module example.com/honeydue/tools/goose

go 1.25.0

tool github.com/pressly/goose/v3/cmd/goose

require github.com/pressly/goose/v3 v3.22.1

require (
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/pgx/v5 v5.7.1 // indirect
	github.com/jackc/puddle/v2 v2.2.2 // indirect
	github.com/mfridman/interpolate v0.0.2 // indirect
	github.com/mfridman/xflag v0.0.0-20240825232106-efb77353e578 // indirect
	github.com/sethvargo/go-retry v0.3.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	golang.org/x/crypto v0.27.0 // indirect
	golang.org/x/sync v0.8.0 // indirect
	golang.org/x/text v0.18.0 // indirect
)
