//! Go's compile cache with the real Go: it changes no byte, nothing that runs beside a compiler can spoil it, and what was
//! compiled once is not compiled again. Small modules, and one store for all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};

use skep_test_support::{ARCHITECTURES, Project, Random};

use super::{fixture, is_wanted, machine};

/// A store in which Go has compiled what every program needs. One test at a time uses it.
pub fn store() -> (MutexGuard<'static, ()>, PathBuf) {
    static STORE: OnceLock<(Mutex<()>, tempfile::TempDir)> = OnceLock::new();
    let (turn, store) = STORE.get_or_init(|| (Mutex::default(), tempfile::tempdir().unwrap()));
    let turn = turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = store.path().join("store");
    if !path.exists() {
        let first = module(&path, "first");
        first.succeed(&["build"]);
    }
    (turn, path)
}

/// An empty module with this recipe below [`PRELUDE`].
pub fn project(store: &Path, recipe: &str) -> Project {
    let mut project = Project::new(env!("CARGO_BIN_EXE_skep"));
    project.commits = false;
    project.set("SKEP_STORE", store.to_str().unwrap());
    for (name, value) in machine::registries() {
        project.set(name, &value);
    }
    project.write("skep.toml", "[project]\nname = \"app\"\n");
    project.write(
        "skep.star",
        &format!("{PRELUDE}\n{recipe}").replace("ARCH", ARCHITECTURES[0]),
    );
    project.write("go.mod", "module example.com/app\n\ngo 1.25\n");
    project.write("go.sum", "");
    project
}

/// Rules of these tests: `build` is what `go_module` does with more flags and variables, `program` an image of a binary
/// whose output is the log of `app@linux/ARCH:says`.
const PRELUDE: &str = r#"
load("@skep//go.star", "go_module")
load("@skep//image.star", "image")
load("@skep//toolchains/go.star", "go_toolchain")

def build(src, flags = [], env = {}, go = go_toolchain(), mod = directory("cache/download"), root = None, argv = None):
    inputs = {"/go": go, "/mod": mod, "/src": src}
    if root != None:
        inputs["/"] = root
    return action(
        "go_build",
        argv = argv or ["/go/bin/go", "build"] + flags + ["-trimpath", "-buildvcs=false", "-o", "/out/", "./cmd/app"],
        inputs = inputs,
        outputs = ["/out"],
        cwd = "/src",
        env = {
            "CGO_ENABLED": "0",
            "GOCACHE": "/tmp/go-build",
            "GOFLAGS": "-mod=readonly",
            "GOMODCACHE": "/mod",
            "GOPROXY": "off",
            "GOROOT": "/go",
            "GOSUMDB": "off",
            "GOTOOLCHAIN": "local",
        } | env,
        compile_cache = "/go",
    ).select("out")

def program(binary):
    said = action("says", argv = ["/app"], inputs = {"/": binary}, outputs = ["/out"]).select("out", at = "said")
    image(name = "app", platforms = ["linux/ARCH"], contents = lambda platform: [binary, said], entrypoint = ["/app"])
"#;

/// A module whose program says `word`, which it has from a package of its own.
fn module(store: &Path, word: &str) -> Project {
    let recipe = "program(go_module(src = source([\"go.mod\", \"**/*.go\"]), env = {\"LANG\": \"C.0\"}).binary(\"./cmd/app\", \"linux/ARCH\", at = \"app\"))";
    let project = project(store, recipe);
    write_words(&project, word);
    project
}

fn write_words(project: &Project, word: &str) {
    project.write(
        "cmd/app/main.go",
        "package main\n\nimport \"example.com/app/leaf\"\n\nfunc main() { println(leaf.Word()) }\n",
    );
    project.write(
        "leaf/leaf.go",
        &format!("package leaf\n\nfunc Word() string {{ return \"{word}\" }}\n"),
    );
}

/// Builds, and gives what the program says.
#[track_caller]
pub fn says(project: &Project) -> String {
    project.succeed(&["build"]);
    let label = format!("app@linux/{}:says", ARCHITECTURES[0]);
    project.succeed(&["log", &label]).trim().to_owned()
}

