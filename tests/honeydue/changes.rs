//! What a change costs: nothing is built again but what the change reaches.

use super::{fixture, is_wanted};

fn digest(report: &serde_json::Value, image: &str) -> String {
    report["images"][image]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_second_build_runs_no_action() {
    if !is_wanted() {
        return;
    }
    let again = fixture().one.build(&[]);
    assert!(again.ran.is_empty(), "{:?}", again.ran);
    // Nor does a clone in another place that shares the store, and it needs no network.
    let clone = fixture().one.sibling("elsewhere").build(&["--offline"]);
    assert!(clone.ran.is_empty(), "{:?}", clone.ran);
    assert_eq!(clone.report, again.report);
}

#[test]
fn a_change_in_the_worker_leaves_the_other_images_alone() {
    if !is_wanted() {
        return;
    }
    let before = fixture().one.report();
    let clone = fixture().one.sibling("changed");
    clone.edit(
        "cmd/worker/main.go",
        "func main() {",
        "func main() {\n\tprintln(\"changed\")\n",
    );
    let after = clone.build(&["--offline"]);
    assert_ne!(digest(&before, "worker"), digest(&after.report, "worker"));
    for image in super::IMAGES.into_iter().filter(|image| *image != "worker") {
        assert_eq!(digest(&before, image), digest(&after.report, image), "{image}");
    }
    let foreign = |label: &&String| !label.ends_with(":go_build") && !label.starts_with("worker");
    let foreign: Vec<_> = after.ran.iter().filter(foreign).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn an_edit_that_compiles_to_the_same_bytes_ends_in_the_same_image() {
    if !is_wanted() {
        return;
    }
    let before = fixture().one.report();
    let clone = fixture().one.sibling("reworded");
    let comment = "// Package main ";
    let source = std::fs::read_to_string(clone.project().join("cmd/worker/main.go")).unwrap();
    let line = source
        .lines()
        .find(|line| line.starts_with("//"))
        .unwrap_or(comment)
        .to_owned();
    let reworded = format!("// {}", "x".repeat(line.len().saturating_sub(3)));
    clone.edit("cmd/worker/main.go", &line, &reworded);
    // The one image whose source it is: what the others do with a change in there is the test above.
    let after = clone.build(&["--offline", "worker"]);
    assert_eq!(before["images"]["worker"], after.report["images"]["worker"]);
    assert!(
        after.ran.iter().all(|label| label.ends_with(":go_build")),
        "{:?}",
        after.ran
    );
    assert!(!after.ran.is_empty());
}
