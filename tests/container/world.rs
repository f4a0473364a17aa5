//! Worlds: how they are started, and that nothing is left when they end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep::container::{Detached, detach};

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

/// Kills the first process of a world, as a power switch would, and looks whether anything is left.
#[test]
fn everything_ends_with_the_world() {
    const NAME: &str = concat!(module_path!(), "::everything_ends_with_the_world");
    if !has_busybox() {
        return;
    }
    if let Some(directory) = std::env::var_os(WORLD) {
        let mut bench = Bench::new(Path::new(&directory));
        let mut running = vec![bench.start("setsid sleep 1000 & echo; exec sleep 1000")];
        bench.spec.init = true;
        bench.spec.scratch = bench.work.join("second");
        running.push(bench.start("setsid sleep 1000 & echo; exec sleep 1000"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                running[0]
                    .container
                    .exec(&execution("echo > /tmp/up; sleep 1000; true"))
            });
            while running[0]
                .container
                .exec(&execution("test -e /tmp/up"))
                .unwrap()
                .exit_code
                != 0
            {}
            println!("\nready");
            std::thread::sleep(Duration::from_secs(1000));
        });
    }
    let world = World::start(NAME);
    world.await_ready();
    let before = namespaces();
    let own = &before[&std::process::id()];
    let pid = world.pid.as_raw_pid().unsigned_abs();
    // Containers share the world's user namespace's child, and not the namespaces of its process 1.
    let theirs: BTreeSet<_> = before[&pid]
        .iter()
        .filter(|namespace| !own.contains(namespace))
        .collect();
    assert_eq!(theirs.len(), 7, "{theirs:?}");
    let world_of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("NSpid:"))
            .unwrap_or("")
            .to_owned();
        line.split_whitespace().count()
    };
    let descends = |mut at: u32| {
        while at > 1 && at != pid {
            let stat = std::fs::read_to_string(format!("/proc/{at}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            at = parent.unwrap_or(0);
        }
        at == pid
    };
    let members: Vec<u32> = before.keys().copied().filter(|pid| descends(*pid)).collect();
    assert!(
        members.iter().filter(|pid| world_of(**pid) >= 4).count() >= 5,
        "{members:?}"
    );
    let gone: BTreeSet<&PathBuf> = members
        .iter()
        .flat_map(|pid| &before[pid])
        .filter(|ns| !own.contains(ns))
        .collect();
    assert!(gone.len() >= 7 + 2 * 6, "{gone:?}");
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
    assert!(
        !mounts.contains(&world.directory.path().display().to_string()),
        "{mounts}"
    );
    // What a test needs not do either: nothing is mounted, so everything can be removed.
    let scratch = world.directory.path().join("work/second/root");
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);
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
        descriptors: &[other.as_fd()],
    })
    .unwrap();
    drop(log);
    let mut text = format!("{}\n", getsid(pid) == getsid(rustix::process::getpid()));
    output.read_to_string(&mut text).unwrap();
    text
}

fn getsid(pid: rustix::process::Pid) -> Option<rustix::process::Pid> {
    rustix::process::getsid(Some(pid)).ok()
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
        descriptors: &[],
    });
    insta::assert_snapshot!(error.unwrap_err(), @"cannot build a container: execute /absent: No such file or directory (os error 2)");
}

#[test]
fn the_same_as_an_ordinary_user() {
    if !has_busybox() || !rustix::process::geteuid().is_root() || std::env::var_os("SKEP_TEST_EXE").is_some()
    {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| {
        let to = directory.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let skep = copy(Path::new(env!("CARGO_BIN_EXE_skep")), "skep");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(tests)
        .current_dir(directory.path())
        .env("SKEP_TEST_EXE", skep)
        .env("TMPDIR", directory.path())
        .env("INSTA_UPDATE", "no")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}");
    assert!(
        log.contains("the_program_is_the_user_of_the_image ... ok"),
        "{log}"
    );
}
