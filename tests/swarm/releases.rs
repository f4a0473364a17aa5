//! Releases that work: the first one, one that changes nothing, changes, and the way back and forth.

use std::process::Command;

use serde_json::Value;
use skep_test_support::until;

use super::bench::Bench;
use super::files::{SMALL, STACK};

#[test]
fn the_first_release_and_one_that_changes_nothing() {
    let Some(bench) = Bench::new("t-first", STACK) else {
        return;
    };
    bench.nothing_is_there();
    let id = bench.release("1");
    let first = bench.engine.versions("t-first");
    let names: Vec<String> = first.keys().map(|name| bench.masked(name)).collect();
    assert_eq!(
        names,
        [
            "configs t-first.skep",
            "configs t-first.skep.RELEASE",
            "networks t-first_inner",
            "secrets t-first_token_RELEASE",
            "services t-first_api",
            "services t-first_worker",
        ]
    );
    // Images by their digests, and what docker's own program knows a stack by.
    for (name, spec) in bench.engine.specs("t-first") {
        let image = spec["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap();
        assert_eq!(
            bench.masked(image),
            "REGISTRY/t-first/web@sha256:DIGEST",
            "{name}"
        );
        assert_eq!(spec["Labels"]["com.docker.stack.namespace"], "t-first");
    }

    let tasks = bench.engine.tasks("t-first_api");
    assert_eq!(tasks.len(), 2);
    let again = bench.json(&["release", "prod"]);
    assert_eq!(
        (&again["changed"], again["release"].as_str()),
        (&Value::Bool(false), Some(&*id))
    );
    assert_eq!(bench.succeed(&["plan", "prod", "--exit-code"]), "nothing to do\n");
    assert_eq!(bench.engine.versions("t-first"), first, "nothing is written");
    assert_eq!(bench.engine.tasks("t-first_api"), tasks);

    shown(&bench);
    docker_understands_it(&bench);
}

fn shown(bench: &Bench) {
    insta::assert_snapshot!(bench.succeed(&["status", "prod"]), @"
    release RELEASE
    api              2/2 ready
      api.1          ready
      api.2          ready
    worker           1/1 ready
      worker.1       ready
    ");
    insta::assert_snapshot!(bench.succeed(&["history", "prod"]), @"* RELEASE TIME by keeper@HOST: ran");
    let history = bench.json(&["history", "prod"]);
    assert_eq!(history.as_array().unwrap().len(), 1, "{history}");
    assert_eq!(history[0]["outcome"]["state"], "succeeded");
    assert_eq!(
        history[0]["release"]["by"]
            .as_str()
            .map(|by| by.starts_with("keeper@")),
        Some(true)
    );
}

fn docker_understands_it(bench: &Bench) {
    let list = bench
        .engine
        .docker(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"]);
    assert!(list.lines().any(|line| line == "t-first 2"), "{list}");
    let ps = [
        "stack",
        "ps",
        "t-first",
        "--format",
        "{{.Name}} {{.DesiredState}}",
    ];
    let ps = bench.engine.docker(&ps);
    for name in ["t-first_api.1", "t-first_api.2", "t-first_worker.1"] {
        assert!(ps.contains(&format!("{name} Running")), "{ps}");
    }
    bench.engine.docker(&["stack", "rm", "t-first"]);
    until("all services are gone", || {
        bench.engine.specs("t-first").is_empty()
    });
    until("the network is gone", || {
        bench.engine.objects("networks", "t-first").is_empty()
    });
    // What ran can be brought back: the history is no part of the stack.
    let left: Vec<String> = bench.engine.versions("t-first").into_keys().collect();
    let left: Vec<String> = left.iter().map(|name| bench.masked(name)).collect();
    assert_eq!(left, ["configs t-first.skep", "configs t-first.skep.RELEASE"]);
    bench.release("1");
}

/// The order in which containers of a service's tasks began, with the version of each.
fn starts(bench: &Bench, service: &str) -> Vec<String> {
    let mut tasks = bench.engine.every_task(&bench.scoped(service));
    tasks.sort_by_key(|task| task["CreatedAt"].as_str().unwrap_or_default().to_owned());
    let version = |task: &Value| {
        let environment = task["Spec"]["ContainerSpec"]["Env"].as_array().cloned();
        let of = |line: &Value| line.as_str()?.strip_prefix("VERSION=").map(str::to_owned);
        environment.unwrap_or_default().iter().find_map(of)
    };
    tasks.iter().filter_map(version).collect()
}

#[test]
fn a_change_goes_by_a_canary_and_a_service_that_is_gone_is_removed() {
    let Some(bench) = Bench::new("t-change", STACK) else {
        return;
    };
    bench.release("1");
    let worker = bench.engine.tasks("t-change_worker");
    // The image changes too, and with it every service.
    bench.write("root/other", "other\n");
    bench.set("VERSION", "2");
    bench.set("TOKEN", "two");
    let output = bench.command(&["release", "prod"]).output().unwrap();
    let ran = bench.ran(&output);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let canary = ran.stderr.find("canary of api").expect(&ran.stderr);
    let roll = ran.stderr.find("roll api").expect(&ran.stderr);
    assert!(canary < roll, "{}", ran.stderr);
    bench.settled("2");
    assert_eq!(starts(&bench, "api"), ["1", "1", "2", "2"]);
    assert_ne!(bench.engine.tasks("t-change_worker"), worker);
    let policy = bench.engine.specs("t-change")["t-change_api"]["UpdateConfig"].clone();
    assert_eq!(
        policy["Order"], "start-first",
        "that of the file, again: {policy}"
    );
    assert_eq!(policy["Delay"].as_u64().unwrap_or_default(), 0, "{policy}");

    // Only another number of replicas: those that are there stay.
    let before = bench.engine.tasks("t-change_api");
    bench.set("REPLICAS", "3");
    bench.succeed(&["rollout", "prod"]);
    bench.settled("2");
    let after = bench.engine.tasks("t-change_api");
    assert_eq!(after.len(), 3);
    assert!(before.keys().all(|task| after.contains_key(task)), "{after:?}");

    let stack = STACK.split_once("  worker:").unwrap().0;
    let rest = STACK.split_once("\nnetworks:").unwrap().1;
    bench.write("stack.yml", &format!("{stack}\nnetworks:{rest}"));
    let plan = bench.succeed(&["plan", "prod"]);
    assert!(plan.contains("- worker: removed"), "{plan}");
    bench.succeed(&["rollout", "prod"]);
    let services: Vec<String> = bench.engine.specs("t-change").into_keys().collect();
    assert_eq!(services, ["t-change_api"]);
    bench.settled("2");
}

#[test]
fn a_tag_is_of_one_revision() {
    let Some(bench) = Bench::new("t-tag", SMALL) else {
        return;
    };
    bench.add_images(&["web", "other"], &[]);
    let service = SMALL
        .split_once("  api:\n")
        .unwrap()
        .1
        .split_once("\nnetworks:")
        .unwrap()
        .0;
    let service = service.replace("image: web", "image: other");
    bench.edit_stack("\nnetworks:\n", &format!("\n  side:\n{service}\nnetworks:\n"));
    let push = |arguments: &[&str]| bench.succeed(&[&["push"], arguments].concat());
    push(&[]);
    push(&["web", "--tag", "mixed"]);
    bench.write("root/more", "more\n");
    push(&[]);
    push(&["other", "--tag", "mixed"]);
    let refused = bench.skep(&["rollout", "prod", "--tag", "mixed"]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("`other` is of "), "{}", refused.stderr);
    bench.nothing_is_there();
    push(&["--tag", "whole"]);
    bench.succeed(&["rollout", "prod", "--tag", "whole"]);
    bench.settled("1");
    let sources = bench.newest()["release"]["sources"].clone();
    let commit = sources[0]["commit"].as_str().unwrap();
    assert!(bench.newest_id().starts_with(commit), "{sources}");
}

#[test]
fn dockers_own_program_is_not_needed() {
    let Some(bench) = Bench::new("t-alone", SMALL) else {
        return;
    };
    // No program at all but git, which knows the commit.
    let programs = bench.beside("programs");
    std::fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink("/usr/bin/git", programs.join("git")).unwrap();
    let mut command: Command = bench.command(&["release", "prod"]);
    let ran = bench.ran(&command.env("PATH", &programs).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    bench.settled("1");
}
