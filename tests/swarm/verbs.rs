//! What verbs that only look say: `plan`, `drift`, `logs`, `lint`, and that a rollback knows what it cannot undo.

use serde_json::json;

use super::bench::Bench;
use super::files::{SMALL, STACK};

#[test]
fn a_plan_without_asking_anybody() {
    let Some(bench) = Bench::new("t-offline", STACK) else {
        return;
    };
    let nobody = ["unix:///nowhere/docker.sock", "ssh://nobody@127.0.0.1:1"];
    bench.configure_all(&nobody, "", "token = { env = \"TOKEN\" }");
    let ran = bench.skep(&["plan", "prod", "--offline"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"");
    assert!(!bench.beside("state").exists());
    // Who asks is told which of them do not answer, and why.
    insta::assert_snapshot!(bench.skep(&["plan", "prod"]).failure(), @"");
}

#[test]
fn a_plan_of_a_change() {
    let Some(bench) = Bench::new("t-diff", SMALL) else {
        return;
    };
    insta::assert_snapshot!(bench.skep(&["plan", "prod"]).failure(), @"");
    bench.release("1");
    let before = bench.engine.versions("t-diff");
    bench.set("VERSION", "2");
    bench.set("TOKEN", "another");
    bench.edit_stack("monitor: 500ms", "monitor: 600ms");
    let ran = bench.skep(&["plan", "prod", "--exit-code"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"");
    assert!(!ran.stdout.contains("another"), "secrets are not shown");
    assert_eq!(bench.engine.versions("t-diff"), before, "nothing is written");
}

#[test]
fn what_was_changed_by_hand_is_seen_and_set_right() {
    let Some(bench) = Bench::new("t-drift", SMALL) else {
        return;
    };
    bench.release("1");
    assert_eq!(
        bench.succeed(&["drift", "prod", "--exit-code"]),
        "nothing to do\n"
    );
    bench.engine.docker(&[
        "service",
        "update",
        "--detach",
        "--env-add",
        "BY=hand",
        "--limit-memory",
        "48M",
        "t-drift_api",
    ]);
    let ran = bench.skep(&["drift", "prod", "--exit-code"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"");
    bench.succeed(&["rollout", "prod"]);
    bench.settled("1");
    assert_eq!(
        bench.succeed(&["drift", "prod", "--exit-code"]),
        "nothing to do\n"
    );
    let specs = bench.engine.specs("t-drift");
    let container = &specs["t-drift_api"]["TaskTemplate"]["ContainerSpec"];
    assert!(!container["Env"].to_string().contains("BY=hand"), "{container}");
}

#[test]
fn logs_of_a_service_and_of_a_replica() {
    let Some(bench) = Bench::new("t-logs", STACK) else {
        return;
    };
    bench.release("1");
    let texts = |log: &str| -> Vec<String> {
        let mut texts: Vec<String> = log
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.1.to_owned()))
            .collect();
        texts.sort();
        texts
    };
    assert_eq!(
        texts(&bench.succeed(&["logs", "prod"])),
        ["api.1 serving 1", "api.2 serving 1", "worker.1 working for 1"]
    );
    assert_eq!(
        texts(&bench.succeed(&["logs", "prod", "api"])),
        ["api.1 serving 1", "api.2 serving 1"]
    );
    assert_eq!(
        texts(&bench.succeed(&["logs", "prod", "api.2"])),
        ["api.2 serving 1"]
    );
    insta::assert_snapshot!(bench.skep(&["logs", "prod", "nobody"]).failure(), @"");
}

#[test]
fn what_lints_block() {
    let Some(bench) = Bench::new("t-lint", SMALL) else {
        return;
    };
    assert!(bench.succeed(&["lint", "prod"]).ends_with("nothing found\n"));
    bench.edit_stack("resources: {limits: {memory: 32M}}", "labels: {a: b}");
    bench.edit_stack("{driver_opts: {encrypted: \"\"}}", "{}");
    let ran = bench.skep(&["lint", "prod"]);
    insta::assert_snapshot!(format!("{}{}", ran.stdout, ran.failure()), @"");
    let ran = bench.skep(&["release", "prod"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("memory-limit"), "{}", ran.stderr);
    bench.nothing_is_there();
}

#[test]
fn a_rollback_across_a_migration() {
    let Some(bench) = Bench::new("t-across", SMALL) else {
        return;
    };
    let migrate = |argument: &str| {
        bench.configure(&format!(
            "migrate = {{ service = \"api\", command = [\"/migrate\", \"up\", \"0\", \"{argument}\"], \
             version = [\"/migrate\", \"version\"] }}"
        ));
    };
    migrate("1");
    bench.set("SCHEMA", "1");
    let first = bench.release("1");
    migrate("2");
    bench.set("SCHEMA", "2");
    let second = bench.release("2");
    assert_eq!(
        bench.newest()["release"]["migration"],
        json!({ "before": 2, "after": 2 })
    );
    insta::assert_snapshot!(bench.skep(&["rollback", "prod"]).failure(), @"");
    bench.settled("2");
    bench.succeed(&["rollback", "prod", &first, "--across-migrations"]);
    bench.settled("1");
    bench.succeed(&["rollback", "prod", &second]);
    bench.settled("2");
}
