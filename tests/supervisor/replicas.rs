//! What replicas see, how they fail, and how they are replaced.

use std::collections::BTreeMap;

use skep::supervisor::{End, FileMount, Mount, MountSource, Order, ReplicaState, Stream, TaskState, Tmpfs};
use skep_test_support::has_busybox;

use crate::bench::{Bench, check, converged, ms, until};

#[test]
fn a_replica_sees_its_files_names_and_secrets() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    client.put_secret("key_1", b"the key").unwrap();
    client.put_config("conf_1", b"a setting").unwrap();
    let mut spec = bench.script(
        "id -u; hostname; cat /run/secrets/key; echo; cat /etc/app.conf; echo; \
         df /scratch | grep -c tmpfs; grep -c api-1 /etc/hosts; cat /data/file; \
         touch /bin/new 2>/dev/null || echo sealed; echo wrong >&2; sleep 600",
    );
    let file = |version: &str, at: &str, mode| FileMount {
        version: version.to_owned(),
        at: at.to_owned(),
        mode,
    };
    spec.secrets = vec![file("key_1", "/run/secrets/key", 0o400)];
    spec.configs = vec![file("conf_1", "/etc/app.conf", 0o444)];
    spec.tmpfs = vec![Tmpfs {
        at: "/scratch".to_owned(),
        size: Some(1 << 20),
        mode: None,
    }];
    client.put(&bench.store, "api", &spec, 1, None).unwrap();
    until(&mut client, "printing", |_| bench.printed("api").len() >= 9);
    let lines = bench.logs("api");
    let of = |stream| -> Vec<&str> {
        let lines = lines.iter().filter(|line| line.stream == stream);
        lines.map(|line| line.text.as_str()).collect()
    };
    assert_eq!(
        of(Stream::Stdout),
        [
            "65532",
            "api-1",
            "the key",
            "a setting",
            "1",
            "1",
            "of the image",
            "sealed"
        ]
    );
    assert_eq!(of(Stream::Stderr), ["wrong"]);
    assert_eq!(lines[0].of, "api.1");
    let state = client.observe().unwrap();
    let replica = &state.services["api"].replicas[0];
    assert_eq!((replica.state, replica.tail.len()), (ReplicaState::Running, 9));
    assert!(replica.addresses.contains_key("front"));
}

#[test]
fn a_crash_loop_and_a_sick_replica_say_why() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let crash = bench.script("echo no database >&2; exit 3");
    client.put(&bench.store, "crash", &crash, 1, None).unwrap();
    let mut sick = bench.script("sleep 600");
    sick.healthcheck = Some(check("echo cannot answer; exit 1"));
    client.put(&bench.store, "sick", &sick, 1, None).unwrap();
    let mut absent = bench.script("");
    absent.argv = vec!["/bin/absent".to_owned()];
    client.put(&bench.store, "absent", &absent, 1, None).unwrap();
    let state = until(&mut client, "failing", |state| {
        let again = |service: &str| state.services[service].replicas[0].restarts >= 2;
        again("crash") && again("sick") && again("absent")
    });
    let failure = |service: &str| state.services[service].failure.clone().unwrap();
    let crash = failure("crash");
    assert_eq!(
        (crash.exit.end, crash.tail[0].as_str()),
        (End::Code(3), "no database")
    );
    let sick = failure("sick");
    assert_eq!(sick.reason, "unhealthy: cannot answer");
    assert_eq!(sick.health.as_deref(), Some("cannot answer\n"));
    let reason = failure("absent").reason;
    assert!(reason.contains("cannot start `/bin/absent`"), "{reason}");
    // None of them got a request, and their names are known all the same.
    assert!(state.services.values().all(|service| !service.replicas[0].ready));
}

#[test]
fn a_singleton_is_never_there_twice() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let worker = |version: &str| {
        let script = format!(
            "mkdir /data/alive || echo twice >>/data/log; echo {version} >>/data/log; \
             trap 'sleep 0.3; rmdir /data/alive; exit' TERM; while :; do sleep 0.02; done"
        );
        let mut spec = bench.script(&script);
        spec.mounts = vec![Mount {
            source: MountSource::Volume("shared".to_owned()),
            at: "/data".to_owned(),
            read_only: false,
        }];
        spec
    };
    for version in ["one", "two", "three", "four"] {
        client
            .put(&bench.store, "worker", &worker(version), 1, None)
            .unwrap();
        converged(&mut client, "worker");
        // Until its script has come that far.
        until(&mut client, "there", |_| {
            let log = std::fs::read_to_string(bench.state().join("volumes/shared/log"));
            log.is_ok_and(|log| log.contains(version))
        });
    }
    let log = std::fs::read_to_string(bench.state().join("volumes/shared/log")).unwrap();
    assert_eq!(log, "one\ntwo\nthree\nfour\n");
}

#[test]
fn a_task_streams_its_log_and_keeps_its_result() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let migrate = bench.script("echo step 1; sleep 0.2; echo step 2");
    for _ in 0..2 {
        client
            .run_task(&bench.store, "migrate-1", &migrate, ms(60_000))
            .unwrap();
    }
    until(&mut client, "half done", |_| {
        bench.printed("migrate-1") == ["step 1"]
    });
    let done = |state: &skep::supervisor::State| state.tasks["migrate-1"].state == TaskState::Done;
    let state = until(&mut client, "done", done);
    assert_eq!(state.tasks["migrate-1"].tail, ["step 1", "step 2"]);
    client
        .run_task(&bench.store, "migrate-1", &migrate, ms(60_000))
        .unwrap();
    assert!(done(&client.observe().unwrap()));
    assert_eq!(bench.printed("migrate-1").len(), 2);
    let hangs = bench.script("echo stuck; trap '' TERM; while :; do sleep 0.1; done");
    let mut hangs = hangs;
    hangs.stop_grace = ms(200);
    client
        .run_task(&bench.store, "migrate-2", &hangs, ms(500))
        .unwrap();
    let state = until(&mut client, "ended", |state| {
        state.tasks["migrate-2"].state == TaskState::Failed
    });
    let task = &state.tasks["migrate-2"];
    assert_eq!(
        task.reason.as_deref(),
        Some("took longer than it may, and was stopped")
    );
    assert_eq!((task.tail[0].as_str(), task.exit.is_some()), ("stuck", true));
}

#[test]
fn a_failed_update_leaves_the_old_replicas_and_the_old_spec_brings_them_back() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let good = bench.web("one");
    client.put(&bench.store, "web", &good, 2, None).unwrap();
    let before = converged(&mut client, "web");
    let mut bad = bench.script("echo broken; exit 9");
    bad.update.order = Order::StartFirst;
    // On a busy machine it takes a while to fail; until then it has not shown that it works.
    bad.update.monitor = ms(10_000);
    client.put(&bench.store, "web", &bad, 2, None).unwrap();
    let state = until(&mut client, "paused", |state| {
        state.services["web"].paused.is_some()
    });
    let service = &state.services["web"];
    assert_eq!(
        service.paused.as_deref(),
        Some("the new replica 1 failed: exit code 9")
    );
    assert_eq!(service.failure.as_ref().unwrap().tail, ["broken"]);
    client.put(&bench.store, "web", &good, 2, None).unwrap();
    let after = converged(&mut client, "web");
    let containers = |state: &skep::supervisor::State| -> BTreeMap<u32, Option<String>> {
        let replicas = state.services["web"].replicas.iter();
        replicas.map(|it| (it.slot, it.container.clone())).collect()
    };
    assert_eq!(containers(&before), containers(&after));
}