/// What the compile cache was to each action of a build: found, missing, stored.
#[track_caller]
fn counts(project: &Project) -> Vec<(u64, u64, u64)> {
    let ran = project.skep(&["build", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let events = ran
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    events
        .filter(|event: &serde_json::Value| event["event"] == "compiled")
        .map(|event| {
            let count = |name: &str| event[name].as_u64().unwrap();
            (count("found"), count("missing"), count("stored"))
        })
        .collect()
}

/// Has the actions run again that compile: a variable that Go leaves alone is in their keys.
fn compile_again(project: &Project) {
    let path = project.project().join("skep.star");
    let text = fs::read_to_string(&path).unwrap();
    let number = text
        .split("\"LANG\": \"C.")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let number: u32 = number.expect("the recipe sets LANG").parse().unwrap();
    let (before, after) = (format!("\"C.{number}\""), format!("\"C.{}\"", number + 1));
    fs::write(path, text.replace(&before, &after)).unwrap();
}

/// Removes one of `every` entries of the cache, whichever chance takes.
fn thin(store: &Path, every: usize) {
    let list = |path: &Path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let entries = list(&store.join("compiled")).flat_map(|shard| list(&shard).collect::<Vec<_>>());
    let mut random = Random::of_now();
    let (mut all, mut removed) = (0, 0);
    for entry in entries.collect::<Vec<_>>() {
        all += 1;
        if random.below(every) == 0 {
            fs::remove_file(entry).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0 && removed < all, "{removed} of {all}");
}

#[test]
fn a_second_project_compiles_nothing_of_the_standard_library() {
    if !is_wanted() {
        return;
    }
    let (_turn, store) = store();
    let second = module(&store, "second");
    let counts = counts(&second);
    let [(found, missing, stored)] = counts[..] else {
        panic!("{counts:?}");
    };
    // The two packages of its own, the index of the one that differs, and the program are missing; what is compiled and
    // linked is added with what the tool printed.
    assert!(found > 40 && missing == 4 && stored <= 8, "{counts:?}");
    assert_eq!(says(&second), "second");
}

#[test]
fn an_edit_that_leaves_every_size_as_it_was_is_compiled() {
    if !is_wanted() {
        return;
    }
    let (_turn, store) = store();
    let project = module(&store, "this one");
    project.write(
        "reaf/leaf.go",
        "package leaf\n\nfunc Word() string { return \"that one\" }\n",
    );
    assert_eq!(says(&project), "this one");
    project.edit("cmd/app/main.go", "app/leaf", "app/reaf");
    assert_eq!(says(&project), "that one");
    project.edit("reaf/leaf.go", "that one", "then one");
    assert_eq!(says(&project), "then one");
}

/// Packages that depend on one another, each with a number of its own; the program says the sum.
fn write_packages(project: &Project, count: u32) {
    for n in 0..count {
        let import = |m: u32| format!("import p{m} \"example.com/app/p/p{m}\"\n");
        let below = [n.checked_sub(1), n.checked_sub(7)].into_iter().flatten();
        let (imports, sum): (Vec<_>, Vec<_>) =
            below.map(|m| (import(m), format!(" + p{m}.Sum%1000"))).unzip();
        project.write(
            &format!("p/p{n}/p.go"),
            &format!(
                "package p{n}\n\n{}\nvar Sum = {n}{}\n",
                imports.concat(),
                sum.concat()
            ),
        );
    }
    project.write(
        "cmd/app/main.go",
        &format!(
            "package main\n\nimport last \"example.com/app/p/p{}\"\n\nfunc main() {{ println(last.Sum) }}\n",
            count - 1
        ),
    );
}

#[test]
fn an_empty_a_full_and_a_thinned_cache_give_300_packages_the_same_bytes() {
    if !is_wanted() {
        return;
    }
    let (_turn, store) = store();
    let project = module(&store, "");
    write_packages(&project, 300);
    let report = |project: &Project| project.json(&["build"]);
    let cold = report(&project);
    compile_again(&project);
    // Only the program is missing: it is linked again.
    let linked = counts(&project);
    assert!(
        matches!(linked[..], [(found, missing, stored)] if found > 300 && missing <= 2 && stored <= 4),
        "{linked:?}"
    );
    assert_eq!(report(&project), cold);
    thin(&store, 3);
    compile_again(&project);
    let thinned = counts(&project);
    assert!(
        matches!(thinned[..], [(_, missing, stored)] if missing > 20 && stored > 20),
        "{thinned:?}"
    );
    assert_eq!(report(&project), cold);
    // Go's own cache, in a directory that is empty.
    project.edit(
        "skep.star",
        "env = {\"LANG\"",
        "env = {\"GOCACHEPROG\": \"\", \"LANG\"",
    );
    assert_eq!(counts(&project), []);
    assert_eq!(report(&project), cold);
}

#[test]
fn the_example_comes_out_the_same_whatever_its_cache_holds() {
    if !is_wanted() {
        return;
    }
    let before = fixture().one.report();
    let clone = fixture().one.with_a_copy_of_its_store("thinned");
    let images = ["api", "worker"];
    for (thinned, lang) in [(false, "C.1"), (true, "C.2")] {
        if thinned {
            thin(&clone.store(), 10);
        }
        clone.replace(
            "skep.star",
            "go_module(\n",
            &format!("go_module(\n    env = {{\"LANG\": \"{lang}\"}},\n"),
        );
        let built = clone.build(&["--offline", "api", "worker"]);
        clone.replace("skep.star", &format!("    env = {{\"LANG\": \"{lang}\"}},\n"), "");
        let compiled = built.ran.iter().filter(|label| label.contains(":go_build"));
        assert_eq!(
            compiled.count(),
            6,
            "three programs for two platforms: {:?}",
            built.ran
        );
        for image in images {
            assert_eq!(built.report["images"][image], before["images"][image], "{image}");
        }
    }
}

/// A program that stands between Go and its compiler, and compiles the leaf with another word.
const EVIL: &str = r#"#!/src/bin/busybox sh
case "$*" in
*-V=full*) exec "$@" ;;
*"-p example.com/app/leaf "*)
    for argument; do
        shift
        case "$argument" in
        *leaf.go) /src/bin/busybox sed s/right/wrong/ "$argument" > /tmp/leaf.go; argument=/tmp/leaf.go ;;
        esac
        set -- "$@" "$argument"
    done ;;
