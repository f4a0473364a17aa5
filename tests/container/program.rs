//! How programs of containers start, are told things, and end; and those that run inside of one.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use skep::container::{Error, Executed, Exit, Signal};

use crate::bench::*;

container_tests! {
    fn low_ports_and_ping_are_allowed(bench: Bench) {
        let run = bench.start("echo; nc -l -p 80 -e echo hello; exec sleep 1000");
        let executed = run.container.exec(&execution(
            "until netstat -ltn | grep -q :80; do sleep 0.05; done; nc 127.0.0.1 80; cat /proc/sys/net/ipv4/ping_group_range",
        )).unwrap();
        assert_eq!(String::from_utf8(executed.output).unwrap(), "hello\n65532\t65532\n");
    }

    fn a_network_is_shared_where_it_is_handed_over(bench: Bench) {
        let server = bench.start("echo; nc -l -p 80 -e hostname; exec sleep 1000");
        let network = std::fs::File::open(format!("/proc/{}/ns/net", server.container.pid().as_raw_pid())).unwrap();
        bench.spec.hostname = "two".to_owned();
        bench.spec.scratch = bench.work.join("two");
        bench.script("until netstat -ltn | grep -q :80; do sleep 0.05; done; hostname; nc 127.0.0.1 80");
        let mut client = bench.try_start_in(Some(network.as_fd())).unwrap();
        let mut printed = String::new();
        client.output.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "two\none\n");
    }

    fn exit_codes_and_signals_are_told(bench: Bench) {
        assert_eq!(bench.run("exit 3").0, code(3));
        let run = bench.start("echo; sleep 1000");
        assert_eq!(run.container.try_wait().unwrap(), None);
        assert_eq!(run.container.wait_for(Duration::from_millis(50)).unwrap(), None);
        run.container.kill().unwrap();
        let killed = Exit { code: None, signal: Some(9) };
        assert_eq!(run.container.wait().unwrap(), killed);
        assert_eq!(run.container.try_wait().unwrap(), Some(killed));
        run.container.kill().unwrap();
        assert!(matches!(run.container.signal(Signal::TERM), Err(Error::Ended)));
        assert!(matches!(run.container.exec(&execution("true")), Err(Error::Ended)));
    }

    fn a_signal_reaches_a_program_that_handles_it(bench: Bench) {
        let run = bench.start("trap 'exit 7' TERM; echo; while true; do sleep 0.05; done");
        run.container.signal(Signal::TERM).unwrap();
        assert_eq!(run.container.wait().unwrap(), code(7));
        // A process 1 without a handler is not ended by it.
        let run = bench.start("echo; while true; do sleep 0.05; done");
        run.container.signal(Signal::TERM).unwrap();
        assert_eq!(run.container.wait_for(Duration::from_millis(300)).unwrap(), None);
    }

    fn an_init_passes_signals_on_and_reaps(bench: Bench) {
        bench.spec.init = true;
        let run = bench.start("(sleep 0.1 & exec true); (setsid sleep 0.1 &) ; sleep 0.5; echo; while true; do sleep 0.05; done");
        let listed = run.container.exec(&execution("cat /proc/1/comm; readlink /proc/1/exe || echo hidden; cat /proc/1/environ 2>/dev/null || echo hidden; ps -o stat,args | grep -c '^Z'")).unwrap();
        let listed = String::from_utf8(listed.output).unwrap();
        assert_eq!(listed, "init\nhidden\nhidden\n0\n");
        run.container.signal(Signal::TERM).unwrap();
        assert_eq!(run.container.wait().unwrap(), code(143));
        assert_eq!(bench.run("exit 5").0, code(5));
        bench.spec.argv = vec!["absent".into()];
        assert!(matches!(bench.try_start(), Err(Error::NoProgram { .. })));
    }

    fn signals_are_not_ignored_from_the_start(bench: Bench) {
        bench.spec.argv = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"].map(str::to_owned).into();
        let mut printed = String::new();
        bench.try_start().unwrap().output.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    }

    fn a_missing_program_says_where_it_was_looked_for(bench: Bench) {
        let mut message = |program: &str| {
            bench.spec.argv = vec![program.to_owned()];
            bench.try_start().unwrap_err().to_string()
        };
        insta::assert_snapshot!(message("absent"), @"cannot start `absent`: No such file or directory (os error 2); tried /bin/absent");
        insta::assert_snapshot!(message("/app/file"), @"cannot start `/app/file`: Permission denied (os error 13); tried /app/file");
        insta::assert_snapshot!(message("foreign"), @"cannot start `foreign`: `/bin/foreign` is there, and its interpreter is not; tried /bin/foreign");
        insta::assert_snapshot!(message(""), @"cannot start ``: there is no command; tried nothing");
    }

    fn a_program_runs_inside_a_container(bench: Bench) {
        bench.spec.cwd = path("data");
        let run = bench.start("echo inside > /tmp/file; echo; exec sleep 1000");
        let mut inside = execution("id -u; hostname; pwd; cat /tmp/file; env | grep NAME; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; echo x > /etc/new; exit 4");
        inside.env.push(("NAME".to_owned(), "value".to_owned()));
        inside.cwd = path("tmp");
        let executed = run.container.exec(&inside).unwrap();
        assert_eq!((executed.exit_code, executed.timed_out), (4, false));
        insta::assert_snapshot!(String::from_utf8(executed.output).unwrap(), @r"
        65532
        one
        /tmp
        inside
        NAME=value
        CapEff:	0000000000000000
        CapBnd:	0000000000000000
        NoNewPrivs:	1
        Seccomp:	2
        sh: can't create /etc/new: Read-only file system
        ");
        inside.argv = vec!["absent".to_owned()];
        assert!(matches!(run.container.exec(&inside), Err(Error::NoProgram { .. })));
        let mut loud = execution("yes | head -c 1000000");
        loud.max_output = 1000;
        assert_eq!(run.container.exec(&loud).unwrap().output.len(), 1000);
        assert_eq!(run.container.try_wait().unwrap(), None);
    }

    fn a_program_inside_has_its_time(bench: Bench) {
        let run = bench.start("echo; exec sleep 1000");
        let mut inside = execution("echo begun; (sleep 2000 & sleep 3000) & sleep 4000");
        inside.timeout = Duration::from_millis(300);
        let executed = run.container.exec(&inside).unwrap();
        assert_eq!(executed, Executed { exit_code: 137, output: b"begun\n".to_vec(), timed_out: true });
        let left = run.container.exec(&execution("ps -o args | grep '^sleep' ")).unwrap();
        assert_eq!(String::from_utf8(left.output).unwrap(), "sleep 1000\n");
    }

    fn a_program_that_leaves_others_behind_is_not_waited_for(bench: Bench) {
        let run = bench.start("echo; exec sleep 1000");
        let began = Instant::now();
        let executed = run.container.exec(&execution("echo hello; sleep 1000 & exit 0")).unwrap();
        assert_eq!((executed.exit_code, executed.output), (0, b"hello\n".to_vec()));
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    fn many_start_and_end_at_once(bench: Bench) {
        bench.script("echo hello");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let mut spec = bench.spec.clone();
                let (work, exe) = (&bench.work, &bench.exe);
                scope.spawn(move || {
                    for _ in 0..5 {
                        spec.scratch = work.join(format!("many{n}"));
                        let mut one = Bench { work: work.clone(), spec: spec.clone(), exe: exe.clone() };
                        assert_eq!(one.printed("echo hello"), "hello\n");
                    }
                });
            }
        });
        // Nobody is left: neither stubs nor containers, not even as zombies.
        let processes = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())
        });
        assert_eq!(processes.count(), 1);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("overlay /work") && !mounts.contains("many"), "{mounts}");
    }

    fn dropping_it_ends_it(bench: Bench) {
        let run = bench.start("setsid sleep 1000 & echo; exec sleep 1000");
        let pid = run.container.pid();
        drop(run);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    fn a_start_is_fast(bench: Bench) {
        drop(bench.printed(""));
        let began = Instant::now();
        for _ in 0..10 {
            drop(bench.start("echo; exec sleep 1000"));
        }
        println!("a start and an end: {:?}", began.elapsed() / 10);
        // Generous: the machine may be busy, and this is no release build.
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
