//! What an operator does with a stack that runs: take it over from a script, restart, run once, revoke a secret.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skep_test_support::{ARCHITECTURES, until};

use super::bench::Bench;
use super::files::{SMALL, STACK};
use super::registry;

/// Deploys the stack file the way a script would: with docker's own program, a secret that it versioned, and images by
/// digest.
fn deploy_by_script(bench: &Bench) {
    let pushed = bench.json(&["push", "--tag", "by-script"]);
    let of = |key: &str| pushed["pushed"]["web"][key].as_str().unwrap().to_owned();
    let image = format!("{}@{}", of("repository"), of("digest"));
    let engine = ["--host", &bench.engine.address];
    let secret = format!("{}_token_script", bench.name);
    let mut create = Command::new("docker")
        .args(engine)
        .args(["secret", "create", "--label"])
        .arg(format!("com.docker.stack.namespace={}", bench.name))
        .args([&secret, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    create.stdin.take().unwrap().write_all(b"one").unwrap();
    assert!(create.wait().unwrap().success());
    let file = std::fs::read_to_string(bench.project().join("stack.yml")).unwrap();
    let file = file.replace("image: web", &format!("image: {image}")).replace(
        "token: {external: true}",
        &format!("token: {{external: true, name: {secret}}}"),
    );
    bench.write("by-script.yml", &format!("version: \"3.8\"\n{file}"));
    let path = bench.project().join("by-script.yml").display().to_string();
    bench
        .engine
        .docker(&["stack", "deploy", "--compose-file", &path, &bench.name]);
    let api = bench.scoped("api");
    until("the script's stack runs", || {
        let tasks = bench.engine.tasks(&api);
        tasks.len() == 1 && tasks.values().all(|state| state == "running")
    });
}

#[test]
fn a_stack_that_a_script_deployed_is_taken_over() {
    let Some(bench) = Bench::new("t-adopt", SMALL) else {
        return;
    };
    insta::assert_snapshot!(bench.skep(&["adopt", "prod"]).failure(), @"
    exit 2
    error: nothing runs at `prod` that could be adopted
    ");
    deploy_by_script(&bench);
    let before = bench.engine.specs("t-adopt");

    insta::assert_snapshot!(bench.succeed(&["adopt", "prod"]).replace(&bench.newest_id(), "RELEASE"), @"prod is recorded as RELEASE: api");
    let adopted = bench.newest_id();
    assert_eq!(bench.engine.specs("t-adopt"), before, "nothing is changed");
    // What the first release will change: only that the image is built here.
    let plan = bench.masked(&bench.succeed(&["plan", "prod"]));
    insta::assert_snapshot!(plan, @r#"
    ~ api: replaced, one replica at a time
        web sha256:DIGEST → not built yet
        @@ -6,12 +6,10 @@
         healthCheck.Test: ["CMD","busybox","true"]
         healthCheck.Timeout: "5s"
        -image: "REGISTRY/t-adopt/web@sha256:DIGEST"
        -labels.com.docker.stack.image: "REGISTRY/t-adopt/web@sha256:DIGEST"
        +image: "REGISTRY/t-adopt/web@not built yet"
        +labels.com.docker.stack.image: "REGISTRY/t-adopt/web@not built yet"
         labels.com.docker.stack.namespace: "t-adopt"
         mode.Replicated.Replicas: 1
         networks[0].Aliases: ["api"]
         networks[0].Target: "t-adopt_inner"
        -placement.Platforms[0].Architecture: "amd64"
        -placement.Platforms[0].OS: "linux"
         resources.Limits.MemoryBytes: "32 MiB"
         restartPolicy.Delay: "100ms"
    1. roll api
    2. settle api
    "#);
    insta::assert_snapshot!(bench.skep(&["adopt", "prod"]).failure(), @"
    exit 2
    error: `prod` has release RELEASE already; there is nothing to adopt
    ");

    comes_back_and_goes_on(&bench, &before, &adopted);
}

/// A release that fails comes back to what the script had left, and the next one keeps what is as before.
fn comes_back_and_goes_on(bench: &Bench, before: &BTreeMap<String, Value>, adopted: &str) {
    let good = std::fs::read_to_string(bench.project().join("stack.yml")).unwrap();
    bench.edit_stack("entrypoint: [/work]", "entrypoint: [/nothing]");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @r#"
    exit 5
    error: release RELEASE failed at roll api: api.1 failed: starting container failed: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "/nothing": stat /nothing: no such file or directory: unknown; RELEASE runs again
    "#);
    assert_eq!(bench.json(&["status", "prod"])["release"], adopted);
    let after = bench.engine.specs("t-adopt");
    let container =
        |specs: &BTreeMap<String, Value>| specs["t-adopt_api"]["TaskTemplate"]["ContainerSpec"].clone();
    assert_eq!(container(&after), container(before));

    // The same file: no replica is replaced, and the script's secret stays.
    bench.write("stack.yml", &good);
    let tasks = bench.engine.tasks("t-adopt_api");
    bench.succeed(&["release", "prod"]);
    bench.settled("1");
    let after = bench.engine.specs("t-adopt");
    assert_eq!(bench.engine.tasks("t-adopt_api"), tasks, "{before:#?} {after:#?}");
    let secrets = bench.engine.objects("secrets", "t-adopt");
    assert_eq!(secrets.len(), 1, "{secrets:#?}");
}

#[test]
fn a_restart_replaces_replicas_and_nothing_else() {
    let Some(bench) = Bench::new("t-restart", SMALL) else {
        return;
    };
    let id = bench.release("1");
    let (specs, tasks) = (
        bench.engine.specs("t-restart"),
        bench.engine.tasks("t-restart_api"),
    );
    assert_eq!(bench.succeed(&["restart", "prod", "api"]), "api was restarted\n");
    bench.settled("1");
    let now = bench.engine.tasks("t-restart_api");
    assert!(now.keys().all(|task| !tasks.contains_key(task)), "{now:?}");
    let container =
        |specs: &BTreeMap<String, Value>| specs["t-restart_api"]["TaskTemplate"]["ContainerSpec"].clone();
    assert_eq!(container(&bench.engine.specs("t-restart")), container(&specs));
    assert_eq!(bench.json(&["status", "prod"])["release"], *id);
    assert_eq!(
        bench.succeed(&["drift", "prod", "--exit-code"]),
        "nothing to do\n"
    );
    insta::assert_snapshot!(bench.skep(&["restart", "prod", "nobody"]).failure(), @"
    exit 2
    error: `prod` has no service or task `nobody`; it has `api`
    ");
}

#[test]
fn a_command_that_runs_once() {
    let Some(bench) = Bench::new("t-run", SMALL) else {
        return;
    };
    insta::assert_snapshot!(bench.skep(&["run", "prod", "api", "--", "true"]).failure(), @"
    exit 2
    error: nothing was released to `prod` yet; run `skep release prod`
    ");
    bench.release("1");
    let before = bench.engine.versions("t-run");
    let ran = bench.skep(&[
        "run",
        "prod",
        "api",
        "--",
        "busybox",
        "sh",
        "-c",
        "echo \"version $VERSION has $(cat /run/secrets/token)\"",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("version 1 has secret-of-1"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    let ran = bench.skep(&[
        "run",
        "prod",
        "api",
        "--",
        "busybox",
        "sh",
        "-c",
        "echo oh; exit 9",
    ]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 1
    error: `busybox sh -c echo oh; exit 9` exited with code 9
    ");
    let ran = bench.skep(&[
        "run",
        "prod",
        "api",
        "--timeout",
        "2",
        "--",
        "busybox",
        "sleep",
        "1000",
    ]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 1
    error: `busybox sleep 1000` ran for longer than 2 s, and was stopped
    ");
    assert_eq!(bench.engine.versions("t-run"), before, "nothing of it is left");
    bench.settled("1");
}

#[test]
fn credentials_that_nodes_pull_with_are_renewed_without_a_restart() {
    let Some(bench) = Bench::new("t-pull-as", SMALL) else {
        return;
    };
    bench.release("1");
    let tasks = bench.engine.tasks("t-pull-as_api");
    let until = |day: &str| {
        let (registry, user) = (&bench.registry, "robot");
        bench.configure(&format!(
            "pull = {{ \"{registry}\" = {{ user = \"{user}\", until = {day} }} }}"
        ));
    };
    until("2099-01-31");
    insta::assert_snapshot!(bench.skep(&["release", "prod"]).failure(), @"
    exit 2
    error: release RELEASE cannot run here: nodes are to pull from `REGISTRY` as `robot`, and docker's configuration has nobody; `docker login --username robot REGISTRY` changes that
    ");
    let login = |auth: &str| {
        let config = json!({ "auths": { bench.registry.as_str(): { "auth": auth } } });
        std::fs::create_dir_all(bench.beside(".docker")).unwrap();
        std::fs::write(bench.beside(".docker/config.json"), config.to_string()).unwrap();
    };
    // `alice:pass`, and then `robot:pass`.
    login("YWxpY2U6cGFzcw==");
    insta::assert_snapshot!(bench.skep(&["release", "prod"]).failure(), @"
    exit 2
    error: release RELEASE cannot run here: nodes are to pull from `REGISTRY` as `robot`, and docker's configuration has `alice`; `docker login --username robot REGISTRY` changes that
    ");
    login("cm9ib3Q6cGFzcw==");
    let mark = || {
        let mark = bench.engine.specs("t-pull-as")["t-pull-as_api"]["Labels"]["skep.pull"].clone();
        mark.as_str().map(|mark| bench.masked(mark)).unwrap()
    };
    bench.succeed(&["release", "prod"]);
    assert_eq!(mark(), "robot@REGISTRY until 2099-01-31");
    until("2099-02-28");
    insta::assert_snapshot!(bench.succeed(&["plan", "prod"]), @r#"
    ~ api: changed in place; replicas stay
        @@ -9,5 +9,5 @@
         labels.com.docker.stack.image: "REGISTRY/t-pull-as/web@sha256:DIGEST"
         labels.com.docker.stack.namespace: "t-pull-as"
        -labels.skep.pull: "robot@REGISTRY until 2099-01-31"
        +labels.skep.pull: "robot@REGISTRY until 2099-02-28"
         mode.Replicated.Replicas: 1
         networks[0].Aliases: ["api"]
    1. roll api
    2. settle api
    "#);
    bench.succeed(&["rollout", "prod"]);
    assert_eq!(mark(), "robot@REGISTRY until 2099-02-28");
    assert_eq!(bench.succeed(&["plan", "prod", "--exit-code"]), "nothing to do\n");
    assert_eq!(
        bench.engine.tasks("t-pull-as_api"),
        tasks,
        "nothing was restarted"
    );
}

#[test]
fn an_image_of_somebody_else_is_what_the_lock_file_says() {
    let Some(bench) = Bench::new("t-lock", SMALL) else {
        return;
    };
    let push = |version: &str| {
        bench.write("root/version", version);
        let pushed = bench.json(&["push", "--tag", version]);
        pushed["pushed"]["web"]["digest"].as_str().unwrap().to_owned()
    };
    let first = push("one");
    let image = format!("{}/t-lock/web:seven", bench.registry);
    registry::tag(&bench, "one", "seven");
    bench.edit_stack("image: web", &format!("image: {image}"));
    insta::assert_snapshot!(bench.skep(&["release", "prod"]).failure(), @"
    exit 7
    error: `prod` is left as it is: 1 finding blocks it; `skep lint prod` says why
    stack.yml:4:5: mutable-image: `REGISTRY/t-lock/web:seven` may be another image tomorrow; run `skep lock`, which writes down what it is today, or write the name of a target that builds it
    ");
    let said = bench.masked(&bench.succeed(&["lock"]));
    insta::assert_snapshot!(said, @"
    images.lock
      REGISTRY/t-lock/web:seven: new → sha256:DIGEST
    ");
    assert_eq!(bench.succeed(&["lock"]), "");
    let id = bench.release("1");
    let runs = || {
        let specs = bench.engine.specs("t-lock");
        specs["t-lock_api"]["TaskTemplate"]["ContainerSpec"]["Image"].clone()
    };
    assert_eq!(runs(), json!(format!("{image}@{first}")));
    // Somebody moves the tag, and nothing happens before it is locked again.
    let second = push("two");
    registry::tag(&bench, "two", "seven");
    let again = bench.json(&["release", "prod"]);
    assert_eq!(
        (&again["changed"], &again["release"]),
        (&json!(false), &json!(id))
    );
    let said = bench.masked(&bench.succeed(&["lock"]));
    insta::assert_snapshot!(said, @"
    images.lock
      REGISTRY/t-lock/web:seven: sha256:DIGEST → sha256:DIGEST
    ");
    bench.release("2");
    assert_eq!(runs(), json!(format!("{image}@{second}")));
    // The lint knows what the lock file knows of platforms.
    let file = std::fs::read_to_string(bench.project().join("images.lock")).unwrap();
    bench.write("images.lock", &file.replace(ARCHITECTURES[0], ARCHITECTURES[1]));
    let refused = bench.skep(&["rollout", "prod"]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("platforms"), "{}", refused.stderr);
    bench.settled("2");
}

#[test]
fn a_secret_that_must_not_be_used_again() {
    let Some(bench) = Bench::new("t-revoke", SMALL) else {
        return;
    };
    assert_eq!(bench.succeed(&["secret", "ls", "prod"]), "no secrets\n");
    let first = bench.release("1");
    let second = bench.release("2");
    let listed = |bench: &Bench| bench.masked(&bench.succeed(&["secret", "ls", "prod"]));
    insta::assert_snapshot!(listed(&bench), @"
    t-revoke_token_RELEASE 1
    t-revoke_token_RELEASE 1 runs
    ");
    let of_first = format!("t-revoke_token_{first}");
    insta::assert_snapshot!(bench.skep(&["secret", "revoke", "prod", &of_first]).stdout, @"t-revoke_token_RELEASE is revoked");
    insta::assert_snapshot!(listed(&bench), @"
    t-revoke_token_RELEASE 1 revoked
    t-revoke_token_RELEASE 1 runs
    ");
    // Back to the first release, and its secret is the second one's.
    let ran = bench.skep(&["rollback", "prod", &first]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("was revoked"), "{}", ran.stderr);
    bench.settled("1");
    let specs = bench.engine.specs("t-revoke");
    let secrets = &specs["t-revoke_api"]["TaskTemplate"]["ContainerSpec"]["Secrets"];
    assert_eq!(
        secrets[0]["SecretName"],
        json!(format!("t-revoke_token_{second}"))
    );
    insta::assert_snapshot!(bench.skep(&["secret", "revoke", "prod", "nothing"]).failure(), @"
    exit 2
    error: `prod` has no secret `nothing`; `skep secret ls prod` lists those that it has
    ");
}

/// Warnings of a run, and the checks of its report.
fn checked(bench: &Bench) -> (Vec<String>, Value) {
    let output = bench.command(&["release", "prod", "--json"]).output().unwrap();
    let ran = bench.ran(&output);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap());
    let warnings = events.filter(|event: &Value| event["event"] == "warning");
    let messages = warnings.map(|event| event["message"].as_str().unwrap().to_owned());
    let checks = messages.filter(|message| message.starts_with("check "));
    (checks.collect(), report["checks"].clone())
}

#[test]
fn what_is_asked_on_the_swarm_while_services_roll() {
    let Some(bench) = Bench::new("t-check", STACK) else {
        return;
    };
    let checks = |most: u32, code: u32| {
        bench.configure(&format!(
            "[environments.prod.checks]\n\
             schema = {{ service = \"api\", command = [\"/migrate\", \"version\"], at_most = {most}, every = \"1s\" }}\n\
             reach = {{ service = \"api\", command = [\"/migrate\", \"up\", \"{code}\"], each_node = true }}\n"
        ));
    };
    checks(7, 0);
    bench.set("SCHEMA", "7");
    let (warnings, report) = checked(&bench);
    assert_eq!(warnings, Vec::<String>::new());
    let node = report[0]["node"].as_str().unwrap().to_owned();
    assert_eq!(
        (&report[0]["check"], &report[0]["answers"]),
        (&"reach".into(), &1.into())
    );
    assert_eq!(
        (&report[1]["check"], &report[1]["highest"]),
        (&"schema".into(), &7.into())
    );
    assert!(report[1]["answers"].as_u64().unwrap() >= 1, "{report}");

    // A bad answer is told once, and stops nothing; what asked is gone.
    checks(6, 5);
    bench.set("VERSION", "2");
    let (mut warnings, report) = checked(&bench);
    warnings.sort();
    assert_eq!(
        warnings,
        [
            format!("check reach on {node}: exited with code 5: no such column"),
            "check schema: 7, and 6 are the most".to_owned(),
        ]
    );
    assert_eq!(report[1]["problem"], "7, and 6 are the most");
    bench.settled("2");
    let services: Vec<String> = bench.engine.specs("t-check").into_keys().collect();
    assert_eq!(services, ["t-check_api", "t-check_worker"]);
}

#[test]
fn what_asks_for_ever_is_left_behind_and_removed_by_the_next_rollout() {
    let Some(bench) = Bench::new("t-ask", SMALL) else {
        return;
    };
    bench.configure(
        "checks = { ask = { service = \"api\", command = [\"/migrate\", \"up\", \"hang\"], timeout = \"2s\" } }",
    );
    let (warnings, _) = checked(&bench);
    assert_eq!(warnings, ["check ask: no answer after 2 s"]);
    bench.settled("1");
    let asking = || {
        let services = bench.engine.specs("t-ask").into_keys();
        services.filter(|name| name.contains("_check-")).count()
    };
    assert_eq!(asking(), 1);
    bench.configure("");
    bench.release("2");
    assert_eq!(asking(), 0);
}