esac
exec "$@"
"#;

/// Puts the same package under every name that Go asks for, and overwrites what it can of the others'.
const SPEAK: &str = r#"
helper=$GOCACHEPROG
printf '#!/bin/busybox sh\nbusybox tee -a /tmp/asked | %s\n' "$helper" > /tmp/tee
chmod 755 /tmp/tee
GOCACHEPROG=/tmp/tee /go/bin/go build -trimpath -buildvcs=false -o /out/ ./cmd/app
{
    sed -n 's/.*"get","ActionID":"\([^"]*\)".*/\1/p' /tmp/asked | sort -u | while read id; do
        echo '{"ID":1,"Command":"put","ActionID":"'$id'","OutputID":"iBCtWB5Z8rw5KLJhcHpxMI9+E56wSCA2bcTVwY2YAiU=","BodySize":5}'
        echo '"d3Jvbmc="'
    done
    echo '{"ID":2,"Command":"close"}'
} | $helper > /tmp/answers
grep -c DiskPath /tmp/answers
for file in /dev/skep/*; do { { echo wrong > $file; } || rm -f $file || true; } 2> /dev/null; done
"#;

/// How the leaf of a program is compiled wrongly, and what the recipe calls it.
const ATTACKS: [(&str, &str); 4] = [
    ("a flag", "build(src, flags = [\"-toolexec=/src/evil\"])"),
    (
        "a variable",
        "build(src, env = {\"GOFLAGS\": \"-mod=readonly -toolexec=/src/evil\"})",
    ),
    (
        "a script that speaks for Go",
        "build(src, root = source([\"bin/**\"]), argv = [\"/bin/busybox\", \"sh\", \"-e\", \"/src/speak\"])",
    ),
    (
        "a doctored toolchain",
        "build(src, go = doctored(go_toolchain()))",
    ),
];

/// Puts the evil program in the compiler's place, which goes elsewhere.
const DOCTORED: &str = r#"
src = source(["go.mod", "**/*.go", "bin/**", "evil", "speak"])

def doctored(go):
    tools = "pkg/tool/linux_ARCH"
    compiler = go.select(tools + "/compile", at = "pkg/tool/real/compile")
    wrapper = source(["compile"]).at(tools)
    return merge(go.replace([(tools + "/compile", tools + "/compile", None)]), compiler, wrapper)
"#;

#[test]
fn nothing_that_runs_beside_a_compiler_changes_what_another_action_compiles() {
    if !is_wanted() {
        return;
    }
    let (_turn, store) = store();
    for (how, action) in ATTACKS {
        let attacker = project(&store, &format!("{DOCTORED}\nprogram({action})"));
        write_words(&attacker, "right");
        attacker.add_busybox();
        attacker.write_program("evil", EVIL);
        attacker.write_program("speak", SPEAK);
        attacker.write_program(
            "compile",
            &EVIL.replacen("case", "set -- /go/pkg/tool/real/compile \"$@\"\ncase", 1),
        );
        // It is a real attack: what it compiles itself is wrong. The script's own Go compiles before it speaks.
        let own = if how.contains("script") { "right" } else { "wrong" };
        assert_eq!(says(&attacker), own, "{how}");
    }
    let victim = module(&store, "right");
    // As `build` in the attackers' recipes does it, so that Go asks for the same names.
    victim.write(
        "skep.star",
        &format!("{PRELUDE}\nprogram(build(source([\"go.mod\", \"**/*.go\"])))")
            .replace("ARCH", ARCHITECTURES[0]),
    );
    assert_eq!(says(&victim), "right");
}

