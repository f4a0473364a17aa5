//! What is refused before anything that runs is touched: the exit code, the report, and that nothing was.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use skep_test_support::until;

use super::bench::{Bench, token};
use super::engine::Versions;
use super::files::SMALL;
use super::registry;

/// Versions of everything but the lock.
fn untouched(bench: &Bench) -> Versions {
    let mut versions = bench.engine.versions(&bench.name);
    versions.remove(&format!("configs {}.skep", bench.name));
    versions
}

/// Runs `skep`, which is to fail without touching anything; its report.
#[track_caller]
fn refused(bench: &Bench, arguments: &[&str]) -> String {
    let before = untouched(bench);
    let ran = bench.skep(arguments);
    assert_eq!(untouched(bench), before, "{}", ran.stderr);
    ran.failure()
}

/// What `skep lint` says of what the registry keeps.
fn retention(bench: &Bench) -> String {
    let ran = bench.skep(&["lint", "prod"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let found: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.contains("retention:"))
        .collect();
    found.join("\n")
}

#[test]
fn an_image_that_the_registry_lost() {
    let Some(bench) = Bench::new("t-lost", SMALL) else {
        return;
    };
    let first = bench.release("1");
    let image = bench.newest()["release"]["images"]["web"].clone();
    bench.write("root/other", "other\n");
    let second = bench.release("2");
    assert_eq!(retention(&bench), "");
    // Its only tag means another image: what cleans registries up takes it for useless.
    let tag = |release: &str| release[..12].to_owned();
    registry::tag(&bench, &tag(&second), &tag(&first));
    insta::assert_snapshot!(retention(&bench), @"warning: stack.yml:4:5: retention: no tag of the registry means `REGISTRY/t-lost/web@sha256:DIGEST` of release RELEASE; give it one with `skep push --tag` of the same revision, or let the registry's cleanup spare what has none");
    let digest = image["digest"].as_str().unwrap();
    registry::remove(&bench, &format!("manifests/{digest}"));
    insta::assert_snapshot!(retention(&bench), @"warning: stack.yml:4:5: retention: the registry lost `REGISTRY/t-lost/web@sha256:DIGEST` of release RELEASE; `skep push` of the same revision brings it back; let the registry's cleanup spare what `skep history` has");
    let report = refused(&bench, &["rollout", "prod", "--release", &first]);
    insta::assert_snapshot!(report, @"
    exit 4
    error: release RELEASE cannot run here: the registry has no `REGISTRY/t-lost/web@sha256:DIGEST`; push it again, or release another
    ");
    bench.settled("2");
}

#[test]
fn a_registry_that_is_down() {
    let Some(mut bench) = Bench::new("t-down", SMALL) else {
        return;
    };
    bench.release("1");
    let alive = std::mem::replace(&mut bench.registry, "127.0.0.1:1".to_owned());
    bench.configure("");
    let report = refused(&bench, &["release", "prod"]);
    assert!(report.starts_with("exit 4\n"), "{report}");
    assert!(report.contains("127.0.0.1:1"), "{report}");
    bench.registry = alive;
    bench.configure("");
    bench.settled("1");
}

#[test]
fn a_secret_that_is_missing() {
    let Some(bench) = Bench::new("t-secret", SMALL) else {
        return;
    };
    let managers = bench.engine.address.clone();
    let tell = r#"notify = [{ command = ["sh", "-c", "cat > told.json"] }]"#;
    bench.configure_all(&[&managers], tell, "token = { file = \"token.txt\" }");
    insta::assert_snapshot!(refused(&bench, &["release", "prod"]), @"
    exit 2
    error: `token.txt` does not exist
    ");
    bench.nothing_is_there();
    // Whoever is to know of releases hears of one that did not begin.
    let told = std::fs::read_to_string(bench.project().join("told.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["outcome"], &told["changed"]),
        (&"refused".into(), &false.into())
    );
    assert_eq!(told["reason"], "`token.txt` does not exist");
    bench.write("token.txt.example", "write the token here\n");
    insta::assert_snapshot!(refused(&bench, &["release", "prod"]), @"
    exit 2
    error: `token.txt` did not exist, and was made of its example; fill it in, and run this again
    ");
    bench.nothing_is_there();
    bench.write("token.txt", "1\n");
    bench.succeed(&["release", "prod"]);
    bench.settled("1");
}

#[test]
fn a_plan_of_what_was_changed_since() {
    let Some(bench) = Bench::new("t-plan", SMALL) else {
        return;
    };
    bench.release("1");
    bench.set("VERSION", "2");
    bench.succeed(&["plan", "prod", "--out", "plan.json"]);
    let by_hand = [
        "service",
        "update",
        "--detach",
        "--label-add",
        "by=hand",
        "t-plan_api",
    ];
    bench.engine.docker(&by_hand);
    insta::assert_snapshot!(refused(&bench, &["rollout", "prod", "--plan", "plan.json"]), @"
    exit 7
    error: the target changed since the plan was made: the service `api` is another one; make another plan
    ");
    // What is planned of what is there is done, and no more than was planned.
    bench.succeed(&["plan", "prod", "--out", "plan.json"]);
    bench.set("VERSION", "3");
    bench.succeed(&["rollout", "prod", "--plan", "plan.json"]);
    bench.settled("2");
}

#[test]
fn two_rollouts_at_one_time() {
    let Some(bench) = Bench::new("t-two", SMALL) else {
        return;
    };
    let before = bench.release("1");
    bench.configure(r#"migrate = { service = "api", command = ["/migrate", "up", "hang"] }"#);
    bench.set("VERSION", "2");
    let mut first = bench
        .command(&["release", "prod", "--quiet"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the migration runs", || {
        let services = bench.engine.specs("t-two");
        let migrates = services.keys().find(|name| name.contains("_migrate-"));
        migrates.is_some_and(|name| {
            let tasks = bench.engine.tasks(name);
            tasks.values().any(|state| state == "running")
        })
    });
    insta::assert_snapshot!(refused(&bench, &["release", "prod"]), @"
    exit 7
    error: another rollout is under way: keeper@HOST (process N), since TIME UTC; wait for it, or end it
    ");
    let status = bench.json(&["status", "prod"]);
    assert!(
        status["rollout"]["current"]["step"].as_str() == Some("migrate"),
        "{status}"
    );
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    // It can be undone, and then finished.
    bench.succeed(&["abort", "prod"]);
    bench.settled("1");
    assert_eq!(bench.json(&["status", "prod"])["release"], *before);
    bench.configure("");
    bench.set("TOKEN", &token("2"));
    bench.release("2");
}

#[test]
fn a_stack_that_is_frozen() {
    let Some(bench) = Bench::new("t-frozen", SMALL) else {
        return;
    };
    bench.release("1");
    assert_eq!(
        bench.succeed(&["freeze", "prod", "--reason", "the fair"]),
        "prod is frozen\n"
    );
    bench.set("VERSION", "2");
    insta::assert_snapshot!(refused(&bench, &["release", "prod"]), @"
    exit 7
    error: frozen by keeper@HOST: the fair; `skep freeze ENV --off` ends that
    ");
    insta::assert_snapshot!(refused(&bench, &["restart", "prod", "api"]), @"
    exit 7
    error: frozen by keeper@HOST: the fair; `skep freeze ENV --off` ends that
    ");
    // Looking is allowed.
    bench.succeed(&["plan", "prod"]);
    assert_eq!(
        bench.succeed(&["freeze", "prod", "--off"]),
        "prod may change again\n"
    );
    bench.release("2");
}

#[test]
fn replicas_that_keep_files_on_a_node() {
    let Some(bench) = Bench::new("t-files", SMALL) else {
        return;
    };
    bench.edit_stack(
        "    stop_grace_period: 1s",
        "    stop_grace_period: 1s\n    volumes: [data:/data]",
    );
    bench.edit_stack(
        "\nsecrets:\n  token",
        "\nvolumes: {data: {}}\n\nsecrets:\n  token",
    );
    bench.release("1");
    bench.set("VERSION", "2");
    insta::assert_snapshot!(refused(&bench, &["rollout", "prod"]), @"
    exit 7
    error: release RELEASE cannot run here: `api` is STATEFUL: it keeps files on a node, and its replicas would be replaced; `--stateful` says that they may
    ");
    assert!(bench.succeed(&["plan", "prod"]).contains("STATEFUL"));
    bench.succeed(&["rollout", "prod", "--stateful"]);
    bench.settled("2");
    until("the volume is free", || {
        bench.engine.remove("t-files");
        let removed = std::process::Command::new("docker")
            .args(["--host", &bench.engine.address, "volume", "rm", "t-files_data"])
            .output()
            .unwrap();
        removed.status.success()
    });
}

#[test]
fn what_an_engine_cannot_change() {
    let Some(bench) = Bench::new("t-global", SMALL) else {
        return;
    };
    bench.release("1");
    bench.edit_stack("endpoint_mode: dnsrr", "mode: global\n      endpoint_mode: dnsrr");
    insta::assert_snapshot!(refused(&bench, &["release", "prod"]), @"
    exit 2
    error: release RELEASE cannot run here: `api` is replicated, and cannot become global: give it another name, or remove it first
    ");
    assert!(bench.succeed(&["plan", "prod"]).contains("! impossible: "));
    bench.edit_stack("mode: global\n      endpoint_mode: dnsrr", "endpoint_mode: dnsrr");
    bench.edit_stack(
        "encrypted: \"\"",
        "encrypted: \"\", com.docker.network.driver.mtu: \"1300\"",
    );
    insta::assert_snapshot!(refused(&bench, &["release", "prod"]), @"
    exit 7
    error: release RELEASE cannot run here: the network `t-global_inner` cannot be changed: `driver_opts.com.docker.network.driver.mtu` is absent, and should be 1300; give it another name in the stack file, or remove it first
    ");
    bench.settled("1");
}

#[test]
fn another_swarm_than_the_one_that_was_pinned() {
    let Some(bench) = Bench::new("t-pinned", SMALL) else {
        return;
    };
    let cluster = bench.engine.get("swarm")["ID"].as_str().unwrap().to_owned();
    bench.configure("cluster = \"abcdefghijklmnopqrstuvwxy\"");
    let report = refused(&bench, &["release", "prod"]).replace(&cluster, "CLUSTER");
    insta::assert_snapshot!(report, @"
    exit 7
    error: the Swarm at ENGINE is `CLUSTER`, and `cluster` of skep.toml says `abcdefghijklmnopqrstuvwxy`; if this is the right one, change that
    ");
    bench.nothing_is_there();
    bench.configure(&format!("cluster = \"{cluster}\""));
    bench.release("1");
    // The one that was seen first counts where none is said.
    bench.configure("");
    let file = bench.beside("state/skep").join(&bench.name).join("prod/cluster");
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), cluster);
    std::fs::write(&file, "another\n").unwrap();
    let report = refused(&bench, &["release", "prod"]).replace(&cluster, "CLUSTER");
    insta::assert_snapshot!(report, @"
    exit 7
    error: the Swarm at ENGINE is `CLUSTER`, and `BENCH/state/skep/t-pinned/prod/cluster` says `another`; if this is the right one, change that
    ");
}
