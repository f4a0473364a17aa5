//! What the rule library makes of lock files: evaluation only, as plans are plain data.

use std::collections::BTreeSet;

use super::*;
use crate::plan::{Node, TreeExpr};
use crate::platform::Arch;

const SUM: &str =
    "sha512-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";

/// A project with a recipe and a package-lock.json of `packages`, in which `SUM` stands for a checksum.
struct Project(tempfile::TempDir);

impl Project {
    fn new(recipe: &str, packages: &str) -> Project {
        let project = Project(tempfile::tempdir().unwrap());
        project.write(ROOT_RECIPE, recipe);
        project.write("package-lock.json", &lock(3, packages));
        project
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.0.path().join(file), content).unwrap();
    }

    fn evaluate(&self, purpose: Purpose) -> Result<Evaluated, Error> {
        evaluate(self.0.path(), purpose, &Events::none())
    }

    /// The plan's nodes that its target `x` needs on `host`.
    fn nodes(&self, host: Arch) -> Vec<Node> {
        let plan = self.evaluate(Purpose::Build).unwrap().plan;
        let nodes = plan.reachable(&[plan.targets()["x"].index], host);
        nodes.into_iter().map(|id| plan.node(id).clone()).collect()
    }

    /// The npm packages among them, as `name@version`.
    fn packages(&self, host: Arch) -> BTreeSet<String> {
        let sources = self.nodes(host).into_iter().filter_map(|node| match node {
            Node::Fetch(fetch) => Some(fetch.sources[0].strip_prefix("pkg:npm/")?.to_owned()),
            _ => None,
        });
        sources.collect()
    }

    /// The first line of what is wrong with the recipe, without the place.
    fn complaint(&self) -> String {
        let error = self.evaluate(Purpose::Build).unwrap_err();
        error.message.lines().next().unwrap_or_default().to_owned()
    }
}

