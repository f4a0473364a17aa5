//! Releases that fail half-way: the exit code, the report, and what the engine runs afterwards.

use serde_json::Value;
use skep_test_support::{ARCHITECTURES, Ran};

use super::bench::{Bench, token};
use super::files::{FRONT, SMALL, STACK};
use super::registry;

/// A stack that runs version 1, with version 2 to come, which fails; and the release that runs.
fn running(name: &str, stack: &str) -> Option<(Bench, String)> {
    let bench = Bench::new(name, stack)?;
    let before = bench.release("1");
    bench.set("VERSION", "2");
    bench.set("TOKEN", &token("2"));
    Some((bench, before))
}

/// Version 1 runs as if nothing had happened, and the history says what had.
#[track_caller]
fn undone(bench: &Bench, before: &str, ran: &Ran) {
    bench.settled("1");
    // The one that runs is the newest again.
    let history = bench.json(&["history", "prod"]);
    assert_eq!(history[0]["release"]["id"], before, "{history}");
    assert_eq!(history[1]["outcome"]["state"], "failed", "{history}");
    assert_eq!(history[1]["outcome"]["rolled_back"], true, "{history}");
    assert_eq!(
        bench.json(&["status", "prod"])["release"],
        before,
        "{}",
        ran.stderr
    );
    let drift = bench.json(&["drift", "prod"]);
    assert_eq!(drift["changes"], serde_json::json!([]), "{drift}");
}

/// A report of one replica of two, whichever was the canary. An engine may hear of a line to stderr before it hears of
/// one to stdout that was written earlier.
fn of_any(ran: &Ran) -> String {
    let report = ran.failure().replace("api.1", "api.N").replace("api.2", "api.N");
    let mut lines: Vec<&str> = report.lines().collect();
    for log in lines.chunk_by_mut(|a, b| [a, b].iter().all(|line| line.starts_with("  | "))) {
        log.sort_unstable();
    }
    lines.join("\n")
}

fn migrate(bench: &Bench, command: &str) {
    bench.configure(&format!(
        "migrate = {{ service = \"api\", command = [{command}], version = [\"/migrate\", \"version\"], \
         timeout = \"20s\" }}"
    ));
}

