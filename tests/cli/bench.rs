//! A project in a directory of its own, with a store of its own, and `skep` run on it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use skep_test_support::{Project, Random};

/// Definitions that recipes of these tests share: busybox as a source, and an action that runs a script.
const PRELUDE: &str = r#"
load("@skep//image.star", "image")

tools = source(["bin/**"])

def sh(script, inputs = [], mnemonic = "sh", limits = {}):
    return action(
        mnemonic,
        argv = ["/bin/busybox", "sh", "-ec", script],
        inputs = {"/": tools, "/in": inputs},
        outputs = ["/out"],
        **limits
    ).select("out")

def single(name, *trees):
    image(name = name, platforms = ["linux/amd64"], contents = lambda platform: list(trees))
"#;

/// A project and its store.
pub struct Bench(Project);

impl Deref for Bench {
    type Target = Project;

    fn deref(&self) -> &Project {
        &self.0
    }
}

impl Bench {
    /// A project without a recipe.
    pub fn empty() -> Bench {
        Bench(Project::new(env!("CARGO_BIN_EXE_skep")))
    }

    /// A project with the recipe `recipe`.
    pub fn new(recipe: &str) -> Bench {
        let bench = Bench::empty();
        bench.write("skep.toml", "[project]\nname = \"bench\"\n");
        bench.write("skep.star", recipe);
        bench
    }

    /// A project whose recipe may use `sh` and `single`.
    pub fn with_busybox(recipe: &str) -> Bench {
        let bench = Bench::new(&format!("{PRELUDE}\n{recipe}"));
        bench.add_busybox();
        bench
    }

    /// Run and owned by `user`, if there is one.
    pub fn belonging_to(mut self, user: Option<u32>) -> Bench {
        self.0.belong_to(user);
        self
    }

    /// Replaces the recipe of [`Bench::with_busybox`].
    pub fn rewrite(&self, recipe: &str) {
        self.write("skep.star", &format!("{PRELUDE}\n{recipe}"));
    }

    /// The blobs of the store, by their paths.
    pub fn blobs(&self) -> Vec<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        list(&self.store().join("blobs"))
            .iter()
            .flat_map(|shard| list(shard))
            .collect()
    }

    /// Starts a build and kills it at some instant of the time that a `whole` one takes; says after how long, and
    /// whether it ran still. If not, `whole` was too long: the build that it was taken from met a busier machine.
    pub fn kill_build(&self, random: &mut Random, whole: &mut Duration) -> (Duration, bool) {
        let after = whole.mul_f64(random.fraction());
        let mut build = self.command(&["build", "--quiet"]);
        let mut child = build.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        let was_running = child.try_wait().unwrap().is_none();
        if !was_running {
            *whole = whole.mul_f64(0.95);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        (after, was_running)
    }
}
