//! Servers that were not made for skep, out of the host's packages: what they need of a kernel is there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep::container::{Container, Mount, Signal};
use skep_test_support::has;

use crate::bench::*;

/// The newest Postgres of Debian's.
fn postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions.map(|entry| entry.path().join("bin")).max()
}

impl Bench {
    /// Puts the host's programs and libraries beside busybox.
    fn with_host_programs(&mut self, path_also: &str) {
        for directory in ["usr", "lib", "lib64"] {
            let from = PathBuf::from("/").join(directory);
            if from.exists() {
                let (at, read_only) = (path(directory), true);
                self.spec.mounts.push(Mount { from, at, read_only });
            }
        }
        self.spec.env = environment(path_also);
    }
}

fn environment(path_also: &str) -> Vec<(String, String)> {
    vec![("PATH".to_owned(), format!("/bin:/usr/bin:{path_also}"))]
}

/// Runs `script` inside until it succeeds; what it prints then.
fn eventually(container: &Container, script: &str, path_also: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut execution = execution(script);
        execution.env = environment(path_also);
        let executed = container.exec(&execution).unwrap();
        let printed = String::from_utf8_lossy(&executed.output).into_owned();
        if executed.exit_code == 0 {
            return printed;
        }
        assert!(Instant::now() < deadline, "{printed}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

container_tests! {
    fn postgres_keeps_its_data_in_a_volume(bench: Bench) {
        let bin = postgres();
        if !has(bin.as_deref().is_some_and(Path::exists), "postgresql") {
            return;
        }
        let bin = bin.unwrap().display().to_string();
        bench.with_host_programs(&bin);
        let volume = bench.work.join("volume");
        std::fs::create_dir(&volume).unwrap();
        bench.spec.mounts.push(Mount { from: volume, at: path("data"), read_only: false });
        let server = "test -e /data/pg || initdb --no-sync --auth=trust --username=user -D /data/pg; \
                      exec postgres -D /data/pg -c listen_addresses=127.0.0.1 -k /tmp -c fsync=off";
        let ask = |sql: &str| format!("psql -h 127.0.0.1 -U user -d postgres -qtAc '{sql}' 2>/dev/null");
        for expected in ["1\n", "2\n"] {
            let run = bench.start(&format!("echo; {server}"));
            let sql = "create table if not exists t(n int); insert into t values(1); select count(*) from t";
            assert_eq!(eventually(&run.container, &ask(sql), &bin), expected);
            run.container.signal(Signal::INT).unwrap();
            assert_eq!(run.container.wait().unwrap(), code(0));
        }
    }

    fn redis_answers(bench: Bench) {
        if !has(Path::new("/usr/bin/redis-server").exists(), "redis-server") {
            return;
        }
        bench.with_host_programs("");
        let run = bench.start("echo; exec redis-server --bind 127.0.0.1 --dir /data --save '' --appendonly yes");
        assert_eq!(eventually(&run.container, "redis-cli set key value", ""), "OK\n");
        assert_eq!(eventually(&run.container, "redis-cli get key", ""), "value\n");
        run.container.signal(Signal::TERM).unwrap();
        assert_eq!(run.container.wait().unwrap(), code(0));
    }
}
