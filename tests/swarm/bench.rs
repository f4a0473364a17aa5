//! A project in a directory of its own, with a store and a stack of its own on the Swarm that the tests were given, and
//! `skep` run on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::engine::Engine;
use super::files;

const BUSYBOX: &str = "/bin/busybox";

/// Stacks that the engine runs at one time: more of them only wait for each other.
const AT_A_TIME: usize = 3;

/// The architecture that this machine runs, and the other one.
pub const ARCHITECTURES: [&str; 2] = match cfg!(target_arch = "aarch64") {
    true => ["arm64", "amd64"],
    false => ["amd64", "arm64"],
};

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// One of the stacks that run now.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= AT_A_TIME {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// What the run of all tests provides: absent only where that is not a failure.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    let needed = std::env::var_os("SKEP_TEST_REAL").is_some();
    assert!(
        value.is_some() || !needed,
        "{name} is not set: run the tests with tests/run"
    );
    // Empty where tests/run cannot start it.
    let value = value.filter(|value| !value.is_empty());
    if value.is_none() {
        eprintln!("skipped: {name} is not set (tests/run sets it, as root)");
    }
    value
}

/// A project, its store and its stack, which is removed when this is dropped.
pub struct Bench {
    /// Of the stack, too.
    pub name: String,
    pub engine: Engine,
    /// `127.0.0.1:PORT`
    pub registry: String,
    /// A port that the stack may publish.
    pub port: u16,
    directory: tempfile::TempDir,
    variables: RefCell<BTreeMap<String, String>>,
    _turn: Turn,
}

/// What a run of `skep` came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A port on which nothing listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port()
}

impl Bench {
    /// A project whose stack is called `name`, or `None` where there is no engine to run it.
    pub fn new(name: &str, stack: &str) -> Option<Bench> {
        let engine = Engine::at(&variable("SKEP_TEST_DOCKER")?);
        let registry = variable("SKEP_TEST_REGISTRY")?;
        let bench = Bench {
            name: name.to_owned(),
            engine,
            registry,
            port: free_port(),
            directory: tempfile::tempdir().unwrap(),
            variables: RefCell::default(),
            _turn: Turn::take(),
        };
        bench.write("skep.star", &files::RECIPE.replace("PLATFORM", ARCHITECTURES[0]));
        bench.configure("");
        bench.write("stack.yml", stack);
        for (name, script) in files::SCRIPTS {
            bench.write(&format!("root/{name}"), script);
            bench.executable(&format!("root/{name}"));
        }
        bench.write("bin/.keep", "");
        fs::copy(BUSYBOX, bench.project().join("bin/busybox")).unwrap();
        bench.executable("bin/busybox");
        bench.write(".gitignore", "token.txt\nplan.json\n");
        bench.git(&["init", "--quiet"]);
        bench.set("TOKEN", "one");
        Some(bench)
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) {
        let output = Command::new("git")
            .args(["-c", "user.name=keeper", "-c", "user.email=keeper@skep.invalid"])
            .args(arguments)
            .current_dir(self.project())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
    }

