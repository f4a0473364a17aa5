use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::event::Event;
use crate::plan::{Node, TreeExpr};

/// A project on disk.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(recipe: &str) -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        bench.write(ROOT_RECIPE, recipe);
        bench
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.0.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn evaluate(&self) -> Result<Evaluated, Error> {
        evaluate(self.root(), Purpose::Build, &Events::none())
    }

    fn error(&self) -> String {
        let error = self.evaluate().expect_err("the recipe is wrong").to_string();
        let error = error.replace(&self.root().display().to_string(), "PROJECT");
        let lines = error.lines().map(|line| match line.split_once(".star:") {
            // Lines of the library move with every change of it.
            Some((file, _)) if file.starts_with("  through @skep//") => format!("{file}.star:…"),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn error(recipe: &str) -> String {
    Bench::new(recipe).error()
}

const IMAGE: &str = r#"
target("api", [oci_image("linux/arm64", layers = [layer(source(["go.mod"]))], entrypoint = ["/api"], ports = [80])])
"#;

#[test]
fn a_recipe_becomes_a_plan_of_plain_data() {
    let plan = Bench::new(IMAGE).evaluate().unwrap().plan;
    let target = &plan.targets()["api"];
    assert_eq!(plan.len(), 4);
    assert_eq!(plan.label(target.index), Some("api:index"));
    let image = target.platforms.values().next().unwrap();
    let Node::Image(spec) = plan.node(*image) else {
        panic!()
    };
    assert_eq!(spec.config.ports.iter().collect::<Vec<_>>(), [&80]);
    assert!(matches!(plan.node(spec.layers[0]), Node::Layer(_)));
}

#[test]
fn equal_nodes_of_different_files_are_one() {
    let bench = Bench::new("load(\"//a/b.star\", \"t\")\nload(\"//a/c.star\", u = \"t\")\nx = merge(t, u)");
    bench.write("a/b.star", "load(\":c.star\", again = \"t\")\nt = again");
    bench.write("a/c.star", "t = file(\"x\", \"content\")");
    let plan = bench.evaluate().unwrap().plan;
    assert_eq!(plan.len(), 2);
}

#[test]
fn what_a_recipe_prints_is_a_warning() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&said);
    let events = Events::new(move |event| sink.lock().unwrap().push(event));
    let bench = Bench::new("print(\"here\", 1)");
    evaluate(bench.root(), Purpose::Build, &events).unwrap();
    let message = "skep.star prints: here 1".to_owned();
    assert_eq!(*said.lock().unwrap(), [Event::Warning { message }]);
}

#[test]
fn library_rules_evaluate() {
    let bench = Bench::new(
        r#"
load("@skep//go.star", "go_module")
load("@skep//image.star", "image")
code = go_module(src = source(["go.mod"]))
image(
    name = "api",
    platforms = ["linux/amd64", "linux/arm64"],
    contents = lambda platform: [code.binary("api", platform, at = "/api")],
)
"#,
    );
    let h1 = format!("h1:{}=", "A".repeat(43));
    bench.write(
        "go.sum",
        &format!("example.com/A v1.0.0 {h1}\nexample.com/A v1.0.0/go.mod {h1}\n"),
    );
    let plan = bench.evaluate().unwrap().plan;
    let nodes = plan.reachable(&[plan.targets()["api"].index], crate::platform::Arch::HOST);
    let fetches = nodes
        .iter()
        .filter(|id| matches!(plan.node(**id), Node::Fetch(_)));
    assert_eq!(fetches.count(), 3, "a toolchain, a module, and its go.mod");
    let escaped = nodes.iter().any(|id| match plan.node(*id) {
        Node::Tree(TreeExpr::Select { at, .. }) => at.to_string() == "example.com/!a@v1.0.0",
        _ => false,
    });
    assert!(escaped);

    bench.write("go.sum", "example.com/A v1.0.0\n");
    insta::assert_snapshot!(bench.error(), @r#"
    skep.star:4:8: `go.sum`, line 1: expected a module, a version and `h1:…`
     4 | code = go_module(src = source(["go.mod"]))
                ^
      through @skep//go.star:…
      through @skep//go.star:…
    "#);
}

#[test]
fn type_errors_point_at_the_argument() {
    insta::assert_snapshot!(error("x = 1\ntarget(\"api\", [x])"), @r#"
    skep.star:2:1: Type of parameter `images` doesn't match, expected `list[image] | tuple[image, ...]`, actual `list (repr: [1])`
     2 | target("api", [x])
         ^
    "#);
    insta::assert_snapshot!(error("source(\"go.mod\")"), @r#"
    skep.star:1:1: Type of parameter `include` doesn't match, expected `list[str] | tuple[str, ...]`, actual `string (repr: "go.mod")`
     1 | source("go.mod")
         ^
    "#);
    insta::assert_snapshot!(error("action(\"a\", argv = [\"/x\"], inputs = {\"/\": 1}, outputs = [\"/o\"])"), @r#"
    skep.star:1:1: the input at `/` is of type int, and should be a tree or a list of trees
     1 | action("a", argv = ["/x"], inputs = {"/": 1}, outputs = ["/o"])
         ^
    "#);
    insta::assert_snapshot!(error("merge(file(\"a\", \"b\")).attribute()"), @r#"
    skep.star:1:1: Object of type `tree` has no attribute `attribute`, did you mean `attributes`?
     1 | merge(file("a", "b")).attribute()
         ^
    "#);
    insta::assert_snapshot!(error("source([\"a\"]).at(\"b\").mode"), @r#"
    skep.star:1:1: Object of type `tree` has no attribute `mode`
     1 | source(["a"]).at("b").mode
         ^
    "#);
}

#[test]
fn what_is_not_there_is_named() {
    insta::assert_snapshot!(error("load(\"@skep//rust.star\", \"x\")"), @r#"
    skep.star:1:6: the library has no file `@skep//rust.star`
     1 | load("@skep//rust.star", "x")
              ^
    "#);
    insta::assert_snapshot!(error("load(\"@skep//go.star\", \"go_modul\")"), @r#"
    skep.star:1:24: Module has no symbol `go_modul`, did you mean `go_module`?
     1 | load("@skep//go.star", "go_modul")
                                ^
    "#);
    insta::assert_snapshot!(error("load(\"//missing.star\", \"x\")"), @r#"
    skep.star:1:6: cannot read `PROJECT/missing.star`: No such file or directory (os error 2)
     1 | load("//missing.star", "x")
              ^
    "#);
    insta::assert_snapshot!(error("load(\"missing\", \"x\")"), @r#"
    skep.star:1:6: `missing` is no recipe: expected `//dir/file.star` from the project's root, `:file.star` beside this file, or `@skep//file.star`
     1 | load("missing", "x")
              ^
    "#);
    insta::assert_snapshot!(error("x = sorce([\"a\"])"), @r#"
    skep.star:1:5: Variable `sorce` not found, did you mean `source`?
     1 | x = sorce(["a"])
             ^
    "#);
    insta::assert_snapshot!(error("read_json(\"package.json\")"), @r#"
    skep.star:1:1: cannot read `PROJECT/package.json`: No such file or directory (os error 2)
     1 | read_json("package.json")
         ^
    "#);
}

#[test]
fn files_that_load_each_other_are_a_circle() {
    let bench = Bench::new("load(\"//a.star\", \"x\")");
    bench.write("a.star", "load(\"//b.star\", \"y\")\nx = y");
    bench.write("b.star", "load(\":a.star\", \"x\")\ny = x");
    insta::assert_snapshot!(bench.error(), @r#"
    b.star:1:6: files load each other in a circle: a.star → b.star → a.star
     1 | load(":a.star", "x")
              ^
    "#);
    insta::assert_snapshot!(error("load(\"//skep.star\", \"x\")"), @r#"
    skep.star:1:6: files load each other in a circle: skep.star → skep.star
     1 | load("//skep.star", "x")
              ^
    "#);
}

#[test]
fn paths_stay_in_the_project() {
    insta::assert_snapshot!(error("source([\"a\"], root = \"../other\")"), @r#"
    skep.star:1:1: `../other` is not a valid path: `.` and `..` are not allowed
     1 | source(["a"], root = "../other")
         ^
    "#);
    insta::assert_snapshot!(error("read_text(\"../../etc/passwd\")"), @r#"
    skep.star:1:1: `../../etc/passwd` is not a valid path: `.` and `..` are not allowed
     1 | read_text("../../etc/passwd")
         ^
    "#);
    insta::assert_snapshot!(error("load(\"//../x.star\", \"x\")"), @r#"
    skep.star:1:6: `../x.star` is not a valid path: `.` and `..` are not allowed
     1 | load("//../x.star", "x")
              ^
    "#);
    insta::assert_snapshot!(error("link(\"a\", \"/etc/passwd\")"), @r#"
    skep.star:1:1: the symlink `a` -> `/etc/passwd` leaves the tree; its target must be relative and stay inside
     1 | link("a", "/etc/passwd")
         ^
    "#);
    let bench = Bench::new("read_text(\"passwd\")");
    std::os::unix::fs::symlink("/etc/passwd", bench.root().join("passwd")).unwrap();
    insta::assert_snapshot!(bench.error(), @r#"
    skep.star:1:1: `passwd` is a symlink that leaves the project
     1 | read_text("passwd")
         ^
    "#);
}

#[test]
fn evaluation_ends() {
    insta::assert_snapshot!(error("def f():\n    for a in range(1000000000):\n        pass\nf()"), @"
    skep.star:2:5: evaluation takes more than 10000000 steps; a recipe describes work and does none, so look for a loop without end
     2 |     for a in range(1000000000):
             ^
    ");
    insta::assert_snapshot!(error("def f(n):\n    return f(n + 1)\nf(1)"), @"
    skep.star:2:12: functions call each other more than 256 deep
     2 |     return f(n + 1)
                    ^
      through skep.star:3:1
    ");
}

#[test]
fn syntax_errors_point_at_the_token() {
    insta::assert_snapshot!(error("x = [1,\ny = 2"), @"
    skep.star:2:3: Parse error: unexpected symbol '=', expected symbol ']'
     2 | y = 2
           ^
    ");
    insta::assert_snapshot!(error("def f(:\n    pass"), @"
    skep.star:1:7: Parse error: unexpected symbol ':', expected identifier
     1 | def f(:
               ^
    ");
}

#[test]
fn an_error_in_the_library_points_at_the_users_line() {
    let recipe = "load(\"@skep//image.star\", \"image\")\n\nimage(name = \"api\", platforms = [], contents = lambda p: [])";
    insta::assert_snapshot!(error(recipe), @r#"
    skep.star:3:1: the image `api` has no platforms: expected a list such as ["linux/amd64", "linux/arm64"]
     3 | image(name = "api", platforms = [], contents = lambda p: [])
         ^
      through @skep//image.star:…
    "#);
    let recipe = "load(\"@skep//go.star\", \"go_module\")\ncode = go_module(src = source([\"go.mod\"]))";
    insta::assert_snapshot!(error(recipe), @r#"
    skep.star:2:8: there is neither `go.mod` nor `go.sum`; `dir` says where the project has its module
     2 | code = go_module(src = source(["go.mod"]))
                ^
      through @skep//go.star:…
      through @skep//go.star:…
      through @skep//go.star:…
    "#);
}

#[test]
fn values_that_make_no_sense_are_refused() {
    insta::assert_snapshot!(error("fetch_file(sources = [\"pkg:npm/a@1\"], integrity = \"md5:1\", name = \"a\")"), @r#"
    skep.star:1:1: `md5:1` is not an integrity: expected `sha256:<64 hex>`, `sha512-<base64>`, `h1:<base64>` or `tree:<64 hex>/<size>`
     1 | fetch_file(sources = ["pkg:npm/a@1"], integrity = "md5:1", name = "a")
         ^
    "#);
    insta::assert_snapshot!(error("fetch_archive(sources = [\"pkg:npm/a@1\"], integrity = \"x\", format = \"rar\")"), @r#"
    skep.star:1:1: `rar` is not an archive format: expected `zip`, `tar` or `deb`
     1 | fetch_archive(sources = ["pkg:npm/a@1"], integrity = "x", format = "rar")
         ^
    "#);
    insta::assert_snapshot!(error("action(\"a\", argv = [\"sh\"], inputs = {}, outputs = [\"/o\"])"), @r#"
    skep.star:1:1: the program `sh` is not an absolute path of the sandbox
     1 | action("a", argv = ["sh"], inputs = {}, outputs = ["/o"])
         ^
    "#);
    insta::assert_snapshot!(error("action(\"a\", argv = [\"/sh\"], inputs = {}, outputs = [\"/o\", \"/o/p\"])"), @r#"
    skep.star:1:1: `/o` and `/o/p` lie inside each other; outputs and secrets need places of their own
     1 | action("a", argv = ["/sh"], inputs = {}, outputs = ["/o", "/o/p"])
         ^
    "#);
    insta::assert_snapshot!(error("action(\"a\", argv = [\"/sh\"], inputs = {}, outputs = [\"/o\"], memory = 1024)"), @r#"
    skep.star:1:1: `memory` is 1024, and 16777216 is the least
     1 | action("a", argv = ["/sh"], inputs = {}, outputs = ["/o"], memory = 1024)
         ^
    "#);
    insta::assert_snapshot!(error("action(\"a\", argv = [\"/sh\"], inputs = {}, outputs = [\"/o\"], disk = -1)"), @r#"
    skep.star:1:1: `disk` is -1, and 0 is the least
     1 | action("a", argv = ["/sh"], inputs = {}, outputs = ["/o"], disk = -1)
         ^
    "#);
    insta::assert_snapshot!(error("link(\"a\", \"b/../c\")"), @r#"
    skep.star:1:1: the symlink `a` -> `b/../c` goes up behind a name, and what that means depends on the tree that it becomes a part of; write `c`
     1 | link("a", "b/../c")
         ^
    "#);
    insta::assert_snapshot!(error("oci_image(\"linux/mips\", layers = [])"), @r#"
    skep.star:1:1: `linux/mips` is not a platform that skep builds for: expected `linux/amd64` or `linux/arm64`
     1 | oci_image("linux/mips", layers = [])
         ^
    "#);
    insta::assert_snapshot!(error("oci_image(\"linux/amd64\", layers = [], ports = [70000])"), @r#"
    skep.star:1:1: a port is a number from 1 to 65535
     1 | oci_image("linux/amd64", layers = [], ports = [70000])
         ^
    "#);
    insta::assert_snapshot!(error("i = oci_image(\"linux/amd64\", layers = [])\ntarget(\"A\", [i])"), @r#"
    skep.star:2:1: `A` is not a target's name: expected at most 64 of `a-z 0-9 - _ .`, a letter or digit at both ends
     2 | target("A", [i])
         ^
    "#);
    insta::assert_snapshot!(error("i = oci_image(\"linux/amd64\", layers = [])\ntarget(\"a\", [i])\ntarget(\"a\", [i])"), @r#"
    skep.star:3:1: there are two targets called `a`
     3 | target("a", [i])
         ^
    "#);
    insta::assert_snapshot!(error("source([\"a[\"])"), @r#"
    skep.star:1:1: `a[` is not a glob pattern: unclosed character class; missing ']'
     1 | source(["a["])
         ^
    "#);
}

#[test]
fn locks_answer_exactly_what_is_asked() {
    let ask = |packages: &str| {
        format!("debian_lock(\"base.lock\", suite = \"bookworm\", arch = \"amd64\", packages = {packages})")
    };
    let bench = Bench::new(&ask("[\"tzdata\"]"));
    insta::assert_snapshot!(bench.error(), @r#"
    skep.star:1:1: cannot read `PROJECT/base.lock`: No such file or directory (os error 2); `skep lock` writes it
     1 | debian_lock("base.lock", suite = "bookworm", arch = "amd64", packages = ["tzdata"])
         ^
    "#);
    let locks = evaluate(bench.root(), Purpose::Lock, &Events::none())
        .unwrap()
        .locks;
    assert_eq!(locks[0].request.packages, ["tzdata"]);
    let lock = crate::lock::DebianLock {
        request: locks[0].request.clone(),
        packages: vec![],
    };
    bench.write("base.lock", &lock.to_toml());
    bench.evaluate().unwrap();
    bench.write(ROOT_RECIPE, &ask("[\"tzdata\", \"ca-certificates\"]"));
    insta::assert_snapshot!(bench.error(), @r#"
    skep.star:1:1: the lock file `base.lock` answers another request than this one; run `skep lock`
     1 | debian_lock("base.lock", suite = "bookworm", arch = "amd64", packages = ["tzdata", "ca-certificates"])
         ^
    "#);
    bench.write(ROOT_RECIPE, &format!("{}\n{}", ask("[\"a1\"]"), ask("[\"b1\"]")));
    let error = evaluate(bench.root(), Purpose::Lock, &Events::none()).unwrap_err();
    insta::assert_snapshot!(error, @r#"
    skep.star:2:1: two different requests share the lock file `base.lock`; give each its own
     2 | debian_lock("base.lock", suite = "bookworm", arch = "amd64", packages = ["b1"])
         ^
    "#);
    bench.write("base.lock", "nonsense");
    bench.write(ROOT_RECIPE, &ask("[\"tzdata\"]"));
    insta::assert_snapshot!(bench.error(), @r#"
    skep.star:1:1: `base.lock` is not a lock file: TOML parse error at line 1, column 9
      |
    1 | nonsense
      |         ^
    key with no value, expected `=`
     1 | debian_lock("base.lock", suite = "bookworm", arch = "amd64", packages = ["tzdata"])
         ^
    "#);
}

#[test]
fn secrets_are_fingerprints_only() {
    let bench = Bench::new("s = secret(\"key\")\nprint(s)");
    bench.write("key", "0123456789abcdef0123456789abcdef");
    let said = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&said);
    let events = Events::new(move |event| sink.lock().unwrap().push_str(&format!("{event:?}")));
    evaluate(bench.root(), Purpose::Build, &events).unwrap();
    assert!(!said.lock().unwrap().contains("0123456789"));
    bench.write("key", "short");
    insta::assert_snapshot!(bench.error(), @r#"
    skep.star:1:5: the secret `key` has 5 bytes; with fewer than 16, its fingerprint would give it away
     1 | s = secret("key")
             ^
    "#);
}
