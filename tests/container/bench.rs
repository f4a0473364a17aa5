//! A world for each test, and what it has in it.
//!
//! A test's body runs in a world: the test starts this program again as the first process of one.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};
use skep::container::{Container, Descriptors, Detached, Error, Execution, Exit, Signal, Spec, detach};
use skep::store::Store;
use skep::tree::{Attributes, Directories as _, Directory, Name, Node, TreePath, ops};
use skep_test_support::BUSYBOX;

/// Set in the first process of a world, to its directory.
pub const WORLD: &str = "SKEP_TEST_WORLD";

const UID: u32 = 65532;

pub fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

pub fn exe() -> PathBuf {
    let exe = std::env::var_os("SKEP_TEST_EXE").map(PathBuf::from);
    exe.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_skep")))
}

/// The image's tree: busybox, its applets, and a few directories.
fn image(store: &Store) -> PathBuf {
    let file = |content: &[u8], executable| {
        let digest = store.put(content).unwrap();
        Node::File { digest, executable }
    };
    let list = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let name = |text: &str| Name::new(text).unwrap();
    let applets = list.lines().filter(|applet| *applet != "busybox");
    let mut bin: Directory = applets
        .map(|applet| (name(applet), Node::Symlink("busybox".to_owned())))
        .collect();
    bin.insert(name("busybox"), file(&std::fs::read(BUSYBOX).unwrap(), true));
    let mut parts =
        vec![ops::place(store, Node::Directory(store.save(&bin).unwrap()), &path("bin")).unwrap()];
    let mut part = |at: &str, node: Node| parts.push(ops::place(store, node, &path(at)).unwrap());
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
pub struct World {
    pub directory: tempfile::TempDir,
    /// Keeps what the image needs from being collected.
    _store: Arc<Store>,
    pub pid: Pid,
    /// Its number may be another process's when it has ended.
    pidfd: OwnedFd,
}

impl World {
    /// Starts the test `name` of this program as the first process of a world. Both programs are handed over
    /// open: as root skep becomes a user that may not reach them by their paths.
    pub fn start(name: &str) -> World {
        let (_, test) = name.split_once("::").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let open_to_all = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        };
        open_to_all(directory.path());
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        let rootfs = image(&store);
        let work = directory.path().join("work");
        std::fs::create_dir(&work).unwrap();
        open_to_all(&work);
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let skep = std::fs::File::open(exe()).unwrap();
        let tests = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        // The environment is this process's, which has threads; a shell passes it on.
        let script = format!(
            "export {WORLD}={} SKEP_TEST_EXE=/proc/1/fd/3 SKEP_TEST_ROOTFS={} INSTA_UPDATE=no; \
             exec /proc/self/fd/4 --exact {test} --nocapture",
            directory.path().display(),
            rootfs.display(),
        );
        let pid = detach(&Detached {
            stub: &exe(),
            program: Path::new(BUSYBOX),
            arguments: &["sh", "-c", &script],
            directory: store.root(),
            stdin: None,
            log: log.as_fd(),
            mounts: &[],
            descriptors: &[skep.as_fd(), tests.as_fd()],
        });
        let pid = pid.unwrap();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        World {
            directory,
            _store: store,
            pid,
            pidfd,
        }
    }

    /// Waits until its test has printed the line `ready`.
    pub fn await_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.log().lines().any(|line| line == "ready") {
            assert!(
                Instant::now() < deadline,
                "the world is not ready: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn kill(&self) {
        rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits until the world has ended; whether its test passed, and what it printed.
    pub fn finish(&self) {
        let mut events = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let minutes = Timespec {
            tv_sec: 180,
            tv_nsec: 0,
        };
        poll(&mut events, Some(&minutes)).unwrap();
        assert!(
            !events[0].revents().is_empty(),
            "the world does not end: {}",
            self.log()
        );
        let log = self.log();
        assert!(log.contains("test result: ok. 1 passed"), "{log}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// Tests whose bodies run in worlds.
macro_rules! container_tests {
    ($($(#[$attribute:meta])* fn $name:ident($bench:ident: Bench) $body:block)*) => {
        $($(#[$attribute])* #[test] fn $name() {
            if !skep_test_support::has_busybox() {
                return;
            }
            match std::env::var_os(WORLD) {
                None => World::start(concat!(module_path!(), "::", stringify!($name))).finish(),
                Some(directory) => {
                    #[allow(unused_mut)]
                    let mut $bench = Bench::new(std::path::Path::new(&directory));
                    $body
                }
            }
        })*
    };
}

/// What a test has in its world.
pub struct Bench {
    pub work: PathBuf,
    pub spec: Spec,
    pub exe: PathBuf,
}

#[derive(Debug)]
pub struct Run {
    pub container: Container,
    pub output: std::io::PipeReader,
}

impl Bench {
    pub fn new(directory: &Path) -> Bench {
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

    pub fn script(&mut self, script: &str) {
        self.spec.argv = ["sh", "-c", script].map(str::to_owned).into();
    }

    pub fn try_start(&self) -> Result<Run, Error> {
        self.try_start_in(None)
    }

    pub fn try_start_in(&self, network: Option<BorrowedFd<'_>>) -> Result<Run, Error> {
        let (output, pipe) = std::io::pipe().unwrap();
        let descriptors = Descriptors {
            stdout: pipe.as_fd(),
            stderr: pipe.as_fd(),
            network,
        };
        let container = Container::start(&self.exe, &self.spec, descriptors)?;
        Ok(Run { container, output })
    }

    /// Starts a script that prints a line when it is ready, and waits for that.
    pub fn start(&mut self, script: &str) -> Run {
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
    pub fn run(&mut self, script: &str) -> (Exit, String) {
        self.script(script);
        let mut run = self.try_start().unwrap();
        let mut text = String::new();
        run.output.read_to_string(&mut text).unwrap();
        (run.container.wait().unwrap(), text)
    }

    /// What a script that is expected to succeed prints.
    pub fn printed(&mut self, script: &str) -> String {
        let (exit, text) = self.run(script);
        assert_eq!(exit, code(0), "{text}");
        text
    }
}

pub fn code(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
    }
}

pub fn execution(script: &str) -> Execution {
    Execution {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: TreePath::root(),
        timeout: Duration::from_secs(20),
        max_output: 1 << 16,
    }
}
