//! skep and the supervisor, killed at any instant of a rollout: the next command finishes or undoes it, and leaves
//! nothing half-way and nobody behind.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skep_test_support::{Random, has_busybox, until};

use super::bench::{As, Bench, served, token};

/// Rollouts that are hit in each of the four tests: 40 in all.
const TIMES: u32 = 10;
/// Rollouts in each, hit or over before that.
const MAX_ROLLOUTS: u32 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Skep,
    Supervisor,
    Both,
}

/// Version `version` with a migration and a secret of its own is what the next release is.
fn next(bench: &Bench, version: &str) {
    bench.configure(&format!(
        "probes = {{ web = [{{ path = \"/cgi-bin/version\", count = 2, interval = \"20ms\" }}] }}\n\
         migrate = {{ service = \"web\", command = [\"/migrate\", \"up\", \"0\", \"{version}\"] }}"
    ));
    bench.set("VERSION", version);
    bench.set("TOKEN", &token(version));
}

/// Starts a rollout and kills `victim` after `after`. Whether there was a rollout to kill.
fn kill_half_way(bench: &Bench, victim: Victim, after: Duration) -> bool {
    let mut command = bench.command(&["rollout", "preview"]);
    let mut rollout = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let supervisor = bench.supervisor();
    let under_way = rollout.try_wait().unwrap().is_none();
    if victim != Victim::Supervisor {
        rollout.kill().unwrap();
    }
    if victim != Victim::Skep {
        kill_process(supervisor, Signal::KILL).unwrap();
        gone(bench, supervisor);
    }
    // One whose supervisor died says so, or has started another one.
    rollout.wait().unwrap();
    under_way
}

/// Everything of a supervisor ends with it.
fn gone(bench: &Bench, supervisor: Pid) {
    until("the supervisor is gone", || {
        !bench.processes().iter().any(|process| process.pid == supervisor)
    });
}

/// The release that the newest record is of.
fn newest(bench: &Bench) -> Value {
    bench.json(&["history", "preview"])[0]["release"]["id"].clone()
}

/// The version of the release that runs, by what it is recorded with.
fn recorded(bench: &Bench, status: &Value) -> String {
    let history = bench.json(&["history", "preview"]);
    let mut records = history.as_array().unwrap().iter();
    let current = records
        .find(|record| record["release"]["id"] == status["release"])
        .unwrap();
    assert_eq!(current["outcome"]["state"], "succeeded", "{history}");
    let version = current["release"]["secrets"]["token"].as_str().unwrap();
    let secret = std::fs::read_to_string(bench.state().join("secrets").join(version)).unwrap();
    secret.strip_prefix(&token("")).unwrap().to_owned()
}

fn killed(who: As, victim: Victim) {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(who);
    next(&bench, "0");
    bench.succeed(&["release", "preview"]);
    next(&bench, "1");
    let began = Instant::now();
    bench.succeed(&["rollout", "preview"]);
    let mut whole = began.elapsed();
    let mut random = Random::of_now();
    let mut hits = 0;
    for time in 2..MAX_ROLLOUTS {
        let version = time.to_string();
        next(&bench, &version);
        let before = newest(&bench);
        let after = whole.mul_f64(random.fraction());
        match kill_half_way(&bench, victim, after) {
            true => hits += 1,
            // What else the machine did is over.
            false => whole = whole.mul_f64(0.8),
        }
        // Where nothing was begun, a rollback would undo what ran before that, and after some of these there is none.
        let verb = match random.fraction() < 0.5 && newest(&bench) != before {
            true => "rollback",
            false => "rollout",
        };
        let ran = bench.skep(&[verb, "preview"]);
        let what = format!("{victim:?} killed after {after:?} for {version}, then {verb}");
        assert_eq!(ran.code, 0, "{what}: {}", ran.stderr);
        println!("{what}");
        let runs = recorded(&bench, &bench.settled());
        assert!(verb == "rollback" || runs == version, "{what}: {runs} runs");
        for _ in 0..4 {
            assert_eq!(bench.served(), served(&runs), "{what}");
        }
        if hits == TIMES {
            break;
        }
    }
    assert_eq!(hits, TIMES);
    bench.succeed(&["down", "preview"]);
    bench.nothing_is_left();
}

#[test]
fn skep_killed_at_any_instant() {
    killed(As::Caller, Victim::Skep);
}

#[test]
fn skep_of_an_ordinary_user_killed_at_any_instant() {
    killed(As::Ordinary, Victim::Skep);
}

#[test]
fn the_supervisor_killed_at_any_instant() {
    killed(As::Ordinary, Victim::Supervisor);
}

#[test]
fn both_killed_at_any_instant() {
    killed(As::Caller, Victim::Both);
}