    fn executable(&self, file: &str) {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.project().join(file), mode).unwrap();
    }

    pub fn project(&self) -> PathBuf {
        self.beside("project")
    }

    /// A path beside the project.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, file: &str, content: &str) {
        let path = self.project().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    }

    /// Writes skep.toml, with `lines` in the environment's table.
    pub fn configure(&self, lines: &str) {
        self.configure_all(&[&self.engine.address], lines, "token = { env = \"TOKEN\" }");
    }

    /// The same, with other managers and other secrets.
    pub fn configure_all(&self, managers: &[&str], environment: &str, secrets: &str) {
        self.write(
            "skep.toml",
            &format!(
                "[project]\nname = \"{name}\"\nimages = \"{registry}/{name}/{{name}}\"\n\n\
                 [environments.prod]\ntarget = \"swarm\"\nstack = \"stack.yml\"\nmanagers = {managers:?}\n\
                 patience = \"5s\"\ntimeout = \"60s\"\n{environment}\n\n\
                 [environments.prod.secrets]\n{secrets}\n",
                name = self.name,
                registry = self.registry,
            ),
        );
    }

    /// Changes the stack file, which must hold `from`.
    pub fn edit_stack(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.project().join("stack.yml")).unwrap();
        assert!(text.contains(from), "the stack file has no `{from}`");
        self.write("stack.yml", &text.replace(from, to));
    }

    /// Sets a variable of later runs.
    pub fn set(&self, name: &str, value: &str) {
        let mut variables = self.variables.borrow_mut();
        variables.insert(name.to_owned(), value.to_owned());
    }

    /// Removes a variable of later runs.
    pub fn unset(&self, name: &str) {
        self.variables.borrow_mut().remove(name);
    }

    /// `skep` with this project and store, and none of the caller's configuration. The work tree is committed as it is:
    /// what is not committed is not released.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "as it is"]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
        command
            .args(arguments)
            .current_dir(self.project())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("USER", "keeper")
            .env("SKEP_STORE", self.beside("store"))
            .env("XDG_STATE_HOME", self.beside("state"))
            .env("PORT", self.port.to_string())
            .envs(self.variables.borrow().iter())
            .stdin(Stdio::null());
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
        let text = |bytes: &[u8]| self.masked(&String::from_utf8_lossy(bytes));
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

    /// Releases version `version` with a secret that belongs to it; which release that is.
    #[track_caller]
    pub fn release(&self, version: &str) -> String {
        self.set("VERSION", version);
        self.set("TOKEN", &token(version));
        let report = self.json(&["release", "prod"]);
        self.settled(version);
        report["release"].as_str().unwrap().to_owned()
    }

    /// Makes sure that all that runs is of one version, that all of it is well, and that no rollout is under way.
    #[track_caller]
    pub fn settled(&self, version: &str) {
        let status = self.json(&["status", "prod"]);
        assert!(status["rollout"].is_null(), "a rollout is under way: {status}");
        for (name, service) in status["services"].as_object().unwrap() {
            let tasks = service["tasks"].as_array().unwrap();
            assert_eq!(
                Some(tasks.len() as u64),
                service["replicas"].as_u64(),
                "{name}: {status}"
            );
            for task in tasks {
                assert_eq!(task["state"], "ready", "{name}: {status}");
                assert_eq!(task["revision"], service["task"], "{name}: {status}");
            }
            let task = &self.engine.specs(&self.name)[&self.scoped(name)]["TaskTemplate"];
            let environment = task["ContainerSpec"]["Env"].as_array().unwrap();
            let wanted = format!("VERSION={version}");
            assert!(environment.iter().any(|line| *line == wanted), "{name}: {task}");
        }
    }

    /// What a service of the stack is called on the engine.
    pub fn scoped(&self, service: &str) -> String {
        format!("{}_{service}", self.name)
    }

    /// Makes sure that the engine has nothing of the stack.
    #[track_caller]
    pub fn nothing_is_there(&self) {
        let there = self.engine.versions(&self.name);
        assert!(there.is_empty(), "{there:#?}");
    }

    /// The newest record of the history.
    pub fn newest(&self) -> Value {
        self.json(&["history", "prod"])[0].clone()
    }

    /// Which release the newest record is of.
    pub fn newest_id(&self) -> String {
        self.newest()["release"]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until `done`, at most 30 seconds.
    #[track_caller]
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "not in 30 seconds: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Text with what differs from run to run replaced.
    pub fn masked(&self, text: &str) -> String {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        // Containers are not named after it, but the node is.
        let text = text
            .replace(&format!("keeper@{host}"), "keeper@HOST")
            .replace(&path(self.directory.path()), "BENCH")
            .replace(&self.engine.address, "ENGINE")
            .replace(&self.registry, "REGISTRY")
            .replace(&self.port.to_string(), "PORT");
        masked(&text)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [["status", "prod"], ["history", "prod"]] {
                let ran = self.skep(&arguments);
                eprintln!("skep {arguments:?}: {}{}", ran.stdout, ran.stderr);
            }
        }
        self.engine.remove(&self.name);
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// The secret that belongs to a version.
pub fn token(version: &str) -> String {
    format!("secret-of-{version}")
}

/// Text with releases, digests, processes and times replaced.
fn masked(text: &str) -> String {
    let is_release = |bytes: &[u8]| {
        bytes.len() == 27
            && bytes[..12].iter().all(u8::is_ascii_hexdigit)
            && bytes[12] == b'-'
            && bytes[13..].iter().all(u8::is_ascii_digit)
    };
    let is_digest = |bytes: &[u8]| bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit);
    let is_time = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            10 => *byte == b' ' || *byte == b'T',
            13 | 16 => *byte == b':',
            _ => byte.is_ascii_digit(),
        })
    };
    let is_hex = |letter| matches!(letter, '0'..='9' | 'a'..='f');
    let mut masked = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let bytes = rest.as_bytes();
        if bytes.get(..27).is_some_and(is_release) {
            masked += "RELEASE";
            rest = &rest[27..];
        } else if let Some(digest) = rest
            .strip_prefix("sha256:")
            .filter(|digest| digest.starts_with(is_hex))
        {
            // Whole, or as many digits as a plan shows.
            masked += "sha256:DIGEST";
            rest = digest.trim_start_matches(is_hex);
        } else if bytes.get(..64).is_some_and(is_digest) {
            masked += "DIGEST";
            rest = &rest[64..];
        } else if bytes.get(..19).is_some_and(is_time) {
            masked += "TIME";
            rest = &rest[19..];
        } else if let Some(number) = rest.strip_prefix("(process ") {
            masked += "(process N";
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
