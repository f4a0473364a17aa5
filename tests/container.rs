//! Containers on the real kernel: what a long-running program sees, what it cannot do, and how it ends. The
//! program is busybox.
//!
//! A test's body runs in a world: the test starts this program again as the first process of one.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep::container::{
    Container, Descriptors, Detached, Error, Execution, Exit, File, Mount, Signal, Spec, Tmpfs, detach,
};
use skep::digest::Digest;
use skep::store::Store;
use skep::tree::{Attributes, Node, TreePath, ops};

const BUSYBOX: &str = "/bin/busybox";

/// Set in the first process of a world, to its directory.
const WORLD: &str = "SKEP_TEST_WORLD";

const UID: u32 = 65532;

/// Whether to go on: without busybox only where its absence is not a failure.
fn has_busybox() -> bool {
    let here = Path::new(BUSYBOX).exists();
    let needed = std::env::var_os("SKEP_TEST_REAL").is_some();
    assert!(here || !needed, "{BUSYBOX} is missing: install busybox-static");
    if !here {
        eprintln!("skipped: {BUSYBOX} is missing (busybox-static)");
    }
    here
}

fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

fn exe() -> PathBuf {
    let exe = std::env::var_os("SKEP_TEST_EXE").map(PathBuf::from);
    exe.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_skep")))
}

/// The image's tree: busybox, its applets, and a few directories.
fn image(store: &Store) -> PathBuf {
    let file = |content: &[u8], executable| {
        let digest = store.put(content).unwrap();
        Node::File { digest, executable }
    };
    let mut parts = Vec::new();
    let mut part = |at: &str, node: Node| parts.push(ops::place(store, node, &path(at)).unwrap());
    part("bin/busybox", file(&std::fs::read(BUSYBOX).unwrap(), true));
    let list = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .unwrap();
    for applet in String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        part(&format!("bin/{applet}"), Node::Symlink("busybox".to_owned()));
    }
    part("bin/foreign", file(b"#!/bin/absent\n", true));
    part("app/file", file(b"app\n", false));
    part("data/file", file(b"data\n", false));
    part("etc/own", file(b"own\n", false));
    part(
        "etc/passwd",
        file(b"root:x:0:0:root:/:\nuser:x:65532:65532:user:/data:\n", false),
    );
    part("tmp/keep", file(b"", false));
    let root = ops::merge(store, &parts).unwrap();
    store.materialize(&root).unwrap()
}

/// A directory for a world, whose program its tests are: `(store, image)`.
struct World {
    directory: tempfile::TempDir,
    /// Keeps what the image needs from being collected.
    _store: Arc<Store>,
    pid: rustix::process::Pid,
}

impl World {
    /// Starts the test `name` of this program as the first process of a world.
    fn start(name: &str) -> World {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        let rootfs = image(&store);
        let work = directory.path().join("work");
        std::fs::create_dir(&work).unwrap();
        std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777)).unwrap();
        let tests = directory.path().join("tests");
        std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        // The environment is this process's, which has threads; a shell passes it on.
        let script = format!(
            "export {WORLD}={} SKEP_TEST_EXE={} SKEP_TEST_ROOTFS={}; exec {} --exact {name} --nocapture",
            directory.path().display(),
            exe().display(),
            rootfs.display(),
            tests.display()
        );
        let pid = detach(&Detached {
            stub: &exe(),
            program: Path::new(BUSYBOX),
            arguments: &["sh", "-c", &script],
            directory: store.root(),
            stdin: None,
            log: log.as_fd(),
            descriptors: &[],
        });
        let pid = pid.unwrap();
        World {
            directory,
            _store: store,
            pid,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits until the world has ended; whether its test passed, and what it printed.
    fn finish(self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while rustix::process::test_kill_process(self.pid).is_ok() {
            assert!(
                Instant::now() < deadline,
                "the world does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let log = self.log();
        assert!(log.contains("test result: ok. 1 passed"), "{log}");
    }
}

macro_rules! container_tests {
    ($($(#[$attribute:meta])* fn $name:ident($bench:ident: Bench) $body:block)*) => {
        $($(#[$attribute])* #[test] fn $name() {
            if !has_busybox() {
                return;
            }
            match std::env::var_os(WORLD) {
                None => World::start(stringify!($name)).finish(),
                Some(directory) => {
                    #[allow(unused_mut)]
                    let mut $bench = Bench::new(Path::new(&directory));
                    $body
                }
            }
        })*
    };
}

/// What a test has in its world.
struct Bench {
    work: PathBuf,
    spec: Spec,
    exe: PathBuf,
}

struct Run {
    container: Container,
    output: std::io::PipeReader,
}

impl Bench {
    fn new(directory: &Path) -> Bench {
        let work = directory.join("work");
        let mut spec = Spec {
            rootfs: std::env::var_os("SKEP_TEST_ROOTFS").unwrap().into(),
            scratch: work.join("scratch"),
            hostname: "one".to_owned(),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            uid: UID,
            gid: UID,
            ..Spec::default()
        };
        let own = |mode| Attributes {
            mode,
            uid: Some(UID),
            gid: Some(UID),
            ..Attributes::default()
        };
        spec.metadata.0 = BTreeMap::from([
            (path("data"), own(Some(0o700))),
            (path("data/file"), own(Some(0o600))),
            (path("etc/own"), own(None)),
            (
                path("tmp"),
                Attributes {
                    mode: Some(0o1777),
                    ..Attributes::default()
                },
            ),
        ]);
        Bench {
            work,
            spec,
            exe: std::env::var_os("SKEP_TEST_EXE").unwrap().into(),
        }
    }

    fn script(&mut self, script: &str) {
        self.spec.argv = ["sh", "-c", script].map(str::to_owned).into();
    }

    fn try_start(&self) -> Result<Run, Error> {
        let (output, pipe) = std::io::pipe().unwrap();
        let descriptors = Descriptors {
            stdout: pipe.as_fd(),
            stderr: pipe.as_fd(),
            network: None,
        };
        let container = Container::start(&self.exe, &self.spec, descriptors)?;
        Ok(Run { container, output })
    }

    /// Starts a script that prints a line when it is ready, and waits for that.
    fn start(&mut self, script: &str) -> Run {
        self.script(script);
        let mut run = self.try_start().unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            assert_eq!(
                run.output.read(&mut byte).unwrap(),
                1,
                "it ended: {:?}",
                run.container.wait()
            );
        }
        run
    }

    /// How a script ends, and what it prints.
    fn run(&mut self, script: &str) -> (Exit, String) {
        self.script(script);
        let mut run = self.try_start().unwrap();
        let mut text = String::new();
        run.output.read_to_string(&mut text).unwrap();
        (run.container.wait().unwrap(), text)
    }

    /// What a script that is expected to succeed prints.
    fn printed(&mut self, script: &str) -> String {
        let (exit, text) = self.run(script);
        assert_eq!(exit, code(0), "{text}");
        text
    }
}

fn code(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
    }
}

fn execution(script: &str) -> Execution {
    Execution {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: TreePath::root(),
        timeout: Duration::from_secs(20),
        max_output: 1 << 16,
    }
}

container_tests! {
    fn the_program_is_the_user_of_the_image(bench: Bench) {
        bench.spec.cwd = path("made/here");
        let printed = bench.printed(
            "id; hostname; umask; pwd; env | sort; echo pid $$; ls -l /proc/self/fd | wc -l; ls /; ls /dev; stat -c '%u %g %a %n' /data /data/file /tmp /bin/busybox",
        );
        insta::assert_snapshot!(printed, @"");
    }
}
