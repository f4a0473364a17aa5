//! Killed at any instant, and run again: the results are right.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use skep_test_support::{Random, has_busybox};

use super::bench::Bench;

/// Builds that are killed while they run.
const TIMES: u32 = 40;
/// Builds in all: some are over before.
const MAX_BUILDS: u32 = 120;

/// Three ranks of small actions, each over all of the rank before it.
fn graph() -> String {
    let mut recipe = String::from("r0 = [source([\"file\"])]\n");
    for rank in 1..=3 {
        let before = rank - 1;
        let _ = writeln!(
            recipe,
            "r{rank} = [sh(\"cat $(find /in -type f | sort) > /out/{rank}-%d; echo %d >> /out/{rank}-%d\" % (n, n, n), r{before}) for n in range(4)]"
        );
    }
    recipe + "single(\"api\", merge(*r3))\n"
}

fn bench() -> Bench {
    let bench = Bench::with_busybox(&graph());
    bench.write("file", "content\n");
    bench
}

#[test]
fn kill_9_at_any_instant_loses_nothing() {
    if !has_busybox() {
        return;
    }
    let clean = bench();
    let began = Instant::now();
    let expected = clean.succeed(&["build"]);
    let mut whole = began.elapsed();
    let mut random = Random::of_now();
    let mut killed = 0;
    for time in 0..MAX_BUILDS {
        let bench = bench();
        let (after, was_running) = bench.kill_build(&mut random, &mut whole);
        killed += u32::from(was_running);
        let ran = bench.skep(&["build"]);
        assert_eq!(
            (ran.code, &ran.stdout),
            (0, &expected),
            "time {time}, killed after {after:?}: {}",
            ran.stderr
        );
        let checked = bench.skep(&["fsck"]);
        assert_eq!(
            checked.code, 0,
            "time {time}, killed after {after:?}: {}{}",
            checked.stdout, checked.stderr
        );
        if killed == TIMES {
            break;
        }
    }
    assert_eq!(killed, TIMES, "the others were over before");
}

#[test]
fn nothing_outlives_skep() {
    if !has_busybox() {
        return;
    }
    let marker = format!("{}", 100_000 + std::process::id());
    let bench = Bench::with_busybox(&format!(
        "single(\"api\", sh(\"(sleep {marker} &); sleep {marker}\"))"
    ));
    let mut child = bench.command(&["build", "--quiet"]).spawn().unwrap();
    wait_until("the action runs", || processes_with(&marker) >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("every process of the action is gone", || {
        processes_with(&marker) == 0
    });
}

fn processes_with(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let matches = processes.filter(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("sleep") && line.split('\0').any(|word| word == argument)
    });
    matches.count()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in 20 seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn two_skeps_share_one_store_and_run_each_action_once() {
    if !has_busybox() {
        return;
    }
    let bench = bench();
    let start = || {
        bench
            .command(&["build", "--json"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children = [start(), start(), start()];
    let ran: Vec<_> = children
        .map(|child| bench.ran(&child.wait_with_output().unwrap()))
        .into();
    assert!(ran.iter().all(|ran| ran.code == 0), "{ran:?}");
    assert!(ran.iter().all(|one| one.stdout == ran[0].stdout));
    let total: usize = ran.iter().map(|ran| ran.outcomes().0).sum();
    assert_eq!(
        total, 15,
        "12 actions, a layer, an image and an index, each of them once"
    );
}
