//! A project in a directory of its own, with a store of its own, and `skep` run on it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BUSYBOX: &str = "/bin/busybox";

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

/// Definitions that recipes of these tests share: busybox as a source, and an action that runs a script.
const PRELUDE: &str = r#"
load("@skep//image.star", "image")

tools = source(["bin/**"])

def sh(script, inputs = [], mnemonic = "sh"):
    return action(
        mnemonic,
        argv = ["/bin/busybox", "sh", "-ec", script],
        inputs = {"/": tools, "/in": inputs},
        outputs = ["/out"],
    ).select("out")

def single(name, *trees):
    image(name = name, platforms = ["linux/amd64"], contents = lambda platform: list(trees))
"#;

/// A project and its store.
pub struct Bench {
    directory: tempfile::TempDir,
}

/// What a run of `skep` came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    /// A project without a recipe.
    pub fn empty() -> Bench {
        let bench = Bench {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(bench.project()).unwrap();
        bench
    }

    /// A project with the recipe `recipe`.
    pub fn new(recipe: &str) -> Bench {
        let bench = Bench::empty();
        bench.write("skep.toml", "[project]\nname = \"bench\"\n");
        bench.write("skep.star", recipe);
        bench
    }

    /// A project whose recipe may use `sh` and `single`.
    pub fn with_busybox(recipe: &str) -> Bench {
        let bench = Bench::new(&format!("{PRELUDE}\n{recipe}"));
        bench.write("bin/.keep", "");
        std::fs::copy(BUSYBOX, bench.project().join("bin/busybox")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bench.project().join("bin/busybox"), mode).unwrap();
        bench
    }

    pub fn project(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A path beside the project.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, file: &str, content: &str) {
        let path = self.project().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Replaces the recipe of [`Bench::with_busybox`].
    pub fn rewrite(&self, recipe: &str) {
        self.write("skep.star", &format!("{PRELUDE}\n{recipe}"));
    }

    /// `skep` with this project, this store, and none of the caller's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
        command
            .args(arguments)
            .current_dir(self.project())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("SKEP_STORE", self.store())
            .stdin(Stdio::null());
        command
    }

    pub fn skep(&self, arguments: &[&str]) -> Ran {
        self.ran(&self.command(arguments).output().unwrap())
    }

    /// The output of `git` in the project.
    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@t.invalid"]);
        let done = command
            .args(arguments)
            .current_dir(self.project())
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// The output of a successful run.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let ran = self.skep(arguments);
        assert_eq!(ran.code, 0, "skep {arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    pub fn ran(&self, output: &Output) -> Ran {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.replace(&self.directory.path().display().to_string(), "BENCH")
        };
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// The blobs of the store, by their paths.
    pub fn blobs(&self) -> Vec<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        list(&self.store().join("blobs"))
            .iter()
            .flat_map(|shard| list(shard))
            .collect()
    }
}

impl Ran {
    /// Exit code and errors, as a snapshot shows them.
    pub fn failure(&self) -> String {
        let errors = self
            .stderr
            .find("error: ")
            .map(|start| self.stderr[start..].to_owned());
        format!(
            "exit {}\n{}",
            self.code,
            errors.unwrap_or_else(|| self.stderr.clone()).trim_end()
        )
    }

    /// How many actions ran, were cached and failed, by the events of `--json`.
    pub fn outcomes(&self) -> (usize, usize, usize) {
        let count = |outcome: &str| {
            let outcome = format!("\"outcome\":\"{outcome}\"");
            self.stderr.lines().filter(|line| line.contains(&outcome)).count()
        };
        (count("ran"), count("cached"), count("failed"))
    }
}
