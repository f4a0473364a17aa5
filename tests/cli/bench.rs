//! A project in a directory of its own, with a store of its own, and `skep` run on it.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use skep_test_support::Project;

/// Definitions that recipes of these tests share: busybox as a source, and an action that runs a script.
const PRELUDE: &str = r#"
load("@skep//image.star", "image")

tools = source(["bin/**"])

def sh(script, inputs = [], mnemonic = "sh"):
    return action(
        mnemonic,
        argv = ["/bin/busybox", "sh", "-ec", script],
        inputs = {"/": tools, "/in": inputs},
        outputs = ["/out"],
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
}
