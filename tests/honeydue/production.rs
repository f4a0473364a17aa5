//! The example's production on a real Swarm: a copy of its files with the servers of the tests filled in, and a
//! Postgres of its own where containers reach it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use skep_test_support::free_port;

use super::checkout::Checkout;
use super::fixture;
use super::machine::{is_root, run};

/// What the stack is called: whatever else the tests run on the Swarm, it is not this.
pub const STACK: &str = "honeydue";
const PASSWORD: &str = "of-the-tests-own-and-of-no-server-else";
const SECRETS: [&str; 5] = [
    "postgres_password.txt",
    "secret_key.txt",
    "email_host_password.txt",
    "fcm_server_key.txt",
    "apns_auth_key.p8",
];

/// Whether there is a Swarm; these tests run where the others do.
pub fn has_swarm() -> bool {
    let has =
        super::is_wanted() && std::env::var_os("SKEP_TEST_DOCKER").is_some_and(|value| !value.is_empty());
    if !has {
        eprintln!("skipped: needs a Swarm, whose engine only root can run; tests/run starts one");
    }
    has
}

/// The example, released once.
pub struct Production {
    pub checkout: Checkout,
    pub api: u16,
    pub admin: u16,
    /// What the first release said.
    pub first: String,
}

/// The production of all tests, for one of them at a time. Whoever has it leaves its first release running.
pub fn production() -> MutexGuard<'static, Production> {
    static PRODUCTION: OnceLock<Mutex<Production>> = OnceLock::new();
    let production = PRODUCTION.get_or_init(|| Mutex::new(Production::new()));
    production.lock().unwrap_or_else(PoisonError::into_inner)
}

/// docker's own view of the Swarm.
pub fn docker(arguments: &[&str]) -> String {
    let engine = std::env::var("SKEP_TEST_DOCKER").unwrap();
    run(Command::new("docker").args(["--host", &engine]).args(arguments))
}

impl Production {
    fn new() -> Production {
        let (api, admin) = (free_port(), free_port());
        let checkout = fixture().one.sibling("production");
        let (host, port) = postgres(&checkout);
        adapt(&checkout);
        fill_in(
            &checkout,
            &[
                ("HEALTHCHECK_URL", format!("http://127.0.0.1:{api}")),
                ("ADMIN_HEALTHCHECK_URL", format!("http://127.0.0.1:{admin}")),
                ("API_PORT", api.to_string()),
                ("ADMIN_PORT", admin.to_string()),
                (
                    "REDIS_NODE",
                    docker(&["info", "--format", "{{.Name}}"]).trim().to_owned(),
                ),
                ("POSTGRES_HOST", host),
                ("POSTGRES_PORT", port),
            ],
        );
        checkout.commit("the servers of the tests");
        let mut production = Production {
            checkout,
            api,
            admin,
            first: String::new(),
        };
        let released = production.skep(&["release", "prod"]);
        assert_eq!(released.status.code(), Some(0), "{}", said(&released));
        production.first = said(&released);
        production
    }

    /// Runs skep, as a user whose ssh knows the way to the manager.
    pub fn skep(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap();
        let programs = self.checkout.beside("programs");
        self.checkout
            .skep(arguments)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env_remove("XDG_STATE_HOME")
            .output()
            .unwrap()
    }

    /// The same, which must succeed; what it printed on stdout.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.skep(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What every service of the stack is told, as docker shows it, and the version of each.
    pub fn services(&self) -> String {
        let filter = format!("label=com.docker.stack.namespace={STACK}");
        let ids = docker(&["service", "ls", "--quiet", "--filter", &filter]);
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let format = "{{.Spec.Name}} {{.Version.Index}} {{json .Spec}}";
        docker(&[&["service", "inspect", "--format", format], &ids[..]].concat())
    }

