//! Requests all the time, by a service's name on an overlay network: none fails while releases come and go. And a
//! worker that is to be alone: it is.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use skep_test_support::until;

use super::bench::Bench;
use super::engine::servers;
use super::image::{ASKER, STACK};

/// Too few requests tell nothing. These are five for each of the three tasks that end and the three that begin;
/// a quick machine is done with all of them in a few seconds.
const ENOUGH: usize = 30;

fn requests(bench: &Bench) -> Vec<String> {
    let text = fs::read_to_string(bench.written().join("requests")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn no_request_fails_in_a_rollout_a_rollback_and_an_abort() {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, "c-load");
    bench.write("stack.yml", &STACK.replacen("\nnetworks:\n", ASKER, 1));
    bench.set("ASKER", bench.image(0));
    bench.set("REPLICAS", "3");
    let zero = bench.rollout(0);
    // The first requests came before there was anybody to answer.
    until("requests are answered", || {
        requests(&bench).last().is_some_and(|line| line.starts_with("ok"))
    });
    fs::write(bench.written().join("requests"), "").unwrap();

    bench.rollout(1);
    let of_rollout = requests(&bench).len();
    bench.succeed(&["rollback", "prod"]);
    assert_eq!(bench.one_release(), zero);
    let of_rollback = requests(&bench).len() - of_rollout;
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

    let requests = requests(&bench);
    let of_abort = requests.len() - of_rollout - of_rollback;
    println!("requests: {of_rollout} in a rollout, {of_rollback} in a rollback, {of_abort} in an abort");
    let expected: BTreeSet<String> = (0..3)
        .map(|version| format!("ok {}", bench.answer(version)))
        .collect();
    let failed: Vec<&String> = requests.iter().filter(|line| !expected.contains(*line)).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        requests.len()
    );
    assert!(
        of_rollout.min(of_rollback).min(of_abort) >= ENOUGH,
        "too few to tell"
    );
    let seen: BTreeSet<&String> = requests.iter().collect();
    assert_eq!(seen.len(), 3, "a version never answered: {seen:?}");
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