fn lock(version: u32, packages: &str) -> String {
    let packages = packages.replace("SUM", &format!(r#""version": "1.0.0", "integrity": "{SUM}""#));
    format!(r#"{{"lockfileVersion": {version}, "packages": {{{packages}}}}}"#)
}

/// A recipe whose target `x` holds what `contents` says, which may use `modules`.
fn recipe(contents: &str) -> String {
    format!(
        r#"
load("@skep//image.star", "image")
load("@skep//node.star", modules = "node_modules")
image(name = "x", platforms = ["linux/amd64"], contents = lambda platform: [{contents}])
"#
    )
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_is_not_for_the_machine_stays_out_with_all_that_only_it_needs() {
    let packages = r#"
        "": {"dependencies": {"a": "1", "old": "1"}, "devDependencies": {"tool": "1"}},
        "node_modules/a": {SUM, "optionalDependencies": {"a-x64": "1", "a-arm64": "1", "a-musl": "1", "a-mac": "1"}},
        "node_modules/a-x64": {SUM, "optional": true, "os": ["linux"], "cpu": ["x64"], "libc": ["glibc"]},
        "node_modules/a-arm64": {SUM, "optional": true, "os": ["!win32"], "cpu": ["arm64"]},
        "node_modules/a-musl": {SUM, "optional": true, "os": ["linux"]},
        "node_modules/a-mac": {SUM, "optional": true, "os": ["darwin"], "dependencies": {"mac-only": "1", "shared": "1"}},
        "node_modules/mac-only": {SUM, "optional": true, "hasInstallScript": true},
        "node_modules/shared": {SUM},
        "node_modules/old": {SUM, "dependencies": {"shared": "0"}, "peerDependencies": {"absent": "1"}},
        "node_modules/old/node_modules/shared": {SUM, "name": "@scope/shared"},
        "node_modules/tool": {SUM, "dev": true, "dependencies": {"bundled": "1"}},
        "node_modules/tool/node_modules/bundled": {"version": "1.0.0", "inBundle": true}
    "#;
    let shared = ["a@1.0.0", "old@1.0.0", "%40scope/shared@1.0.0"];
    for (call, own) in [
        (r#""amd64""#, vec!["a-x64@1.0.0", "tool@1.0.0"]),
        (r#""arm64""#, vec!["a-arm64@1.0.0", "tool@1.0.0"]),
        (r#""arm64", dev = False"#, vec!["a-arm64@1.0.0"]),
    ] {
        let project = Project::new(
            &recipe(&format!("modules(\"package-lock.json\", {call})")),
            packages,
        );
        let expected = [&shared[..], &own].concat();
        assert_eq!(project.packages(Arch::Amd64), set(&expected), "{call}");
    }
}

#[test]
fn programs_of_packages_are_linked_and_can_be_executed() {
    let packages = r#"
        "": {"dependencies": {"@s/a": "1"}},
        "node_modules/@s/a": {SUM, "bin": {"a": "./bin/a.js"}, "dependencies": {"b": "1"}},
        "node_modules/@s/a/node_modules/b": {SUM, "bin": {"b": "b.js"}}
    "#;
    let project = Project::new(&recipe(r#"modules("package-lock.json", "amd64")"#), packages);
    let nodes = project.nodes(Arch::Amd64);
    let links: BTreeSet<String> = nodes
        .iter()
        .filter_map(|node| match node {
            Node::Tree(TreeExpr::Link { at, target }) => Some(format!("{at} -> {target}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        links,
        set(&[
            ".bin/a -> ../@s/a/bin/a.js",
            "@s/a/node_modules/.bin/b -> ../b/b.js"
        ])
    );
    let executable = nodes.iter().any(|node| match node {
        Node::Fetch(fetch) => format!("{:?}", fetch.unpack).contains("executable: [\"bin/a.js\"]"),
        _ => false,
    });
    assert!(executable);
}

#[test]
fn locks_that_cannot_be_followed_are_refused_by_the_entry() {
    let call = recipe(r#"modules("package-lock.json", "amd64")"#);
    let complaint = |entry: &str| {
        let packages = format!(r#""": {{"dependencies": {{"a": "1"}}}}, "node_modules/a": {entry}"#);
        let complaint = Project::new(&call, &packages).complaint();
        let rest = complaint.strip_prefix("`package-lock.json`, `node_modules/a`: ");
        rest.unwrap_or(&complaint).to_owned()
    };
    let git = r#"{SUM, "resolved": "git+ssh://git@example.invalid/a.git#1"}"#;
    for (entry, expected) in [
        (r#"{"resolved": "lib", "link": true}"#, "a link to `lib`"),
        (git, "it comes from `git+ssh:"),
        (r#"{SUM, "resolved": "file:a.tgz"}"#, "it comes from `file:a.tgz`"),
        (
            r#"{SUM, "resolved": "https://example.invalid/a.tgz"}"#,
            "it comes from an address",
        ),
        (r#"{"version": "1.0.0"}"#, "it has no sha512 `integrity`"),
        (
            r#"{"version": "1.0.0", "integrity": "sha1-AAAA"}"#,
            "it has no sha512 `integrity`",
        ),
        (r#"{SUM, "hasInstallScript": true}"#, "it has an install script"),
        (r#"{SUM, "os": ["win32"]}"#, "it is not for Linux on amd64"),
    ] {
        let complaint = complaint(entry);
        assert!(complaint.contains(expected), "{entry}: {complaint}");
    }
    let project = Project::new(&call, "");
    project.write("package-lock.json", &lock(2, ""));
    assert!(project.complaint().contains("has the version 2 and not 3"));
    project.write("package-lock.json", &lock(3, r#""packages/a": {SUM}"#));
    assert!(project.complaint().contains("workspaces are not supported"));
}

const APP: &str = r#"
load("@skep//image.star", "image")
load("@skep//node.star", "next_app")
app = next_app(src = source(["app/**"]), key = secret("key"))
image(name = "x", platforms = ["linux/arm64"], contents = lambda platform: app.standalone(platform))
"#;

#[test]
fn an_app_is_built_by_the_host_and_holds_the_platforms_packages() {
    let packages = r#"
        "": {"dependencies": {"next": "1"}},
        "node_modules/next": {SUM, "optionalDependencies": {"@img/s-x64": "1", "@img/s-arm64": "1", "@next/swc-linux-x64-gnu": "1"}},
        "node_modules/@img/s-x64": {SUM, "optional": true, "cpu": ["x64"]},
        "node_modules/@img/s-arm64": {SUM, "optional": true, "cpu": ["arm64"]},
        "node_modules/@next/swc-linux-x64-gnu": {SUM, "optional": true, "cpu": ["x64"]}
    "#;
    let project = Project::new(APP, packages);
    project.write("key", "a key for this test alone, of no use");
    let own = |host| {
        let mut packages = project.packages(host);
        packages.retain(|name| !name.starts_with("node-linux-"));
        packages
    };
    let both = ["next@1.0.0", "%40img/s-arm64@1.0.0"];
    assert_eq!(own(Arch::Arm64), set(&both));
    let amd64 = ["%40img/s-x64@1.0.0", "%40next/swc-linux-x64-gnu@1.0.0"];
    assert_eq!(own(Arch::Amd64), set(&[both, amd64].concat()));

    let nodes = project.nodes(Arch::Amd64);
    let swaps = nodes.iter().find_map(|node| match node {
        Node::Tree(TreeExpr::Replace { replacements, .. }) => Some(replacements),
        _ => None,
    });
    let [swap] = &swaps.unwrap()[..] else {
        panic!("one package is swapped")
    };
    assert_eq!(swap.from.to_string(), "node_modules/@img/s-x64");
    assert_eq!(swap.at.to_string(), "node_modules/@img/s-arm64");
}

#[test]
fn debian_names_its_locks_before_they_are_there() {
    let recipe = r#"
load("@skep//debian.star", "base", "user")
load("@skep//image.star", "image")
image(
    name = "x",
    platforms = ["linux/amd64", "linux/arm64"],
    contents = lambda platform: [base(platform, lock = "sys", packages = ["openssl"], accounts = [user("app", 1000)])],
)
"#;
    let project = Project::new(recipe, "");
    let locks = project.evaluate(Purpose::Lock).unwrap().locks;
    let files: Vec<String> = locks.iter().map(|lock| lock.file.to_string()).collect();
    assert_eq!(files, ["sys.amd64.lock", "sys.arm64.lock"]);
    for lock in &locks {
        assert!(lock.request.packages.contains(&"openssl".to_owned()), "{lock:?}");
        assert_eq!(lock.request.exclude, ["awk", "debconf"]);
    }
    let complaint = project.complaint();
    assert!(complaint.contains("`skep lock` writes it"), "{complaint}");
}

#[test]
fn servers_are_images_whose_settings_can_be_replaced() {
    let recipe = r#"
load("@skep//postgres.star", "postgres_image")
load("@skep//redis.star", "redis_image")
postgres_image(name = "x", platforms = ["linux/arm64"], lock = "pg", user = "7", labels = {"a": "b"})
redis_image(name = "y", platforms = ["linux/arm64"], contents = lambda platform: [file("a", "b")])
"#;
    let project = Project::new(recipe, "");
    let locks = project.evaluate(Purpose::Lock).unwrap().locks;
    let files: Vec<String> = locks.iter().map(|lock| lock.file.to_string()).collect();
    assert_eq!(files, ["base.arm64.lock", "pg.arm64.lock"]);
    assert!(locks[1].request.exclude.contains(&"libllvm14".to_owned()));
    for lock in &locks {
        project.write(&lock.file.to_string(), &empty_lock(lock));
    }
    let nodes = project.nodes(Arch::Amd64);
    let config = nodes.iter().find_map(|node| match node {
        Node::Image(image) => Some(&image.config),
        _ => None,
    });
    let config = config.unwrap();
    assert_eq!(config.user.as_deref(), Some("7"));
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.entrypoint, ["/usr/bin/postgres-start"]);
    assert!(config.labels.contains_key("a"));
}

/// A lock file that answers a request with no package.
fn empty_lock(lock: &crate::lock::LockRequest) -> String {
    let request = lock.request.clone();
    let packages = Vec::new();
    crate::lock::DebianLock { request, packages }.to_toml()
}

#[test]
fn accounts_share_groups_and_neither_names_nor_numbers() {
    let accounts = |accounts: &str| {
        let recipe = format!(
            "load(\"@skep//debian.star\", \"user\", \"users\")\nload(\"@skep//image.star\", \"image\")\n\
             image(name = \"x\", platforms = [\"linux/amd64\"], contents = lambda platform: [users([{accounts}])])\n"
        );
        Project::new(&recipe, "")
    };
    let project = accounts(r#"user("a", 1000, home = "/a"), user("b", 1001, gid = 1000)"#);
    let group = project
        .nodes(Arch::Amd64)
        .into_iter()
        .find_map(|node| match node {
            Node::Tree(TreeExpr::File { at, content, .. }) if at.to_string() == "etc/group" => Some(content),
            _ => None,
        });
    assert_eq!(group.unwrap(), "root:x:0:\nnobody:x:65534:\na:x:1000:\n");
    for twice in [
        r#"user("a", 1), user("a", 2)"#,
        r#"user("a", 1), user("b", 1)"#,
        r#"user("a", 0)"#,
    ] {
        let complaint = accounts(twice).complaint();
        assert!(complaint.contains("two accounts have the name"), "{complaint}");
    }
}
