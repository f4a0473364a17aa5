//! Releases that work: one after the other, back and forth, without a request that fails and without two of a
//! service that is to be alone.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use skep_test_support::{Load, has_busybox};

use super::bench::{As, Bench, served};

/// Which release it is, for `rollback`.
fn id(status: &Value) -> &str {
    status["release"].as_str().unwrap()
}

fn back_and_forth(who: As) {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(who);
    let one = bench.release("1");
    let load = Load::start(bench.port, "/cgi-bin/version");
    let two = bench.release("2");
    // Another image, too.
    bench.write("root/other", "other\n");
    let three = bench.release("3");
    assert_ne!(
        three["services"]["web"]["tasks"][0]["image"],
        one["services"]["web"]["tasks"][0]["image"]
    );

    for (wanted, version) in [(&one, "1"), (&three, "3"), (&two, "2")] {
        bench.succeed(&["rollback", "preview", id(wanted)]);
        assert_eq!(bench.served(), served(version));
        assert_eq!(&bench.settled(), wanted);
    }
    // Without a name: the one that was made before.
    bench.succeed(&["rollback", "preview"]);
    assert_eq!(bench.settled(), one);
    let answers = load.finish();
    assert!(answers.keys().eq(&["1", "2", "3"].map(served)), "{answers:?}");

    let history = bench.json(&["history", "preview"]);
    let ids: BTreeSet<&str> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["release"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, BTreeSet::from([id(&one), id(&two), id(&three)]));
    never_two_at_a_time(&bench);
}

#[test]
fn three_releases_back_and_forth_without_a_failed_request() {
    back_and_forth(As::Caller);
}

#[test]
fn three_releases_back_and_forth_of_an_ordinary_user() {
    back_and_forth(As::Ordinary);
}

/// Each process of the singleton wrote its name over and over: none may write after another one began to.
fn never_two_at_a_time(bench: &Bench) {
    let beats = fs::read_to_string(bench.state().join("volumes/beats/beats")).unwrap();
    let mut turns: Vec<&str> = beats.lines().collect();
    turns.dedup();
    let processes: BTreeSet<&str> = turns.iter().copied().collect();
    assert!(processes.len() >= 3, "{} are too few to tell", processes.len());
    assert_eq!(turns.len(), processes.len(), "two ran at one time: {turns:#?}");
}

#[test]
fn a_singleton_is_never_there_twice() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    bench.release("1");
    bench.release("2");
    // One that fails, and is undone.
    bench.set("VERSION", "3");
    bench.set("CRASH", "9");
    assert_eq!(bench.skep(&["rollout", "preview"]).code, 5);
    bench.unset("CRASH");
    // A supervisor that dies, and is brought back by the next rollout.
    kill_process(bench.supervisor(), Signal::KILL).unwrap();
    bench.release("4");
    never_two_at_a_time(&bench);
}

#[test]
fn what_runs_already_is_left_alone() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    bench.release("1");
    let before = bench.supervisor();
    let status = bench.settled();
    let report = bench.json(&["release", "preview"]);
    assert_eq!(
        (&report["changed"], &report["release"]),
        (&Value::Bool(false), &status["release"])
    );
    assert_eq!(bench.settled(), status);
    assert_eq!(bench.supervisor(), before);
    // Only another number of replicas: those that are there stay.
    bench.set("REPLICAS", "3");
    bench.succeed(&["rollout", "preview"]);
    let beats = fs::read_to_string(bench.state().join("logs/web.log")).unwrap();
    assert_eq!(beats.matches("serving 1").count(), 3, "{beats}");
    bench.settled();
}
