//! The process itself: how it starts, goes on after its death, and what it leaves.

use std::collections::BTreeSet;
use std::time::Instant;

use skep::cancel::Cancel;
use skep::supervisor::{End, MountSource, ReplicaState, TaskState, connect};
use skep_test_support::has_busybox;

use crate::bench::{Bench, converged, is_alive, ms, processes, until};

fn kill(pid: u32) {
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    while is_alive(pid) {
        std::thread::sleep(ms(2));
    }
}

/// Those that are still there after a moment in which the kernel may remove them, with their states.
fn alive(pids: &BTreeSet<u32>) -> Vec<String> {
    let deadline = Instant::now() + ms(2_000);
    loop {
        let alive: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        if alive.is_empty() || Instant::now() > deadline {
            let stat = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            return alive.into_iter().map(stat).collect();
        }
        std::thread::sleep(ms(5));
    }
}

/// Whether a mount of any process that is seen has to do with the directory.
fn is_mounted(directory: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(directory.to_str().unwrap())
}

#[test]
fn many_that_start_it_at_once_get_the_same() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let pid = || bench.client().observe().unwrap().supervisor.pid;
    let pids: Vec<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(pid)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let name = std::fs::read_to_string(format!("/proc/{}/cmdline", pids[0])).unwrap();
    assert!(name.contains("supervise-preview\0"), "{name}");
    let lock = std::fs::read_to_string(bench.state().join("supervisor.lock")).unwrap();
    assert_eq!(lock.trim().parse(), Ok(pids[0]));
}

#[test]
fn stopping_leaves_no_process_and_no_mount_but_volumes_and_secrets() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    client.put_secret("key_1", b"secret").unwrap();
    let mut spec =
        bench.script("echo kept >/data/new; trap 'echo asked; exit' TERM; while :; do sleep 0.05; done");
    spec.mounts = vec![skep::supervisor::Mount {
        source: MountSource::Volume("data".to_owned()),
        at: "/data".to_owned(),
        read_only: false,
    }];
    client.put(&bench.store, "api", &spec, 2, None).unwrap();
    let state = converged(&mut client, "api");
    let all = processes(state.supervisor.pid);
    assert!(all.len() > 4, "{all:?}");
    client.stop(&bench.store, false, &Cancel::default()).unwrap();
    assert_eq!(alive(&all), Vec::<String>::new());
    assert!(!is_mounted(bench.directory.path()));
    assert!(connect(&bench.state()).unwrap().is_none());
    assert_eq!(bench.printed("api"), ["asked", "asked"]);
    let count = |name| std::fs::read_dir(bench.state().join(name)).unwrap().count();
    let counts = || ["containers", "secrets", "volumes"].map(count);
    assert_eq!(counts(), [0, 1, 1]);
    let volume = bench.state().join("volumes/data");
    assert_eq!(std::fs::read(volume.join("new")).unwrap(), b"kept\n");
    assert_eq!(std::fs::read(volume.join("file")).unwrap(), b"of the image\n");
    // Nothing is started again, and volumes can go later.
    let mut client = bench.client();
    assert!(client.observe().unwrap().services.is_empty());
    client.stop(&bench.store, true, &Cancel::default()).unwrap();
    assert_eq!(counts(), [0, 0, 0]);
}

#[test]
fn after_it_was_killed_nothing_is_left_and_the_next_one_goes_on() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let web = bench.web("one");
    client.put(&bench.store, "web", &web, 2, None).unwrap();
    let sleeper = bench.script("echo begun; sleep 600");
    client
        .run_task(&bench.store, "migrate", &sleeper, ms(600_000))
        .unwrap();
    let state = converged(&mut client, "web");
    let all = processes(state.supervisor.pid);
    kill(state.supervisor.pid);
    assert_eq!(alive(&all), Vec::<String>::new());
    assert!(client.observe().is_err());
    let mut client = bench.client();
    let state = converged(&mut client, "web");
    assert_eq!(state.services["web"].spec, web.fingerprint().hex());
    let task = &state.tasks["migrate"];
    assert_eq!(
        (task.state, task.exit.as_ref().map(|exit| &exit.end)),
        (TaskState::Failed, Some(&End::Unseen))
    );
    let containers = std::fs::read_dir(bench.state().join("containers")).unwrap();
    assert_eq!(containers.count(), 2);
}

#[test]
fn killed_at_any_instant_of_an_update_it_finishes_that() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    client.put(&bench.store, "web", &bench.web("0"), 2, None).unwrap();
    converged(&mut client, "web");
    for instant in 1..=8 {
        let spec = bench.web(&instant.to_string());
        client.put(&bench.store, "web", &spec, 2, None).unwrap();
        std::thread::sleep(ms(instant * 67));
        kill(client.observe().unwrap().supervisor.pid);
        client = bench.client();
        let state = converged(&mut client, "web");
        assert_eq!(state.services["web"].spec, spec.fingerprint().hex());
    }
    let containers = std::fs::read_dir(bench.state().join("containers")).unwrap();
    assert_eq!(containers.count(), 2);
}

#[test]
fn a_machine_that_shuts_down_asks_and_what_should_run_is_kept() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let spec = bench.script("trap 'echo asked; exit' TERM; while :; do sleep 0.05; done");
    client.put(&bench.store, "api", &spec, 1, None).unwrap();
    let pid = converged(&mut client, "api").supervisor.pid;
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::TERM).unwrap();
    while is_alive(pid) {
        std::thread::sleep(ms(5));
    }
    assert_eq!(bench.printed("api"), ["asked"]);
    converged(&mut bench.client(), "api");
}

#[test]
fn a_tree_that_is_lost_is_a_reason_and_not_the_end() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    let spec = bench.script("sleep 600");
    client.put(&bench.store, "api", &spec, 1, None).unwrap();
    let pid = converged(&mut client, "api").supervisor.pid;
    kill(pid);
    for area in ["trees", "blobs"] {
        std::fs::remove_dir_all(bench.directory.path().join("store").join(area)).unwrap();
        std::fs::create_dir(bench.directory.path().join("store").join(area)).unwrap();
    }
    let mut client = bench.client();
    let state = until(&mut client, "failing", |state| {
        state.services["api"].replicas[0].state == ReplicaState::Backoff
    });
    let reason = state.services["api"].replicas[0].reason.clone().unwrap();
    assert!(reason.contains("is not in the store any more"), "{reason}");
}

/// What is resident, and not shared with other programs, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn it_stays_small_with_ten_replicas() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new();
    let mut client = bench.client();
    client
        .put(&bench.store, "web", &bench.web("one"), 10, None)
        .unwrap();
    let state = converged(&mut client, "web");
    std::thread::sleep(ms(1_000));
    let used = memory(state.supervisor.pid);
    assert!(used < 30 << 10, "{used} KiB");
    // Stubs that did their work are gone, and so is whoever they left behind.
    let dead = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    };
    let few = || {
        processes(state.supervisor.pid)
            .iter()
            .filter(|pid| dead(pid))
            .count()
            == 0
    };
    // One that is just being waited for is no harm.
    assert!((0..50).any(|_| {
        std::thread::sleep(ms(10));
        few()
    }));
}
