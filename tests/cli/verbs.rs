//! What each verb does when all is well.

use skep_test_support::has_busybox;

use super::bench::Bench;

/// An image of one small action over one source file, where there is a busybox.
fn small() -> Option<Bench> {
    if !has_busybox() {
        return None;
    }
    let bench = Bench::with_busybox("single(\"api\", sh(\"cp /in/file /out/file\", [source([\"file\"])]))");
    bench.write("file", "content\n");
    Some(bench)
}

#[test]
fn digests_go_to_stdout_and_the_rest_to_stderr() {
    let Some(bench) = small() else { return };
    let ran = bench.skep(&["build"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"api  sha256:b05847ca46e81db46c8317d8a1b6b928a3c1b8f42ae20bcac9a6c04aae1f0c71");
    assert!(
        ran.stderr.contains("ran api@linux/amd64:sh in "),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains('\x1b'), "no colours into a pipe");
    let quiet = bench.skep(&["build", "--quiet"]);
    assert_eq!((quiet.stdout, quiet.stderr), (ran.stdout, String::new()));
}

#[test]
fn json_has_every_digest_and_size() {
    let Some(bench) = small() else { return };
    insta::assert_snapshot!(bench.succeed(&["build", "--json"]), @r#"{"images":{"api":{"digest":"sha256:b05847ca46e81db46c8317d8a1b6b928a3c1b8f42ae20bcac9a6c04aae1f0c71","platforms":{"linux/amd64":{"digest":"sha256:a5c8e49a6f9271df9b2ce9e441b2ec26d4b2976fc2a39a274e426424f471ae16","size":741,"layers":[{"digest":"sha256:433071eae32c6d5dd1d6f5503e7806b619e490826953a8a3b7fc82684cb90fb7","diff_id":"sha256:cbb5189a94ef56c07e443763358e2e290700bb7b741c80d151a2a795b7479dc2","size":96}]}}}}}"#);
}

#[test]
fn what_was_built_is_not_built_again() {
    let Some(bench) = small() else { return };
    assert_eq!(bench.skep(&["build", "--json"]).outcomes(), (4, 0, 0));
    assert_eq!(bench.skep(&["build", "--json"]).outcomes(), (0, 4, 0));
    // What the action makes of it is the same, and so is everything after it.
    bench.rewrite("single(\"api\", sh(\"head -c 8 /in/file > /out/file\", [source([\"file\"])]))");
    assert_eq!(bench.skep(&["build", "--json"]).outcomes(), (1, 3, 0));
}

#[test]
fn an_untracked_file_counts_and_is_named() {
    let bench =
        Bench::new("target(\"api\", [oci_image(\"linux/arm64\", layers = [layer(source([\"file\"]))])])");
    bench.write("file", "content\n");
    bench.git(&["init", "--quiet"]);
    bench.git(&["add", "skep.toml", "skep.star"]);
    let ran = bench.skep(&["build"]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stderr.contains("1 file is not tracked by git"),
        "{}",
        ran.stderr
    );
    bench.write(".gitignore", "file\n");
    let ran = bench.skep(&["build"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("no file of the project matches `file`"),
        "{}",
        ran.stderr
    );
}

/// `skep registry` on a free port, until it is dropped.
pub struct Registry {
    child: std::process::Child,
    address: String,
}

impl Registry {
    pub fn start(bench: &Bench) -> Registry {
        let mut child = bench
            .command(&["registry", "--port", "0"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let address = std::io::BufRead::lines(stdout).next().unwrap().unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        Registry { child, address }
    }

    /// Where images go.
    pub fn team(&self) -> String {
        format!("{}/team", self.address)
    }

    fn stop(mut self) {
        assert_eq!(interrupt(&mut self.child), Some(0));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a child as Ctrl-C does, and gives its exit code.
fn interrupt(child: &mut std::process::Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    child.wait().unwrap().code()
}

/// What is younger than a running skep by the file system's clock is spared by a collection, with two seconds
/// of slack.
fn grow_old() {
    std::thread::sleep(std::time::Duration::from_millis(2_500));
}

#[test]
fn a_push_sends_what_is_lacking_and_moves_no_tag() {
    let Some(bench) = small() else { return };
    let server = Bench::empty();
    let registry = Registry::start(&server);
    let to = registry.team();
    let push = |arguments: &[&str]| bench.skep(&[&["push", "--to", &to], arguments].concat());
    let first = push(&["--tag", "v1"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let digest = bench
        .succeed(&["build"])
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned();
    assert_eq!(first.stdout, format!("{to}/api:v1@{digest}\n"));
    let again = push(&["--tag", "v1", "--json"]);
    assert!(again.stdout.contains("\"uploaded\":0"), "{}", again.stdout);
    bench.write("file", "other\n");
    let taken = push(&["--tag", "v1"]);
    assert_eq!(taken.code, 7);
    assert!(
        taken.stderr.contains("is there already and names"),
        "{}",
        taken.stderr
    );
    assert_eq!(push(&["--tag", "v2"]).code, 0);
    registry.stop();
    let gone = push(&["--tag", "v3"]);
    assert_eq!(gone.code, 4, "{}", gone.stderr);
}

#[test]
fn a_push_is_tagged_with_the_revision() {
    let Some(bench) = small() else { return };
    let server = Bench::empty();
    let registry = Registry::start(&server);
    let to = format!("{}/app-{{name}}", registry.team());
    let push = || bench.skep(&["push", "--to", &to]);
    let without = push();
    assert_eq!(without.code, 2);
    assert!(without.stderr.contains("give `--tag TAG`"), "{}", without.stderr);
    bench.git(&["init", "--quiet"]);
    bench.git(&["add", "--all"]);
    bench.git(&["commit", "--quiet", "-m", "all"]);
    let revision = bench.git(&["rev-parse", "HEAD"])[..12].to_owned();
    let clean = push();
    assert!(
        clean.stdout.contains(&format!("/app-api:{revision}@")),
        "{clean:?}"
    );
    bench.write("file", "other\n");
    let dirty = push();
    let tag = dirty
        .stdout
        .split(['@', ':'])
        .nth(2)
        .unwrap_or_default()
        .to_owned();
    assert!(
        tag.starts_with(&format!("{revision}-dirty-")) && tag.len() == 12 + 7 + 8,
        "{dirty:?}"
    );
    assert_eq!(push().stdout, dirty.stdout);
}

#[test]
fn what_the_embedded_registry_holds_is_not_collected() {
    let Some(bench) = small() else { return };
    let server = Bench::empty();
    let registry = Registry::start(&server);
    let to = registry.team();
    bench.succeed(&["push", "--to", &to, "--tag", "v1"]);
    registry.stop();
    let held = server.blobs().len();
    assert!(held >= 4, "an index, a manifest, a config and a layer");
    grow_old();
    server.succeed(&["gc", "--keep", "0"]);
    assert_eq!(server.blobs().len(), held);
    let registry = Registry::start(&server);
    let to = registry.team();
    let again = bench.succeed(&["push", "--to", &to, "--tag", "v1", "--json"]);
    assert!(again.contains("\"uploaded\":0"), "{again}");
}

#[test]
fn garbage_is_collected_and_made_again() {
    let Some(bench) = small() else { return };
    let digest = bench.succeed(&["build"]);
    grow_old();
    let report = bench.succeed(&["gc", "--keep", "0"]);
    // Four actions ran, and the image is known by two digests.
    assert!(report.starts_with("removed 6 results"), "{report}");
    assert!(bench.blobs().is_empty());
    assert_eq!(bench.succeed(&["build"]), digest);
}

#[test]
fn an_interrupt_ends_everything_and_records_nothing() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::with_busybox("single(\"api\", sh(\"echo x > /out/x; sleep 600\"))");
    let mut child = bench
        .command(&["build", "--json"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr);
    assert!(lines.any(|line| line.unwrap().contains("\"started\"")));
    assert_eq!(interrupt(&mut child), Some(130));
    assert_eq!(
        std::fs::read_dir(bench.store().join("actions")).unwrap().count(),
        0
    );
}
