//! A project in a directory of its own, with a store, a state directory and a port of its own, and `skep` run on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::load::{free_port, get};
use super::processes::{self, Process};

const BUSYBOX: &str = "/bin/busybox";

/// Any uid that is not ours; it needs no account.
const ORDINARY_USER: u32 = 12_345;

/// The image: busybox and the scripts below `root`, for this machine.
const RECIPE: &str = r#"
load("@skep//image.star", "image")

image(
    name = "web",
    platforms = ["linux/PLATFORM"],
    contents = lambda platform: [source(["bin/busybox"]), source(["**"], root = "root")],
    entrypoint = ["/serve"],
    env = {"PATH": "/bin"},
)
"#;

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

/// Whether to go on: without busybox only where its absence is not a failure.
pub fn has_busybox() -> bool {
    let here = Path::new(BUSYBOX).exists();
    let needed = std::env::var_os("SKEP_TEST_REAL").is_some();
    assert!(here || !needed, "{BUSYBOX} is missing: install busybox-static");
    if !here {
        eprintln!("skipped: {BUSYBOX} is missing (busybox-static)");
    }
    here
}

/// The architecture that this machine runs, and the other one.
pub const ARCHITECTURES: [&str; 2] = match cfg!(target_arch = "aarch64") {
    true => ["arm64", "amd64"],
    false => ["amd64", "arm64"],
};

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
    directory: tempfile::TempDir,
    user: Option<u32>,
    /// The port that the preview publishes.
    pub port: u16,
    variables: RefCell<BTreeMap<String, String>>,
}

/// What a run of `skep` came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    pub fn new(who: As) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench {
            user: (who == As::Ordinary && rustix::process::geteuid().is_root()).then_some(ORDINARY_USER),
            port: free_port(),
            variables: RefCell::default(),
            directory,
        };
        bench.own(bench.directory.path());
        // Where another user reaches it.
        let program = env!("CARGO_BIN_EXE_skep");
        if fs::hard_link(program, bench.beside("skep")).is_err() {
            fs::copy(program, bench.beside("skep")).unwrap();
        }
        bench.write("skep.star", &RECIPE.replace("PLATFORM", ARCHITECTURES[0]));
        bench.configure(PROBES);
        bench.write("deploy/stack.yml", STACK);
        for (name, script) in [
            ("serve", SERVE),
            ("beat", BEAT),
            ("migrate", MIGRATE),
            ("cgi-bin/version", VERSION),
            ("cgi-bin/health", HEALTH),
            ("cgi-bin/flap", FLAP),
        ] {
            bench.write(&format!("root/{name}"), script);
            bench.executable(&format!("root/{name}"));
        }
        bench.write("bin/.keep", "");
        fs::copy(BUSYBOX, bench.project().join("bin/busybox")).unwrap();
        bench.executable("bin/busybox");
        bench.set("TOKEN", "one");
        bench
    }

    fn own(&self, path: &Path) {
        if let Some(user) = self.user {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }

    fn executable(&self, file: &str) {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.project().join(file), mode).unwrap();
    }

    /// All of it is below this.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn project(&self) -> PathBuf {
        self.beside("project")
    }

    /// A path beside the project.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory of the preview's state.
    pub fn state(&self) -> PathBuf {
        self.beside("state/skep/bench/preview")
    }

    pub fn write(&self, file: &str, content: &str) {
        let path = self.project().join(file);
        let above = path.parent().unwrap();
        fs::create_dir_all(above).unwrap();
        fs::write(&path, content).unwrap();
        self.own(&self.project());
        self.own(above);
        self.own(&path);
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

    /// Adds to the stack file, which must hold `from`.
    pub fn edit_stack(&self, from: &str, to: &str) {
        let file = "deploy/stack.yml";
        let text = fs::read_to_string(self.project().join(file)).unwrap();
        assert!(text.contains(from), "the stack file has no `{from}`");
        self.write(file, &text.replacen(from, to, 1));
    }

    /// Sets a variable of later runs.
    pub fn set(&self, name: &str, value: &str) {
        self.variables
            .borrow_mut()
            .insert(name.to_owned(), value.to_owned());
    }

    /// Removes a variable of later runs.
    pub fn unset(&self, name: &str) {
        self.variables.borrow_mut().remove(name);
    }

    /// `skep` with this project, store and state, and none of the caller's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.beside("skep"));
        command
            .args(arguments)
            .current_dir(self.project())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("USER", "keeper")
            .env("SKEP_STORE", self.beside("store"))
            .env("XDG_STATE_HOME", self.beside("state"))
            .env("BENCH", self.directory.path())
            .env("PORT", self.port.to_string())
            .envs(self.variables.borrow().iter())
            .stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    pub fn skep(&self, arguments: &[&str]) -> Ran {
        self.ran(&self.command(arguments).output().unwrap())
    }

    /// The output of a successful run.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let ran = self.skep(arguments);
        assert_eq!(ran.code, 0, "skep {arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    pub fn ran(&self, output: &Output) -> Ran {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let host = rustix::system::uname();
            masked(&text)
                .replace(
                    &format!("keeper@{}", host.nodename().to_string_lossy()),
                    "keeper@HOST",
                )
                .replace(&self.directory.path().display().to_string(), "BENCH")
                .replace(&self.port.to_string(), "PORT")
        };
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// What a successful run prints as JSON, as it is.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skep {arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
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
        let worlds = processes::worlds(self.directory.path());
        assert_eq!(
            worlds,
            containers + 1,
            "the supervisor and {containers} containers: {status}"
        );
        serde_json::json!({ "release": status["release"], "services": status["services"] })
    }

    /// What runs of the preview, skep's commands included.
    pub fn processes(&self) -> Vec<Process> {
        processes::of(self.directory.path())
    }

    /// Makes sure that nothing of the preview runs.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "{left:#?}");
        let mounts = processes::mounts(self.directory.path());
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

/// Text with what differs from run to run replaced: releases, digests, and numbers of processes and containers.
fn masked(text: &str) -> String {
    let is_release = |bytes: &[u8]| {
        bytes.len() == 27
            && bytes[..12].iter().all(u8::is_ascii_hexdigit)
            && bytes[12] == b'-'
            && bytes[13..].iter().all(u8::is_ascii_digit)
    };
    let is_digest = |bytes: &[u8]| bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit);
    let mut masked = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let bytes = rest.as_bytes();
        if bytes.get(..27).is_some_and(is_release) {
            masked += "RELEASE";
            rest = &rest[27..];
        } else if bytes.get(..64).is_some_and(is_digest) {
            masked += "DIGEST";
            rest = &rest[64..];
        } else if let Some(number) = ["(process ", "web.1.", "single.1."]
            .iter()
            .find_map(|before| rest.strip_prefix(before))
        {
            masked += &rest[..rest.len() - number.len()];
            masked += "N";
            rest = number.trim_start_matches(|letter: char| letter.is_ascii_digit());
        } else {
            masked.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    masked
}

impl Ran {
    /// Exit code and errors, as a snapshot shows them.
    pub fn failure(&self) -> String {
        let begins = |line: &&str| line.starts_with("  | ") || line.starts_with("error: ");
        let report: Vec<&str> = self.stderr.lines().skip_while(|line| !begins(line)).collect();
        let report = match report.is_empty() {
            true => self.stderr.clone(),
            false => report.join("\n"),
        };
        format!("exit {}\n{}", self.code, report.trim_end())
    }
}
