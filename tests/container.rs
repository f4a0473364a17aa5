//! Containers on the real kernel: what a long-running program sees, what it cannot do, and how it ends. The
//! program is busybox.
//!
//! A test's body runs in a world: the test starts this program again as the first process of one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep::container::{
    Container, Descriptors, Detached, Error, Execution, Exit, File, Mount, Signal, Spec, Tmpfs, detach,
};
use skep::store::Store;
use skep::tree::{Attributes, Node, TreePath, ops};

const BUSYBOX: &str = "/bin/busybox";

/// Set in the first process of a world, to its directory.
const WORLD: &str = "SKEP_TEST_WORLD";

const UID: u32 = 65532;

/// Whether to go on: without busybox only where its absence is not a failure.
fn has_busybox() -> bool {
    let here = Path::new(BUSYBOX).exists();
    let needed = std::env::var_os("SKEP_TEST_REAL").is_some();
    assert!(here || !needed, "{BUSYBOX} is missing: install busybox-static");
    if !here {
        eprintln!("skipped: {BUSYBOX} is missing (busybox-static)");
    }
    here
}

fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

fn exe() -> PathBuf {
    let exe = std::env::var_os("SKEP_TEST_EXE").map(PathBuf::from);
    exe.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_skep")))
}

/// The image's tree: busybox, its applets, and a few directories.
fn image(store: &Store) -> PathBuf {
    let file = |content: &[u8], executable| {
        let digest = store.put(content).unwrap();
        Node::File { digest, executable }
    };
    let mut parts = Vec::new();
    let mut part = |at: &str, node: Node| parts.push(ops::place(store, node, &path(at)).unwrap());
    part("bin/busybox", file(&std::fs::read(BUSYBOX).unwrap(), true));
    let list = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .unwrap();
    for applet in String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        part(&format!("bin/{applet}"), Node::Symlink("busybox".to_owned()));
    }
    part("bin/foreign", file(b"#!/bin/absent\n", true));
    part("app/file", file(b"app\n", false));
    part("data/file", file(b"data\n", false));
    part("etc/own", file(b"own\n", false));
    part(
        "etc/passwd",
        file(b"root:x:0:0:root:/:\nuser:x:65532:65532:user:/data:\n", false),
    );
    part("tmp/keep", file(b"", false));
    let root = ops::merge(store, &parts).unwrap();
    store.materialize(&root).unwrap()
}

/// A directory for a world, whose program its tests are: `(store, image)`.
struct World {
    directory: tempfile::TempDir,
    /// Keeps what the image needs from being collected.
    _store: Arc<Store>,
    pid: rustix::process::Pid,
}

