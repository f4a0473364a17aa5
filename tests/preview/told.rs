//! Who is told of releases, and of what: also of those that did not begin, and never of a secret.

use serde_json::{Value, json};
use skep_test_support::{has_busybox, until};

use super::bench::{As, Bench};

const TELL: &str = r#"secret_env = ["CRASH"]
notify = [{ command = ["sh", "-c", "cat > told.json"] }]"#;

/// What was told since the last look.
fn told(bench: &Bench) -> Option<Value> {
    let file = bench.project().join("told.json");
    let text = std::fs::read_to_string(&file).ok()?;
    std::fs::remove_file(file).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

fn refused(bench: &Bench, arguments: &[&str], code: i32) -> Value {
    let ran = bench.skep(arguments);
    assert_eq!(ran.code, code, "{}", ran.stderr);
    let told = told(bench).expect("somebody is told");
    assert_eq!(told["outcome"], "refused", "{told}");
    assert_eq!(told["changed"], false, "{told}");
    told
}

#[test]
fn refusals_are_told_with_what_is_in_the_way_and_without_secrets() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    bench.configure(TELL);
    bench.set("CRASH", "very-secret");
    let stack = std::fs::read_to_string(bench.project().join("deploy/stack.yml")).unwrap();
    bench.edit_stack("image: web", "image: busybox:1");
    let told_of = refused(&bench, &["release", "preview"], 7);
    let lines = told_of["lines"].as_array().unwrap();
    let is_named = |line: &Value| line.as_str().unwrap().contains("mutable-image: `busybox:1`");
    assert!(lines.iter().any(is_named), "{told_of}");
    // A value is quoted where it makes no sense.
    bench.write("deploy/stack.yml", &stack);
    bench.edit_stack("replicas: ${REPLICAS:-2}", "replicas: ${CRASH}");
    let told_of = refused(&bench, &["release", "preview"], 2);
    let reason = told_of["reason"].as_str().unwrap();
    assert!(reason.contains("(secret)"), "{reason}");
    assert!(!told_of.to_string().contains("very-secret"), "{told_of}");
    // Whoever only looks tells nobody.
    bench.skep(&["plan", "preview"]);
    bench.skep(&["status", "preview"]);
    bench.skep(&["lint", "preview"]);
    assert_eq!(told(&bench), None);
}

#[test]
fn what_others_left_half_way_is_told_when_it_is_undone() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::new(As::Caller);
    bench.release("1");
    bench.configure(&format!(
        "{TELL}\nmigrate = {{ service = \"web\", command = [\"/migrate\", \"up\", \"hang\"] }}"
    ));
    let mut rollout = bench
        .command(&["release", "preview", "--quiet"])
        .env("VERSION", "2")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the migration runs", || {
        let mut processes = bench.processes().into_iter();
        processes.any(|process| process.command.contains("/migrate up hang"))
    });
    let first = bench.json(&["history", "preview"])[1]["release"]["id"].clone();
    let told_of = refused(&bench, &["rollback", "preview"], 7);
    assert_eq!(told_of["release"], first, "{told_of}");
    assert!(told_of["reason"].as_str().unwrap().contains("another rollout"));
    rollout.kill().unwrap();
    rollout.wait().unwrap();
    assert_eq!(told(&bench), None);
    bench.succeed(&["abort", "preview"]);
    let told_of = told(&bench).expect("somebody is told");
    assert_eq!(told_of["outcome"], "succeeded", "{told_of}");
    assert_eq!(told_of["release"], first, "{told_of}");
    let told_of = refused(&bench, &["resume", "preview"], 2);
    assert_eq!(told_of["release"], json!(null), "{told_of}");
}
