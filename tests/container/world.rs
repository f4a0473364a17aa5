//! Worlds: how they are started, and that nothing is left when they end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep::container::{Detached, detach};
use skep_test_support::{BUSYBOX, as_an_ordinary_user, has_busybox};

use crate::bench::*;

/// Namespaces by what `/proc` calls them, of every process that this one may look at.
fn namespaces() -> BTreeMap<u32, Vec<PathBuf>> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of = |pid: u32| {
        kinds
            .iter()
            .flat_map(move |kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")))
    };
    pids.map(|pid| (pid, of(pid).collect())).collect()
}

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

fn descends(from: u32, mut pid: u32) -> bool {
    while pid > 1 && pid != from {
        pid = status(pid, "PPid")
            .and_then(|parent| parent.parse().ok())
            .unwrap_or(0);
    }
    pid == from
}

/// Two containers, with two processes each, and a program run inside one of them.
fn fill(mut bench: Bench) {
    let script = "setsid sleep 1000 & echo; exec sleep 1000";
    let first = bench.start(script);
    bench.spec.init = true;
    bench.spec.scratch = bench.work.join("second");
    let _second = bench.start(script);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            first
                .container
                .exec(&execution("echo > /tmp/up; sleep 1000; true"))
        });
        let is_up = || {
            first
                .container
                .exec(&execution("test -e /tmp/up"))
                .unwrap()
                .exit_code
                == 0
        };
        while !is_up() {}
        println!("\nready");
        std::thread::sleep(Duration::from_secs(1000));
    });
}

/// Kills the first process of a world, as a power switch would, and looks whether anything is left.
#[test]
fn everything_ends_with_the_world() {
    if !has_busybox() {
        return;
    }
    if let Some(directory) = std::env::var_os(WORLD) {
        fill(Bench::new(Path::new(&directory)));
        return;
    }
    let world = World::start(concat!(module_path!(), "::everything_ends_with_the_world"));
    world.await_ready();
    let before = namespaces();
    let own = &before[&std::process::id()];
    let pid = world.pid.as_raw_pid().unsigned_abs();
    assert!(
        before[&pid].iter().all(|namespace| !own.contains(namespace)),
        "{before:?}"
    );
    let members: Vec<u32> = before
        .keys()
        .copied()
        .filter(|member| descends(pid, *member))
        .collect();
    let depth = |pid: u32| status(pid, "NSpid").map_or(0, |pids| pids.split_whitespace().count());
    let outermost = depth(pid);
    let contained = members
        .iter()
        .filter(|member| depth(**member) > outermost)
        .count();
    assert!(contained >= 2 + 3 + 2, "{members:?}");
    let gone: BTreeSet<&PathBuf> = members.iter().flat_map(|member| &before[member]).collect();
    assert!(gone.len() >= 7 + 2 * 7, "{gone:?}");
    world.kill();
    let deadline = Instant::now() + Duration::from_secs(10);
    while namespaces()
        .values()
        .flatten()
        .any(|namespace| gone.contains(namespace))
    {
        assert!(Instant::now() < deadline, "something is left");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let directory = world.directory.path();
    assert!(!mounts.contains(&directory.display().to_string()), "{mounts}");
    // Where the second root was put together nothing is mounted, and nothing was written.
    assert_eq!(
        std::fs::read_dir(directory.join("work/second/root"))
            .unwrap()
            .count(),
        0
    );
}

/// What `script` prints as process 1 of a world, with `input` as its stdin, and as descriptor 3.
fn detached(script: &str, input: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (mut output, log) = std::io::pipe().unwrap();
    let pipe_of = |text: &str| {
        let (read, mut write) = std::io::pipe().unwrap();
        write.write_all(text.as_bytes()).unwrap();
        read
    };
    let (stdin, other) = (pipe_of(input), pipe_of("other\n"));
    let pid = detach(&Detached {
        stub: &exe(),
        program: Path::new(BUSYBOX),
        arguments: &["sh", "-ec", script],
        directory: directory.path(),
        stdin: Some(stdin.as_fd()),
        log: log.as_fd(),
        mounts: &[],
        descriptors: &[other.as_fd()],
    })
    .unwrap();
    drop(log);
    let own = std::process::id();
    let pid = pid.as_raw_pid().unsigned_abs();
    let mut text = format!("{}\n", session(pid) == session(own));
    output.read_to_string(&mut text).unwrap();
    text
}

/// The session of a process, as the namespaces that it is in number it: 0 where its leader is outside.
fn session(pid: u32) -> String {
    status(pid, "NSsid").unwrap()
}

#[test]
fn a_world_is_a_session_of_its_own() {
    if !has_busybox() {
        return;
    }
    let printed = detached(
        "echo $$ $(id -u); echo $(ls -A | wc -l) files; cat; cat <&3; echo /proc/self/fd/*; \
         echo /proc/[0-9]*; ip -o link | cut -d: -f2; umask; \
         exec grep -E '^(Sig(Ign|Blk)|CapEff|NoNewPrivs)' /proc/self/status",
        "input\n",
    );
    let all = printed
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .unwrap();
    assert!(
        u64::from_str_radix(all, 16).unwrap().count_ones() > 30,
        "{printed}"
    );
    insta::assert_snapshot!(printed.replace(all, "all"), @r"
    false
    1 0
    0 files
    input
    other
    /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3 /proc/self/fd/4
    /proc/1
     lo
    0022
    SigBlk:	0000000000000000
    SigIgn:	0000000000000000
    CapEff:	all
    NoNewPrivs:	0
    ");
}

#[test]
fn what_cannot_be_a_world_says_why() {
    let log = std::fs::File::open("/dev/null").unwrap();
    let error = detach(&Detached {
        stub: &exe(),
        program: Path::new("/absent"),
        arguments: &[],
        directory: Path::new("/"),
        stdin: None,
        log: log.as_fd(),
        mounts: &[],
        descriptors: &[],
    });
    insta::assert_snapshot!(error.unwrap_err(), @"cannot build a container: execute /absent: No such file or directory (os error 2)");
}

#[test]
fn the_same_as_an_ordinary_user() {
    if has_busybox() {
        as_an_ordinary_user(env!("CARGO_BIN_EXE_skep"), "the_program_is_the_user_of_the_image");
    }
}
