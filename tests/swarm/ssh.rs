//! A Swarm on another machine, as far as skep can tell: by ssh, and past a manager that is dead.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep_test_support::{until, variable};

use super::bench::{Bench, token};
use super::files::SMALL;

/// A way to a port of this machine that can be closed, with whoever is on it.
struct Way {
    port: u16,
    /// Both ends of every connection, while it is open.
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Way {
    fn to(port: u16) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Way {
            port: listener.local_addr().unwrap().port(),
            open: Arc::new(Mutex::new(Some(Vec::new()))),
        };
        let open = Arc::clone(&way.open);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if let Some(streams) = open.lock().unwrap().as_mut() {
                    let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    for (from, to) in [(&near, &far), (&far, &near)] {
                        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                        std::thread::spawn(move || {
                            let _ = io::copy(&mut from, &mut to);
                            let _ = to.shutdown(Shutdown::Write);
                        });
                    }
                    streams.extend([near, far]);
                }
            }
        });
        way
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn restore(&self) {
        *self.open.lock().unwrap() = Some(Vec::new());
    }
}

/// A directory with an `ssh` that has the tests' configuration: OpenSSH takes the user's own from the home directory
/// that the account has, whatever `HOME` says.
fn configured(bench: &Bench, config: &str) -> String {
    let directory = bench.beside("programs");
    std::fs::create_dir(&directory).unwrap();
    let program = directory.join("ssh");
    let path = std::env::var("PATH").unwrap();
    std::fs::write(
        &program,
        format!("#!/bin/sh\nPATH='{path}' exec ssh -F '{config}' \"$@\"\n"),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{path}", directory.display())
}

#[test]
fn the_same_by_ssh_past_a_manager_that_is_dead() {
    let Some(bench) = Bench::new("t-ssh", SMALL) else {
        return;
    };
    let (Some(address), Some(config)) = (variable("SKEP_TEST_SSH"), variable("SKEP_TEST_SSH_CONFIG")) else {
        return;
    };
    bench.set("PATH", &configured(&bench, &config));
    let managers = [
        "ssh://nobody@127.0.0.1:1",
        "unix:///nowhere/docker.sock",
        &address,
    ];
    bench.configure_all(&managers, "", "token = { env = \"TOKEN\" }");
    let id = bench.release("1");
    let before = bench.engine.versions("t-ssh");
    let again = bench.json(&["release", "prod"]);
    assert_eq!(
        (again["changed"].as_bool(), again["release"].as_str()),
        (Some(false), Some(&*id))
    );
    assert_eq!(bench.engine.versions("t-ssh"), before, "nothing is written");
    assert_eq!(bench.succeed(&["logs", "prod", "api"]).lines().count(), 1);
    // One connection for each command, and none is left.
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let store = bench.beside("store").display().to_string();
        String::from_utf8_lossy(&environment).contains(&store)
    });
    assert_eq!(left.count(), 0);
    // What its sshd offers to strangers is told; the tests' own takes no passwords.
    let found = bench.succeed(&["lint", "prod"]);
    assert!(found.contains("as `root`"), "{found}");
    assert!(
        !found.contains("passwords") && !found.contains("node-ports"),
        "{found}"
    );
    // By the way that it is not known for, a host's key is not taken for granted.
    bench.set("PATH", &std::env::var("PATH").unwrap());
    bench.configure_all(&[&address], "", "token = { env = \"TOKEN\" }");
    let ran = bench.skep(&["status", "prod"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
}

#[test]
fn cut_off_in_mid_rollout_and_let_in_again() {
    let Some(bench) = Bench::new("t-cut", SMALL) else {
        return;
    };
    let (Some(address), Some(config)) = (variable("SKEP_TEST_SSH"), variable("SKEP_TEST_SSH_CONFIG")) else {
        return;
    };
    let rest = address.strip_prefix("ssh://").unwrap();
    let (host, socket) = rest.split_once('/').unwrap();
    let (host, port) = host.split_once(':').unwrap();
    let way = Way::to(port.parse().unwrap());
    // The host's key is known under the port that the server has.
    let known = bench.beside("known.config");
    std::fs::write(
        &known,
        format!("HostKeyAlias [127.0.0.1]:{port}\nInclude {config}\n"),
    )
    .unwrap();
    bench.set("PATH", &configured(&bench, &known.display().to_string()));
    let managers = format!("ssh://{host}:{}/{socket}", way.port);
    let migrate = |command: &str| {
        let migrate = format!("migrate = {{ service = \"api\", command = [{command}] }}");
        bench.configure_all(&[&managers], &migrate, "token = { env = \"TOKEN\" }");
    };
    migrate(r#""/migrate", "up", "0""#);
    bench.release("1");
    migrate(r#""/migrate", "up", "slow""#);
    bench.set("VERSION", "2");
    bench.set("TOKEN", &token("2"));
    let mut release = bench.command(&["release", "prod"]);
    let release = release
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let migration = || {
        let services = bench.engine.specs("t-cut").into_keys();
        let mut tasks = services
            .filter(|name| name.contains("_migrate-"))
            .map(|name| bench.engine.tasks(&name));
        tasks.any(|tasks| tasks.values().any(|state| state == "running"))
    };
    until("the migration runs", migration);
    // Whatever was asked at these moments breaks, the log among it.
    for _ in 0..3 {
        way.cut();
        std::thread::sleep(Duration::from_millis(50));
        way.restore();
        std::thread::sleep(Duration::from_millis(650));
    }
    way.cut();
    // It ends while nobody looks.
    until("the migration is over", || !migration());
    std::thread::sleep(Duration::from_secs(1));
    way.restore();
    let ran = bench.ran(&release.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    bench.settled("2");
}
