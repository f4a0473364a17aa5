//! Images that no engine could run: they are refused when they are built, with their place in the recipe.

use super::bench::Bench;

const LOAD: &str = "load(\"@skep//image.star\", \"image\")\n\n";

/// The report of a build of the image `api` with these contents and further arguments.
fn failure(contents: &str, more: &str) -> String {
    let bench = Bench::new(&format!(
        "{LOAD}image(\n    name = \"api\",\n    platforms = [\"linux/amd64\"],\n    contents = lambda platform: {contents},\n    {more}\n)\n"
    ));
    bench.skep(&["build"]).failure()
}

#[test]
fn what_would_fail_when_it_is_deployed_fails_when_it_is_built() {
    insta::assert_snapshot!(failure("[]", ""), @"
    exit 2
    error: `api@linux/amd64:image` failed: skep.star:3:1: the image holds nothing; `contents` must return at least one tree with something in it
    ");
    insta::assert_snapshot!(failure("[file(\"api\", \"x\")]", "entrypoint = [\"/api\"],"), @"
    exit 2
    error: `api@linux/amd64:image` failed: skep.star:3:1: the entrypoint `/api` cannot be run: `/api` has the mode 644, without an execute bit; set one, such as with `attributes`
    ");
    insta::assert_snapshot!(failure("[file(\"app\", \"x\", executable = True)]", "cmd = [\"/api\"],"), @"
    exit 2
    error: `api@linux/amd64:image` failed: skep.star:3:1: the cmd `/api` is not in the image; put it into `contents`, or name another program
    ");
    insta::assert_snapshot!(failure("[file(\"a\", \"x\")]", "user = \"app\","), @"
    exit 2
    error: `api@linux/amd64:image` failed: skep.star:3:1: the user `app` cannot run: the image's /etc/passwd has no user `app`; put the account into the image, such as with `users` of `@skep//debian.star`, or give its number
    ");
    insta::assert_snapshot!(failure("[file(\"app\", \"#!/bin/sh\\n\", executable = True)]", "entrypoint = [\"app\"], user = \"app\", env = {\"PATH\": \"/\"},"), @"
    exit 2
    error: `api@linux/amd64:image` failed: skep.star:3:1: the user `app` cannot run: the image's /etc/passwd has no user `app`; put the account into the image, such as with `users` of `@skep//debian.star`, or give its number
      the entrypoint `app` cannot be run: `/app` is a script for `/bin/sh`, which is not in the image; add it, or a program that needs none
    ");
    let sound = failure(
        "[file(\"app\", \"x\", executable = True)]",
        "entrypoint = [\"/app\"], user = \"65532\",",
    );
    assert!(sound.starts_with("exit 0"), "{sound}");
}

#[test]
fn a_name_that_runtimes_take_for_a_removal_is_refused() {
    for (entry, path) in [
        ("file(\"srv/.wh.config\", \"x\")", "srv/.wh.config"),
        ("link(\".wh.a\", \"b\")", ".wh.a"),
        ("directory(\"a/.wh..wh..opq\")", "a/.wh..wh..opq"),
        ("source([\"**\"], root = \"b\").at(\"/srv\")", "srv/.wh.here"),
    ] {
        let bench = Bench::new(&format!(
            "{LOAD}image(\n    name = \"api\",\n    platforms = [\"linux/amd64\"],\n    contents = lambda platform: [\n        file(\"a\", \"\"),\n        {entry},\n    ],\n)\n"
        ));
        bench.write("b/.wh.here", "x");
        let failure = bench.skep(&["build"]).failure();
        assert_eq!(
            failure,
            format!(
                "exit 2\nerror: `api@linux/amd64:layer.2` failed: skep.star:3:1: a layer cannot hold `{path}`: runtimes take a name that begins with `.wh.` for the removal of another file; rename it, or leave it out with `exclude`"
            )
        );
    }
}
