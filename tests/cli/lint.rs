//! Lints from outside: what is found, what it leads to, and that nothing is built or touched before it is mended.

use super::bench::Bench;

const STACK: &str = "services:
  api:
    image: api
    environment: {API_TOKEN: hunter2, LEVEL: '${LEVEL}'}
    healthcheck: {test: [CMD, /api]}
  worker:
    image: worker
    deploy: {replicas: 2}
";

const CONFIG: &str = "[project]
name = \"bench\"

[environments.preview]
target = \"preview\"
stack = \"deploy/stack.yml\"
env_files = [\"preview.env\"]
rules = { singletons = [\"worker\"] }
";

/// Its recipe is none: whoever comes to read it fails otherwise.
fn bench(more: &str) -> Bench {
    let bench = Bench::new("fail(\"the recipe was read\")");
    bench.write("skep.toml", &format!("{CONFIG}{more}"));
    bench.write("deploy/stack.yml", STACK);
    bench.write("preview.env", "LEVEL=debug\nLEVLE=debug\n");
    bench
}

fn allowed(lint: &str, until: &str) -> String {
    format!(
        "[[environments.preview.allow]]\nlint = \"{lint}\"\nreason = \"two are fine here\"\nuntil = {until}\n"
    )
}

#[test]
fn findings_go_to_stdout_and_blocking_ones_refuse() {
    let ran = bench("").skep(&["lint", "preview"]);
    insta::assert_snapshot!(ran.stdout, @"
    error: deploy/stack.yml:8:14: singleton: `worker` runs once at most, and here 2 times; write `replicas: 1`
        because a scheduler that ran twice during an update sent every message twice
    warning: deploy/stack.yml:4:19: plain-secret: `API_TOKEN` of `api` holds a secret in the clear; make it a secret, and give `api` its file: `API_TOKEN_FILE: /run/secrets/…`
        because whoever may look at a service, its image or the stack file reads what is in its environment
    warning: preview.env:2:1: unread-variable: nothing in `deploy/stack.yml` reads `LEVLE`; give it to a service with `LEVLE: ${LEVLE}`, or remove it
        because a setting that nothing reads is a typing error or a lost wire
    the images of `worker` are not known yet; the next release judges them
    ");
    insta::assert_snapshot!(ran.failure(), @"
    exit 7
    error: 1 finding blocks a release to `preview`
    ");
    let json = bench("").skep(&["lint", "preview", "--json"]);
    assert_eq!(json.code, 7);
    insta::assert_snapshot!(json.stdout, @r#"{"findings":[{"lint":"singleton","level":"block","place":"deploy/stack.yml:8:14","service":"worker","what":"`worker` runs once at most, and here 2 times","remedy":"write `replicas: 1`","reason":"a scheduler that ran twice during an update sent every message twice"},{"lint":"plain-secret","level":"warn","place":"deploy/stack.yml:4:19","service":"api","what":"`API_TOKEN` of `api` holds a secret in the clear","remedy":"make it a secret, and give `api` its file: `API_TOKEN_FILE: /run/secrets/…`","reason":"whoever may look at a service, its image or the stack file reads what is in its environment"},{"lint":"unread-variable","level":"warn","place":"preview.env:2:1","service":null,"what":"nothing in `deploy/stack.yml` reads `LEVLE`","remedy":"give it to a service with `LEVLE: ${LEVLE}`, or remove it","reason":"a setting that nothing reads is a typing error or a lost wire"}],"unjudged":["worker"]}"#);
}

#[test]
fn nothing_is_built_while_something_blocks() {
    let bench = bench("");
    let ran = bench.skep(&["release", "preview"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 7
    error: `preview` is left as it is: 1 finding blocks it; `skep lint preview` says why
    deploy/stack.yml:8:14: singleton: `worker` runs once at most, and here 2 times; write `replicas: 1`
    ");
    assert_eq!(bench.skep(&["preview"]).failure(), ran.failure());
    // What is not refused gets as far as the recipe.
    bench.write(
        "skep.toml",
        &format!("{CONFIG}{}", allowed("singleton", "9999-12-31")),
    );
    let ran = bench.skep(&["release", "preview"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("the recipe was read"), "{}", ran.stderr);
}

#[test]
fn a_permission_holds_until_its_day() {
    let ran = bench(&allowed("singleton", "9999-12-31")).skep(&["lint", "preview"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stdout.contains("error: "), "{}", ran.stdout);
    let ran = bench(&allowed("singleton", "2026-01-31")).skep(&["lint", "preview"]);
    assert_eq!(ran.code, 7);
    let expired = "skep.toml:10:8: expired-allow: `singleton` was allowed until 2026-01-31";
    assert!(ran.stdout.contains(expired), "{}", ran.stdout);
    insta::assert_snapshot!(bench(&allowed("singelton", "9999-12-31")).skep(&["lint", "preview"]).failure(), @"
    exit 2
    error: skep.toml:10:8: `singelton` is no lint; did you mean `singleton`?
    ");
}

#[test]
fn another_target_is_judged_by_its_own_levels() {
    let allow = allowed("singleton", "9999-12-31");
    let ran = bench(&allow).skep(&["lint", "preview", "--target", "swarm"]);
    assert_eq!(ran.code, 7);
    assert!(
        ran.stdout.contains("error: deploy/stack.yml:4:19: plain-secret"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("stop-grace"), "{}", ran.stdout);
    let ran = bench(&allow).skep(&["lint", "preview", "--target", "moon"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("expected `preview` or `swarm`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn secrets_and_stack_files_are_judged_by_what_git_has() {
    let bench = bench(&allowed("singleton", "9999-12-31"));
    bench.write(
        "deploy/stack.yml",
        &format!("{STACK}secrets: {{key: {{file: key.txt}}}}\n"),
    );
    bench.write("deploy/key.txt", "hunter2");
    bench.git(&["init", "--quiet"]);
    bench.git(&["add", "deploy/key.txt"]);
    let ran = bench.skep(&["lint", "preview"]);
    assert_eq!(ran.code, 7);
    for found in [
        "`deploy/key.txt`, the secret `key`, is in git",
        "`deploy/stack.yml` is not in git",
    ] {
        assert!(ran.stdout.contains(found), "{}", ran.stdout);
    }
    bench.git(&["rm", "--quiet", "--cached", "deploy/key.txt"]);
    bench.git(&["add", "deploy/stack.yml"]);
    let ran = bench.skep(&["lint", "preview"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stdout.contains("git"), "{}", ran.stdout);
}

#[test]
fn the_example_has_nothing_to_be_found() {
    let bench = Bench::empty();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/honeydue");
    assert_eq!(
        bench.succeed(&["-C", example, "lint", "preview"]),
        "nothing found\n"
    );
}