    /// The id of the release that runs.
    pub fn current(&self) -> String {
        self.json(&["history", "prod"])[0]["release"]["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// What a command printed: what happened, and then the result.
pub fn said(output: &Output) -> String {
    let text = [&output.stderr[..], &output.stdout[..]].concat();
    String::from_utf8(text).unwrap()
}

/// Where the example's files have to be others than in production: the registry, the manager's socket, and ports that
/// the kernel of any machine can publish, each by one replica on its node.
fn adapt(checkout: &Checkout) {
    let registry = std::env::var("SKEP_TEST_REGISTRY").unwrap();
    let engine = std::env::var("SKEP_TEST_DOCKER").unwrap();
    let socket = engine.strip_prefix("unix://").unwrap();
    checkout.edit(
        "skep.toml",
        "git.example/honeydue",
        &format!("{registry}/production"),
    );
    let port = "${DEPLOY_MANAGER_SSH_PORT:-22}";
    checkout.edit("skep.toml", port, &format!("{port}{socket}"));
    let stack = "deploy/swarm-stack.prod.yml";
    for (variable, inside) in [("API_PORT:-8000", 8000), ("ADMIN_PORT:-3000", 3000)] {
        let short = format!("[\"${{{variable}}}:{inside}\"]");
        let long = format!("[{{target: {inside}, published: \"${{{variable}}}\", mode: host}}]");
        checkout.edit(stack, &short, &long);
    }
    for replicas in [3, 1] {
        let from = format!("      replicas: {replicas}\n      update_config: {{<<: *ahead");
        checkout.edit(
            stack,
            &from,
            "      replicas: 1\n      endpoint_mode: dnsrr\n      update_config: {<<: *alone",
        );
    }
    checkout.edit(
        stack,
        "      replicas: 1\n      # The volume",
        "      replicas: 1\n      endpoint_mode: dnsrr\n      # The volume",
    );
    // What waits for a cluster only makes the tests longer.
    let path = checkout.project().join(stack);
    let text = fs::read_to_string(&path).unwrap();
    let quick = text
        .replace("interval: 5s", "interval: 1s")
        .replace("monitor: 30s", "monitor: 2s");
    fs::write(path, quick).unwrap();
    checkout.edit("skep.toml", r#"interval = "100ms""#, r#"interval = "10ms""#);
    ssh(checkout);
}

/// An `ssh` that reads the configuration of the tests' sshd, as a user's own would know the way.
fn ssh(checkout: &Checkout) {
    let config = std::env::var("SKEP_TEST_SSH_CONFIG").unwrap();
    let programs = checkout.beside("programs");
    fs::create_dir_all(&programs).unwrap();
    let ssh = programs.join("ssh");
    fs::write(
        &ssh,
        format!("#!/bin/sh\nexec /usr/bin/ssh -F '{config}' \"$@\"\n"),
    )
    .unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes the files that git does not have of their examples, with values for everything that has none.
pub fn fill_in(checkout: &Checkout, values: &[(&str, String)]) {
    let ssh = std::env::var("SKEP_TEST_SSH").unwrap();
    let (user, rest) = ssh.strip_prefix("ssh://").unwrap().split_once('@').unwrap();
    let (host, rest) = rest.split_once(':').unwrap();
    let port = &rest[..rest.find('/').unwrap()];
    let mut all: Vec<(&str, String)> = [
        ("DEPLOY_MANAGER_HOST", host),
        ("DEPLOY_MANAGER_USER", user),
        ("DEPLOY_MANAGER_SSH_PORT", port),
        ("POSTGRES_USER", "keeper"),
        ("POSTGRES_DB", "postgres"),
        ("B2_ENDPOINT", "https://bucket.invalid"),
        ("B2_BUCKET_NAME", "photos"),
        ("B2_KEY_ID", "key-of-the-tests"),
        ("B2_APP_KEY", "app-key-of-the-tests"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    all.extend_from_slice(values);
    let deploy = checkout.project().join("deploy");
    for file in ["cluster.env", "prod.env"] {
        let example = fs::read_to_string(deploy.join(format!("{file}.example"))).unwrap();
        let line = |line: &str| {
            let name = line.split_once('=').map(|(name, _)| name);
            let value = all.iter().find(|(known, _)| Some(*known) == name);
            value.map_or_else(|| line.to_owned(), |(name, value)| format!("{name}={value}"))
        };
        let lines: Vec<String> = example.lines().map(line).collect();
        fs::write(deploy.join(file), lines.join("\n") + "\n").unwrap();
    }
    for secret in SECRETS {
        let content = match secret {
            "postgres_password.txt" => PASSWORD.to_owned(),
            other => format!("{other}-with-more-than-thirty-two-letters"),
        };
        fs::write(deploy.join("secrets").join(secret), content + "\n").unwrap();
    }
}

/// A Postgres with TLS on the address at which the Swarm's containers reach this machine: host and port. It ends with
/// this process.
fn postgres(checkout: &Checkout) -> (String, String) {
    assert!(is_root(), "the engine runs, so the tests are root's");
    let range = "{{(index .IPAM.Config 0).Gateway}}";
    let host = docker(&["network", "inspect", "docker_gwbridge", "--format", range]);
    let host = host.trim().to_owned();
    let port = free_port().to_string();
    let programs = programs();
    let data = database(&programs);
    let log = fs::File::create(checkout.beside("production-postgres.log")).unwrap();
    let mut server = as_nobody(programs.join("postgres"));
    for setting in ["unix_socket_directories=", "fsync=off", "ssl=on"] {
        server.args(["-c", setting]);
    }
    server.arg("-c").arg(format!("listen_addresses={host}"));
    server.args(["-p", &port, "-D"]).arg(&data).stderr(log);
    // It is told of the end of the thread that started it, which is this process's.
    std::thread::spawn(move || server.spawn().unwrap().wait());
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_ready = || {
        let mut ask = Command::new(programs.join("pg_isready"));
        ask.args(["--quiet", "--host", &host, "--port", &port]);
        ask.status().unwrap().success()
    };
    while !is_ready() {
        assert!(Instant::now() < deadline, "Postgres does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    (host, port)
}

/// The directory of a new database that takes passwords over TLS, and nothing else from elsewhere.
fn database(programs: &Path) -> PathBuf {
    let data = tempfile::Builder::new().prefix("skep-postgres").tempdir();
    let data = data.unwrap().keep();
    let password = data.with_extension("password");
    fs::write(&password, PASSWORD).unwrap();
    run(Command::new("chown").arg("nobody").args([&data, &password]));
    let mut make = as_nobody(programs.join("initdb"));
    make.args(["--username=keeper", "--auth=scram-sha-256", "--locale=C"]);
    make.args(["--encoding=UTF8", "--no-sync"]);
    make.arg(format!("--pwfile={}", password.display()));
    run(make.arg("--pgdata").arg(&data));
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let mut sign = as_nobody("openssl");
    sign.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    sign.args(["-subj", "/CN=db.invalid", "-keyout"]).arg(&key);
    run(sign.arg("-out").arg(&certificate));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let rules = data.join("pg_hba.conf");
    let known = fs::read_to_string(&rules).unwrap();
    fs::write(
        &rules,
        known
            + "hostssl all all 0.0.0.0/0 scram-sha-256
",
    )
    .unwrap();
    data
}

fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
    let newest = versions.map(|entry| entry.path().join("bin")).max().unwrap();
    assert!(newest.join("postgres").exists());
    newest
}

/// A program that refuses to be root's, and that ends when we do.
fn as_nobody(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "--",
    ]);
    command.arg(program.as_ref());
    command
}
