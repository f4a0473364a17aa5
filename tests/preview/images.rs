//! Images out of a registry: by tag, of the wrong platform, and gone.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use skep_test_support::{ARCHITECTURES, Ran, free_port, has_busybox, until};

use super::bench::{As, Bench, served, token};

/// `skep registry`, until it is dropped.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// One whose content is in the store `store` beside the project.
    fn start(bench: &Bench, port: u16, store: &str) -> Registry {
        let port_text = port.to_string();
        let mut command = bench.command(&["registry", "--port", &port_text]);
        command
            .env("SKEP_STORE", bench.beside(store))
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap();
        assert_eq!(address, format!("127.0.0.1:{port}"));
        Registry { child, port }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A project whose images go to a registry.
fn bench(who: As) -> (Bench, Registry) {
    let bench = Bench::new(who);
    let registry = Registry::start(&bench, free_port(), "registry");
    let images = format!("images = \"{}/team/{{name}}\"", registry.address());
    let probes = r#"probes = { web = [{ path = "/cgi-bin/version", count = 3, interval = "20ms" }] }"#;
    bench.configure_all(&images, probes, "token = { env = \"TOKEN\" }");
    (bench, registry)
}

/// Pushes the image with a file of this content as `tag`, out of a store that is not the preview's.
fn push(bench: &Bench, tag: &str, content: &str) {
    bench.write("root/content", content);
    let mut push = bench.command(&["push", "--tag", tag]);
    let ran = bench.ran(
        &push
            .env("SKEP_STORE", bench.beside("elsewhere"))
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// The report, with the registry's address masked.
fn failure(ran: &Ran, port: u16) -> String {
    ran.failure().replace(&format!("127.0.0.1:{port}"), "REGISTRY")
}

fn roll_out(bench: &Bench, version: &str) -> Value {
    bench.set("VERSION", version);
    bench.set("TOKEN", &token(version));
    bench.succeed(&["rollout", "preview", "--tag", version]);
    assert_eq!(bench.served(), served(version));
    bench.settled()
}

#[test]
fn an_image_of_the_other_platform() {
    if !has_busybox() {
        return;
    }
    let (bench, registry) = bench(As::Ordinary);
    push(&bench, "1", "one");
    let before = roll_out(&bench, "1");
    let recipe = std::fs::read_to_string(bench.project().join("skep.star")).unwrap();
    let [here, other] = ARCHITECTURES.map(|architecture| format!("\"linux/{architecture}\""));
    bench.write("skep.star", &recipe.replace(&here, &other));
    bench.disguise_busybox();
    push(&bench, "2", "two");
    bench.set("VERSION", "2");
    let mask = |ran: &Ran| {
        let text = failure(ran, registry.port);
        text.replace(here.trim_matches('"'), "HERE")
            .replace(other.trim_matches('"'), "OTHER")
    };
    insta::assert_snapshot!(mask(&bench.skep(&["rollout", "preview", "--tag", "2"])), @"
    exit 7
    error: the image `sha256:DIGEST` is not for HERE; it is for OTHER
    ");
    // Not even built for this machine.
    insta::assert_snapshot!(mask(&bench.skep(&["release", "preview"])), @"
    exit 2
    error: the target `web` is not built for HERE; it is built for OTHER
    ");
    assert_eq!(bench.settled(), before);
    assert_eq!(bench.served(), served("1"));
}

#[test]
fn an_image_that_is_gone_from_the_registry() {
    if !has_busybox() {
        return;
    }
    let (bench, registry) = bench(As::Caller);
    let port = registry.port;
    for version in ["1", "2", "3"] {
        push(&bench, version, version);
    }
    insta::assert_snapshot!(failure(&bench.skep(&["rollout", "preview", "--tag", "4"]), port), @"
    exit 2
    error: `REGISTRY/team/web` has no tag `4`; push it first
    ");
    let first = roll_out(&bench, "1");
    roll_out(&bench, "2");
    let third = roll_out(&bench, "3");
    let back = ["rollback", "preview", first["release"].as_str().unwrap()];
    collect(&bench);

    // A registry that does not answer, and one that has nothing.
    drop(registry);
    insta::assert_snapshot!(failure(&bench.skep(&back), port), @"
    exit 4
    error: `REGISTRY/team/web`: cannot get the manifest `sha256:DIGEST`: cannot connect: client error (Connect): tcp connect error: Connection refused (os error 111); check that `REGISTRY` is right, and that this machine reaches it
    ");
    insta::assert_snapshot!(failure(&bench.skep(&["rollout", "preview", "--tag", "2"]), port), @"
    exit 4
    error: `REGISTRY/team/web`: cannot look up the manifest `2`: cannot connect: client error (Connect): tcp connect error: Connection refused (os error 111); check that `REGISTRY` is right, and that this machine reaches it
    ");
    let empty = Registry::start(&bench, port, "empty");
    insta::assert_snapshot!(failure(&bench.skep(&back), port), @"
    exit 4
    error: the image `REGISTRY/team/web@sha256:DIGEST` is gone: `REGISTRY` has no manifest sha256:DIGEST; push it again, or take another release
    ");
    insta::assert_snapshot!(failure(&bench.skep(&["rollout", "preview", "--tag", "2"]), port), @"
    exit 2
    error: `REGISTRY/team/web` has no tag `2`; push it first
    ");
    drop(empty);
    assert_eq!(bench.settled(), third);
    assert_eq!(bench.served(), served("3"));

    // What runs was spared by the collection: it is started again without a registry, if nothing else is either.
    let supervisor = bench.supervisor();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    until("the supervisor is gone", || bench.processes().is_empty());
    assert_eq!(bench.skep(&back).code, 4);
    until("everything is ready", || {
        let status = bench.status();
        let services = status["services"].as_object().unwrap();
        let mut tasks = services
            .values()
            .flat_map(|service| service["tasks"].as_array().unwrap());
        services.len() == 2 && tasks.all(|task| task["state"] == "ready")
    });
    assert_eq!(bench.settled(), third);
    // The first one is pulled again once it can be.
    let _registry = Registry::start(&bench, port, "registry");
    bench.succeed(&back);
    assert_eq!(bench.settled(), first);
    assert_eq!(bench.served(), served("1"));
}

/// Removes from the store what nothing needs.
fn collect(bench: &Bench) {
    // What is younger than a running skep by the file system's clock is spared, with two seconds of slack.
    std::thread::sleep(Duration::from_millis(2_500));
    bench.succeed(&["gc", "--keep", "0"]);
}

#[test]
fn what_others_build_is_locked_with_its_platforms() {
    if !has_busybox() {
        return;
    }
    let (bench, registry) = bench(As::Caller);
    push(&bench, "1", "one");
    let address = registry.address();
    let web = format!("{address}/team/web");
    let lock = |arguments: &[&str]| {
        let ran = bench.skep(&[&["lock"], arguments].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.replace(&address, "REGISTRY")
    };
    let file = || std::fs::read_to_string(bench.project().join("images.lock")).unwrap();
    let read = || file().parse::<toml::Table>().unwrap();
    let stack = std::fs::read_to_string(bench.project().join("deploy/stack.yml")).unwrap();
    let with = |image: &str| {
        bench.write(
            "deploy/stack.yml",
            &stack.replacen("image: web", &format!("image: {image}"), 1),
        )
    };
    with(&format!("{web}:1"));
    insta::assert_snapshot!(failure(&bench.skep(&["lock", "--offline"]), registry.port), @"
    exit 4
    error: not in the store, and would be fetched from `REGISTRY/team/web:1`; run once without `--offline`
    ");
    assert!(!bench.project().join("images.lock").exists());
    insta::assert_snapshot!(lock(&[]), @"
    images.lock
      REGISTRY/team/web:1: new → sha256:DIGEST
    ");
    let platform = format!("linux/{}", ARCHITECTURES[0]);
    let manifest = read()[&format!("{web}:1")]["platforms"][&platform].clone();
    let manifest = manifest.as_str().unwrap();
    // A manifest says what it is for in its config, and a digest in the stack file stays what it is.
    let pinned = format!("{web}@{manifest}");
    with(&pinned);
    insta::assert_snapshot!(lock(&[]), @"
    images.lock
      REGISTRY/team/web:1: sha256:DIGEST → gone
      REGISTRY/team/web@sha256:DIGEST: new → sha256:DIGEST
    ");
    let entry = read()[&pinned].clone();
    assert_eq!(entry["digest"].as_str(), Some(manifest));
    assert_eq!(entry["platforms"][&platform].as_str(), Some(manifest));
    assert_eq!(lock(&[]), "");
    bench.release("1");
    let history = bench.json(&["history", "preview"]);
    let known = &history[0]["release"]["images"][&pinned]["platforms"];
    assert_eq!(known[&platform], manifest, "{history}");
    let other = file().replace(&platform, &format!("linux/{}", ARCHITECTURES[1]));
    bench.write("images.lock", &other);
    insta::assert_snapshot!(lock(&[]), @"
    images.lock
      REGISTRY/team/web@sha256:DIGEST: other platforms of sha256:DIGEST
    ");
    with(&format!("{web}@sha256:{}", "0".repeat(64)));
    let before = file();
    insta::assert_snapshot!(failure(&bench.skep(&["lock"]), registry.port), @"
    exit 2
    error: `REGISTRY/team/web` has no image `sha256:DIGEST`
    ");
    assert_eq!(file(), before);
}

#[test]
fn a_release_makes_again_what_its_store_lost() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    bench.release("1");
    let lose = |areas: &[&str]| {
        for area in areas {
            std::fs::remove_dir_all(bench.store().join(area)).unwrap();
        }
    };
    // What runs has its files already.
    lose(&["blobs", "exec"]);
    bench.release("2");
    lose(&["blobs", "trees", "actions"]);
    bench.release("3");
    assert_eq!(bench.skep(&["fsck"]).code, 0);
    bench.succeed(&["down", "preview", "--volumes"]);
}
