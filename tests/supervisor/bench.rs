//! A store with an image of busybox, a state directory, and the supervisor there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep::cancel::Cancel;
use skep::digest::Digest;
use skep::store::Store;
use skep::supervisor::{
    Client, Condition, Healthcheck, LogLine, Order, Restart, ServiceSpec, State, Test, Update, connect, logs,
    start,
};
use skep::tree::{Attributes, Metadata, Node, Tree, TreePath, ops};
use skep_test_support::BUSYBOX;

pub const UID: u32 = 65532;

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Everything that a test has. Dropping it ends the supervisor.
pub struct Bench {
    pub directory: tempfile::TempDir,
    pub store: Store,
    /// Where everybody may start it: what cargo built may lie in root's home.
    program: PathBuf,
    image: Tree,
}

impl Bench {
    pub fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        // Root's supervisor is another user, and passes through.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let image = image(&store);
        let (built, program) = (env!("CARGO_BIN_EXE_skep"), directory.path().join("skep"));
        std::fs::hard_link(built, &program)
            .or_else(|_| std::fs::copy(built, &program).map(drop))
            .unwrap();
        Bench {
            directory,
            store,
            program,
            image,
        }
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The supervisor, started if there is none.
    pub fn client(&self) -> Client {
        start(&self.program, &self.state(), &self.store).unwrap()
    }

    /// A service that runs a script, without a health check.
    pub fn script(&self, script: &str) -> ServiceSpec {
        ServiceSpec {
            image: Digest::of(script.as_bytes()).oci(),
            root: self.image,
            argv: strings(&["/bin/sh", "-c", script]),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            cwd: "/".to_owned(),
            uid: UID,
            gid: UID,
            hostname: "{service}-{slot}".to_owned(),
            stop_signal: 15,
            stop_grace: ms(3_000),
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            secrets: Vec::new(),
            configs: Vec::new(),
            networks: BTreeMap::from([("front".to_owned(), BTreeSet::new())]),
            ports: BTreeMap::new(),
            healthcheck: None,
            restart: Restart {
                condition: Condition::Any,
                delay: ms(50),
                max_attempts: None,
                window: ms(0),
            },
            update: Update {
                order: Order::StopFirst,
                delay: ms(0),
                monitor: ms(100),
            },
            read_only: false,
            init: true,
            extra_hosts: Vec::new(),
        }
    }

    /// A service that answers every request for `/` with `answer`, and `start_first` as it is updated.
    pub fn web(&self, answer: &str) -> ServiceSpec {
        let script = format!(
            "mkdir -p /data/www; echo {answer} >/data/www/index.html; \
             exec httpd -f -p 80 -h /data/www"
        );
        let mut spec = self.script(&script);
        spec.update.order = Order::StartFirst;
        spec.healthcheck = Some(check("wget -qO- http://127.0.0.1/"));
        spec
    }

    pub fn logs(&self, service: &str) -> Vec<LogLine> {
        let services = strings(&[service]);
        logs(&self.state(), &services, None).read().unwrap()
    }

    /// The texts of what a service printed.
    pub fn printed(&self, service: &str) -> Vec<String> {
        self.logs(service).into_iter().map(|line| line.text).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // After a failure its end is not waited for.
        if let Ok(Some(client)) = connect(&self.state()) {
            let cancel = Cancel::default();
            if std::thread::panicking() {
                cancel.raise();
            }
            let _ = client.stop(&self.store, true, &cancel);
        }
    }
}

/// A health check that runs a line in the container.
pub fn check(line: &str) -> Healthcheck {
    Healthcheck {
        test: Test::Shell(line.to_owned()),
        interval: ms(300),
        timeout: ms(2_000),
        retries: 2,
        start_period: ms(0),
        start_interval: ms(300),
    }
}

/// Waits until the state is so.
#[track_caller]
pub fn until(client: &mut Client, what: &str, holds: impl Fn(&State) -> bool) -> State {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let state = client.observe().unwrap();
        if holds(&state) {
            return state;
        }
        assert!(Instant::now() < deadline, "never {what}: {state:#?}");
        std::thread::sleep(ms(20));
    }
}

/// Waits until a service is what was put.
#[track_caller]
pub fn converged(client: &mut Client, service: &str) -> State {
    until(client, "converged", |state| {
        state.services.get(service).is_some_and(|it| it.is_converged())
    })
}

/// Busybox with its applets, and a directory of the image's user.
fn image(store: &Store) -> Tree {
    let path = |text: &str| text.parse::<TreePath>().unwrap();
    let busybox = store.put(&std::fs::read(BUSYBOX).unwrap()).unwrap();
    let file = |digest, executable| Node::File { digest, executable };
    let mut parts = vec![
        ops::place(store, file(busybox, true), &path("bin/busybox")).unwrap(),
        ops::place(
            store,
            file(store.put(b"of the image\n").unwrap(), false),
            &path("data/file"),
        )
        .unwrap(),
    ];
    let list = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .unwrap();
    let applets = String::from_utf8(list.stdout).unwrap();
    for applet in applets.lines().filter(|name| *name != "busybox") {
        let link = Node::Symlink("busybox".to_owned());
        parts.push(ops::place(store, link, &path(&format!("bin/{applet}"))).unwrap());
    }
    let owned = Attributes {
        uid: Some(UID),
        gid: Some(UID),
        mode: Some(0o700),
        ..Attributes::default()
    };
    let metadata = Metadata(BTreeMap::from([(path("data"), owned)]));
    Tree {
        root: ops::merge(store, &parts).unwrap(),
        metadata: Some(store.put(&metadata.encode()).unwrap()),
    }
}

/// Every process below `pid`, and itself.
pub fn processes(pid: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = BTreeSet::new();
    let mut pending = vec![pid];
    while let Some(pid) = pending.pop() {
        if found.insert(pid) {
            pending.extend(children.remove(&pid).unwrap_or_default());
        }
    }
    found
}

pub fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
