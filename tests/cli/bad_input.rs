//! Everything that can be wrong with what a user gives: the message, and whose fault it was.

use skep_test_support::{Ran, has_busybox};

use super::bench::Bench;

#[test]
fn a_project_that_is_not_there_is_written_out() {
    let bench = Bench::empty();
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @r#"
    exit 2
    error: `BENCH/project` has no skep.toml, nor has any directory above it; write one

        [project]
        name = "project"

    and a skep.star beside it with the images to build
    "#);
    bench.write("skep.toml", "[project]\nname = \"bench\"");
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @r#"
    exit 2
    error: `BENCH/project` has no skep.star; write one with the images to build

        load("@skep//go.star", "go_module")
        load("@skep//image.star", "image")

        code = go_module(src = source(["go.mod", "go.sum", "**/*.go"]))

        image(
            name = "api",
            platforms = ["linux/amd64", "linux/arm64"],
            contents = lambda platform: [code.binary("api", platform, at = "/api")],
            entrypoint = ["/api"],
        )
    "#);
    bench.write("skep.star", "");
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 2
    error: skep.star declares no image; call `image(…)` of `@skep//image.star`
    ");
    insta::assert_snapshot!(bench.skep(&["-C", "/no/such/place", "build"]).failure(), @"
    exit 2
    error: cannot read `/no/such/place`: No such file or directory (os error 2)
    ");
}

#[test]
fn configuration_has_no_unknown_keys() {
    let bench = Bench::new("");
    bench.write(
        "skep.toml",
        "[project]\nname = \"bench\"\n\n[registries]\ngolang = \"x\"",
    );
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @r#"
    exit 2
    error: `BENCH/project/skep.toml`: TOML parse error at line 5, column 1
      |
    5 | golang = "x"
      | ^^^^^^
    unknown field `golang`, expected one of `go`, `npm`, `pypi`, `debian`
    "#);
}

#[test]
fn usage_is_explained() {
    let bench = Bench::new("");
    insta::assert_snapshot!(bench.skep(&["bild"]).failure(), @"
    exit 2
    error: unrecognized subcommand 'bild'

      tip: a similar subcommand exists: 'build'

    Usage: skep [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(bench.skep(&["build", "--platform", "linux/mips"]).failure(), @"
    exit 2
    error: invalid value 'linux/mips' for '--platform <PLATFORM>': `linux/mips` is not a platform that skep builds for: expected `linux/amd64` or `linux/arm64`

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(bench.skep(&["gc", "--keep", "much"]).failure(), @"
    exit 2
    error: invalid value 'much' for '--keep <SIZE>': `much` is not a size: expected a number and K, M, G or T, such as `20G`

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(bench.skep(&["export", "api", "docker:api"]).failure(), @"
    exit 2
    error: `docker:api` is not a place to export to: expected `oci:DIR`
    ");
}

#[test]
fn names_that_stand_for_nothing_are_answered_with_those_that_do() {
    let bench = Bench::new("target(\"api\", [oci_image(\"linux/arm64\", layers = [])])");
    insta::assert_snapshot!(bench.skep(&["build", "web"]).failure(), @"
    exit 2
    error: there is no target `web`; skep.star declares api
    ");
    insta::assert_snapshot!(bench.skep(&["build", "api@linux/amd64"]).failure(), @"
    exit 2
    error: the target `api` is not built for linux/amd64; it is built for linux/arm64
    ");
    insta::assert_snapshot!(bench.skep(&["build", "api@linux/mips"]).failure(), @"
    exit 2
    error: `linux/mips` is not a platform that skep builds for: expected `linux/amd64` or `linux/arm64`
    ");
    insta::assert_snapshot!(bench.skep(&["build", "api:go_build"]).failure(), @"
    exit 2
    error: there is no action `api:go_build`; `skep build --json` names actions as they run
    ");
    insta::assert_snapshot!(bench.skep(&["log", "api:go_build"]).failure(), @"
    exit 2
    error: no action `api:go_build` was run for this project; build it first
    ");
}

#[test]
fn a_recipe_error_points_at_the_line() {
    let bench = Bench::new(
        "load(\"@skep//image.star\", \"image\")\n\nimage(\n    name = \"api\",\n    platform = \"linux/arm64\",\n)",
    );
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 2
    error: skep.star:3:1: Missing parameter `platforms` for call to `@skep//image.star.image`
     3 | image(
         ^
    ");
}

#[test]
fn a_pattern_without_files_is_a_mistake() {
    let bench =
        Bench::new("target(\"api\", [oci_image(\"linux/arm64\", layers = [layer(source([\"cmd/**\"]))])])");
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 2
    error: `source(cmd/**) for api@linux/arm64:layer` failed: no file of the project matches `cmd/**` below `.`; untracked files that an ignore file excludes do not count
    ");
}

#[test]
fn trees_that_do_not_fit_together_are_named() {
    let bench = Bench::new(
        "t = merge(file(\"a/b\", \"1\"), file(\"a/b\", \"2\"))\ntarget(\"api\", [oci_image(\"linux/arm64\", layers = [layer(t)])])",
    );
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 2
    error: `tree for api@linux/arm64:layer` failed: two different files at `a/b`
    ");
}

#[test]
fn without_a_network_it_says_what_is_missing() {
    let bench = Bench::new(&format!(
        "t = fetch_file(sources = [\"pkg:npm/left-pad@1.3.0\"], integrity = \"sha256:{}\", name = \"a\")\n\
         target(\"api\", [oci_image(\"linux/arm64\", layers = [layer(t)])])",
        "0".repeat(64)
    ));
    insta::assert_snapshot!(bench.skep(&["build", "--offline"]).failure(), @"
    exit 4
    error: `api@linux/arm64:fetch pkg:npm/left-pad@1.3.0` failed: not in the store, and would be fetched from `pkg:npm/left-pad@1.3.0`; run once without `--offline`
    ");
}

#[test]
fn a_failed_action_shows_the_end_of_its_log_and_how_to_repeat_it() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::with_busybox("single(\"api\", sh(\"seq 1 30; echo no luck >&2; exit 3\"))");
    let ran = bench.skep(&["build"]);
    insta::assert_snapshot!(ran.failure(), @"
    exit 1
    error: `api@linux/amd64:sh` exited with code 3
      | 12
      | 13
      | 14
      | 15
      | 16
      | 17
      | 18
      | 19
      | 20
      | 21
      | 22
      | 23
      | 24
      | 25
      | 26
      | 27
      | 28
      | 29
      | 30
      | no luck
      the whole log: skep log 'api@linux/amd64:sh'
      to repeat it:  skep build 'api@linux/amd64:sh'
    ");
    let log = bench.skep(&["log", "api@linux/amd64:sh"]);
    assert_eq!((log.code, log.stdout.lines().count()), (0, 31));
    insta::assert_snapshot!(without_key(&log.stderr), @"
    api@linux/amd64:sh (…): exited with code 3
    to repeat it: skep build 'api@linux/amd64:sh'
    ");
    let again = bench.skep(&["build", "api@linux/amd64:sh"]);
    assert_eq!(again.code, 1);
}

#[test]
fn an_action_that_uses_too_much_is_its_own_fault() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::with_busybox("");
    for (script, limits, message) in [
        (
            "for n in 1 2 3; do dd if=/dev/zero of=/out/$n bs=1M count=1; done",
            "{\"max_output\": 2 << 20}",
            "wrote more than 2097152 bytes of output; a larger `max_output` of its action allows more",
        ),
        (
            "dd if=/dev/zero of=/tmp/f bs=1M count=40",
            "{\"memory\": 32 << 20}",
            "used more than 33554432 bytes of memory, files in /tmp included; a larger `memory` of its action allows more",
        ),
    ] {
        bench.rewrite(&format!("single(\"api\", sh(\"{script}\", limits = {limits}))"));
        let ran = bench.skep(&["build"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}

/// The text with the digits of a key in parentheses left out.
fn without_key(text: &str) -> String {
    let (before, rest) = text.split_once('(').unwrap();
    format!("{before}(…){}", rest.split_once(')').unwrap().1)
}

#[test]
fn with_keep_going_every_failure_is_shown() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::with_busybox(
        "single(\"a\", sh(\"exit 1\"))\nsingle(\"b\", sh(\"echo b > /out/b\"))\nsingle(\"c\", sh(\"exit 2\"))",
    );
    insta::assert_snapshot!(bench.skep(&["build", "--keep-going"]).failure(), @"
    exit 1
    error: `a@linux/amd64:sh` exited with code 1
      to repeat it:  skep build 'a@linux/amd64:sh'
    error: `c@linux/amd64:sh` exited with code 2
      to repeat it:  skep build 'c@linux/amd64:sh'
    ");
    let ran = bench.skep(&["build", "--json", "b"]);
    assert_eq!(ran.outcomes(), (0, 4, 0), "{}", ran.stderr);
}

#[test]
fn an_action_cannot_do_what_it_must_not() {
    if !has_busybox() {
        return;
    }
    let failure = |script: &str| {
        let bench = Bench::with_busybox(&format!("single(\"api\", sh({script:?}))"));
        bench.skep(&["build"]).failure()
    };
    insta::assert_snapshot!(failure("ln -s /etc/passwd /out/x"), @"
    exit 1
    error: `api@linux/amd64:sh` failed: output `x` is a symlink to `/etc/passwd`, which leaves the output
      to repeat it:  skep build 'api@linux/amd64:sh'
    ");
    insta::assert_snapshot!(failure("touch /out/x; chmod 4755 /out/x"), @"
    exit 1
    error: `api@linux/amd64:sh` exited with code 1
      | chmod: /out/x: Operation not permitted
      the whole log: skep log 'api@linux/amd64:sh'
      to repeat it:  skep build 'api@linux/amd64:sh'
    ");
    insta::assert_snapshot!(failure("echo x > /bin/x"), @"
    exit 1
    error: `api@linux/amd64:sh` exited with code 1
      | sh: can't create /bin/x: Read-only file system
      the whole log: skep log 'api@linux/amd64:sh'
      to repeat it:  skep build 'api@linux/amd64:sh'
    ");
    insta::assert_snapshot!(failure("nc -w 1 192.0.2.1 80"), @"
    exit 1
    error: `api@linux/amd64:sh` exited with code 1
      | nc: can't connect to remote host (192.0.2.1): Network is unreachable
      the whole log: skep log 'api@linux/amd64:sh'
      to repeat it:  skep build 'api@linux/amd64:sh'
    ");
    insta::assert_snapshot!(failure("exec /bin/bash"), @"
    exit 1
    error: `api@linux/amd64:sh` exited with code 127
      | sh: exec: line 0: /bin/bash: not found
      the whole log: skep log 'api@linux/amd64:sh'
      to repeat it:  skep build 'api@linux/amd64:sh'
    ");
}

#[test]
fn a_program_that_is_not_among_the_inputs_is_named() {
    let bench = Bench::new(
        "t = action(\"run\", argv = [\"/bin/true\"], inputs = {\"/x\": file(\"a\", \"b\")}, outputs = [\"/out\"])\n\
         target(\"api\", [oci_image(\"linux/arm64\", layers = [layer(t)])])",
    );
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 1
    error: `api@linux/arm64:run` failed: cannot start `/bin/true`: No such file or directory (os error 2); a program is an absolute path among the action's inputs, and so is its interpreter
      to repeat it:  skep build 'api@linux/arm64:run'
    ");
}

/// Runs a script that may mount something on the store, which is `$1`; what follows runs `skep`.
pub fn on_a_disk_of_its_own(bench: &Bench, script: &str) -> Ran {
    let mut command = std::process::Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    command
        .args(["sh", "-c", script, "sh"])
        .arg(bench.store())
        .arg(env!("CARGO_BIN_EXE_skep"))
        .current_dir(bench.project())
        .env("SKEP_STORE", bench.store());
    bench.ran(&command.output().unwrap())
}

#[test]
fn a_file_system_that_carries_no_overlay_is_named() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::with_busybox(
        "t = action(\"sh\", argv = [\"/bin/busybox\", \"touch\", \"/in/x\"], inputs = {\"/\": tools, \"/in\": source([\"file\"])}, \
         outputs = [\"/out\"], writable = [\"/in\"])\nsingle(\"api\", t)",
    );
    bench.write("file", "content\n");
    std::fs::create_dir(bench.store()).unwrap();
    // An overlay cannot be the upper layer of another one; a container's root often is one.
    let script = r#"/bin/busybox mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/lower" "$1/upper" "$1/work"
/bin/busybox mount -t overlay -o "userxattr,lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" none "$1"
shift
exec "$@" build"#;
    insta::assert_snapshot!(on_a_disk_of_its_own(&bench, script).failure(), @"
    exit 4
    error: `api@linux/amd64:sh` failed: cannot build a sandbox: mount an overlay on /in: Invalid argument (os error 22); the store's file system cannot carry an overlay (a container's own overlay, or NFS); set SKEP_STORE to a directory on ext4, xfs, btrfs or tmpfs, such as a mounted volume
    ");
}

#[test]
fn a_full_disk_is_named_and_nothing_is_half_written() {
    if !has_busybox() {
        return;
    }
    let bench = Bench::with_busybox("single(\"api\", source([\"large\"]))");
    bench.write("large", &"0123456789abcdef".repeat(1 << 19));
    std::fs::create_dir(bench.store()).unwrap();
    // A store on a disk of 3 MiB; afterwards, what it holds is sound, and a second try says the same.
    let script = r#"/bin/busybox mount -t tmpfs -o size=3m,mode=755 none "$1"
shift
"$@" build; first=$?
"$@" fsck >&2 || exit 99
"$@" build 2>/dev/null; [ $? = $first ] && exit $first"#;
    let ran = on_a_disk_of_its_own(&bench, script);
    insta::assert_snapshot!(ran.failure(), @"
    exit 4
    error: `source(large) for api@linux/amd64:layer` failed: no space left for the store at `BENCH/store`; `skep gc --keep 5G` frees some
    read 0 files, 0 B
    ");
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let bench = Bench::new("target(\"api\", [oci_image(\"linux/arm64\", layers = [])])");
    // Nobody can make a directory there, not even root.
    let mut command = bench.command(&["build"]);
    let ran = bench.ran(&command.env("SKEP_STORE", "/proc/skep").output().unwrap());
    insta::assert_snapshot!(ran.failure(), @"
    exit 4
    error: cannot write to the store at `/proc/skep`: No such file or directory (os error 2); set SKEP_STORE to a directory that can be written
    ");
    std::fs::write(bench.beside("file"), "x").unwrap();
    let mut command = bench.command(&["build"]);
    let ran = bench.ran(&command.env("SKEP_STORE", bench.beside("file")).output().unwrap());
    insta::assert_snapshot!(ran.failure(), @"
    exit 4
    error: cannot write to the store at `BENCH/file`: File exists (os error 17); set SKEP_STORE to a directory that can be written
    ");
}

#[test]
fn a_secret_does_not_slip_into_the_store() {
    let bench = Bench::new(
        "t = action(\"run\", argv = [\"/x\"], inputs = {\"/\": source([\"**\"])}, outputs = [\"/out\"], secrets = {\"/key\": secret(\"key\")})\n\
         target(\"api\", [oci_image(\"linux/arm64\", layers = [layer(t)])])",
    );
    bench.write("key", "0123456789abcdef0123456789abcdef");
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 2
    error: `source(**) for api@linux/arm64:run` failed: `key` is a secret, and a source would put it into the store; exclude it
    ");
    let holds = |path: &std::path::PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains("0123456789abcdef")
    };
    assert!(!bench.blobs().iter().any(holds));
}

#[test]
fn a_store_that_is_none_is_left_alone() {
    let bench = Bench::new("target(\"api\", [oci_image(\"linux/arm64\", layers = [])])");
    std::fs::create_dir(bench.store()).unwrap();
    std::fs::write(bench.store().join("thesis.txt"), "years of work").unwrap();
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @"
    exit 4
    error: `BENCH/store` is not a store: it is not empty, and has no file `FORMAT`; set SKEP_STORE to another directory
    ");
    assert_eq!(std::fs::read_dir(bench.store()).unwrap().count(), 1);
}

#[test]
fn an_export_overwrites_nothing() {
    let bench =
        Bench::new("target(\"api\", [oci_image(\"linux/arm64\", layers = [layer(file(\"a\", \"\"))])])");
    bench.write("out/precious", "x");
    let to = format!("oci:{}", bench.project().join("out").display());
    insta::assert_snapshot!(bench.skep(&["export", "api", &to]).failure(), @"
    exit 2
    error: `BENCH/project/out` is there already and not empty; export to a new directory
    ");
}
