//! Recipes that would take too much: time, memory, or depth. Each is an error with its place, and nothing of it is
//! left.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use skep::build::Error;
use skep::build::evaluate::{self, Bounds};
use skep::cancel::Cancel;
use skep::event::Events;
use skep::recipe::{Evaluated, Purpose};

use super::bench::Bench;

/// One expression that is not done for a long time.
const ENDLESS: &str = "print(\"begins\")\ndef f(n):\n    return max(range(n))\n\nf(2147483647)\n";

/// The report of a build of this recipe.
fn failure(recipe: &str) -> String {
    Bench::new(recipe).skep(&["build"]).failure()
}

#[test]
fn what_one_expression_takes_is_bounded() {
    insta::assert_snapshot!(failure("a = 1\nb = [0] * (1 << 30)"), @"
    exit 2
    error: skep.star:2:1: evaluation needs more than 2048 MiB of memory; a recipe describes work and does none, so look for a value that grows
     2 | b = [0] * (1 << 30)
         ^
    ");
    insta::assert_snapshot!(failure("def f():\n    return \"x\" * (1 << 40)\n\nf()"), @r#"
    exit 2
    error: skep.star:2:12: Integer value is too big to fit in i32: 1099511627776
     2 |     return "x" * (1 << 40)
                    ^
      through skep.star:4:1
    "#);
    insta::assert_snapshot!(failure("a = list(range(1 << 30))"), @"
    exit 2
    error: skep.star:1:1: evaluation needs more than 2048 MiB of memory; a recipe describes work and does none, so look for a value that grows
     1 | a = list(range(1 << 30))
         ^
    ");
    insta::assert_snapshot!(failure("a = [1]\nfor _ in range(40):\n    a = a + a"), @"
    exit 2
    error: skep.star:3:5: evaluation needs more than 2048 MiB of memory; a recipe describes work and does none, so look for a value that grows
     3 |     a = a + a
             ^
    ");
    // A comprehension in the library is the fault of the call.
    insta::assert_snapshot!(failure("load(\"@skep//image.star\", \"image\")\n\nimage(\n    name = \"a\",\n    platforms = [\"linux/amd64\"] * (1 << 29),\n    contents = lambda p: [],\n)"), @"
    exit 2
    error: skep.star:3:1: evaluation needs more than 2048 MiB of memory; a recipe describes work and does none, so look for a value that grows
     3 | image(
         ^
    ");
}

#[test]
fn depth_is_bounded() {
    insta::assert_snapshot!(failure(&format!("a = 1\nb = {}", "[".repeat(3000))), @"
    exit 2
    error: skep.star:2:205: more than 200 brackets inside each other; give parts of the value names of their own
     2 | …[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…
                                                                                          ^
    ");
    let blocks: String = (0..150)
        .map(|depth| format!("{}if True:\n", " ".repeat(depth)))
        .collect();
    insta::assert_snapshot!(failure(&format!("{blocks}{}pass", " ".repeat(150))).lines().take(2).collect::<Vec<_>>().join("\n"), @"
    exit 2
    error: skep.star:102:102: more than 100 blocks inside each other; make a function of the inner ones
    ");
    // With little stack, so that less depth shows it.
    let nested = |more: &str| format!("a = []\nfor _ in range(100000):\n    a = {more}");
    let sum = format!("a = 1\nb = {}\n", vec!["1"; 20_000].join(" + "));
    let not = format!("a = 1\nb = {}1\n", "not ".repeat(20_000));
    let lambda = format!("a = 1\nb = {}1\n", "lambda: ".repeat(20_000));
    for (recipe, place) in [
        (nested("[a]\n"), "skep.star:3:5"),
        (nested("(a,)\nb = str(a)\n"), "skep.star:4:1"),
        (nested("{\"a\": a}\nb = json.encode(a)\n"), "skep.star:4:1"),
        (sum, "skep.star:2:1"),
        (not, "skep.star:2:1"),
        (lambda, "skep.star:2:1"),
    ] {
        let bench = Bench::new(&recipe);
        let bounds = Bounds {
            stack: 4 << 20,
            ..Bounds::default()
        };
        let error = evaluated(&bench, bounds).unwrap_err().to_string();
        let expected = format!("{place}: values or expressions nest too deep; ");
        assert!(error.starts_with(&expected), "{}", &error[..error.len().min(500)]);
    }
}

/// Evaluates the project in a process of its own.
fn evaluated(bench: &Bench, bounds: Bounds) -> Result<Evaluated, Error> {
    let (project, events) = (bench.project(), Events::none());
    let program = Path::new(env!("CARGO_BIN_EXE_skep"));
    evaluate::start(program, &project, Purpose::Build, &events, bounds)?.finish(&Cancel::default())
}

#[test]
fn files_that_recipes_read_are_bounded() {
    let bench = Bench::new("a = read_json(\"a.json\")");
    bench.write("a.json", &"[".repeat(100_000));
    insta::assert_snapshot!(bench.skep(&["build"]).failure(), @r#"
    exit 2
    error: skep.star:1:5: `a.json` is not JSON: recursion limit exceeded at line 1 column 128
     1 | a = read_json("a.json")
             ^
    "#);
    bench.write(
        "skep.star",
        "debian_lock(\"a.lock\", suite = \"bookworm\", arch = \"amd64\", packages = [])",
    );
    bench.write("a.lock", &format!("a = {}", "[".repeat(100_000)));
    let failure = bench.skep(&["build"]).failure();
    assert!(
        failure.starts_with("exit 2\nerror: skep.star:1:1: `a.lock` is not a lock file"),
        "{}",
        &failure[..500]
    );
    bench.write("skep.toml", &format!("a = {}", "[".repeat(100_000)));
    let failure = bench.skep(&["build"]).failure();
    assert!(
        failure.starts_with("exit 2\nerror: `BENCH/project/skep.toml`"),
        "{}",
        &failure[..500]
    );
    bench.write(
        "skep.toml",
        "[project]\nname = \"a\"\n[environments.prod]\ntarget = \"swarm\"\nstack = \"stack.yml\"\nmanagers = [\"unix:///nowhere\"]\n",
    );
    for stack in [
        format!("a: {}", "[".repeat(100_000)),
        "a:\n".to_owned() + &"- ".repeat(100_000),
    ] {
        bench.write("stack.yml", &stack);
        let ran = bench.skep(&["plan", "--offline", "prod"]);
        assert_eq!(ran.code, 2, "{}", &ran.stderr[..ran.stderr.len().min(2000)]);
    }
}

#[test]
fn time_is_bounded() {
    let bench = Bench::new(ENDLESS);
    let bounds = Bounds {
        time: Duration::from_secs(2),
        ..Bounds::default()
    };
    let error = evaluated(&bench, bounds).unwrap_err();
    insta::assert_snapshot!(error, @"
    skep.star:3:5: evaluation takes more than 2 s; a recipe describes work and does none, so look for a loop without end
     3 |     return max(range(n))
             ^
    ");
    // What was cancelled is no error of the recipe, and ends at once.
    let cancel = Cancel::default();
    cancel.raise();
    let (project, events) = (bench.project(), Events::none());
    let program = Path::new(env!("CARGO_BIN_EXE_skep"));
    let started = evaluate::start(program, &project, Purpose::Build, &events, Bounds::default()).unwrap();
    assert_eq!(started.finish(&cancel).unwrap_err().to_string(), "interrupted");
}

#[test]
fn an_interrupt_ends_evaluation_with_its_process() {
    let bench = Bench::new(ENDLESS);
    let mut skep = bench.command(&["build"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(skep.stderr.as_mut().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "warning: skep.star prints: begins\n");
    let children = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: u32 = children(skep.id()).trim().parse().unwrap();
    let interrupted = Command::new("kill")
        .args(["-INT", &skep.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    assert_eq!(skep.wait().unwrap().code(), Some(130));
    assert!(!Path::new(&format!("/proc/{child}")).exists());
}

#[test]
fn lines_of_a_lock_file_cost_a_bounded_number_of_nodes() {
    let bench = Bench::new(
        "load(\"@skep//go.star\", \"go_modules\")\nload(\"@skep//image.star\", \"image\")\nmodules = go_modules(\"go.sum\")\n\
         image(name = \"a\", platforms = [\"linux/amd64\", \"linux/arm64\"], contents = lambda p: [modules])",
    );
    let hash = format!("h1:{}=", "A".repeat(43));
    let nodes = |modules: usize| {
        let lines = (0..modules).map(|number| {
            let module = format!("git.example/Team/module-{number} v1.2.3");
            format!("{module} {hash}\n{module}/go.mod {hash}\n")
        });
        bench.write("go.sum", &lines.collect::<String>());
        evaluated(&bench, Bounds::default()).unwrap().plan.len()
    };
    let few = nodes(10);
    // A `.mod` file is fetched and placed; so is a module, with a file that holds its sum.
    assert_eq!(nodes(1010) - few, 5 * 1000);
}
