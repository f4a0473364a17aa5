//! A project in a directory of its own, with a store and a state directory beside it, and `skep` run on it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::mask::{Kind, masked};
use crate::needs::{ARCHITECTURES, BUSYBOX};
use crate::ran::Ran;

/// A project, and how `skep` is run on it.
pub struct Project {
    directory: tempfile::TempDir,
    /// The program, after what runs it if something does, such as `nsenter` with its arguments.
    pub argv: Vec<String>,
    /// Who runs it and whose the files are, if not the tests' own user.
    pub user: Option<u32>,
    /// Whether the work tree is committed before each run: what is not committed is not released.
    pub commits: bool,
    /// What [`Ran`] has replaced, beside the directory, which is `BENCH`, and this machine's name.
    pub masks: Vec<Kind>,
    /// Texts that [`Ran`] has replaced, and by what.
    pub names: Vec<(String, &'static str)>,
    variables: RefCell<BTreeMap<String, String>>,
}

impl Project {
    /// An empty one, for the program `skep`.
    pub fn new(skep: &str) -> Project {
        let project = Project {
            directory: tempfile::tempdir().unwrap(),
            argv: vec![skep.to_owned()],
            user: None,
            commits: false,
            masks: Vec::new(),
            names: Vec::new(),
            variables: RefCell::default(),
        };
        fs::create_dir(project.project()).unwrap();
        project
    }

    /// Run and owned by `user`, if there is one. The program goes beside the project, where everybody reaches it.
    pub fn belong_to(&mut self, user: Option<u32>) {
        self.user = user;
        let skep = self.beside("skep");
        if fs::hard_link(&self.argv[0], &skep).is_err() {
            fs::copy(&self.argv[0], &skep).unwrap();
        }
        self.argv = vec![skep.display().to_string()];
        self.own(self.root());
        self.own(&self.project());
    }

    fn own(&self, path: &Path) {
        if let Some(user) = self.user {
            chown(path, Some(user), Some(user)).unwrap();
        }
    }

    /// All of it is below this.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Where its files are.
    pub fn project(&self) -> PathBuf {
        self.beside("project")
    }

    pub fn store(&self) -> PathBuf {
        self.beside("store")
    }

    /// A path beside the project's files.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn write(&self, file: &str, content: &str) {
        let path = self.project().join(file);
        let above = path.parent().unwrap();
        fs::create_dir_all(above).unwrap();
        fs::write(&path, content).unwrap();
        self.own(above);
        self.own(&path);
    }

    /// The same for a program.
    pub fn write_program(&self, file: &str, content: &str) {
        self.write(file, content);
        self.executable(file);
    }

    fn executable(&self, file: &str) {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.project().join(file), mode).unwrap();
    }

    /// Adds `bin/busybox`.
    pub fn add_busybox(&self) {
        self.write("bin/.keep", "");
        fs::copy(BUSYBOX, self.project().join("bin/busybox")).unwrap();
        self.executable("bin/busybox");
    }

    /// Makes the header of `bin/busybox` say that it is a program of the other architecture.
    pub fn disguise_busybox(&self) {
        let path = self.project().join("bin/busybox");
        let mut bytes = fs::read(&path).unwrap();
        // `e_machine` of an ELF header: EM_X86_64 or EM_AARCH64.
        let machine: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        fs::write(path, bytes).unwrap();
    }

    /// Writes a recipe of images for this machine, one for each of `names`, that differ by their variable `IMAGE`: busybox,
    /// and `scripts` from their root on, of which `serve` is run.
    pub fn add_images(&self, names: &[&str], scripts: &[(&str, &str)]) {
        self.write("skep.star", &recipe(names));
        self.add_busybox();
        for (name, script) in scripts {
            self.write_program(&format!("root/{name}"), script);
        }
    }

    /// Changes the first place of a file that has `from`.
    #[track_caller]
    pub fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.project().join(file)).unwrap();
        assert!(text.contains(from), "`{file}` has no `{from}`");
        self.write(file, &text.replacen(from, to, 1));
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

    /// The output of `git` in the project.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=keeper", "-c", "user.email=keeper@skep.invalid"])
            .args(arguments)
            .current_dir(self.project())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `skep` with this project, store and state, and none of the caller's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        if self.commits {
            self.git(&["add", "--all"]);
            self.git(&["commit", "--quiet", "--allow-empty", "--message", "as it is"]);
        }
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .args(arguments)
            .current_dir(self.project())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root())
            .env("USER", "keeper")
            .env("SKEP_STORE", self.store())
            .env("XDG_STATE_HOME", self.beside("state"))
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

    /// What a successful run prints as JSON, as it is.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skep {arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What came of a run.
    pub fn ran(&self, output: &Output) -> Ran {
        let text = |bytes: &[u8]| self.masked(&String::from_utf8_lossy(bytes));
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Text with what differs from run to run replaced.
    pub fn masked(&self, text: &str) -> String {
        let host = rustix::system::uname();
        let by = format!("keeper@{}", host.nodename().to_string_lossy());
        let root = self.root().display().to_string();
        let mut text = masked(text, &self.masks)
            .replace(&by, "keeper@HOST")
            .replace(&root, "BENCH");
        for (name, instead) in &self.names {
            text = text.replace(name, instead);
        }
        text
    }
}

fn recipe(names: &[&str]) -> String {
    let architecture = ARCHITECTURES[0];
    format!(
        r#"
load("@skep//image.star", "image")

[image(
    name = name,
    platforms = ["linux/{architecture}"],
    contents = lambda platform: [source(["bin/busybox"]), source(["**"], root = "root")],
    entrypoint = ["/serve"],
    env = {{"PATH": "/bin", "IMAGE": name}},
) for name in {names:?}]
"#
    )
}
