//! What each verb says and leaves, when all is well.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use skep_test_support::{get, has_busybox};

use super::bench::{As, Bench, served};
use super::processes;

fn down_and_up_again(who: As) {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(who);
    let mounts = processes::mounts(bench.root());
    assert_eq!(bench.succeed(&["down", "preview"]), "preview was not up\n");
    let first = bench.release("1");
    assert!(
        processes::mounts(bench.root()).len() > mounts.len(),
        "what is looked for can be found"
    );
    let namespaces = processes::namespaces(bench.root());
    assert!(namespaces.len() > 5, "{namespaces:?}");

    assert_eq!(bench.succeed(&["down", "preview"]), "preview is down\n");
    bench.nothing_is_left();
    assert!(get(bench.port, "/").is_err());
    let left = processes::mounts(bench.root());
    assert_eq!(left, mounts);
    assert!(
        bench
            .succeed(&["status", "preview"])
            .ends_with("\nnothing runs\n")
    );
    // Volumes, secrets and the history stay, and serve the same release again.
    let beats = bench.state().join("volumes/beats/beats");
    let before = fs::read_to_string(&beats).unwrap();
    assert_eq!(bench.succeed(&["down", "preview"]), "preview is down\n");
    let secrets = || fs::read_dir(bench.state().join("secrets")).unwrap().count();
    assert_eq!(secrets(), 1);
    bench.succeed(&["rollback", "preview", first["release"].as_str().unwrap()]);
    assert_eq!(bench.settled(), first);
    assert_eq!(bench.served(), served("1"));
    assert!(fs::read_to_string(&beats).unwrap().starts_with(&before));

    bench.succeed(&["down", "preview", "--volumes"]);
    bench.nothing_is_left();
    assert!(!bench.state().exists());
    assert_eq!(bench.succeed(&["history", "preview"]), "no release yet\n");
}

#[test]
fn down_leaves_nothing_and_keeps_what_it_should() {
    down_and_up_again(As::Caller);
}

#[test]
fn down_of_an_ordinary_user_leaves_nothing_and_keeps_what_it_should() {
    down_and_up_again(As::Ordinary);
}

#[test]
fn a_plan_touches_nothing_and_says_what_a_rollout_would_do() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Ordinary);
    let none = bench.skep(&["plan", "preview"]);
    insta::assert_snapshot!(none.failure(), @"
    exit 2
    error: nothing was released to `preview` yet; run `skep release preview`
    ");
    bench.release("1");
    let nothing = bench.skep(&["plan", "preview", "--exit-code"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, "nothing to do\n"));
    let running = bench.settled();

    bench.set("VERSION", "2");
    bench.set("TOKEN", "another");
    let pending = bench.skep(&["plan", "preview", "--exit-code"]);
    assert_eq!(pending.code, 3, "{}", pending.stderr);
    insta::assert_snapshot!(pending.stdout, @r#"
    ~ single: replaced, one replica at a time
        @@ -7,5 +7,5 @@
         environment.CRASH: ""
         environment.SICK: ""
        -environment.VERSION: "1"
        +environment.VERSION: "2"
         image: "localhost/bench/web@sha256:DIGEST"
         volumes[0].read_only: false
    ~ web: replaced, one replica at a time
        @@ -7,5 +7,5 @@
         environment.CRASH: ""
         environment.SICK: ""
        -environment.VERSION: "1"
        +environment.VERSION: "2"
         healthcheck.interval: "200ms"
         healthcheck.retries: 2
        @@ -17,5 +17,5 @@
         ports[0].published: PORT
         ports[0].target: 8000
        -secrets: ["bench_token_RELEASE"]
        +secrets: ["bench_token_RELEASE"]
         volumes[0].read_only: false
         volumes[0].source.volume.name: "data"
    1. secret bench_token_RELEASE
    2. canary of web
    3. roll single, roll web
    "#);
    assert!(!pending.stdout.contains("another"), "secrets are not shown");
    let json = bench.json(&["plan", "preview"]);
    assert_eq!(json["changes"][1]["effect"], "replace", "{json}");
    assert_eq!(bench.settled(), running);
    assert_eq!(bench.json(&["history", "preview"]).as_array().unwrap().len(), 1);
}

#[test]
fn status_and_history_in_words() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    insta::assert_snapshot!(bench.skep(&["status", "preview"]).stdout, @"
    no release has run yet
    nothing runs
    ");
    bench.release("1");
    bench.set("CRASH", "7");
    assert_eq!(bench.skep(&["release", "preview"]).code, 5);
    insta::assert_snapshot!(bench.succeed(&["status", "preview"]), @"
    release RELEASE
    single           1/1 ready
      single.1       ready
    web              2/2 ready
      web.1          ready
      web.2          ready
    ");
    let history = bench.succeed(&["history", "preview"]);
    let words: Vec<_> = history
        .lines()
        .map(|line| format!("{} {}", &line[..1], line.split_once(" by ").unwrap().1))
        .collect();
    assert_eq!(
        words,
        [
            "* keeper@HOST: ran",
            "  keeper@HOST: failed, and was undone: web.1.N: exit code 7"
        ]
    );
    let nowhere = bench.skep(&["status", "nowhere"]);
    assert_eq!(nowhere.code, 2);
    insta::assert_snapshot!(nowhere.failure(), @"
    exit 2
    error: `BENCH/project/skep.toml` has no environment `nowhere`; it has `preview`
    ");
    let unknown = bench.skep(&["rollback", "preview", "0123456789ab-20200101000000"]);
    insta::assert_snapshot!(unknown.failure(), @"
    exit 2
    error: `preview` keeps no release `RELEASE`; `skep history preview` lists those that it does
    ");
}

/// What follows the time of each line.
fn texts(log: &str) -> BTreeSet<&str> {
    log.lines()
        .filter_map(|line| Some(line.split_once(' ')?.1))
        .collect()
}

#[test]
fn logs_of_all_of_one_and_of_what_is_to_come() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Ordinary);
    bench.release("1");
    let expected = BTreeSet::from(["web.1 serving 1", "web.2 serving 1"]);
    assert_eq!(texts(&bench.succeed(&["logs", "preview"])), expected);
    assert_eq!(texts(&bench.succeed(&["logs", "preview", "web"])), expected);
    assert_eq!(bench.succeed(&["logs", "preview", "single"]), "");

    let mut command = bench.command(&["logs", "preview", "web", "--follow", "--tail", "1"]);
    let mut follow = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.next().is_some_and(|line| line.ends_with(" serving 1")));
    bench.release("2");
    assert!(lines.any(|line| line.ends_with(" serving 2")));
    kill_process(Pid::from_child(&follow), Signal::INT).unwrap();
    assert!(follow.wait().unwrap().code().is_some(), "it ends by itself");
    assert_eq!(
        bench
            .succeed(&["logs", "preview", "web", "--tail", "1"])
            .matches("serving 2")
            .count(),
        1
    );
    // They are kept when all is down.
    bench.succeed(&["down", "preview"]);
    assert!(texts(&bench.succeed(&["logs", "preview"])).contains("web.1 serving 2"));
}
