//! The client of the Docker engine, on real engines: one that manages a swarm, one that manages none, and the way to
//! the first through a real sshd.

mod proxy;
mod ssh;
mod swarm;
mod trouble;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bollard::models::{ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated};
use bollard::models::{TaskSpec, TaskSpecContainerSpec};
use skep::cancel::Cancel;
use skep::docker::{Address, Engine};
use skep_test_support::variable;

const PATIENCE: Duration = Duration::from_secs(90);

/// The socket of the engine that manages a swarm.
const SWARM: &str = "SKEP_TEST_DOCKER";
/// The socket of the engine that manages none.
const ALONE: &str = "SKEP_TEST_DOCKER_ALONE";
/// The first engine's address through an sshd, and the configuration of ssh for it.
const SSH: &str = "SKEP_TEST_SSH";
const SSH_CONFIG: &str = "SKEP_TEST_SSH_CONFIG";

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

/// The swarm, over its own socket.
fn swarm() -> Option<Engine> {
    let managers = vec![address(&variable(SWARM)?)];
    Some(Engine::connect(managers, Cancel::default()).unwrap())
}

/// A name that no other test has.
fn unique(name: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{count}", std::process::id())
}

/// Waits until there is something.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
}

/// An image of nothing but busybox, in the test registry. The engine has it, too.
fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let registry = variable("SKEP_TEST_REGISTRY").expect("the registry runs where an engine does");
        let image = format!("{registry}/{}:1", unique("docker-tests/busybox"));
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("layer.tar");
        pack(&layer);
        let docker = || {
            let mut command = Command::new("docker");
            command.args(["--host", &variable(SWARM).unwrap()]);
            command
        };
        run(docker().arg("import").arg(&layer).arg(&image));
        run(docker().args(["push", &image]));
        image
    })
}

fn pack(layer: &Path) {
    let mut tar = tar::Builder::new(std::fs::File::create(layer).unwrap());
    tar.append_path_with_name("/bin/busybox", "bin/busybox").unwrap();
    tar.into_inner().unwrap();
}

/// A service of one task that runs a script of busybox.
fn service(name: &str, script: &str) -> ServiceSpec {
    let command = ["/bin/busybox", "sh", "-c", script];
    let container = TaskSpecContainerSpec {
        image: Some(image().to_owned()),
        command: Some(command.map(str::to_owned).to_vec()),
        stop_grace_period: Some(1_000_000_000),
        ..TaskSpecContainerSpec::default()
    };
    ServiceSpec {
        name: Some(name.to_owned()),
        labels: Some(labels("test", name)),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            ..TaskSpec::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
            ..ServiceSpecMode::default()
        }),
        ..ServiceSpec::default()
    }
}

fn labels(name: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(name.to_owned(), value.to_owned())])
}
