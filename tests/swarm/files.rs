//! The files of a project: images of busybox and scripts, and a stack that runs them on an engine which has no virtual
//! addresses.

/// Serves scripts until it is told to end.
const SERVE: &str = r#"#!/bin/busybox sh
echo "serving $VERSION"
case $FAULT in
crash)
    echo "cannot go on" >&2
    exit 7
    ;;
memory)
    # A shell that takes whatever it can get.
    x=0123456789abcdef
    while true; do x=$x$x; done
    ;;
esac
trap 'exit 0' TERM
httpd -f -p 8000 -h / &
wait
"#;

/// The schema is what the stack file says.
const MIGRATE: &str = r#"#!/bin/busybox sh
if [ "$1" = version ]; then
    echo "schema $SCHEMA"
    exit
fi
echo "migrating for $VERSION"
case $2 in
hang) sleep 1000 ;;
slow) sleep 4 ;;
0) ;;
*) echo "no such column"; exit "$2" ;;
esac
"#;

const VERSION: &str = r#"#!/bin/busybox sh
printf 'Status: 200 OK\r\n\r\n%s %s' "$VERSION" "$(cat /run/secrets/token)"
"#;

const HEALTH: &str = r#"#!/bin/busybox sh
if [ "$FAULT" = sick ]; then
    printf 'Status: 503 Service Unavailable\r\n\r\nthe database is gone'
else
    printf 'Status: 200 OK\r\n\r\nwell'
fi
"#;

/// Good and bad in turn.
const FLAP: &str = r#"#!/bin/busybox sh
if rm /tmp/flap 2>/dev/null; then
    printf 'Status: 503 Service Unavailable\r\n\r\nbad'
else
    : >/tmp/flap
    printf 'Status: 200 OK\r\n\r\ngood'
fi
"#;

/// Runs, and is well, until it is told to end.
const WORK: &str = r#"#!/bin/busybox sh
trap 'exit 0' TERM
echo "working for $VERSION"
sleep 100000 &
wait
"#;

/// What is below `root`, executable.
pub const SCRIPTS: [(&str, &str); 7] = [
    ("serve", SERVE),
    ("work", WORK),
    ("migrate", MIGRATE),
    ("cgi-bin/version", VERSION),
    ("cgi-bin/health", HEALTH),
    ("cgi-bin/flap", FLAP),
    // A directory that scripts may write into.
    ("tmp/.keep", ""),
];

/// Two replicas that are replaced one after the other, and one of which there are never two.
pub const STACK: &str = r#"
x-common: &common
  image: web
  environment:
    VERSION: "${VERSION:-1}"
    SCHEMA: "${SCHEMA:-1}"
    FAULT: "${FAULT:-}"
  networks: [inner]
  stop_grace_period: 1s

x-limits: &limits {limits: {memory: 32M}}
x-restart: &restart {delay: 100ms}

services:
  api:
    <<: *common
    secrets: [token]
    healthcheck:
      test: [CMD, busybox, wget, -q, -O, /dev/null, "http://127.0.0.1:8000/cgi-bin/health"]
      interval: 300ms
      timeout: 5s
      retries: 2
    deploy:
      replicas: ${REPLICAS:-2}
      endpoint_mode: dnsrr
      update_config: {order: start-first, monitor: 500ms}
      restart_policy: *restart
      resources: *limits

  worker:
    <<: *common
    entrypoint: [/work]
    healthcheck: {test: [CMD, busybox, "true"], interval: 300ms, timeout: 5s}
    deploy:
      endpoint_mode: dnsrr
      update_config: {order: stop-first, monitor: 500ms}
      restart_policy: *restart
      resources: *limits

networks:
  inner: {driver_opts: {encrypted: ""}}

secrets:
  token: {external: true}
"#;

/// One replica on a port of its node, which gives it up before the next one starts.
pub const FRONT: &str = r#"
services:
  front:
    image: web
    environment:
      VERSION: "${VERSION:-1}"
      FAULT: "${FAULT:-}"
    networks: [inner]
    ports: [{target: 8000, published: "${PORT}", mode: host}]
    secrets: [token]
    stop_grace_period: 1s
    healthcheck:
      test: [CMD, busybox, wget, -q, -O, /dev/null, "http://127.0.0.1:8000/cgi-bin/health"]
      interval: 300ms
      timeout: 5s
      retries: 2
    deploy:
      endpoint_mode: dnsrr
      update_config: {order: stop-first, monitor: 500ms}
      restart_policy: {delay: 100ms}
      resources: {limits: {memory: 32M}}

networks:
  inner: {driver_opts: {encrypted: ""}}

secrets:
  token: {external: true}
"#;

/// One replica, and nothing that takes time.
pub const SMALL: &str = r#"
services:
  api:
    image: web
    entrypoint: [/work]
    environment:
      VERSION: "${VERSION:-1}"
      SCHEMA: "${SCHEMA:-1}"
    networks: [inner]
    secrets: [token]
    stop_grace_period: 1s
    healthcheck: {test: [CMD, busybox, "true"], interval: 300ms, timeout: 5s}
    deploy:
      endpoint_mode: dnsrr
      update_config: {order: stop-first, monitor: 500ms}
      restart_policy: {delay: 100ms}
      resources: {limits: {memory: 32M}}

networks:
  inner: {driver_opts: {encrypted: ""}}

secrets:
  token: {external: true}
"#;
