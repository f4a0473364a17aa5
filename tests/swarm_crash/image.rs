//! What the tests run on a Swarm: busybox and a few scripts, as images that differ in a variable.

pub const SCRIPTS: [(&str, &str); 6] = [
    ("serve", SERVE),
    ("beat", BEAT),
    ("migrate", MIGRATE),
    ("cgi-bin/pass", PASS),
    ("cgi-bin/version", VERSION),
    ("cgi-bin/health", HEALTH),
];

/// Serves scripts until it is told to end, and for a moment longer: whoever looked it up may still come.
const SERVE: &str = r#"#!/bin/busybox sh
echo "serving $VERSION"
trap 'sleep 0.7; exit 0' TERM
httpd -f -p 8000 -h / &
wait
"#;

/// Writes into a file that it runs, over and over, and for a moment after it was told to end.
const BEAT: &str = r#"#!/bin/busybox sh
id=$(cat /proc/sys/kernel/random/uuid)
trap 'end=1' TERM
while [ -z "$end" ] || [ "$end" -lt 5 ]; do
    echo "$id" >>/bench/beats
    usleep 50000
    [ -z "$end" ] || end=$((end + 1))
done
"#;

/// Asks the service `web` in turn, by its name, and passes on what came of it: so does an edge in front of a stack. The
/// name is looked up by a program that does so itself: one that is linked statically cannot through the C library.
const PASS: &str = r#"#!/bin/busybox sh
address=$(nslookup web 2>&1 | sed -n 's/^Address: //p' | head -n 1)
if answer=$(timeout 5 wget -q -O - "http://$address:8000/cgi-bin/version" 2>&1); then
    printf 'Status: 200 OK\r\n\r\n%s' "$answer"
else
    printf "Status: 502 Bad Gateway\r\n\r\nfrom '%s': %s" "$address" "$answer"
fi
"#;

const MIGRATE: &str = r#"#!/bin/busybox sh
[ "$1" = version ] || { echo "migrating for $VERSION"; sleep 0.3; }
echo "schema 1"
"#;

const VERSION: &str = r#"#!/bin/busybox sh
printf 'Status: 200 OK\r\n\r\n%s %s %s %s' "$VERSION" "$IMAGE" "$(cat /run/secrets/token)" "$(cat /settings)"
"#;

const HEALTH: &str = r#"#!/bin/busybox sh
printf 'Status: 200 OK\r\n\r\nwell'
"#;

pub const STACK: &str = r#"
x-web: &web
  image: ${IMAGE}
  stop_grace_period: 4s
  networks: [inner]
  healthcheck:
    test: [CMD, busybox, wget, -q, -O, /dev/null, "http://127.0.0.1:8000/cgi-bin/health"]
    interval: 300ms
    timeout: 5s
    retries: 5

services:
  web:
    <<: *web
    environment: {VERSION: "${VERSION}"}
    secrets: [token]
    configs: [{source: settings, target: /settings}]
    deploy:
      replicas: ${REPLICAS:-2}
      endpoint_mode: dnsrr
      update_config: {order: start-first, parallelism: 1, monitor: 200ms}
      resources: {limits: {memory: 64M}}

  worker:
    image: ${IMAGE}
    entrypoint: [/beat]
    environment: {VERSION: "${VERSION}"}
    secrets: [token]
    networks: [inner]
    volumes: ["${BENCH}:/bench"]
    stop_grace_period: 4s
    deploy:
      endpoint_mode: dnsrr
      update_config: {order: stop-first, monitor: 200ms}
      resources: {limits: {memory: 64M}}

networks:
  inner: {driver_opts: {encrypted: ""}}

secrets:
  token: {external: true}

configs:
  settings: {file: settings.txt}
"#;

/// One more service of the stack: the edge, which publishes a port on its node. It stays the same from release to release.
pub const EDGE: &str = r#"
  edge:
    image: ${EDGE}
    networks: [inner]
    ports: [{target: 8000, published: "${PORT}", mode: host}]
    stop_grace_period: 4s
    deploy:
      endpoint_mode: dnsrr
      update_config: {order: stop-first}
      resources: {limits: {memory: 64M}}

networks:
"#;