#[test]
fn a_migration_that_fails() {
    let Some(bench) = Bench::new("t-migrate", SMALL) else {
        return;
    };
    migrate(&bench, r#""/migrate", "up", "3""#);
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 6
      | migrating for 1
      | no such column
    error: release RELEASE failed at migrate: `/migrate up 3` failed: exited with code 3; no service was touched
    ");
    let services: Vec<String> = bench.engine.specs("t-migrate").into_keys().collect();
    assert!(!services.contains(&"t-migrate_api".to_owned()), "{services:?}");

    migrate(&bench, r#""/migrate", "up", "0""#);
    bench.set("SCHEMA", "1");
    bench.release("1");
    let runs = bench.engine.tasks("t-migrate_api");
    migrate(&bench, r#""/migrate", "up", "4""#);
    bench.set("VERSION", "2");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 6
      | migrating for 2
      | no such column
    error: release RELEASE failed at migrate: `/migrate up 4` failed: exited with code 4; no service was touched
    ");
    bench.settled("1");
    assert_eq!(bench.engine.tasks("t-migrate_api"), runs, "nothing rolled");
    // Repaired, it goes through.
    migrate(&bench, r#""/migrate", "up", "0", "again""#);
    bench.set("SCHEMA", "2");
    bench.release("2");
    let migration = bench.newest()["release"]["migration"].clone();
    assert_eq!(migration["after"], 2, "{migration}");
}

#[test]
fn a_migration_that_hangs() {
    let Some(bench) = Bench::new("t-hang", SMALL) else {
        return;
    };
    migrate(&bench, r#""/migrate", "up", "0""#);
    let before = bench.release("1");
    bench.configure(
        "migrate = { service = \"api\", command = [\"/migrate\", \"up\", \"hang\"], timeout = \"6s\" }",
    );
    bench.set("VERSION", "2");
    let runs = bench.engine.tasks("t-hang_api");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 6
      | migrating for 2
    error: release RELEASE failed at migrate: `/migrate up hang` ran for longer than 6 s, and was stopped; no service was touched
    ");
    bench.settled("1");
    assert_eq!(bench.engine.tasks("t-hang_api"), runs, "nothing rolled");
    assert_eq!(bench.json(&["status", "prod"])["release"], before);
    let lives = |task: &Value| task["Status"]["State"] == "running";
    for service in bench.engine.specs("t-hang").into_keys() {
        let tasks = bench.engine.every_task(&service);
        let running = tasks.iter().filter(|task| lives(task)).count();
        assert_eq!(
            running,
            usize::from(service == "t-hang_api"),
            "{service}: {tasks:#?}"
        );
    }
}

#[test]
fn a_crash_loop() {
    let Some((bench, before)) = running("t-crash", STACK) else {
        return;
    };
    bench.set("FAULT", "crash");
    let worker = bench.engine.tasks("t-crash_worker");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(of_any(&ran), @"
    exit 5
      | cannot go on
      | serving 2
    error: release RELEASE failed at canary of api: api.N failed: exited with code 7; RELEASE runs again
    ");
    undone(&bench, &before, &ran);
    assert_eq!(
        bench.engine.tasks("t-crash_worker"),
        worker,
        "it was not its turn"
    );
    bench.unset("FAULT");
    bench.release("2");
}

#[test]
fn a_crash_loop_of_the_first_release() {
    let Some(bench) = Bench::new("t-crash-first", FRONT) else {
        return;
    };
    bench.set("FAULT", "crash");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(of_any(&ran), @"
    exit 6
      | cannot go on
      | serving 1
    error: release RELEASE failed at roll front: front.1 ends again and again: exited with code 7; it stands where it stopped, because there is no release to go back to
    ");
    assert!(bench.json(&["status", "prod"])["release"].is_null());
    assert_eq!(bench.newest()["outcome"]["rolled_back"], false);
    // It stands where it stopped; repaired, it goes through.
    bench.unset("FAULT");
    bench.release("1");
}

#[test]
fn a_health_check_that_fails() {
    let Some((bench, before)) = running("t-sick", STACK) else {
        return;
    };
    bench.set("FAULT", "sick");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(of_any(&ran), @"
    exit 5
      | health check: wget: server returned error: HTTP/1.1 503 Service Unavailable
      | serving 2
    error: release RELEASE failed at canary of api: api.N failed: its health check failed; RELEASE runs again
    ");
    undone(&bench, &before, &ran);
}

#[test]
fn memory_that_runs_out() {
    let Some((bench, before)) = running("t-memory", STACK) else {
        return;
    };
    bench.set("FAULT", "memory");
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(of_any(&ran), @"
    exit 5
      | serving 2
    error: release RELEASE failed at canary of api: api.N failed: it ran out of memory: its limit is 32 MiB; RELEASE runs again
    ");
    undone(&bench, &before, &ran);
}

#[test]
fn no_node_that_a_constraint_allows() {
    let Some((bench, before)) = running("t-nowhere", STACK) else {
        return;
    };
    bench.edit_stack(
        "replicas: ${REPLICAS:-2}",
        "replicas: 2\n      placement: {constraints: [\"node.labels.zone == nowhere\"]}",
    );
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 7
    error: `prod` is left as it is: 1 finding blocks it; `skep lint prod` says why
    stack.yml:25:19: unschedulable: no node that is ready has what `api` asks for: `node.labels.zone == nowhere`; mend the constraints, or label a node with `docker node update --label-add`
    ");
    bench.settled("1");
    // Whoever knows better is told by the engine.
    bench.configure(
        "[[environments.prod.allow]]\nlint = \"unschedulable\"\nreason = \"a node is on its way\"\nuntil = 2099-12-31",
    );
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(of_any(&ran), @"
    exit 5
    error: release RELEASE failed at canary of api: api.N has no node: no suitable node (scheduling constraints not satisfied on 1 node): node.labels.zone == nowhere; RELEASE runs again
    ");
    undone(&bench, &before, &ran);
}

#[test]
fn an_image_of_another_architecture_alone() {
    let Some((bench, before)) = running("t-arch", STACK) else {
        return;
    };
    bench.edit("skep.star", ARCHITECTURES[0], ARCHITECTURES[1]);
    bench.disguise_busybox();
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 7
    error: `prod` is left as it is: 2 findings block it; `skep lint prod` says why
    stack.yml:3:3: platforms: `web` is for linux/arm64, and `api` may come to the node `vm`, which is linux/amd64; build it for linux/amd64 too, or keep `api` away with a constraint such as `node.platform.arch != x86_64`
    stack.yml:3:3: platforms: `web` is for linux/arm64, and `worker` may come to the node `vm`, which is linux/amd64; build it for linux/amd64 too, or keep `worker` away with a constraint such as `node.platform.arch != x86_64`
    ");
    bench.settled("1");
    assert_eq!(bench.json(&["status", "prod"])["release"], before);
}

#[test]
fn a_probe_that_flaps() {
    let Some((bench, before)) = running("t-flap", FRONT) else {
        return;
    };
    bench.configure(r#"probes = { front = [{ path = "/cgi-bin/flap", count = 6, interval = "20ms" }] }"#);
    let ran = bench.skep(&["release", "prod"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 5
    error: release RELEASE failed at probes: probe of front /cgi-bin/flap: 1 of 2 requests were answered well, and 6 are needed; the last bad one: answered 503, and not 200; RELEASE runs again
    ");
    undone(&bench, &before, &ran);
    // Half of them is enough for who says so.
    bench.configure(
        r#"probes = { front = [{ path = "/cgi-bin/flap", count = 6, need = 3, interval = "20ms" }] }"#,
    );
    bench.release("2");
    bench.configure(
        r#"probes = { front = [{ path = "/cgi-bin/version", body = "3 secret-of-3", count = 3, interval = "20ms" }] }"#,
    );
    bench.release("3");
}

#[test]
fn an_image_whose_content_is_gone_when_a_node_pulls_it() {
    let Some((bench, before)) = running("t-pull", SMALL) else {
        return;
    };
    bench.write("root/other", "only in this image\n");
    bench.succeed(&["push", "--tag", "two"]);
    // The manifest is there, which is what preflight asks for; what it names is not.
    let index = registry::get(&bench, "manifests/two");
    let manifest = index["manifests"][0]["digest"].as_str().unwrap();
    let manifest = registry::get(&bench, &format!("manifests/{manifest}"));
    let layers = manifest["layers"].as_array().unwrap();
    let layer = layers.last().unwrap()["digest"].as_str().unwrap();
    registry::remove(&bench, &format!("blobs/{layer}"));
    let ran = bench.skep(&["rollout", "prod", "--tag", "two"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 5
    error: release RELEASE failed at roll api: api.1 failed: No such image: REGISTRY/t-pull/web@sha256:DIGEST; RELEASE runs again
    ");
    undone(&bench, &before, &ran);
}
