//! The lock of somebody who is elsewhere: it is waited for when he is silent, respected when he is not, and whoever
//! was taken for dead and is not writes nothing more.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::bench::Bench;
use super::engine::{Docker, servers};

/// The exit code of what is refused.
const REFUSED: i32 = 7;

/// The patience that the bench configures.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process that an owner of the lock is, as one of another machine.
const ELSEWHERE: &str = "another-boot/pid:[1]/77/1";

fn edit_owner(docker: &Docker, stack: &str, edit: impl Fn(&mut Value)) {
    docker.set_state(stack, |labels| {
        let text = labels["skep.lock"].as_str();
        let mut owner = text.map_or_else(
            || json!({ "name": "me@elsewhere", "since": "yesterday", "process": ELSEWHERE, "beat": 0 }),
            |text| serde_json::from_str(text).unwrap(),
        );
        edit(&mut owner);
        labels["skep.lock"] = owner.to_string().into();
    });
}

#[test]
fn a_silent_owner_elsewhere_is_waited_for_and_his_rollout_finished() {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, "c-silent");
    let zero = bench.rollout(0);
    bench.wants(1);
    let mut rollout = bench
        .command(&["rollout", "prod"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    bench.await_step("stop");
    rollout.kill().unwrap();
    rollout.wait().unwrap();
    edit_owner(&bench.docker, &bench.stack, |owner| {
        owner["process"] = ELSEWHERE.into()
    });

    let refused = bench.skep(&["rollout", "prod"]);
    assert_eq!(refused.code, REFUSED, "{}", refused.stderr);
    assert!(refused.stderr.contains("keeper@"), "{}", refused.stderr);
    assert_eq!(bench.owner().unwrap()["process"], ELSEWHERE);

    let began = Instant::now();
    bench.succeed(&["resume", "prod"]);
    assert!(began.elapsed() >= PATIENCE, "{:?}", began.elapsed());
    let one = bench.one_release();
    assert_eq!(one.version, "1");
    assert_ne!(one.release, zero.release);
}

#[test]
fn an_owner_elsewhere_who_goes_on_is_respected() {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, "c-beating");
    let zero = bench.rollout(0);
    let before = bench.services();
    let ended = AtomicBool::new(false);
    edit_owner(&bench.docker, &bench.stack, |_| ());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                edit_owner(&bench.docker, &bench.stack, |owner| {
                    owner["beat"] = (owner["beat"].as_u64().unwrap() + 1).into();
                });
                std::thread::sleep(PATIENCE / 6);
            }
        });
        bench.wants(1);
        let refusals = ["rollout", "resume", "abort"].map(|verb| bench.skep(&[verb, "prod"]));
        ended.store(true, Ordering::Relaxed);
        for refusal in refusals {
            assert_eq!(refusal.code, REFUSED, "{}", refusal.stderr);
            assert!(refusal.stderr.contains("me@elsewhere"), "{}", refusal.stderr);
        }
    });
    assert_eq!(bench.owner().unwrap()["process"], ELSEWHERE);
    assert_eq!(bench.services(), before, "somebody wrote");
    bench.docker.set_state(&bench.stack, |labels| {
        labels.as_object_mut().unwrap().remove("skep.lock");
    });
    assert_eq!(bench.one_release(), zero);
}

/// Stops a rollout at `step`, lets somebody else finish or undo it, and lets the first one go on.
fn overtaken(stack: &str, step: &str, verb: &str, expected: &str) {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, stack);
    bench.rollout(0);
    bench.wants(1);
    let first = bench
        .command(&["rollout", "prod"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(first.id().try_into().unwrap()).unwrap();
    bench.await_step(step);
    kill_process(pid, Signal::STOP).unwrap();
    // On this machine it lives, whether it is stopped or not; seen from another one it is silent.
    edit_owner(&bench.docker, &bench.stack, |owner| {
        owner["process"] = ELSEWHERE.into()
    });
    bench.succeed(&[verb, "prod"]);
    let runs = bench.one_release();
    assert_eq!(runs.version, expected);
    let (services, state) = (bench.services(), bench.docker.state(&bench.stack));

    kill_process(pid, Signal::CONT).unwrap();
    let first = bench.ran(&first.wait_with_output().unwrap());
    assert_eq!(first.code, REFUSED, "{}", first.stderr);
    // Versions and times among it: nothing was written, be it the same.
    assert_eq!(bench.services(), services);
    assert_eq!(bench.docker.state(&bench.stack), state);
    assert_eq!(bench.one_release(), runs);
}

#[test]
fn one_that_was_taken_for_dead_at_its_canary_writes_nothing_more() {
    overtaken("c-fence-canary", "canary", "resume", "1");
}

#[test]
fn one_that_was_taken_for_dead_while_it_rolled_writes_nothing_more() {
    overtaken("c-fence-roll", "roll", "abort", "0");
}
