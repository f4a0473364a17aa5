//! Requests all the time to a published port, and from there by a service's name on an overlay network: none fails
//! while releases come and go. And a worker that is to be alone: it is.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use skep_test_support::{Load, free_port, get, until};

use super::bench::Bench;
use super::engine::servers;
use super::image::{EDGE, STACK};

/// Too few requests tell nothing. These are five for each of the three tasks that end and the three that begin;
/// a quick machine is done with all of them in a few seconds.
const ENOUGH: usize = 30;

/// What the edge passes on.
const PASS: &str = "/cgi-bin/pass";

#[test]
fn no_request_fails_in_a_rollout_a_rollback_and_an_abort() {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, "c-load");
    let port = free_port();
    bench.write("stack.yml", &STACK.replacen("\nnetworks:\n", EDGE, 1));
    bench.set("EDGE", bench.image(0));
    bench.set("PORT", &port.to_string());
    bench.set("REPLICAS", "3");
    let zero = bench.rollout(0);
    // The edge says when it is there, not when there is a way to `web`.
    until("a request is answered", || {
        get(port, PASS).is_ok_and(|(status, _)| status == 200)
    });
    let load = Load::start(port, PASS);

    bench.rollout(1);
    let of_rollout = load.answered();
    bench.succeed(&["rollback", "prod"]);
    assert_eq!(bench.one_release(), zero);
    let of_rollback = load.answered() - of_rollout;
    bench.wants(2);
    let mut rollout = bench
        .command(&["rollout", "prod"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    bench.await_step("roll");
    rollout.kill().unwrap();
    rollout.wait().unwrap();
    bench.succeed(&["abort", "prod"]);
    assert_eq!(bench.one_release(), zero);

    let of_abort = load.answered() - of_rollout - of_rollback;
    println!("requests: {of_rollout} in a rollout, {of_rollback} in a rollback, {of_abort} in an abort");
    let answers = load.finish();
    let expected: BTreeSet<String> = (0..3).map(|version| bench.answer(version)).collect();
    assert!(answers.keys().eq(&expected), "{answers:#?}");
    assert!(
        of_rollout.min(of_rollback).min(of_abort) >= ENOUGH,
        "too few to tell"
    );
    never_two_at_a_time(&bench);
}

/// Each worker wrote its name over and over: none may write after another one began to.
fn never_two_at_a_time(bench: &Bench) {
    let beats = fs::read_to_string(bench.written().join("beats")).unwrap();
    let mut turns: Vec<&str> = beats.lines().collect();
    turns.dedup();
    let workers: BTreeSet<&str> = turns.iter().copied().collect();
    assert!(workers.len() >= 4, "{} are too few to tell", workers.len());
    assert_eq!(turns.len(), workers.len(), "two ran at one time: {turns:#?}");
}
