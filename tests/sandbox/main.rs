//! The sandbox on the real kernel: what an action sees, and what it cannot do. The program is busybox.

mod bench;
mod bounds;
mod escape;
mod inside;

use std::time::{Duration, Instant};

use bench::{Bench, path};
use skep::digest::{Digest, Fingerprint};
use skep::sandbox::Error;
use skep::tree::{Node, ops};
use skep_test_support::{as_an_ordinary_user, has_busybox};

macro_rules! sandbox_tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$attribute])* #[test] fn $name() { if has_busybox() $body })*
    };
}

sandbox_tests! {
    fn what_an_action_writes_is_its_output() {
        let bench = Bench::new("echo hello; echo world >&2; mkdir /out/d; echo x > /out/d/f; ln -s d/f /out/l; exit 0");
        let outcome = bench.run().unwrap();
        assert_eq!(bench.log(outcome.log), "hello\nworld\n");
        let root = outcome.outputs[&path("out")];
        let node = ops::lookup(&*bench.store, &root, &path("d/f")).unwrap();
        assert_eq!(node, Some(Node::File { digest: Digest::of(b"x\n"), executable: false }));
        assert_eq!(ops::lookup(&*bench.store, &root, &path("l")).unwrap(), Some(Node::Symlink("d/f".into())));
    }

    fn exit_codes_and_signals_are_told() {
        assert_eq!(Bench::new("exit 3").run().unwrap().exit_code, 3);
        assert_eq!(Bench::new("kill -9 $$").run().unwrap().exit_code, 137);
    }

    fn the_surroundings_are_always_the_same() {
        let bench = Bench::new(
            "id; hostname; umask; pwd; env; ls /; ls /dev; cat /etc/passwd; stat -c '%a %u %Y' /bin/busybox; ulimit -n; tty || true; cat",
        );
        let printed = bench.printed();
        let busybox = "755 1000 315532800\n";
        assert!(printed.contains(busybox), "{printed}");
        insta::assert_snapshot!(printed, @r"
        uid=1000(skep) gid=1000(skep)
        skep
        0022
        /work
        SHLVL=1
        PATH=/bin
        PWD=/work
        bin
        dev
        etc
        out
        proc
        tmp
        work
        fd
        full
        null
        random
        shm
        stderr
        stdin
        stdout
        urandom
        zero
        root:x:0:0:root:/:/bin/false
        skep:x:1000:1000:skep:/tmp:/bin/false
        755 1000 315532800
        16384
        not a tty
        ");
    }

    fn a_link_that_goes_up_inside_is_an_output() {
        Bench::new("mkdir -p /out/a/b; ln -s a/b/../../c /out/x; ln -s b /out/a/l; ln -s a/l/../l /out/y").printed();
    }

    fn set_id_bits_are_refused_to_programs() {
        let script = "echo > /out/su; chmod 755 /out/su; for m in u+s g+s 4755 2755; do chmod $m /out/su 2>&1; done; stat -c %a /out/su; mkdir -m 2755 /out/d 2>&1; stat -c %a /out";
        let printed = Bench::new(&format!("set +e; {script}")).printed();
        assert_eq!(printed.matches("Operation not permitted").count(), 5, "{printed}");
        assert!(printed.contains("\n755\n"), "{printed}");
    }

    fn a_program_ends_when_no_one_reads_what_it_prints() {
        assert_eq!(Bench::new("yes | head -n 1").printed(), "y\n");
    }

    fn addresses_are_always_the_same() {
        let printed = Bench::new("for n in 1 2 3; do grep -v '^ffff' /proc/self/maps | cut -d' ' -f1 | md5sum; done").printed();
        let first = printed.lines().next().unwrap();
        assert_eq!(printed, format!("{first}\n").repeat(3));
        assert_eq!(Bench::new("for n in 1 2 3; do grep -v '^ffff' /proc/self/maps | cut -d' ' -f1 | md5sum; done").printed(), printed);
    }

    fn proc_shows_nothing_of_the_host() {
        let script = "ls /proc | grep -v '^[0-9]'; echo; cat /proc/meminfo /proc/loadavg /proc/uptime; grep -v '^cpu[0-9]' /proc/stat; \
                      grep -c ^processor /proc/cpuinfo; grep -c '^cpu[0-9]' /proc/stat; nproc; ls -l /proc/mounts /proc/net | sed 's/.* //'; \
                      grep -c : /proc/net/dev";
        let printed = Bench::new(script).printed();
        let processors = std::thread::available_parallelism().unwrap().to_string();
        let printed = printed.replace(&format!("\n{processors}\n{processors}\n{processors}\n"), "\n[processors, three times]\n");
        insta::assert_snapshot!(printed, @r"
        self
        thread-self

        MemTotal:       16777216 kB
        MemFree:        16777216 kB
        MemAvailable:   16777216 kB
        Buffers:               0 kB
        Cached:                0 kB
        SwapCached:            0 kB
        SwapTotal:             0 kB
        SwapFree:              0 kB
        Shmem:                 0 kB
        SReclaimable:          0 kB
        0.00 0.00 0.00 1/1 1
        0.00 0.00
        cpu  0 0 0 0 0 0 0 0 0 0
        intr 0
        ctxt 0
        btime 315532800
        processes 1
        procs_running 1
        procs_blocked 0
        softirq 0
        [processors, three times]
        self/mounts
        self/net
        1
        ");
    }

    fn there_is_no_network_but_loopback() {
        let printed = Bench::new("ip -o link | cut -d: -f2; cat /proc/net/route | wc -l; ping -c1 -W1 127.0.0.1 >/dev/null 2>&1 || true").printed();
        assert_eq!(printed, " lo\n1\n");
        let refused = Bench::new("nc -w 2 192.0.2.1 80").refused();
        assert!(refused.contains("unreachable"), "{refused}");
    }

    fn files_of_the_host_are_absent() {
        let bench = Bench::new("");
        let store = bench.store.root().display().to_string();
        for file in ["/etc/shadow", "/etc/hostname", "/root", "/usr", "/sys", store.as_str()] {
            Bench::new(&format!("test ! -e {file}")).printed();
        }
    }

    fn processes_of_the_host_are_absent() {
        let printed = Bench::new("ls /proc | grep -c '^[0-9]' ; kill -0 1 2>/dev/null; true").printed();
        let count: usize = printed.trim().parse().unwrap();
        assert!(count <= 4, "{printed}");
    }

    fn a_left_over_process_dies_with_the_action() {
        let bench = Bench::new("sleep 1000 & setsid sleep 1000 </dev/null >/dev/null 2>&1 & exit 0");
        let began = Instant::now();
        bench.printed();
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(bench.processes(), 0);
    }

    fn inputs_cannot_be_written() {
        let mut bench = Bench::new(
            "for f in /in/file /bin/busybox /new /work/new /etc/passwd; do echo x 2>/dev/null > $f && exit 1; done; \
             chmod 777 /in/file 2>&1 && exit 1; rm /in/file 2>&1 && exit 1; exit 0",
        );
        bench.file("in/file", "content");
        bench.printed();
    }

    fn writing_over_inputs_leaves_them_as_they_are() {
        let mut bench = Bench::new(
            "cat file; echo changed > file; rm gone; echo new > new; cat dep/file; ls > /out/ls; echo x 2>/dev/null > dep/file && exit 1; exit 0",
        );
        bench.command.cwd = path("src");
        bench.command.writable.insert(path("src"));
        for (at, content) in [("src/file", "one\n"), ("src/gone", ""), ("src/dep/file", "two\n")] {
            bench.file(at, content);
        }
        let unit = ops::lookup(&*bench.store, bench.inputs.last().unwrap(), &path("src/dep")).unwrap();
        let Some(Node::Directory(unit)) = unit else { panic!() };
        bench.units.insert(unit);
        assert_eq!(bench.printed(), "one\ntwo\n");
        let ls = bench.run().unwrap().outputs[&path("out")];
        let node = ops::lookup(&*bench.store, &ls, &path("ls")).unwrap();
        assert_eq!(node, Some(Node::File { digest: Digest::of(b"dep\nfile\nnew\n"), executable: false }));
        assert!(bench.store.fsck().unwrap().is_sound());
    }

    fn many_units_are_seen_as_one_tree() {
        let mut bench = Bench::new("cat /deps/*/name | md5sum; ls /deps | wc -l; cat /deps/loose");
        bench.file("deps/loose", "loose\n");
        for n in 0..300 {
            bench.file(&format!("deps/{n:03}/name"), &n.to_string());
            let node = ops::lookup(&*bench.store, bench.inputs.last().unwrap(), &path(&format!("deps/{n:03}"))).unwrap();
            let Some(Node::Directory(unit)) = node else { panic!() };
            bench.units.insert(unit);
        }
        let bound = bench.printed();
        bench.units.clear();
        assert_eq!(bench.printed(), bound);
        assert!(bound.ends_with("301\nloose\n"), "{bound}");
    }

    fn outputs_that_no_tree_can_hold_are_refused() {
        let message = |script: &str| Bench::new(script).run().unwrap_err().to_string();
        insta::assert_snapshot!(message("ln -s /etc/passwd /out/l"), @"output `l` is a symlink to `/etc/passwd`, which leaves the output");
        insta::assert_snapshot!(message("ln -s ../../x /out/l"), @"output `l` is a symlink to `../../x`, which leaves the output");
        insta::assert_snapshot!(message("ln -s . /out/a; ln -s a/.. /out/up; ln -s up/../etc /out/x"), @"output `up` is a symlink to `a/..`, which leaves the output");
        insta::assert_snapshot!(message("ln -s m/../etc /out/x"), @"output `x` is a symlink to `m/../etc`, and the output has no `m`");
        insta::assert_snapshot!(message("mkfifo /out/p"), @"output `p` is a pipe; an output holds files, directories and symlinks");
        insta::assert_snapshot!(message("for n in 1 2 3; do dd if=/dev/zero of=/out/$n bs=1M count=30 2>/dev/null; done"), @"wrote more than 67108864 bytes of output; a larger `max_output` of its action allows more");
    }

    fn one_file_cannot_be_larger_than_all_output() {
        let outcome = Bench::new("dd if=/dev/zero of=/out/f bs=1M count=70 2>/dev/null").run().unwrap();
        assert_ne!(outcome.exit_code, 0);
    }

    fn an_endless_log_is_cut_off() {
        let mut bench = Bench::new("yes");
        bench.command.limits.max_log = 100_000;
        let error = bench.run().unwrap_err();
        assert_eq!(error.to_string(), "printed more than 100000 bytes, and was stopped");
        assert_eq!(bench.log(error.log()).len(), 100_000);
        assert_eq!(bench.processes(), 0);
    }

    fn a_closed_log_is_no_end() {
        let mut bench = Bench::new("exec >/dev/null 2>&1; sleep 1; echo late > /out/f");
        bench.command.limits.timeout = Duration::from_secs(20);
        assert_eq!(bench.run().unwrap().outputs.len(), 1);
    }

    fn time_is_bounded() {
        let mut bench = Bench::new("echo begun; sleep 1000");
        bench.command.limits.timeout = Duration::from_secs(1);
        let error = bench.run().unwrap_err();
        assert_eq!(error.to_string(), "ran for longer than 1 seconds, and was stopped");
        assert_eq!(bench.log(error.log()), "begun\n");
        assert_eq!(bench.processes(), 0);
    }

    fn a_fork_bomb_stays_small() {
        let mut bench = Bench::new("f() { f & f & wait; }; f; sleep 1000");
        bench.command.limits.timeout = Duration::from_secs(3);
        let most = std::thread::scope(|scope| {
            let running = scope.spawn(|| bench.run());
            let mut most = 0;
            while !running.is_finished() {
                let all = std::fs::read_dir("/proc").unwrap().flatten();
                let busybox = all.filter(|entry| {
                    std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name == "sh\n")
                });
                most = most.max(busybox.count());
                std::thread::sleep(Duration::from_millis(50));
            }
            // It may end by itself when it cannot fork, or by its time.
            drop(running.join().unwrap());
            most
        });
        assert!(most < 200, "{most} processes");
        assert_eq!(bench.processes(), 0);
    }

    fn an_interrupt_ends_everything() {
        let bench = Bench::new("sleep 1000");
        let cancel = bench.cancel.clone();
        std::thread::scope(|scope| {
            let running = scope.spawn(|| bench.run());
            std::thread::sleep(Duration::from_millis(500));
            cancel.raise();
            assert!(matches!(running.join().unwrap(), Err(Error::Cancelled)));
        });
        assert_eq!(bench.processes(), 0);
    }

    fn new_privileges_are_refused() {
        for call in ["mount -t tmpfs none /tmp", "unshare -U true", "unshare -r true", "chroot / true", "umount /proc", "mknod /tmp/n c 1 3"] {
            Bench::new(&format!("if {call} 2>&1; then exit 1; fi")).printed();
        }
        let printed = Bench::new("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status").printed();
        for line in printed.lines() {
            let value = line.split_whitespace().last().unwrap();
            let expected = match line.split(':').next().unwrap() {
                "NoNewPrivs" => "1",
                "Seccomp" => "2",
                _ => "0000000000000000",
            };
            assert_eq!(value, expected, "{line}");
        }
    }

    fn secrets_are_seen_by_the_action_alone() {
        let mut bench = Bench::new("stat -c %a /run/secrets/key; wc -c < /run/secrets/key");
        let secret = b"correct horse battery staple".to_vec();
        bench.command.secrets.insert(path("run/secrets/key"), Fingerprint::of("test", &secret));
        assert!(matches!(bench.run(), Err(Error::NoSecret(_))));
        bench.secrets.insert(path("run/secrets/key"), secret.clone());
        assert_eq!(bench.printed(), "400\n28\n");
        let found = std::process::Command::new("grep")
            .args(["-rq", "correct horse"])
            .arg(bench.store.root())
            .status();
        assert_eq!(found.unwrap().code(), Some(1), "it is in the store");
    }

    fn what_cannot_start_says_why() {
        let mut bench = Bench::new("");
        bench.command.argv = vec!["/bin/absent".into()];
        insta::assert_snapshot!(bench.run().unwrap_err(), @"cannot start `/bin/absent`: No such file or directory (os error 2); a program is an absolute path among the action's inputs, and so is its interpreter");
        bench.command.writable.insert(path("absent"));
        insta::assert_snapshot!(bench.run().unwrap_err(), @"`/absent` is declared writable, and the inputs have no such directory");
    }

    fn a_umask_changes_nothing() {
        if std::env::var_os("SKEP_TEST_UMASK").is_some() {
            return;
        }
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", "umask 077; exec \"$0\" the_surroundings what_an_action_writes writing_over many_units modes_of"])
            .arg(std::env::current_exe().unwrap())
            .env("SKEP_TEST_UMASK", "077")
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{log}");
        assert!(log.contains("5 passed"), "{log}");
    }

    fn modes_of_directories_are_always_the_same() {
        let mut bench = Bench::new("stat -c '%a %n' / /out /tmp /src /src/file /dev /proc /work");
        bench.command.writable.insert(path("src"));
        bench.file("src/file", "content");
        insta::assert_snapshot!(bench.printed(), @r"
        755 /
        755 /out
        1777 /tmp
        755 /src
        644 /src/file
        755 /dev
        555 /proc
        755 /work
        ");
    }

    fn the_same_as_an_ordinary_user() {
        as_an_ordinary_user(env!("CARGO_BIN_EXE_skep"), "the_surroundings_are_always_the_same");
    }
}

/// Kills a process that runs a sandbox, as a power switch would, and looks whether anything is left.
#[test]
fn everything_dies_with_the_parent() {
    const CHILD: &str = "SKEP_TEST_SANDBOX_CHILD";
    if !has_busybox() {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let bench = Bench::new("sleep 4711");
        drop(bench.run());
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "everything_dies_with_the_parent"])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let sleeping = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let command =
            |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        all.map(command).any(|command| command == b"sleep\x004711\0")
    };
    let until = |wanted: bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while sleeping() != wanted {
            assert!(Instant::now() < deadline, "waited for sleeping = {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until(true);
    child.kill().unwrap();
    child.wait().unwrap();
    until(false);
}
