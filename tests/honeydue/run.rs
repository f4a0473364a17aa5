//! The images run: unpacked by another tool, in a root of their own, amd64 as it is and arm64 under qemu,
//! against a real Postgres and a real Redis.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use skep_test_support::{free_port, get};

use super::machine::{is_root, run};
use super::{IMAGES, PLATFORMS, fixture, is_wanted};

const QEMU: &str = "/usr/bin/qemu-aarch64-static";

/// Where programs are, on this machine and in images that do not say it.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// One platform's image, unpacked.
pub struct Unpacked {
    pub root: PathBuf,
    pub config: serde_json::Value,
    emulated: bool,
}

/// A service that runs until it is dropped.
pub struct Running(Child);

impl Running {
    /// The shell in between forwards nothing: the whole group gets it.
    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    pub fn wait(mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    /// Kills it, and waits until nothing of it is left: the next one wants its port and its files.
    fn drop(&mut self) {
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // The first process of its namespace, which takes the others along and is waited for by `unshare`.
        match children.trim().parse().ok().and_then(Pid::from_raw) {
            Some(first) => drop(rustix::process::kill_process(first, Signal::KILL)),
            None => self.signal(Signal::KILL),
        }
        let _ = self.0.wait();
    }
}

/// Exports an image, has skopeo and umoci judge it, and unpacks it.
pub fn unpack(name: &str, platform: &str) -> Unpacked {
    let one = &fixture().one;
    static UNPACKED: AtomicUsize = AtomicUsize::new(0);
    let number = UNPACKED.fetch_add(1, Ordering::Relaxed);
    let label = format!("{name}-{}-{number}", platform.replace('/', "-"));
    let (layout, bundle) = (
        one.beside(&format!("{label}.oci")),
        one.beside(&format!("{label}.bundle")),
    );
    let image = format!("{name}@{platform}");
    run(&mut one.skep(&["export", &image, &format!("oci:{}", layout.display())]));
    let reference = format!("oci:{}:{name}", layout.display());
    let raw = run(Command::new("skopeo").args(["inspect", "--config", &reference]));
    let config: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(
        format!("linux/{}", config["architecture"].as_str().unwrap()),
        platform
    );
    let image = format!("{}:{name}", layout.display());
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image", &image]);
    if !is_root() {
        umoci.arg("--rootless");
    }
    run(umoci.arg(&bundle));
    let root = bundle.join("rootfs");
    for directory in ["proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let emulated = platform == "linux/arm64" && !cfg!(target_arch = "aarch64");
    if emulated {
        fs::copy(QEMU, root.join("qemu")).unwrap();
    }
    Unpacked {
        root,
        config,
        emulated,
    }
}

impl Unpacked {
    /// A program of the image, in its root, as its user.
    pub fn command(&self, argv: &[String]) -> Command {
        use std::os::unix::process::CommandExt as _;
        // Its root, with the machine's devices and processes of its own; then its working directory.
        let script = r#"root=$1 unshare=$(command -v unshare); shift
mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" && PATH=$IMAGE_PATH exec "$unshare" --root="$root" "$@""#;
        let user = self.config["config"]["User"].as_str().unwrap();
        // The files of the image's user belong to that user if we are root, and else to us.
        let (outside, inside): (&[&str], &[&str]) = match is_root() {
            true => (&[], &["--setgid", user, "--setuid", user]),
            false => (
                &["--user", "--keep-caps", "--map-user", user, "--map-group", user],
                &[],
            ),
        };
        let mut command = Command::new("unshare");
        command
            .args(outside)
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", script, "sh"])
            .arg(&self.root)
            .args(inside)
            .arg("--wd")
            .arg(self.config["config"]["WorkingDir"].as_str().unwrap_or("/"))
            .arg("--")
            .args(self.emulated.then_some("/qemu"))
            .args(argv)
            .env_clear()
            .env("PATH", PATH)
            .env("IMAGE_PATH", PATH);
        for variable in self.config["config"]["Env"].as_array().into_iter().flatten() {
            let (name, value) = variable.as_str().unwrap().split_once('=').unwrap();
            command.env(if name == "PATH" { "IMAGE_PATH" } else { name }, value);
        }
        command.process_group(0).stdin(Stdio::null());
        command
    }

    pub fn entrypoint(&self) -> Vec<String> {
        let words = |key: &str| self.config["config"][key].as_array().cloned().unwrap_or_default();
        let all = [words("Entrypoint"), words("Cmd")].concat();
        all.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    }

    /// Starts the image's entrypoint; what it prints goes to `log`.
    fn start(&self, environment: &[(&str, String)], log: &Path) -> Running {
        self.start_with(&[], environment, log)
    }

    /// The same, with arguments.
    pub fn start_with(&self, arguments: &[&str], environment: &[(&str, String)], log: &Path) -> Running {
        let log = fs::File::create(log).unwrap();
        let arguments = arguments.iter().map(|word| (*word).to_owned());
        let argv: Vec<String> = self.entrypoint().into_iter().chain(arguments).collect();
        let mut command = self.command(&argv);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }
}

/// Waits until `path` answers 200, and gives the body.
fn healthy(port: u16, path: &str, log: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match get(port, path) {
            Ok((200, body)) => return body,
            other if Instant::now() > deadline => {
                let log = fs::read_to_string(log).unwrap_or_default();
                panic!(
                    "`{path}` on port {port} does not answer 200 but {:?}: {log}",
                    other.map(|(status, _)| status)
                );
            }
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; tests/run starts the server and sets it"))
}

/// An empty database of its own, as an address.
fn database(name: &str) -> String {
    let server = variable("SKEP_TEST_POSTGRES");
    run(Command::new("psql").args([&server, "--quiet", "-c", &format!("CREATE DATABASE {name}")]));
    server.replace("/postgres?", &format!("/{name}?"))
}

fn runs_on(platform: &str, number: u32) {
    let beside = |name: &str| fixture().one.beside(&format!("{name}-{number}.log"));
    let database = database(&format!("honeydue_{}", platform.replace('/', "_")));
    let redis = format!("redis://{}/{number}", variable("SKEP_TEST_REDIS"));
    let api = unpack("api", platform);
    let port = free_port();
    let environment = [
        ("DATABASE_URL", database.clone()),
        ("REDIS_URL", redis.clone()),
        (
            "SECRET_KEY",
            "a secret of the tests, and of nothing else".to_owned(),
        ),
        ("UPLOAD_DIR", "/tmp/uploads".to_owned()),
        ("PORT", port.to_string()),
    ];
    // It refuses to start before the migrations have run, out of the same image.
    let mut refused = api.command(&api.entrypoint());
    refused.envs(environment.iter().map(|(name, value)| (name, value)));
    let refused = refused.output().unwrap();
    let said =
        String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() && said.contains("goose_db_version"),
        "{said}"
    );
    let up = ["/goose", "-dir", "/migrations", "postgres", &database, "up"].map(str::to_owned);
    run(&mut api.command(&up));
    let _api = api.start(&environment, &beside("api"));
    let health = healthy(port, "/api/health/", &beside("api"));
    assert!(health.contains("\"status\""), "{health}");
    let residences = healthy(port, "/api/residences/", &beside("api"));
    assert!(residences.starts_with(['{', '[']));

    let worker = unpack("worker", platform);
    let port = free_port();
    let environment = [
        ("DATABASE_URL", database),
        ("REDIS_URL", redis),
        ("HEALTH_PORT", port.to_string()),
    ];
    let _worker = worker.start(&environment, &beside("worker"));
    healthy(port, "/health", &beside("worker"));

    let admin = unpack("admin", platform);
    let port = free_port();
    let environment = [("PORT", port.to_string()), ("HOSTNAME", "127.0.0.1".to_owned())];
    let _admin = admin.start(&environment, &beside("admin"));
    healthy(port, "/api/health", &beside("admin"));
    assert!(healthy(port, "/", &beside("admin")).starts_with("<!DOCTYPE html>"));
    // Native code of the platform resizes it, once asked by a route and once by Next itself.
    for path in [
        "/api/thumbnail?size=small",
        "/_next/image?url=%2Fhouse.png&w=640&q=75",
    ] {
        let picture = healthy(port, path, &beside("admin"));
        assert!(
            picture.len() > 100 && !picture.starts_with('<'),
            "{path}: {} bytes",
            picture.len()
        );
    }
}

#[test]
fn the_images_run_on_amd64() {
    if is_wanted() {
        runs_on("linux/amd64", 1);
    }
}

#[test]
fn the_images_run_on_arm64() {
    if is_wanted() {
        runs_on("linux/arm64", 2);
    }
}

#[test]
fn skopeo_reads_every_image_with_all_of_its_platforms() {
    if !is_wanted() {
        return;
    }
    let one = &fixture().one;
    for name in IMAGES {
        let layout = one.beside(&format!("{name}-all.oci"));
        run(&mut one.skep(&["export", name, &format!("oci:{}", layout.display())]));
        let reference = format!("oci:{}:{name}", layout.display());
        let raw = run(Command::new("skopeo").args(["inspect", "--raw", &reference]));
        let index: serde_json::Value = serde_json::from_str(&raw).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), PLATFORMS.len());
        let copy = one.beside(&format!("{name}-copy.oci"));
        let to = format!("oci:{}:{name}", copy.display());
        run(Command::new("skopeo").args(["copy", "--all", "--preserve-digests", "--quiet", &reference, &to]));
    }
}
