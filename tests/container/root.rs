//! What a program in a container sees, and what it can write.

use std::io::Read as _;

use skep::container::{File, Mount, Tmpfs};

use crate::bench::*;

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
}