impl World {
    /// Starts the test `name` of this program as the first process of a world. Both programs are handed over
    /// open: as root skep becomes a user that may not reach them by their paths.
    fn start(name: &str) -> World {
        let directory = tempfile::tempdir().unwrap();
        let open_to_all = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        };
        open_to_all(directory.path());
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        let rootfs = image(&store);
        let work = directory.path().join("work");
        std::fs::create_dir(&work).unwrap();
        open_to_all(&work);
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let skep = std::fs::File::open(exe()).unwrap();
        let tests = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        // The environment is this process's, which has threads; a shell passes it on.
        let script = format!(
            "export {WORLD}={} SKEP_TEST_EXE=/proc/1/fd/3 SKEP_TEST_ROOTFS={} INSTA_UPDATE=no; \
             exec /proc/self/fd/4 --exact {name} --nocapture",
            directory.path().display(),
            rootfs.display(),
        );
        let pid = detach(&Detached {
            stub: &exe(),
            program: Path::new(BUSYBOX),
            arguments: &["sh", "-c", &script],
            directory: store.root(),
            stdin: None,
            log: log.as_fd(),
            descriptors: &[skep.as_fd(), tests.as_fd()],
        });
        let pid = pid.unwrap();
        World {
            directory,
            _store: store,
            pid,
        }
    }

    /// Waits until its test has printed the line `ready`.
    fn await_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.log().lines().any(|line| line == "ready") {
            assert!(
                Instant::now() < deadline,
                "the world is not ready: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&self) {
        rustix::process::kill_process(self.pid, Signal::KILL).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits until the world has ended; whether its test passed, and what it printed.
    fn finish(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while rustix::process::test_kill_process(self.pid).is_ok() {
            assert!(
                Instant::now() < deadline,
                "the world does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let log = self.log();
        assert!(log.contains("test result: ok. 1 passed"), "{log}");
    }
}

macro_rules! container_tests {
    ($($(#[$attribute:meta])* fn $name:ident($bench:ident: Bench) $body:block)*) => {
        $($(#[$attribute])* #[test] fn $name() {
            if !has_busybox() {
                return;
            }
            match std::env::var_os(WORLD) {
                None => World::start(stringify!($name)).finish(),
                Some(directory) => {
                    #[allow(unused_mut)]
                    let mut $bench = Bench::new(Path::new(&directory));
                    $body
                }
            }
        })*
    };
}

/// What a test has in its world.
struct Bench {
    work: PathBuf,
    spec: Spec,
    exe: PathBuf,
}

#[derive(Debug)]
struct Run {
    container: Container,
    output: std::io::PipeReader,
}

impl Bench {
    fn new(directory: &Path) -> Bench {
        let work = directory.join("work");
        let mut spec = Spec {
            rootfs: std::env::var_os("SKEP_TEST_ROOTFS").unwrap().into(),
            scratch: work.join("scratch"),
            hostname: "one".to_owned(),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            uid: UID,
            gid: UID,
            ..Spec::default()
        };
        let own = |mode| Attributes {
            mode,
            uid: Some(UID),
            gid: Some(UID),
            ..Attributes::default()
        };
        spec.metadata.0 = BTreeMap::from([
            (path("data"), own(Some(0o700))),
            (path("data/file"), own(Some(0o600))),
            (path("etc/own"), own(None)),
            (
                path("tmp"),
                Attributes {
                    mode: Some(0o1777),
                    ..Attributes::default()
                },
            ),
        ]);
        Bench {
            work,
            spec,
            exe: std::env::var_os("SKEP_TEST_EXE").unwrap().into(),
        }
    }

    fn script(&mut self, script: &str) {
        self.spec.argv = ["sh", "-c", script].map(str::to_owned).into();
    }

    fn try_start(&self) -> Result<Run, Error> {
        let (output, pipe) = std::io::pipe().unwrap();
        let descriptors = Descriptors {
            stdout: pipe.as_fd(),
            stderr: pipe.as_fd(),
            network: None,
        };
        let container = Container::start(&self.exe, &self.spec, descriptors)?;
        Ok(Run { container, output })
    }

    /// Starts a script that prints a line when it is ready, and waits for that.
    fn start(&mut self, script: &str) -> Run {
        self.script(script);
        let mut run = self.try_start().unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            assert_eq!(
                run.output.read(&mut byte).unwrap(),
                1,
                "it ended: {:?}",
                run.container.wait()
            );
        }
        run
    }

    /// How a script ends, and what it prints.
    fn run(&mut self, script: &str) -> (Exit, String) {
        self.script(script);
        let mut run = self.try_start().unwrap();
        let mut text = String::new();
        run.output.read_to_string(&mut text).unwrap();
        (run.container.wait().unwrap(), text)
    }

    /// What a script that is expected to succeed prints.
    fn printed(&mut self, script: &str) -> String {
        let (exit, text) = self.run(script);
        assert_eq!(exit, code(0), "{text}");
        text
    }
}

fn code(code: i32) -> Exit {
    Exit {
        code: Some(code),
        signal: None,
    }
}

fn execution(script: &str) -> Execution {
    Execution {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        cwd: TreePath::root(),
        timeout: Duration::from_secs(20),
        max_output: 1 << 16,
    }
}

container_tests! {
    fn the_program_is_the_user_of_the_image(bench: Bench) {
        bench.spec.cwd = path("made/here");
        let printed = bench.printed(
            "id; hostname; umask; pwd; env | sort; echo pid $$; ls /; ls /dev; \
             stat -c '%u %g %a %n' /data /data/file /tmp /bin/busybox; echo /proc/self/fd/*; tty || true; cat",
        );
        insta::assert_snapshot!(printed, @r"
        uid=65532(user) gid=65532
        one
        0022
        /made/here
        PATH=/bin
        PWD=/made/here
        SHLVL=1
        pid 1
        app
        bin
        data
        dev
        etc
        made
        proc
        tmp
        fd
        full
        null
        ptmx
        pts
        random
        shm
        stderr
        stdin
        stdout
        urandom
        zero
        65532 65532 700 /data
        65532 65532 600 /data/file
        65532 65532 1777 /tmp
        65532 65532 755 /bin/busybox
        /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3
        not a tty
        ");
    }

    fn only_what_is_the_users_can_be_written(bench: Bench) {
        let printed = bench.printed(
            "for f in /new /etc/new /etc/passwd /app/file /bin/busybox /dev/new /proc/sys/net/ipv4/ip_forward; do \
               echo x 2>/dev/null > $f && echo $f is written; chmod 777 $f 2>/dev/null && echo $f has a mode; \
             done; rm /app/file 2>/dev/null && echo removed; mkdir /etc/d 2>/dev/null && echo made; \
             for f in /data/new /data/file /tmp/new /etc/own /dev/shm/new; do echo x > $f || echo $f is not; done; \
             mkdir /data/d; mv /data/new /data/d; rm /tmp/keep; ls /data/d; cat /data/file /etc/own; echo done",
        );
        assert_eq!(printed, "new\nx\nx\ndone\n");
        // The store is as it was.
        let kept = std::fs::read_to_string(bench.spec.rootfs.join("data/file")).unwrap();
        assert_eq!(kept, "data\n");
    }

    fn what_was_written_outlives_a_restart(bench: Bench) {
        bench.printed("echo kept > /data/kept; chmod 750 /data; ln -s /etc/own /data/link; echo own > /etc/own");
        let printed = bench.printed("cat /data/kept; stat -c %a /data; cat /data/link");
        assert_eq!(printed, "kept\n750\nown\n");
        bench.spec.scratch = bench.work.join("other");
        assert_eq!(bench.printed("ls /data; stat -c %a /data"), "file\n700\n");
    }

    fn a_link_of_an_earlier_run_leads_nowhere(bench: Bench) {
        bench.spec.uid = 0;
        let outside = bench.work.join("outside");
        std::fs::create_dir(&outside).unwrap();
        bench.printed(&format!("rm -r /app /tmp; ln -s {0} /app; ln -s {0}/file /tmp", outside.display()));
        bench.spec.files.push(File { at: path("app/file"), content: b"in".to_vec(), mode: 0o444 });
        bench.spec.files.push(File { at: path("tmp"), content: b"in".to_vec(), mode: 0o444 });
        bench.spec.cwd = path("app/cwd");
        bench.script("true");
        let error = bench.try_start().unwrap_err().to_string();
        assert!(error.contains("create /app/"), "{error}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    fn uid_0_may_write_everything_of_its_own(bench: Bench) {
        (bench.spec.uid, bench.spec.gid) = (0, 0);
        let printed = bench.printed(
            "id -u; echo x > /etc/new; rm /app/file; chmod 0 /data/file; cat /data/file; chown 0:0 /data; \
             mount -t tmpfs none /tmp 2>/dev/null && echo mounted; umount /proc 2>/dev/null && echo unmounted; \
             hostname other 2>/dev/null && echo renamed; mknod /tmp/n c 1 3 2>/dev/null && echo device; \
             ip link set lo down 2>/dev/null && echo down; echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward && echo set; exit 0",
        );
        assert_eq!(printed, "0\ndata\n");
    }

    fn a_read_only_root_is_read_only(bench: Bench) {
        bench.spec.read_only = true;
        bench.spec.tmpfs.push(Tmpfs { at: path("run/scratch"), size: 1 << 20, mode: 0o1777 });
        let printed = bench.printed(
            "for f in /data/new /tmp/new /etc/own /data/file; do echo x 2>/dev/null > $f && echo $f is written; done; \
             stat -c %a /run/scratch; dd if=/dev/zero of=/run/scratch/f bs=1M count=2 2>/dev/null || stat -c %s /run/scratch/f",
        );
        assert_eq!(printed, "1777\n1048576\n");
        bench.spec.uid = 0;
        assert_eq!(bench.printed("echo x 2>/dev/null > /etc/new || echo no"), "no\n");
    }

    fn volumes_and_binds_are_mounted(bench: Bench) {
        for name in ["volume", "fixed"] {
            std::fs::create_dir(bench.work.join(name)).unwrap();
            std::fs::write(bench.work.join(name).join("file"), name).unwrap();
        }
        let mount = |from: &str, at: &str, read_only| Mount { from: bench.work.join(from), at: path(at), read_only };
        bench.spec.mounts = vec![
            mount("volume", "data/volume", false),
            mount("fixed", "mnt/fixed", true),
            mount("fixed/file", "etc/some.conf", true),
        ];
        let printed = bench.printed(
            "cat /data/volume/file /mnt/fixed/file /etc/some.conf; echo; echo new > /data/volume/new; \
             stat -c %u /data/volume; echo x 2>/dev/null > /mnt/fixed/new || echo no; echo x 2>/dev/null > /etc/some.conf || echo no",
        );
        assert_eq!(printed, "volumefixedfixed\n65532\nno\nno\n");
        assert_eq!(std::fs::read_to_string(bench.work.join("volume/new")).unwrap(), "new\n");
        assert_eq!(bench.printed("cat /data/volume/new"), "new\n");
        bench.spec.mounts.push(Mount { from: bench.work.join("absent"), at: path("mnt"), read_only: true });
        bench.script("");
        let error = bench.try_start().unwrap_err().to_string();
        assert!(error.contains("work/absent: No such file"), "{error}");
    }

    fn secrets_are_files_in_memory_alone(bench: Bench) {
        let secret = |at: &str, mode| File { at: path(at), content: b"correct horse".to_vec(), mode };
        bench.spec.files = vec![secret("run/secrets/key", 0o400), secret("etc/hosts", 0o644)];
        let mut run = bench.start(
            "stat -c '%a %u' /run/secrets/key; cat /run/secrets/key; rm /run/secrets/key 2>/dev/null && echo gone; \
             chmod 444 /run/secrets/key 2>/dev/null && echo mode; cat /etc/hosts; echo; exec sleep 1000",
        );
        let mut text = [0; 27];
        run.output.read_exact(&mut text).unwrap();
        assert_eq!(String::from_utf8_lossy(&text), "correct horsecorrect horse\n");
        let found = std::process::Command::new("grep").args(["-rq", "correct horse"]).arg(&bench.work).status();
        assert_eq!(found.unwrap().code(), Some(1), "it is on the disk");
        for process in [run.container.pid().as_raw_pid().to_string().as_str(), "self"] {
            let cmdline = std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap();
            assert!(!cmdline.contains("correct"), "{cmdline}");
        }
    }

    fn nothing_of_the_host_is_in_sight(bench: Bench) {
        let work = bench.work.display().to_string();
        for file in ["/etc/shadow", "/root", "/usr", "/sys", "/var", &work, "/proc/1/root/usr"] {
            bench.printed(&format!("test ! -e {file}"));
        }
        assert_eq!(bench.printed("cd /proc; echo [0-9]*"), "1\n");
        assert_eq!(bench.printed("ip -o link | cut -d: -f2; ip -o addr | grep -c 127.0.0.1"), " lo\n1\n");
        assert_eq!(bench.printed("cat /proc/net/route | wc -l; ls /dev/mqueue /sys 2>/dev/null | wc -l"), "1\n0\n");
    }

    fn new_privileges_are_refused(bench: Bench) {
        for call in ["mount -t tmpfs none /tmp", "unshare -U true", "unshare -r true", "chroot / true", "umount /proc", "mknod /tmp/n c 1 3"] {
            bench.printed(&format!("if {call} 2>&1; then exit 1; fi"));
        }
        for line in bench.printed("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status").lines() {
            let value = line.split_whitespace().last().unwrap();
            let expected = match line.split(':').next().unwrap() {
                "NoNewPrivs" => "1",
                "Seccomp" => "2",
                _ => "0000000000000000",
            };
            assert_eq!(value, expected, "{line}");
        }
    }

    fn low_ports_and_ping_are_allowed(bench: Bench) {
        let run = bench.start("echo; exec nc -l -p 80 -e echo hello");
        let executed = run.container.exec(&execution(
            "until netstat -ltn | grep -q :80; do sleep 0.05; done; nc 127.0.0.1 80; cat /proc/sys/net/ipv4/ping_group_range",
        )).unwrap();
        assert_eq!(String::from_utf8(executed.output).unwrap(), "hello\n65532\t65532\n");
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
        assert_eq!(executed, skep::container::Executed { exit_code: 137, output: b"begun\n".to_vec(), timed_out: true });
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
    const NAME: &str = "everything_ends_with_the_world";
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
            scope.spawn(|| running[0].container.exec(&execution("sleep 1000")));
            while running[0]
                .container
                .exec(&execution("pgrep -f 'sh -c sleep'"))
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
    insta::assert_snapshot!(printed.replace(all, "all"), @"");
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
