//! A Swarm on another machine, as far as skep can tell: by ssh, and past a manager that is dead.

use std::os::unix::fs::PermissionsExt as _;

use super::bench::{Bench, variable};
use super::files::SMALL;

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
    // By the way that it is not known for, a host's key is not taken for granted.
    bench.set("PATH", &std::env::var("PATH").unwrap());
    bench.configure_all(&[&address], "", "token = { env = \"TOKEN\" }");
    let ran = bench.skep(&["status", "prod"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
}
