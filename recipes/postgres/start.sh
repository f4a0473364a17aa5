#!/bin/sh
# Starts PostgreSQL, which gets all arguments; on an empty volume, makes a database first.
#
# A database is made under another name, and takes its own when it is complete: where something ended the first
# start in the middle, the next one begins again. The password is in no argument, and nothing prints it.
set -eu
umask 077
volume=/var/lib/postgresql/data
data=$volume/cluster
new=$volume/new

fail() {
    echo "postgres-start: $*" >&2
    exit 1
}

# make_cluster PASSWORD_FILE
make_cluster() {
    echo 'postgres-start: making a database'
    initdb --pgdata="$new" --username="$user" --pwfile="$1" \
        --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 --locale=C.UTF-8 >/dev/null
    echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE \"$database\"" |
            postgres --single -j -D "$new" -c exit_on_error=on postgres >/dev/null
    fi
    sync "$new/pg_hba.conf"
    mv "$new" "$data"
    sync "$volume"
}

first_start() {
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    case $database in
    '' | *[!A-Za-z0-9_.-]*) fail "\`$database\` is not a name for a database: use letters, digits, \`_\`, \`-\` and \`.\`" ;;
    esac
    # As the first process it would get no signal without this; it ends when the step that runs is done.
    trap 'exit 1' INT TERM
    rm -rf "$new"
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        [ -z "${POSTGRES_PASSWORD:-}" ] || fail 'POSTGRES_PASSWORD_FILE and POSTGRES_PASSWORD are both set'
        [ -s "$POSTGRES_PASSWORD_FILE" ] || fail "\`$POSTGRES_PASSWORD_FILE\` is missing or empty"
        make_cluster "$POSTGRES_PASSWORD_FILE"
    elif [ -n "${POSTGRES_PASSWORD:-}" ]; then
        make_cluster /proc/self/fd/3 3<<EOT
$POSTGRES_PASSWORD
EOT
    else
        fail 'there is no database yet, and no password for one: set POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD'
    fi
    trap - INT TERM
}

[ ! -e "$volume/PG_VERSION" ] || fail "\`$volume\` itself is a database; move it into \`$data\`"
[ -e "$data" ] || first_start
unset POSTGRES_PASSWORD
exec postgres -D "$data" -c listen_addresses=0.0.0.0 -c port=5432 -c unix_socket_directories=/tmp -c jit=off "$@"
