//! A clone of the example with a store and a home of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::machine::{ORDINARY_USER, is_root, registries, run};

/// One machine's view of the example.
pub struct Checkout {
    directory: Arc<tempfile::TempDir>,
    name: String,
    store: PathBuf,
    exe: PathBuf,
    environment: Vec<(String, String)>,
    umask: String,
    user: Option<u32>,
    report: Mutex<Option<serde_json::Value>>,
}

/// A run of `skep build --json`.
#[derive(Debug)]
pub struct Built {
    pub report: serde_json::Value,
    /// The labels of actions that ran.
    pub ran: Vec<String>,
}

impl Checkout {
    /// A clone in a new place. As another user where `other` says so and we may.
    pub fn new(environment: &[(&str, &str)], umask: &str, other: bool) -> Checkout {
        let directory = tempfile::tempdir().unwrap();
        let user = (other && is_root()).then_some(ORDINARY_USER);
        let name = if other { "a place/elsewhere" } else { "here" };
        let exe = directory.path().join("skep");
        fs::copy(env!("CARGO_BIN_EXE_skep"), &exe).unwrap();
        let mut environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        environment.extend(
            registries()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        let checkout = Checkout {
            store: directory.path().join("store"),
            directory: Arc::new(directory),
            name: name.to_owned(),
            exe,
            environment,
            umask: umask.to_owned(),
            user,
            report: Mutex::default(),
        };
        checkout.clone_example();
        if let Some(user) = user {
            let owner = format!("{user}:{user}");
            run(Command::new("chown")
                .args(["-R", &owner])
                .arg(checkout.directory.path()));
        }
        checkout
    }

    /// Another clone that shares this one's store.
    pub fn sibling(&self, name: &str) -> Checkout {
        let checkout = Checkout {
            directory: Arc::clone(&self.directory),
            name: name.to_owned(),
            store: self.store.clone(),
            exe: self.exe.clone(),
            environment: self.environment.clone(),
            umask: self.umask.clone(),
            user: None,
            report: Mutex::default(),
        };
        assert!(self.user.is_none(), "a sibling is the test's own user");
        checkout.clone_example();
        checkout
    }

    /// Another clone, whose store begins with what this one's holds.
    pub fn with_a_copy_of_its_store(&self, name: &str) -> Checkout {
        let mut checkout = self.sibling(name);
        checkout.store = self.beside(&format!("store of {name}"));
        // Nothing writes into a file of a store.
        run(Command::new("cp")
            .args(["-a", "--link"])
            .args([&self.store, &checkout.store]));
        checkout
    }

    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    /// The example's files, tracked or new, in a repository of their own.
    fn clone_example(&self) {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/honeydue");
        let mut list = Command::new("git");
        list.args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let files = run(list.current_dir(&example));
        for file in files.lines() {
            let to = self.project().join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(example.join(file), to).unwrap();
        }
        self.git(&["init", "--quiet"]);
        self.commit("example");
    }

    fn git(&self, arguments: &[&str]) {
        run(Command::new("git").args(arguments).current_dir(self.project()));
    }

    /// Commits all that was changed.
    pub fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        let who = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"];
        self.git(&[&who[..], &["commit", "--quiet", "-m", message]].concat());
    }

    pub fn project(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    /// A path beside the clone, for what is made of it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces text in a file of the clone.
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.project().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "`{file}` has no `{from}`");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// The same for every place that has the text.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.project().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "`{file}` has no `{from}`");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    pub fn skep(&self, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([
                    &format!("--reuid={user}"),
                    &format!("--regid={user}"),
                    "--clear-groups",
                    "--",
                    "sh",
                ]);
                command
            }
            None => Command::new("sh"),
        };
        command
            .args(["-c", &format!("umask {}; exec \"$@\"", self.umask), "sh"])
            .arg(&self.exe)
            .args(arguments)
            .current_dir(self.project())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("HOME", self.directory.path())
            .env("SKEP_STORE", &self.store)
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null());
        command
    }

    /// Builds everything, which must succeed.
    pub fn build(&self, arguments: &[&str]) -> Built {
        let arguments = [&["build", "--json"], arguments].concat();
        let output = self.skep(&arguments).output().unwrap();
        let events = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "skep {arguments:?}: {}", end_of(&events));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        *self.report.lock().unwrap() = Some(report.clone());
        let events = events
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let ran = events
            .filter(|event| event["outcome"] == "ran")
            .map(|event| event["label"].as_str().unwrap().to_owned())
            .collect();
        Built { report, ran }
    }

    /// What the last build printed.
    pub fn report(&self) -> serde_json::Value {
        self.report.lock().unwrap().clone().expect("it was built")
    }
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
