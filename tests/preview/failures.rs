//! Releases that fail: the exit code, the report, and what runs afterwards.

use serde_json::Value;
use skep_test_support::{get, has_busybox, until};

use super::bench::{As, Bench, served, token};

/// A preview that runs version 1, with version 2 to come, which fails.
fn running(who: As) -> (Bench, Value) {
    let bench = Bench::new(who);
    let before = bench.release("1");
    bench.set("VERSION", "2");
    bench.set("TOKEN", &token("2"));
    (bench, before)
}

/// The end of the newest release's record: its state, and whether it was undone.
fn newest_failure(bench: &Bench) -> (Value, Value) {
    let history = bench.json(&["history", "preview"]);
    let mut failed = history
        .as_array()
        .unwrap()
        .iter()
        .filter(|record| record["outcome"]["state"] == "failed");
    let record = failed.next().expect("one failed");
    assert!(failed.next().is_none(), "{history}");
    (
        record["outcome"]["reason"].clone(),
        record["outcome"]["rolled_back"].clone(),
    )
}

/// Version 1 runs as if nothing had happened.
#[track_caller]
fn version_1_runs(bench: &Bench, before: &Value) {
    assert_eq!(bench.served(), served("1"));
    assert_eq!(&bench.settled(), before);
}

/// What became of the failed release is known; then the same, repaired, goes through.
fn undone(bench: &Bench, before: &Value) {
    version_1_runs(bench, before);
    let (reason, rolled_back) = newest_failure(bench);
    assert!(
        reason.as_str().is_some_and(|reason| !reason.is_empty()),
        "{reason}"
    );
    assert_eq!(rolled_back, true);
}

fn migrate(bench: &Bench, command: &str) {
    bench.configure(&format!(
        "migrate = {{ service = \"web\", command = [{command}], version = [\"/migrate\", \"version\"], \
         timeout = \"2s\" }}"
    ));
}

