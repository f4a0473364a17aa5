//! A project in a directory of its own, with a store, a state directory and a port of its own, and `skep` run on it.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skep_test_support::{Kind, Project, free_port, get};

use super::processes::{self, Process};

/// Any uid that is not ours; it needs no account.
const ORDINARY_USER: u32 = 12_345;

/// Serves scripts until it is told to end, and for a moment longer: requests may be under way.
const SERVE: &str = r#"#!/bin/busybox sh
echo "serving $VERSION"
if [ -n "$CRASH" ]; then
    echo "cannot go on" >&2
    exit "$CRASH"
fi
trap 'sleep 0.5; exit 0' TERM
httpd -f -p 8000 -h / &
wait
"#;

/// Writes into a volume that it runs, over and over, and for a moment after it was told to end.
const BEAT: &str = r#"#!/bin/busybox sh
id=$(cat /proc/sys/kernel/random/uuid)
trap 'end=1' TERM
while [ -z "$end" ] || [ "$end" -lt 20 ]; do
    echo "$id" >>/beats/beats
    usleep 10000
    [ -z "$end" ] || end=$((end + 1))
done
"#;

/// The schema is a number in a volume.
const MIGRATE: &str = r#"#!/bin/busybox sh
schema=$(cat /data/schema 2>/dev/null || echo 0)
if [ "$1" = version ]; then
    echo "schema $schema"
    exit
fi
echo "migrating for $VERSION"
case $2 in
hang) sleep 1000 ;;
0) echo $((schema + 1)) >/data/schema ;;
*) echo "no such column"; exit "$2" ;;
esac
"#;

const VERSION: &str = r#"#!/bin/busybox sh
printf 'Status: 200 OK\r\n\r\n%s %s' "$VERSION" "$(cat /run/secrets/token)"
"#;

const HEALTH: &str = r#"#!/bin/busybox sh
[ -z "$SICK" ] || printf 'Status: 503 Service Unavailable\r\n\r\nthe database is gone'
[ -n "$SICK" ] || printf 'Status: 200 OK\r\n\r\nwell'
"#;

/// Good and bad in turn.
const FLAP: &str = r#"#!/bin/busybox sh
if rm /data/flap 2>/dev/null; then
    printf 'Status: 503 Service Unavailable\r\n\r\nbad'
else
    : >/data/flap
    printf 'Status: 200 OK\r\n\r\ngood'
fi
"#;

const STACK: &str = r#"
x-environment: &environment
  BENCH: ${BENCH}
  VERSION: "${VERSION:-1}"
  CRASH: "${CRASH:-}"
  SICK: "${SICK:-}"

services:
  web:
    image: web
    environment: *environment
    ports: ["${PORT}:8000"]
    volumes: [data:/data]
    secrets: [token]
    healthcheck:
      test: [CMD, busybox, wget, -q, -O, /dev/null, "http://127.0.0.1:8000/cgi-bin/health"]
      interval: 200ms
      start_interval: 100ms
      retries: 2
    deploy:
      replicas: ${REPLICAS:-2}
      update_config: {order: start-first, monitor: 200ms}
      restart_policy: {delay: 100ms}

  single:
    image: web
    entrypoint: [/beat]
    environment: *environment
    volumes: [beats:/beats]
    deploy:
      update_config: {order: stop-first, monitor: 200ms}
      restart_policy: {delay: 100ms}

volumes:
  data: {}
  beats: {}

secrets:
  token: {external: true}
"#;

/// What is asked at the end of a rollout.
const PROBES: &str = r#"probes = { web = [{ path = "/cgi-bin/version", count = 3, interval = "20ms" }] }"#;

const SCRIPTS: [(&str, &str); 6] = [
    ("serve", SERVE),
    ("beat", BEAT),
    ("migrate", MIGRATE),
    ("cgi-bin/version", VERSION),
    ("cgi-bin/health", HEALTH),
    ("cgi-bin/flap", FLAP),
];

/// Who runs skep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// Whoever runs the tests: root, under tests/run.
    Caller,
    /// An ordinary user, if the tests run as root.
    Ordinary,
}

/// A project, its store and its preview, which ends when this is dropped.
pub struct Bench {
    project: Project,
    /// The port that the preview publishes.
    pub port: u16,
}

impl Deref for Bench {
    type Target = Project;

    fn deref(&self) -> &Project {
        &self.project
    }
}

