//! An engine that is reached with ssh: connected to, cut off, and refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bollard::models::ConfigSpec;
use skep::cancel::Cancel;
use skep::docker::{Engine, Error, Options, data};
use skep_test_support::variable;
use tempfile::TempDir;

use crate::{SSH, SSH_CONFIG, address, eventually, run, swarm, unique};

/// A short path: sockets are made below it.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("sk").tempdir_in("/tmp").unwrap()
}

fn connect(config: &Path, scratch: &Path) -> Result<Engine, Error> {
    let options = Options {
        ssh_config: Some(config.to_owned()),
        scratch: scratch.to_owned(),
    };
    Engine::connect_with(vec![address(&variable(SSH).unwrap())], options, Cancel::default())
}

fn config() -> Option<PathBuf> {
    variable(SSH)?;
    variable(SSH_CONFIG).map(PathBuf::from)
}

/// The process of the connection whose control socket is below `scratch`, as ssh says.
fn connection(scratch: &Path) -> Option<String> {
    let entries = |path: &Path| {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let socket = entries(scratch)
        .flat_map(|path| entries(&path))
        .map(|path| path.join("master"));
    let socket = socket.into_iter().find(|path| path.exists())?;
    let check = ["-O", "check", "none"];
    let output = Command::new("ssh")
        .arg("-S")
        .arg(socket)
        .args(check)
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    let (_, rest) = says.split_once("Master running (pid=")?;
    Some(rest.split_once(')')?.0.to_owned())
}

fn is_alive(process: &str) -> bool {
    // One that nobody has waited for yet has ended all the same.
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn an_engine_elsewhere_is_the_same_engine() {
    let Some(config) = config() else { return };
    let scratch = scratch();
    let engine = connect(&config, scratch.path()).unwrap();
    assert_eq!(engine.address(), address(&variable(SSH).unwrap()));
    assert_eq!(engine.swarm_id().unwrap(), swarm().unwrap().swarm_id().unwrap());
    assert_eq!(engine.all(&[]).unwrap().nodes.len(), 1);
    let process = connection(scratch.path()).expect("the connection has a process");
    drop(engine);
    assert!(is_empty(scratch.path()), "the private directory is still there");
    eventually("ssh ends", || (!is_alive(&process)).then_some(()));
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    let Some(config) = config() else { return };
    let scratch = scratch();
    let engine = connect(&config, scratch.path()).unwrap();
    let cut = || {
        let process = connection(scratch.path()).expect("the connection has a process");
        run(Command::new("kill").args(["-KILL", &process]));
        eventually("ssh has ended", || (!is_alive(&process)).then_some(()));
    };
    cut();
    assert_eq!(engine.nodes().unwrap().len(), 1, "reading goes on");

    cut();
    let name = unique("cut");
    let spec = ConfigSpec {
        name: Some(name.clone()),
        data: Some(data(b"x")),
        ..ConfigSpec::default()
    };
    let written = engine.create_config(spec);
    assert!(matches!(written, Err(Error::Unreachable { .. })), "{written:?}");
    assert_eq!(engine.config(&name).unwrap(), None, "whoever wrote can look");
    drop(engine);
    assert!(is_empty(scratch.path()), "private directories are still there");
}

/// The error of a connection with a changed configuration, which must not take long.
#[track_caller]
fn refused(change: impl FnOnce(String, &Path) -> String) -> Option<String> {
    let text = std::fs::read_to_string(config()?).unwrap();
    let scratch = scratch();
    let changed = scratch.path().join("config");
    let text = change(text, scratch.path());
    std::fs::write(&changed, text).unwrap();
    let began = Instant::now();
    let error = connect(&changed, scratch.path()).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.contains(&variable(SSH)?), "{error}");
    Some(error)
}

fn without(text: &str, setting: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with(setting));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_host_that_nobody_knows_is_not_trusted() {
    let error = refused(|text, scratch| {
        let nobody = scratch.join("nobody").display().to_string();
        without(&text, "UserKnownHostsFile") + &format!("UserKnownHostsFile {nobody}\n")
    });
    let Some(error) = error else { return };
    assert!(error.contains("Host key verification failed"), "{error}");
    assert!(error.contains("connect once with `ssh`"), "{error}");
}

#[test]
fn the_user_may_trust_a_host_at_first_sight() {
    let Some(config) = config() else { return };
    let scratch = scratch();
    let known = scratch.path().join("known");
    let text = without(&std::fs::read_to_string(config).unwrap(), "UserKnownHostsFile");
    let trusting = format!(
        "{text}StrictHostKeyChecking accept-new\nUserKnownHostsFile {}\n",
        known.display()
    );
    let changed = scratch.path().join("config");
    std::fs::write(&changed, trusting).unwrap();
    connect(&changed, scratch.path()).unwrap();
    assert!(std::fs::read_to_string(known).unwrap().contains("ssh-ed25519"));
}

#[test]
fn who_has_no_key_is_not_asked_for_a_password() {
    let error = refused(|text, _| without(&text, "IdentityFile") + "IdentityFile /dev/null\n");
    let Some(error) = error else { return };
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn an_engine_that_is_not_at_the_other_end_is_said_to_be_missing() {
    let Some(config) = config() else { return };
    let scratch = scratch();
    let options = Options {
        ssh_config: Some(config),
        scratch: scratch.path().to_owned(),
    };
    let there = variable(SSH).unwrap().replace("docker.sock", "nothing.sock");
    let error = Engine::connect_with(vec![address(&there)], options, Cancel::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("open failed"), "{error}");
    assert!(is_empty(scratch.path()));
}
