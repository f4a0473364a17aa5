//! What an action may use, and what comes of using more: it is ended while it runs, and the bound is named.

use std::time::{Duration, Instant};

use skep::sandbox::{Bound, Error};
use skep::tree::Node;
use skep_test_support::has_busybox;

use crate::bench::{Bench, path};
use crate::inside::{Answer, call, text};

/// Set in the sandbox alone: the kind of memory to use.
const USE: &str = "SKEP_TEST_USE";

const MIB: u64 = 1 << 20;

/// The bound that the action went past, well before the minute that it would take.
#[track_caller]
fn passed(bench: &Bench) -> (Bound, u64) {
    let began = Instant::now();
    match bench.run() {
        Err(Error::Exceeded { bound, limit, .. }) => {
            assert!(began.elapsed() < Duration::from_secs(45), "it was left to run");
            assert_eq!(bench.processes(), 0);
            (bound, limit)
        }
        other => panic!("{other:?}"),
    }
}

/// A shell script that runs for longer than anything here should take, with `change` made to its bounds.
fn script(script: &str, change: impl FnOnce(&mut skep::action::Limits)) -> Bench {
    let mut bench = Bench::new(&format!("{script}; sleep 60"));
    change(&mut bench.command.limits);
    bench
}

macro_rules! bounds_tests {
    ($(fn $name:ident() $body:block)*) => {
        $(#[test] fn $name() { if has_busybox() && std::env::var_os(USE).is_none() $body })*
    };
}

bounds_tests! {
    fn memory_of_every_kind_is_bounded() {
        let mut bench = Bench::new("");
        let tests = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (digest, executable) = (bench.store.put(&tests).unwrap(), true);
        bench.input("tests", Node::File { digest, executable });
        let argv = ["/tests", "--exact", "bounds::use_inside", "--nocapture", "--test-threads=1"];
        bench.command.argv = argv.map(str::to_owned).into();
        bench.command.limits.memory = Some(256 * MIB);
        // The size of any one file is bounded by it as well.
        bench.command.limits.max_output = 1024 * MIB;
        for kind in ["own", "shared", "nameless", "segment", "children"] {
            bench.command.env.insert(USE.to_owned(), kind.to_owned());
            assert_eq!(passed(&bench), (Bound::Memory, 256 * MIB), "{kind}");
        }
        // What is shared counts once, and what is only mapped not at all.
        for kind in ["copies", "mapped"] {
            bench.command.env.insert(USE.to_owned(), kind.to_owned());
            assert_eq!(bench.run().unwrap().exit_code, 0, "{kind}");
        }
    }

    fn files_in_memory_are_memory() {
        for at in ["/tmp/f", "/dev/shm/f"] {
            let bench = script(&format!("dd if=/dev/zero of={at} bs=1M count=63; tail -f /dev/null"), |limits| {
                limits.memory = Some(48 * MIB);
            });
            assert_eq!(passed(&bench), (Bound::Memory, 48 * MIB));
        }
        // Where the program ends by itself because there is no room, that is why.
        let mut small = Bench::new("dd if=/dev/zero of=/tmp/f bs=1M count=63 || exit 3");
        small.command.limits.memory = Some(48 * MIB);
        assert_eq!(passed(&small), (Bound::Memory, 48 * MIB));
    }

    fn output_is_bounded_while_it_is_written() {
        let bench = script("for n in 1 2 3 4; do dd if=/dev/zero of=/out/$n bs=1M count=1; done", |limits| {
            limits.max_output = 2 * MIB;
        });
        assert_eq!(passed(&bench), (Bound::Output, 2 * MIB));
    }

    fn disk_is_bounded_in_outputs_and_writable_directories() {
        for at in ["/out", "/src"] {
            let fill = format!("for n in 1 2 3 4; do dd if=/dev/zero of={at}/$n bs=1M count=1; done");
            let mut bench = script(&fill, |limits| limits.disk = Some(2 * MIB));
            bench.command.writable.insert(path("src"));
            bench.file("src/file", "content");
            assert_eq!(passed(&bench), (Bound::Disk, 2 * MIB));
        }
    }

    fn entries_are_bounded_everywhere() {
        for at in ["/out", "/src", "/tmp"] {
            let fill = format!("n=0; while test $n -lt 300; do n=$((n+1)); : > {at}/$n || exit 3; done");
            let mut bench = script(&fill, |limits| limits.max_entries = 200);
            bench.command.writable.insert(path("src"));
            bench.file("src/file", "content");
            assert_eq!(passed(&bench), (Bound::Entries, 200));
        }
    }

    fn depth_is_bounded() {
        let bench = script("cd /out; n=0; while test $n -lt 200; do n=$((n+1)); mkdir d; cd d; done", |_| {});
        assert_eq!(passed(&bench), (Bound::Depth, 128));
    }

    fn within_its_bounds_an_action_ends_well() {
        let mut bench = Bench::new("dd if=/dev/zero of=/tmp/f bs=1M count=20; dd if=/dev/zero of=/out/f bs=1M count=1; sleep 1");
        let limits = &mut bench.command.limits;
        (limits.memory, limits.disk, limits.max_output) = (Some(64 * MIB), Some(2 * MIB), 32 * MIB);
        bench.printed();
    }

    fn the_kernel_ends_an_action_first() {
        assert_eq!(Bench::new("cat /proc/self/oom_score_adj").printed(), "1000\n");
    }

    fn a_declared_bound_is_the_memory_that_programs_see() {
        let mut bench = Bench::new("grep MemTotal /proc/meminfo");
        bench.command.limits.memory = Some(1 << 30);
        assert_eq!(bench.printed(), "MemTotal:        1048576 kB\n");
    }
}

/// In the sandbox: takes 512 MiB of one kind, or seems to.
#[test]
fn use_inside() {
    let Some(kind) = std::env::var_os(USE) else {
        return;
    };
    let bytes = 512 << 20;
    match kind.to_str().unwrap() {
        "own" => fill(map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, bytes), bytes),
        "shared" => fill(map(libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, bytes), bytes),
        "nameless" => {
            let file = call(libc::SYS_memfd_create, &[text("x"), 0]).unwrap();
            let block = vec![1_u8; 1 << 20];
            for _ in 0..bytes >> 20 {
                call(libc::SYS_write, &[file, block.as_ptr() as i64, 1 << 20]).unwrap();
            }
        }
        "segment" => {
            let segment = call(libc::SYS_shmget, &[0, bytes, 0o600 | i64::from(libc::IPC_CREAT)]).unwrap();
            let at = call(libc::SYS_shmat, &[segment, 0, 0]).unwrap();
            fill(at, bytes);
            call(libc::SYS_shmdt, &[at]).unwrap();
        }
        "children" => (0..8).for_each(|_| {
            child(|| {
                fill(
                    map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, bytes / 8),
                    bytes / 8,
                )
            });
        }),
        "copies" => {
            let bytes = 96 << 20;
            fill(map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, bytes), bytes);
            (0..8).for_each(|_| child(|| {}));
            std::thread::sleep(Duration::from_secs(1));
            return;
        }
        _ => {
            map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 8 << 30);
            std::thread::sleep(Duration::from_secs(1));
            return;
        }
    }
    std::thread::sleep(Duration::from_secs(60));
}

fn map(flags: i32, file: i64, bytes: i64) -> i64 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let mapped: Answer = call(
        libc::SYS_mmap,
        &[0, bytes, protection.into(), flags.into(), file, 0],
    );
    mapped.unwrap()
}

fn fill(at: i64, bytes: i64) {
    for page in (0..bytes).step_by(4096) {
        // SAFETY: it was just mapped for writing.
        unsafe { ((at + page) as *mut u8).write_volatile(1) };
    }
}

/// A child that does this and waits.
fn child(work: impl FnOnce()) {
    // SAFETY: the harness runs one test at a time on the main thread, so no lock is held by another.
    if unsafe { libc::fork() } == 0 {
        work();
        std::thread::sleep(Duration::from_secs(60));
        // SAFETY: ends the process, without what the harness would do at its end.
        unsafe { libc::_exit(0) };
    }
}