impl Bench {
    pub fn new(who: As) -> Bench {
        let port = free_port();
        let mut project = Project::new(env!("CARGO_BIN_EXE_skep"));
        project.belong_to(
            (who == As::Ordinary && rustix::process::geteuid().is_root()).then_some(ORDINARY_USER),
        );
        project.masks = vec![Kind::Release, Kind::Digest];
        project
            .masks
            .extend(["(process ", "web.1.", "single.1."].map(Kind::NumberAfter));
        project.names = vec![(port.to_string(), "PORT")];
        let bench = Bench { project, port };
        bench.add_images(&["web"], &SCRIPTS);
        bench.configure(PROBES);
        bench.write("deploy/stack.yml", STACK);
        bench.set("BENCH", &bench.root().display().to_string());
        bench.set("PORT", &port.to_string());
        bench.set("TOKEN", "one");
        bench
    }

    /// The directory of the preview's state.
    pub fn state(&self) -> PathBuf {
        self.beside("state/skep/bench/preview")
    }

    /// Writes skep.toml, with `lines` in the environment's table.
    pub fn configure(&self, lines: &str) {
        self.configure_all("", lines, "token = { env = \"TOKEN\" }");
    }

    /// The same, with lines of the project's table, and those of the environment's secrets.
    pub fn configure_all(&self, project: &str, environment: &str, secrets: &str) {
        self.write(
            "skep.toml",
            &format!(
                "[project]\nname = \"bench\"\n{project}\n\n[environments.preview]\ntarget = \"preview\"\n\
                 stack = \"deploy/stack.yml\"\ntimeout = \"30s\"\n{environment}\n\n\
                 [environments.preview.secrets]\n{secrets}\n"
            ),
        );
    }

    /// Changes the stack file, which must hold `from`.
    #[track_caller]
    pub fn edit_stack(&self, from: &str, to: &str) {
        self.edit("deploy/stack.yml", from, to);
    }

    pub fn status(&self) -> Value {
        self.json(&["status", "preview"])
    }

    /// Releases version `version` with a secret that belongs to it, and gives what runs then.
    #[track_caller]
    pub fn release(&self, version: &str) -> Value {
        self.set("VERSION", version);
        self.set("TOKEN", &token(version));
        self.succeed(&["release", "preview"]);
        assert_eq!(self.served(), served(version));
        self.settled()
    }

    /// What the published port answers now.
    #[track_caller]
    pub fn served(&self) -> String {
        let (status, body) = get(self.port, "/cgi-bin/version").unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Release and services, after making sure that it is one release, that all of it is ready, and that nothing else is there.
    #[track_caller]
    pub fn settled(&self) -> Value {
        let status = self.status();
        assert!(status["rollout"].is_null(), "a rollout is under way: {status}");
        let mut containers = 0;
        for (name, service) in status["services"].as_object().unwrap() {
            let tasks = service["tasks"].as_array().unwrap();
            assert_eq!(
                Some(tasks.len() as u64),
                service["replicas"].as_u64(),
                "{name}: {status}"
            );
            for task in tasks {
                assert_eq!(task["state"], "ready", "{name}: {status}");
                assert_eq!(task["revision"], service["revision"], "{name}: {status}");
            }
            containers += tasks.len();
        }
        let worlds = processes::worlds(self.root());
        assert_eq!(
            worlds,
            containers + 1,
            "the supervisor and {containers} containers: {status}"
        );
        serde_json::json!({ "release": status["release"], "services": status["services"] })
    }

    /// What runs of the preview, skep's commands included.
    pub fn processes(&self) -> Vec<Process> {
        processes::of(self.root())
    }

    /// Makes sure that nothing of the preview runs.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "{left:#?}");
        let mounts = processes::mounts(self.root());
        assert!(mounts.is_empty(), "{mounts:#?}");
    }

    /// The process id of the supervisor, which lives.
    #[track_caller]
    pub fn supervisor(&self) -> Pid {
        let lock = fs::read_to_string(self.state().join("supervisor.lock")).unwrap();
        let pid = lock.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("no process: {lock:?}"));
        let processes = self.processes();
        assert!(
            processes.iter().any(|process| process.pid == pid),
            "{pid:?}: {processes:#?}"
        );
        pid
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.state().join("supervisor.log")).unwrap_or_default();
            eprintln!("the supervisor's log: {log}");
        }
        let _ = self.command(&["down", "preview", "--volumes"]).output();
        // One that does not listen, if it came to that.
        for process in self.processes() {
            let _ = kill_process(process.pid, Signal::KILL);
        }
    }
}

/// The secret that belongs to a version.
pub fn token(version: &str) -> String {
    format!("secret-of-{version}")
}

/// What the service answers that has a version and its secret.
pub fn served(version: &str) -> String {
    format!("{version} {}", token(version))
}
