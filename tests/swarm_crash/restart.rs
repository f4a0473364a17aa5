//! The engine started again in the middle of a rollout: an engine of the test's own, in namespaces of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use skep_test_support::until;

use super::bench::Bench;
use super::engine::{Docker, servers};

/// Nobody else listens in a network namespace of its own.
const REGISTRY: &str = "127.0.0.1:5000";

/// A registry and an engine in a network, a process tree and mounts of their own, which end with this.
struct World {
    directory: tempfile::TempDir,
    /// Whose only child is the first process of the world.
    holder: Child,
    engine: Option<Child>,
    cgroup: String,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let settings = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{root}/registry\"}}}}\nhttp: {{addr: \"{REGISTRY}\"}}\n"
        );
        fs::write(directory.path().join("registry.yml"), settings).unwrap();
        fs::write(directory.path().join("engine.json"), "{}").unwrap();
        // Bash is process 1, and buries whom nobody waits for.
        let script = format!("ip link set lo up; docker-registry serve {root}/registry.yml & wait");
        let holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["bash", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut world = World {
            cgroup: format!("skep-restart-{}", std::process::id()),
            directory,
            holder,
            engine: None,
        };
        until("the registry listens", || {
            let ask = "exec 3<>/dev/tcp/127.0.0.1/5000";
            let around = world.around();
            !around.is_empty()
                && Command::new(&around[0])
                    .args(&around[1..])
                    .args(["bash", "-c", ask])
                    .stderr(Stdio::null())
                    .status()
                    .unwrap()
                    .success()
        });
        world.start();
        let init = ["swarm", "init", "--advertise-addr", "127.0.0.1"];
        world.docker().say(&init);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn docker(&self) -> Docker {
        Docker::new(&format!("unix://{}", self.path("engine.sock").display()))
    }

    /// What runs a program in the world's network; nothing before the world is there.
    fn around(&self) -> Vec<String> {
        match child_of(self.holder.id()) {
            Some(first) => vec!["nsenter".to_owned(), format!("--net=/proc/{first}/ns/net")],
            None => Vec::new(),
        }
    }

    fn start(&mut self) {
        let first = child_of(self.holder.id()).unwrap();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("engine.log"))
            .unwrap();
        let path = |name: &str| self.path(name).display().to_string();
        let engine = Command::new("nsenter")
            .args([
                "--target",
                &first.to_string(),
                "--net",
                "--mount",
                "--pid",
                "dockerd",
            ])
            .args([
                "--config-file",
                &path("engine.json"),
                "--host",
                self.docker().host(),
            ])
            .args([
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("run"),
                "--pidfile",
                &path("pid"),
            ])
            .args([
                "--log-level",
                "warn",
                "--bridge",
                "none",
                "--shutdown-timeout",
                "1",
            ])
            .args(["--cgroup-parent", &self.cgroup])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.engine = Some(engine);
        let docker = self.docker();
        until("the engine answers", || docker.ask(&["version"]).is_ok());
    }

    /// As a package's update does.
    fn restart(&mut self) {
        let mut engine = self.engine.take().unwrap();
        let dockerd = child_of(engine.id()).unwrap();
        kill_process(dockerd_pid(dockerd), Signal::TERM).unwrap();
        engine.wait().unwrap();
        self.start();
    }
}

fn dockerd_pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap()).unwrap()
}

/// The only child of a process.
fn child_of(id: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("engine.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(10).collect();
            eprintln!("the end of the engine's log, backwards: {lines:#?}");
        }
        // Everything in the world ends with its first process.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(engine) = &mut self.engine {
            let _ = engine.wait();
        }
        let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        remove_groups(&Path::new("/sys/fs/cgroup").join(&self.cgroup));
        controllers.for_each(|entry| remove_groups(&entry.path().join(&self.cgroup)));
    }
}

/// Those below first. Only a process that does not end keeps one.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[test]
fn the_engine_starts_again_while_the_first_replica_is_tried() {
    if servers().is_none() {
        return;
    }
    let step = "canary";
    let mut world = World::new();
    let bench = Bench::around(world.docker(), REGISTRY, "c-restart", &world.around());
    bench.rollout(0);
    bench.wants(1);
    let rollout = bench
        .command(&["rollout", "prod"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    bench.await_step(step);
    world.restart();
    let ended = bench.ran(&rollout.wait_with_output().unwrap());
    // It waits until the engine answers again.
    assert_eq!(ended.code, 0, "{step}: {}", ended.stderr);
    let runs = bench.one_release();
    assert_eq!(runs.version, "1");
    for answer in bench.answers() {
        assert_eq!(answer, bench.answer(1));
    }
}