#[test]
fn a_migration_that_fails() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Ordinary);
    migrate(&bench, r#""/migrate", "up", "3""#);
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 6
      | migrating for 1
      | no such column
    error: release RELEASE failed at migrate: `/migrate up 3` failed: exit code 3; no service was touched
    ");
    assert_eq!(bench.status()["services"], serde_json::json!({}));
    assert!(get(bench.port, "/").is_err());

    migrate(&bench, r#""/migrate", "up", "0""#);
    let before = bench.release("1");
    migrate(&bench, r#""/migrate", "up", "4""#);
    bench.set("VERSION", "2");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 6
      | migrating for 2
      | no such column
    error: release RELEASE failed at migrate: `/migrate up 4` failed: exit code 4; no service was touched
    ");
    version_1_runs(&bench, &before);
    // Repaired, it runs again, from where the schema stands.
    migrate(&bench, r#""/migrate", "up", "0", "again""#);
    bench.release("2");
    let history = bench.json(&["history", "preview"]);
    assert_eq!(
        history[0]["release"]["migration"],
        serde_json::json!({"before": 1, "after": 2})
    );
}

#[test]
fn a_plain_rollout_takes_no_images_that_failed() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    migrate(&bench, r#""/migrate", "up", "3""#);
    bench.skep(&["release", "preview"]);
    insta::assert_snapshot!(bench.skep(&["rollout", "preview"]).failure(), @"
    exit 2
    error: no release of `preview` ran as it should; `skep release preview` makes another, and `skep rollout preview --release RELEASE` tries the newest again
    ");
    let images = |release: &str| {
        let history = bench.json(&["history", "preview"]);
        let mut records = history.as_array().unwrap().iter();
        let record = records.find(|record| record["release"]["id"] == release).unwrap();
        record["release"]["images"].clone()
    };
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    migrate(&bench, r#""/migrate", "up", "0""#);
    let good = id(&bench.release("1")["release"]);
    // Another image, which never comes further than its migration.
    bench.write("root/more", "more");
    migrate(&bench, r#""/migrate", "up", "4""#);
    assert_eq!(bench.skep(&["release", "preview"]).code, 6);
    let failed = id(&bench.json(&["history", "preview"])[0]["release"]["id"]);
    assert_ne!(images(&failed), images(&good));
    migrate(&bench, r#""/migrate", "up", "0""#);
    bench.set("VERSION", "2");
    let ran = bench.skep(&["rollout", "preview"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let warning = "release RELEASE failed, and the images of RELEASE are taken";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    assert_eq!(bench.served(), format!("2 {}", token("1")));
    assert_eq!(images(&id(&bench.status()["release"])), images(&good));
    // Whoever means it, gets it.
    bench.succeed(&["rollout", "preview", "--release", &failed]);
    assert_eq!(images(&id(&bench.status()["release"])), images(&failed));
}

#[test]
fn a_migration_that_hangs() {
    if !has_busybox() {
        return;
    }
    let (bench, before) = running(As::Caller);
    migrate(&bench, r#""/migrate", "up", "hang""#);
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 6
      | migrating for 2
    error: release RELEASE failed at migrate: `/migrate up hang` ran for longer than 2 s, and was stopped; no service was touched
    ");
    version_1_runs(&bench, &before);
}

#[test]
fn a_crash_loop_and_where_the_schema_stays() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    migrate(&bench, r#""/migrate", "up", "0", "1""#);
    let before = bench.release("1");
    migrate(&bench, r#""/migrate", "up", "0", "2""#);
    bench.set("VERSION", "2");
    bench.set("CRASH", "7");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 5
      | serving 2
      | cannot go on
    error: release RELEASE failed at canary of web: web.1.N: exit code 7; RELEASE runs again
    the schema stays at 2
    ");
    undone(&bench, &before);
}

#[test]
fn a_crash_loop_of_the_first_release() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Ordinary);
    bench.set("REPLICAS", "1");
    bench.set("CRASH", "7");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 6
      | serving 1
      | cannot go on
    error: release RELEASE failed at roll web: web.1 ends again and again: exit code 7; it stands where it stopped, because there is no release to go back to
    ");
    // It stands where it stopped; repaired, it goes through.
    assert_eq!(newest_failure(&bench).1, false);
    assert!(bench.status()["release"].is_null());
    bench.unset("CRASH");
    bench.release("1");
}

#[test]
fn a_health_check_that_fails() {
    if !has_busybox() {
        return;
    }
    let (bench, before) = running(As::Ordinary);
    bench.set("SICK", "yes");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 5
      | serving 2
      | health check: wget: server returned error: HTTP/1.1 503 Service Unavailable
    error: release RELEASE failed at canary of web: web.1 is unhealthy: wget: server returned error: HTTP/1.1 503 Service Unavailable; RELEASE runs again
    ");
    undone(&bench, &before);
}

#[test]
fn an_answer_that_flaps() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    bench.set("REPLICAS", "1");
    let before = bench.release("1");
    bench.configure(r#"probes = { web = [{ path = "/cgi-bin/flap", count = 6, interval = "20ms" }] }"#);
    bench.set("VERSION", "2");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 5
    error: release RELEASE failed at probes: probe of web /cgi-bin/flap: 1 of 2 requests were answered well, and 6 are needed; the last bad one: answered 503, and not 200; RELEASE runs again
    ");
    undone(&bench, &before);
    // Half of them is enough for who says so.
    bench.configure(
        r#"probes = { web = [{ path = "/cgi-bin/flap", count = 6, need = 3, interval = "20ms" }] }"#,
    );
    bench.release("2");
}

#[test]
fn a_secret_that_is_missing() {
    if !has_busybox() {
        return;
    }
    let (bench, before) = running(As::Ordinary);
    bench.unset("TOKEN");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 2
    error: the secret `token` is in `TOKEN`, which is not set
    ");
    bench.configure_all("", "", "token = { file = \"deploy/token.txt\" }");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 2
    error: `deploy/token.txt` does not exist
    ");
    // Its example becomes the file, once, and is not taken for an answer.
    bench.write("deploy/token.txt.example", "write the token here\n");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @"
    exit 2
    error: `deploy/token.txt` did not exist, and was made of its example; fill it in, and run this again
    ");
    let made = bench.project().join("deploy/token.txt");
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "write the token here\n");
    bench.configure_all("", "", "");
    insta::assert_snapshot!(bench.skep(&["release", "preview"]).failure(), @r#"
    exit 2
    error: nothing says where the secret `token` is; write in skep.toml below the environment

        secrets = { token = { file = "deploy/secrets/token.txt" } }
    "#);
    version_1_runs(&bench, &before);

    bench.configure_all("", "", "token = { file = \"deploy/token.txt\" }");
    bench.write("deploy/token.txt", &format!("{}\n", token("2")));
    bench.release("2");
}

#[test]
fn a_port_that_is_taken() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    let taken = std::net::TcpListener::bind(("127.0.0.1", bench.port)).unwrap();
    // By this test, as whoever may look at it sees.
    let failure = bench.skep(&["release", "preview"]).failure();
    let (failure, _) = failure.split_once(" by ").unwrap();
    insta::assert_snapshot!(failure, @"
    exit 4
    error: release RELEASE cannot run here: `web`: port PORT of this machine is taken
    ");
    assert_eq!(bench.json(&["history", "preview"]), serde_json::json!([]));
    bench.nothing_is_left();
    drop(taken);
    let before = bench.release("1");

    // One more, beside a preview that runs.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    bench.edit_stack(
        "\"${PORT}:8000\"",
        &format!("\"${{PORT}}:8000\", \"{port}:8000\""),
    );
    bench.set("VERSION", "2");
    let failure = bench.skep(&["release", "preview"]).failure();
    let (failure, _) = failure.split_once(" by ").unwrap();
    insta::assert_snapshot!(failure.replace(&port.to_string(), "OTHER"), @"
    exit 4
    error: release RELEASE cannot run here: `web`: port OTHER of this machine is taken
    ");
    version_1_runs(&bench, &before);
    drop(taken);
    bench.release("2");
    assert_eq!(get(port, "/cgi-bin/version").unwrap(), (200, served("2")));
}

#[test]
fn two_rollouts_at_one_time_and_one_that_is_interrupted() {
    if !has_busybox() {
        return;
    }
    let (bench, before) = running(As::Ordinary);
    bench.configure(r#"migrate = { service = "web", command = ["/migrate", "up", "hang"] }"#);
    let mut first = bench
        .command(&["release", "preview", "--quiet"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the migration runs", || {
        bench
            .processes()
            .iter()
            .any(|process| process.command.contains("/migrate up hang"))
    });
    let second = bench.skep(&["release", "preview"]);
    insta::assert_snapshot!(second.failure(), @"
    exit 7
    error: another rollout is under way: keeper@HOST (process N); wait for it, or end it
    ");
    let status = bench.status();
    assert_eq!(status["rollout"]["current"]["step"], "migrate", "{status}");

    rustix::process::kill_process(
        rustix::process::Pid::from_child(&first),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    // It can be undone, and then finished.
    bench.succeed(&["rollback", "preview", before["release"].as_str().unwrap()]);
    version_1_runs(&bench, &before);
    bench.configure("");
    bench.release("2");
}
