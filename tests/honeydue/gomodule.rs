//! Go modules as other projects have them, with the real Go.

use super::gocache::{project, says, store};
use super::is_wanted;

/// Without a go.sum, with two commands of one name, one of which is told a title with blanks.
#[test]
fn a_module_without_requirements_whose_commands_share_a_name() {
    if !is_wanted() {
        return;
    }
    let (_turn, store) = store();
    let project = project(
        &store,
        r#"
code = go_module(
    src = source(["go.mod", "**/*.go"]),
    packages = ["./cmd/...", "./tools/..."],
    ldflags = ["-s", "-w", "-X", "main.title=Release of today"],
    env = {"LANG": "C.0"},
)
program(code.binary("./cmd/app", "linux/ARCH", at = "app"))
image(
    name = "tool",
    platforms = ["linux/ARCH"],
    contents = lambda platform: [code.binary("./tools/app", platform, at = "app")],
    entrypoint = ["/app"],
)
"#,
    );
    std::fs::remove_file(project.project().join("go.sum")).unwrap();
    for (directory, what) in [("cmd/app", "the service"), ("tools/app", "the tool")] {
        let source = format!(
            "package main\n\nimport \"os\"\n\nvar title string\n\nfunc main() {{ os.Stdout.WriteString(\"{what}, \" + title) }}\n"
        );
        project.write(&format!("{directory}/main.go"), &source);
    }
    assert_eq!(says(&project), "the service, Release of today");
    project.edit("skep.star", "binary(\"./cmd/app\"", "binary(\"./tools/app\"");
    assert_eq!(says(&project), "the tool, Release of today");
}
