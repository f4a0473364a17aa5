//! skep killed at any instant of a rollout: `resume` finishes it, `abort` undoes it, and nothing is left half-way.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_test_support::Random;

use super::bench::Bench;
use super::engine::servers;

/// Rollouts that are hit of each of the four stacks, unless `SKEP_TEST_KILLS` says how many: a hit takes ten seconds
/// and more, of which the engine needs most.
const TIMES: u32 = 4;
/// Rollouts in each, hit or over before that.
const MAX_ROLLOUTS: u32 = 40;

/// What ends a rollout that was left half-way.
fn verb(random: &mut Random) -> &'static str {
    if random.fraction() < 0.5 {
        "resume"
    } else {
        "abort"
    }
}

/// Starts something and kills it after `after`. Whether there was something to kill.
fn kill_half_way(bench: &Bench, verb: &str, after: Duration) -> bool {
    let mut rollout = bench
        .command(&[verb, "prod"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let under_way = rollout.try_wait().unwrap().is_none();
    rollout.kill().unwrap();
    rollout.wait().unwrap();
    under_way
}

/// Which release the journal that was left is about.
fn journal(bench: &Bench) -> Option<Value> {
    let state = bench.docker.state(&bench.stack);
    state["skep.journal"]
        .as_str()
        .map(|text| serde_json::from_str(text).unwrap())
}

/// Kills rollouts of a stack and finishes or undoes each, now and then at the second attempt.
fn killed(stack: &str, lines: &str) {
    let Some(servers) = servers() else { return };
    let bench = Bench::new(servers, stack);
    bench.configure(lines);
    bench.rollout(0);
    let began = Instant::now();
    let mut runs = bench.rollout(1);
    let mut whole = began.elapsed();
    let mut random = Random::of_now();
    let times = std::env::var("SKEP_TEST_KILLS").map_or(TIMES, |times| times.parse().unwrap());
    let mut hits = 0;
    for version in 2..MAX_ROLLOUTS {
        bench.wants(version);
        let after = whole.mul_f64(random.fraction());
        match kill_half_way(&bench, "rollout", after) {
            true => hits += 1,
            false => whole = whole.mul_f64(0.8),
        }
        let mut what = format!("{stack}: {version} killed after {after:?}");
        if random.fraction() < 0.3 {
            let (verb, after) = (verb(&mut random), whole.mul_f64(random.fraction()));
            kill_half_way(&bench, verb, after);
            what += &format!(", {verb} killed after {after:?}");
        }
        let (left, verb) = (journal(&bench), verb(&mut random));
        what += &format!(
            ", at {:?}, then {verb}",
            left.as_ref().map(|left| left["current"].to_string())
        );
        println!("{what}");
        let ran = bench.skep(&[verb, "prod"]);
        // Killed before it began or after it was done, there is nothing to finish.
        let expected = if left.is_some() { 0 } else { 2 };
        assert_eq!(ran.code, expected, "{what}: {}", ran.stderr);
        let pending = if left.is_some() { 0 } else { bench.pending() };
        let now = bench.one_release_below(pending);
        let is_back = left.as_ref().is_some_and(|left| left["rollback"] == true);
        match left {
            Some(_) if verb == "abort" || is_back => assert_eq!(now, runs, "{what}"),
            Some(_) => assert_eq!(now.version, version.to_string(), "{what}"),
            None => assert!(
                now == runs || now.version == version.to_string(),
                "{what}: {now:?}"
            ),
        }
        runs = now;
        if hits == times {
            break;
        }
    }
    assert_eq!(hits, times);
    let version = runs.version.parse().unwrap();
    for answer in bench.answers() {
        assert_eq!(answer, bench.answer(version));
    }
}

const MIGRATES: &str = "migrate = { service = \"web\", command = [\"/migrate\", \"up\"], version = [\"/migrate\", \"version\"] }";

/// At the same time: most of it is waiting.
#[test]
fn skep_killed_at_any_instant() {
    std::thread::scope(|scope| {
        scope.spawn(|| killed("c-kill", ""));
        scope.spawn(|| killed("c-kill-two", ""));
        scope.spawn(|| killed("c-migrate", MIGRATES));
        scope.spawn(|| killed("c-migrate-two", MIGRATES));
    });
}
