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
    insta::assert_snapshot!(ran.stdout, @"
    api              2   REGISTRY/t-offline/web
    worker           1   REGISTRY/t-offline/web
    secret token: variable TOKEN
    ");
    assert!(!bench.beside("state").exists());
    // Who asks is told which of them do not answer, and why.
    insta::assert_snapshot!(bench.skep(&["plan", "prod"]).failure(), @"
    exit 4
    error: no manager of the swarm can be reached: `unix:///nowhere/docker.sock` (Socket not found: /nowhere/docker.sock), `ssh://nobody@127.0.0.1:1` (failed to connect to the remote host: connect to host 127.0.0.1 port 1: Connection refused)
    ");
}

#[test]
fn a_plan_of_a_change() {
    let Some(bench) = Bench::new("t-diff", SMALL) else {
        return;
    };
    // Before anything was released, too.
    insta::assert_snapshot!(bench.masked(&bench.succeed(&["plan", "prod"])), @r#"
    + api: new
        web nothing → not built yet
        @@ -0,0 +1,18 @@
        +command: ["/work"]
        +endpointSpec.Mode: "dnsrr"
        +env.SCHEMA: "1"
        +env.VERSION: "1"
        +healthCheck.Interval: "300ms"
        +healthCheck.Test: ["CMD","busybox","true"]
        +healthCheck.Timeout: "5s"
        +image: "REGISTRY/t-diff/web@not built yet"
        +labels.com.docker.stack.image: "REGISTRY/t-diff/web@not built yet"
        +labels.com.docker.stack.namespace: "t-diff"
        +mode.Replicated.Replicas: 1
        +networks[0].Aliases: ["api"]
        +networks[0].Target: "t-diff_inner"
        +resources.Limits.MemoryBytes: "32 MiB"
        +restartPolicy.Delay: "100ms"
        +secrets: ["t-diff_token_RELEASE → token"]
        +stopGracePeriod: "1s"
        +updateConfig.Monitor: "500ms"
    1. secret t-diff_token_RELEASE, network t-diff_inner
    2. roll api
    3. settle api
    "#);
    insta::assert_snapshot!(bench.skep(&["plan", "prod", "--out", "plan.json"]).failure(), @"
    exit 2
    error: the plan cannot be kept: no release has `web` yet; `skep release prod` builds it
    ");
    bench.nothing_is_there();
    bench.release("1");
    let before = bench.engine.versions("t-diff");
    bench.set("VERSION", "2");
    bench.set("TOKEN", "another");
    bench.edit_stack("monitor: 500ms", "monitor: 600ms");
    let ran = bench.skep(&["plan", "prod", "--exit-code"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @r#"
    ~ api: replaced, one replica at a time
        @@ -2,5 +2,5 @@
         endpointSpec.Mode: "dnsrr"
         env.SCHEMA: "1"
        -env.VERSION: "1"
        +env.VERSION: "2"
         healthCheck.Interval: "300ms"
         healthCheck.Test: ["CMD","busybox","true"]
        @@ -16,5 +16,5 @@
         resources.Limits.MemoryBytes: "32 MiB"
         restartPolicy.Delay: "100ms"
        -secrets: ["t-diff_token_RELEASE → token"]
        +secrets: ["t-diff_token_RELEASE → token"]
         stopGracePeriod: "1s"
        -updateConfig.Monitor: "500ms"
        +updateConfig.Monitor: "600ms"
    1. secret t-diff_token_RELEASE
    2. roll api
    3. settle api
    "#);
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
    insta::assert_snapshot!(ran.stdout, @r#"
    ~ api: replaced, one replica at a time
        @@ -1,5 +1,4 @@
         command: ["/work"]
         endpointSpec.Mode: "dnsrr"
        -env.BY: "hand"
         env.SCHEMA: "1"
         env.VERSION: "1"
        @@ -15,5 +14,5 @@
         placement.Platforms[0].Architecture: "amd64"
         placement.Platforms[0].OS: "linux"
        -resources.Limits.MemoryBytes: "48 MiB"
        +resources.Limits.MemoryBytes: "32 MiB"
         restartPolicy.Delay: "100ms"
         secrets: ["t-drift_token_RELEASE → token"]
    1. roll api
    2. settle api
    "#);
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
    insta::assert_snapshot!(bench.skep(&["logs", "prod", "nobody"]).failure(), @"
    exit 2
    error: `prod` has no service or task `nobody`; it has `api`, `worker`
    ");
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
    insta::assert_snapshot!(format!("{}{}", ran.stdout, ran.failure()), @r#"
    error: stack.yml:13:5: memory-limit: `api` has no limit of memory; write `deploy: {resources: {limits: {memory: 256M}}}` with what it needs
        because one service that grew without a limit took its neighbours with it
    error: stack.yml:20:3: encrypted-network: the network `inner` is not encrypted between nodes; write `inner: {driver_opts: {encrypted: ""}}` in `networks` at the top of the file
        because what services say to each other crosses other people's networks
    the images of `api` are not known yet; the next release judges them
    exit 7
    error: 2 findings block a release to `prod`
    "#);
    let ran = bench.skep(&["release", "prod"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("memory-limit"), "{}", ran.stderr);
    // Whoever has no way to the Swarm has the files.
    bench.configure_all(
        &["unix:///nowhere/docker.sock"],
        "",
        "token = { env = \"TOKEN\" }",
    );
    let ran = bench.skep(&["lint", "prod"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("is not judged: no manager"), "{}", ran.stderr);
    let ran = bench.skep(&["lint", "prod", "--target", "swarm"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(!ran.stderr.contains("no manager"), "{}", ran.stderr);
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
    insta::assert_snapshot!(bench.skep(&["rollback", "prod"]).failure(), @"
    exit 7
    error: release RELEASE ran on schema 1, and the database is at 2, where it stays; if the release can do with that, give `--across-migrations`
    ");
    bench.settled("2");
    bench.succeed(&["rollback", "prod", &first, "--across-migrations"]);
    bench.settled("1");
    // What tells the version here is the release that is asked, so this is across one, too.
    bench.succeed(&["rollback", "prod", &second, "--across-migrations"]);
    bench.settled("2");
}