/// The content of a module under one path and version, twice: Go's own index of packages would take one for the other.
#[test]
fn a_module_that_was_swapped_is_not_taken_for_the_right_one() {
    if !is_wanted() {
        return;
    }
    use base64::Engine as _;
    let (_turn, store) = store();
    let mod_file = "module example.com/dep\n";
    let line = format!(
        "{}  go.mod\n",
        skep::digest::Digest::of(mod_file.as_bytes()).hex()
    );
    let base64 = base64::engine::general_purpose::STANDARD;
    let sum = base64.encode(skep::digest::Digest::of(line.as_bytes()).bytes());
    let build = |content: &str| {
        let project = project(
            &store,
            &format!(
                r#"
mod = merge(
    file("example.com/dep@v1.0.0/dep.go", {content:?}),
    file("example.com/dep@v1.0.0/go.mod", {mod_file:?}),
    file("cache/download/example.com/dep/@v/v1.0.0.mod", {mod_file:?}),
    file("cache/download/example.com/dep/@v/v1.0.0.ziphash", "h1:{sum}"),
)
program(build(source(["go.mod", "go.sum", "**/*.go"]), mod = mod))
"#
            ),
        );
        let require = "module example.com/app\n\ngo 1.25\n\nrequire example.com/dep v1.0.0\n";
        project.write("go.mod", require);
        let sums = format!("example.com/dep v1.0.0 h1:{sum}\nexample.com/dep v1.0.0/go.mod h1:{sum}\n");
        project.write("go.sum", &sums);
        project.write(
            "cmd/app/main.go",
            "package main\n\nimport \"example.com/dep\"\n\nfunc main() { println(dep.Word()) }\n",
        );
        project
    };
    let right = "package dep\n\nfunc Word() string { return \"right\" } // padding\n";
    let empty = "//go:build ignore\n\npackage dep\n\n";
    let empty = format!("{empty}{}\n", "/".repeat(right.len() - empty.len() - 1));
    assert_eq!(empty.len(), right.len());
    assert_eq!(
        build(&empty).skep(&["build"]).code,
        1,
        "it has nothing to compile"
    );
    let wrong = build(&right.replace("right", "wrong"));
    assert_eq!(says(&wrong), "wrong");
    assert_eq!(says(&build(right)), "right");
}
