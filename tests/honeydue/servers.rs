//! The example's Postgres and Redis: they start on an empty volume, again on what it holds, and after an end
//! at any moment.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use skep_test_support::{free_port, until};

use super::machine::run;
use super::run::{Running, Unpacked, unpack};
use super::{fixture, is_wanted};

const PASSWORD: &str = "of the tests' own: $'\"";

/// The platform that this machine runs without an emulator: Postgres starts programs of its own.
const NATIVE: &str = if cfg!(target_arch = "aarch64") {
    "linux/arm64"
} else {
    "linux/amd64"
};

struct Server {
    image: Unpacked,
    port: String,
    log: PathBuf,
}

impl Server {
    fn new(name: &str, platform: &str) -> Server {
        let port = free_port();
        Server {
            image: unpack(name, platform),
            port: port.to_string(),
            log: fixture().one.beside(&format!("{name}-{port}.log")),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Runs a program of the image, as a health check would; `None` where it fails.
    fn check(&self, argv: &[&str]) -> Option<String> {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let output = self.image.command(&argv).output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }
}

/// The image `postgres`, on the loopback device alone.
struct Postgres(Server);

impl Postgres {
    fn start(&self, environment: &[(&str, String)]) -> Running {
        let port = format!("port={}", self.0.port);
        let arguments = ["-c", "listen_addresses=127.0.0.1", "-c", &port];
        self.0.image.start_with(&arguments, environment, &self.0.log)
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.0.image.root.join("var/lib/postgresql/data").join(name)
    }

    /// Starts, and waits until the image's own check succeeds.
    fn up(&self, environment: &[(&str, String)]) -> Running {
        let running = self.start(environment);
        until(&format!("pg_isready, {}", self.0.port), || {
            self.0
                .check(&["/usr/lib/postgresql/15/bin/pg_isready", "-p", &self.0.port])
                .is_some()
        });
        running
    }

    /// psql of this machine, over TCP.
    fn psql(&self, password: &str, statement: &str) -> Command {
        let database = format!("postgres://keeper@127.0.0.1:{}/hives", self.0.port);
        let mut command = Command::new("psql");
        command.args([&database, "-qAt", "-c", statement]);
        command.env("PGPASSWORD", password);
        command
    }

    fn query(&self, statement: &str) -> String {
        run(&mut self.psql(PASSWORD, statement)).trim().to_owned()
    }
}

fn postgres_environment(server: &Server) -> Vec<(&'static str, String)> {
    let file = server.image.root.join("tmp/password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    vec![
        ("POSTGRES_PASSWORD_FILE", "/tmp/password".to_owned()),
        ("POSTGRES_USER", "keeper".to_owned()),
        ("POSTGRES_DB", "hives".to_owned()),
    ]
}

#[test]
fn postgres_keeps_its_data_whatever_ended_it() {
    if !is_wanted() {
        return;
    }
    let postgres = Postgres(Server::new("postgres", NATIVE));
    assert!(!postgres.start(&[]).wait().success());
    assert!(
        postgres.0.log().contains("set POSTGRES_PASSWORD_FILE or"),
        "{}",
        postgres.0.log()
    );
    let environment = postgres_environment(&postgres.0);

    // Killed at several moments of the first start: when these came to be.
    for made in ["global", "pg_hba.conf", "base/1", "base/5"] {
        let running = postgres.start(&environment);
        // What the start before left is removed by the time that it says what it does.
        until(made, || {
            postgres.0.log().contains("making a database") && postgres.volume("new").join(made).exists()
        });
        drop(running);
        assert!(!postgres.volume("cluster").exists(), "{made} was the last");
        assert!(postgres.volume("new").exists());
    }

    let running = postgres.up(&environment);
    assert!(!postgres.volume("new").exists());
    postgres.query("CREATE TABLE bees AS SELECT 41 AS queen");
    let wrong = postgres.psql("wrong", "SELECT 1").output().unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(said.contains("password authentication failed"), "{said}");
    for (setting, value) in [
        ("password_encryption", "scram-sha-256"),
        ("lc_collate", "C.UTF-8"),
        ("server_encoding", "UTF8"),
        ("jit", "off"),
    ] {
        assert_eq!(postgres.query(&format!("SHOW {setting}")), value, "{setting}");
    }
    assert!(!postgres.0.log().contains(PASSWORD));
    // The image's signal to stop ends it in good order, open sessions or not.
    assert_eq!(
        postgres.0.image.config["config"]["StopSignal"].as_str(),
        Some("SIGINT")
    );
    let mut session = postgres.psql(PASSWORD, "SELECT pg_sleep(600)");
    let mut session = session.stderr(Stdio::null()).spawn().unwrap();
    until("the session", || {
        postgres.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(600)'") == "1"
    });
    assert!(running.stop(Signal::INT).success(), "{}", postgres.0.log());
    assert!(!session.wait().unwrap().success());
    assert!(
        postgres.0.log().contains("database system is shut down"),
        "{}",
        postgres.0.log()
    );

    // What the environment says is for the first start alone.
    let running = postgres.up(&[]);
    postgres.query("UPDATE bees SET queen = 42");
    drop(running);
    let _running = postgres.up(&environment);
    assert_eq!(postgres.query("SELECT queen FROM bees"), "42");
}

#[test]
fn postgres_takes_the_password_from_the_environment_too() {
    if !is_wanted() {
        return;
    }
    let postgres = Postgres(Server::new("postgres", NATIVE));
    let mut environment = postgres_environment(&postgres.0);
    environment.push(("POSTGRES_PASSWORD", "another".to_owned()));
    assert!(!postgres.start(&environment).wait().success());
    assert!(postgres.0.log().contains("are both set"), "{}", postgres.0.log());
    environment.remove(0);
    environment.last_mut().unwrap().1 = PASSWORD.to_owned();
    let _running = postgres.up(&environment);
    assert_eq!(postgres.query("SELECT current_user"), "keeper");
    assert!(!postgres.0.log().contains(PASSWORD));
}

fn redis_keeps_its_data(platform: &str) {
    let redis = Server::new("redis", platform);
    let client = |argv: &[&str]| {
        let argv = [&["/usr/bin/redis-cli", "-p", &redis.port], argv].concat();
        redis.check(&argv).map(|text| text.trim().to_owned())
    };
    let up = || {
        let arguments = ["--bind", "127.0.0.1", "--port", &redis.port];
        let running = redis.image.start_with(&arguments, &[], &redis.log);
        until("ping", || client(&["ping"]).as_deref() == Some("PONG"));
        running
    };
    let running = up();
    for (setting, value) in [
        ("appendfsync", "everysec"),
        ("maxmemory", "209715200"),
        ("maxmemory-policy", "allkeys-lru"),
        ("protected-mode", "no"),
    ] {
        let answer = client(&["config", "get", setting]).unwrap();
        assert_eq!(answer.lines().last(), Some(value), "{setting}");
    }
    client(&["set", "queen", "41"]).unwrap();
    assert!(running.stop(Signal::TERM).success(), "{}", redis.log());
    let running = up();
    assert_eq!(client(&["incr", "queen"]).as_deref(), Some("42"));
    // It writes once in a second.
    std::thread::sleep(Duration::from_secs(2));
    drop(running);
    let _running = up();
    assert_eq!(client(&["get", "queen"]).as_deref(), Some("42"));
}

#[test]
fn redis_keeps_its_data_on_amd64() {
    if is_wanted() {
        redis_keeps_its_data("linux/amd64");
    }
}

#[test]
fn redis_keeps_its_data_on_arm64() {
    if is_wanted() {
        redis_keeps_its_data("linux/arm64");
    }
}
