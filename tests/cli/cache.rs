//! The compile cache from outside, with a shell script for a compiler: what is lost, killed or full makes no result wrong.

use std::os::unix::fs::chown;
use std::process::Stdio;

use skep_test_support::{Random, has_busybox};

use super::bad_input::on_a_disk_of_its_own;
use super::bench::Bench;

/// An account that is not the tests'.
const USER: u32 = 65533;

/// An action over a toolchain whose `go` is `script`. skep takes it for one that runs the compiler alone, because the shell
/// stands among the sources.
fn bench(script: &str) -> Bench {
    let bench = Bench::with_busybox("");
    bench.write("VERSION", "go1.25.5\n");
    bench.write_program("go", &format!("#!/src/bin/busybox sh\nPATH=/src/bin\n{script}"));
    rebuild(&bench, "one");
    bench
}

/// A recipe whose one action differs for each `tag`.
fn rebuild(bench: &Bench, tag: &str) {
    bench.rewrite(&format!(
        r#"
go = merge(source(["go"]).at("bin"), source(["VERSION"]))
single("api", action(
    "compile",
    argv = ["/go/bin/go", "build", "-buildvcs=false", "-tags={tag}", "-o", "/out/"],
    inputs = {{"/go": go, "/src": tools}},
    outputs = ["/out"],
    cwd = "/src",
    env = {{"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}},
    compile_cache = "/go",
))
"#
    ));
}

/// Functions of a shell that speak for `go`: `ask` with lines for the cache, whose answers go to `/tmp/answers`.
const SPEAK: &str = r#"
ask() { { cat; echo '{"ID":99,"Command":"close"}'; } | $GOCACHEPROG > /tmp/answers; }
get() { echo '{"ID":1,"Command":"get","ActionID":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}'; }
put() {
    echo '{"ID":2,"Command":"put","ActionID":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","OutputID":"'$1'","BodySize":'$2'}'
    echo "\"$3\""
}
# The bytes "made", under their SHA-256.
made() { put 6giQaXp3rwouBUzM7Fh8ikL+tc8453jGxuKpa/uUXAs= 4 bWFkZQ==; }
path() { sed -n 's/.*"ID":'$1',.*"DiskPath":"\([^"]*\)".*/\1/p' /tmp/answers; }
"#;

/// What the one event of the compile cache says: found, missing, stored.
fn counts(stderr: &str) -> Option<(u64, u64, u64)> {
    let mut events = stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let event = events.find(|event| event["event"] == "compiled")?;
    let count = |name: &str| event[name].as_u64().unwrap();
    Some((count("found"), count("missing"), count("stored")))
}

/// Uses the entry if there is one, and else makes it.
fn user_of_the_cache() -> String {
    format!(
        "{SPEAK}\nget | ask\nif [ -z \"$(path 1)\" ]; then made | ask; cat $(path 2) > /out/x; else cat $(path 1) > /out/x; fi\n"
    )
}

#[test]
fn an_entry_outlives_its_action_and_is_in_no_key() {
    if !has_busybox() {
        return;
    }
    let bench = bench(&user_of_the_cache());
    let first = bench.skep(&["build", "--json"]);
    assert_eq!(
        (first.code, counts(&first.stderr)),
        (0, Some((0, 1, 1))),
        "{}",
        first.stderr
    );
    rebuild(&bench, "two");
    let second = bench.skep(&["build", "--json"]);
    assert_eq!(
        (second.code, counts(&second.stderr)),
        (0, Some((1, 0, 0))),
        "{}",
        second.stderr
    );
    let report = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(report(&first.stdout), report(&second.stdout), "the same bytes");
    assert_eq!(bench.skep(&["fsck"]).code, 0);
    // Without the cache the same action has the same key: nothing runs.
    std::fs::remove_dir_all(bench.store().join("compiled")).unwrap();
    assert_eq!(bench.skep(&["build", "--json"]).outcomes().0, 0);
}

#[test]
fn what_an_action_sees_of_the_cache_cannot_be_written() {
    if !has_busybox() {
        return;
    }
    let script = format!(
        "{SPEAK}\nmade | ask\nf=$(path 2)\nfor try in \"echo x >> $f\" \"chmod 777 $f\" \"touch $f\" \"rm -f $f\" \"mv $f /tmp/y\" \
         \"ln $f /tmp/z\" \"echo x > ${{f%/*}}/new\" \"rm -f ${{f%/*}}/socket\" \"mount -o remount,rw ${{f%/*}}\"; do\n\
         if sh -c \"$try\" 2> /dev/null; then echo \"could $try\"; fi\ndone\ncat $f > /out/x\nls ${{f%/*}} >> /out/x\n"
    );
    let bench = bench(&script);
    bench.succeed(&["build"]);
    let log = bench.succeed(&["log", "api@linux/amd64:compile"]);
    assert!(!log.contains("could"), "{log}");
    assert_eq!(bench.skep(&["fsck"]).code, 0);
}

#[test]
fn a_helper_that_is_killed_costs_a_second_run() {
    if !has_busybox() {
        return;
    }
    // As Go does when its helper is gone, it gives up; without a helper, it does without.
    let script = "if [ -n \"$GOCACHEPROG\" ]; then sleep 1 | $GOCACHEPROG > /tmp/x & sleep 0.2; kill -9 $!; sleep 0.2; exit 1; fi\n\
                  echo made > /out/x\n";
    let bench = bench(script);
    let ran = bench.skep(&["build"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("lost its compile cache"), "{}", ran.stderr);
    // What fails with a sound cache fails at once.
    let failing = self::bench(&format!("{SPEAK}\nmade | ask\necho no; exit 3\n"));
    let ran = failing.skep(&["build"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(!ran.stderr.contains("lost"), "{}", ran.stderr);
}

#[test]
fn a_full_disk_in_the_middle_of_an_entry_is_told_to_the_compiler() {
    if !has_busybox() {
        return;
    }
    let body = "A".repeat(4 * 1_000_000);
    let script = format!(
        "{SPEAK}\n{{ echo '{{\"ID\":2,\"Command\":\"put\",\"ActionID\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\",\
         \"OutputID\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\",\"BodySize\":3000000}}'; printf '\"'; \
         head -c {} /dev/zero | tr '\\0' A; echo '\"'; }} | ask\ngrep -q Err /tmp/answers && echo small > /out/x\n",
        body.len()
    );
    let bench = bench(&script);
    std::fs::create_dir(bench.store()).unwrap();
    // Room for busybox twice, the program of the tests, and not for the entry.
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_skep")).unwrap().len() * 2;
    let size = program + (6 << 20);
    let script = format!(
        "/bin/busybox mount -t tmpfs -o size={size},mode=755 none \"$1\"\nshift\n\"$@\" build || exit 98\n\"$@\" fsck >&2 || exit 99\n\
         [ -z \"$(ls -A \"$SKEP_STORE/compiled\")\" ]"
    );
    let ran = on_a_disk_of_its_own(&bench, &script);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// As after one run of skep as root with the user's own store: what cannot be read there is done without. A store that is
/// another account's altogether is named.
#[test]
fn a_cache_of_another_user_is_done_without_and_a_store_is_named() {
    if !has_busybox() || !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = bench(&user_of_the_cache()).belonging_to(Some(USER));
    let first = bench.skep(&["build", "--json"]);
    assert_eq!(counts(&first.stderr), Some((0, 1, 1)), "{}", first.stderr);
    chown(bench.store().join("compiled"), Some(0), Some(0)).unwrap();
    rebuild(&bench, "two");
    let without = bench.skep(&["build", "--json"]);
    assert_eq!(
        (without.code, counts(&without.stderr)),
        (0, Some((0, 1, 0))),
        "{}",
        without.stderr
    );
    assert_eq!(first.stdout, without.stdout);
    chown(bench.store(), Some(0), Some(0)).unwrap();
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 4
    error: the store `BENCH/store` belongs to uid 0, and skep runs as uid 65533; set SKEP_STORE to a directory of your own
    ");
}

#[test]
fn builds_that_share_a_store_with_each_other_and_a_collection_end_alike() {
    if !has_busybox() {
        return;
    }
    let script = user_of_the_cache() + "sleep 0.3\n";
    let benches: Vec<Bench> = (0..3).map(|_| bench(&script)).collect();
    let store = benches[0].store().display().to_string();
    for bench in &benches {
        bench.set("SKEP_STORE", &store);
    }
    let expected = benches[0].json(&["build"]);
    for round in 0..4 {
        let children = benches.iter().enumerate().map(|(n, bench)| {
            rebuild(bench, &format!("r{round}n{n}"));
            let mut command = bench.command(&["build", "--json"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        });
        let children: Vec<_> = children.collect();
        for _ in 0..3 {
            benches[0].succeed(&["gc", "--keep", "0"]);
        }
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report, expected);
        }
    }
    assert_eq!(benches[0].skep(&["fsck"]).code, 0);
}

/// Entries that one action adds.
const ENTRIES: u32 = 5;
/// Builds that are killed while they write the cache.
const KILLS: u32 = 50;

/// Uses or makes so many entries, each of which other tags share.
fn writer_of_entries() -> String {
    format!(
        r#"{SPEAK}
n=0
while [ $n -lt {ENTRIES} ]; do
    id=$(printf '%032d' $n | base64)
    name=$(yes $n | head -n 20000 | sha256sum | head -c 64 | sed 's/../\\x&/g')
    echo '{{"ID":1,"Command":"get","ActionID":"'$id'"}}' | ask
    if [ -n "$(path 1)" ]; then cat $(path 1); else
        {{ echo '{{"ID":2,"Command":"put","ActionID":"'$id'","OutputID":"'$(printf "$name" | base64)'","BodySize":'$(yes $n | head -n 20000 | wc -c)'}}'
          printf '"'; yes $n | head -n 20000 | base64 | tr -d '\n'; echo '"'; }} | ask
        cat $(path 2)
    fi > /out/$n
    n=$((n + 1))
done
"#
    )
}

#[test]
fn a_build_that_is_killed_while_it_writes_the_cache_leaves_nothing_wrong() {
    if !has_busybox() {
        return;
    }
    let bench = bench(&writer_of_entries());
    let began = std::time::Instant::now();
    let expected = bench.json(&["build"]);
    let mut whole = began.elapsed();
    let (mut random, mut killed) = (Random::of_now(), 0);
    for time in 0..KILLS * 3 {
        // From nothing, or from what the one before left.
        if time % 2 == 0 {
            std::fs::remove_dir_all(bench.store().join("compiled")).unwrap();
        }
        rebuild(&bench, &format!("t{time}"));
        killed += u32::from(bench.kill_build(&mut random, &mut whole).1);
        if killed == KILLS {
            break;
        }
    }
    assert_eq!(killed, KILLS, "the others were over before");
    assert_eq!(bench.json(&["build"]), expected);
    assert_eq!(bench.skep(&["fsck"]).code, 0);
    std::fs::remove_dir_all(bench.store().join("compiled")).unwrap();
    rebuild(&bench, "clean");
    assert_eq!(bench.json(&["build"]), expected);
}
