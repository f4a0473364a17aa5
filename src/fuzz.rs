//! Every parser of bytes that others made, each behind one function of bytes that panics where something is wrong
//! with more than the bytes. Compiled into tests, which replay the corpora, and into `fuzz/`, which looks for more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::action::ActionResult;
use crate::deploy::SavedPlan;
use crate::event::Events;
use crate::lock::DebianLock;
use crate::plan::Archive;
use crate::project::{Pins, Project};
use crate::recipe::{self, Purpose};
use crate::rollout::{Journal, Record};
use crate::store::Store;
use crate::tree::{Directory, Metadata};
use crate::{fetch, gocache, network, registry, rollout, rootfs, stack, supervisor};

/// What a target may use. It leaves files in both, and looks at none that another left.
pub struct Bench {
    /// A store.
    pub store: Store,
    /// A directory.
    pub directory: PathBuf,
}

/// A parser with what is asked of it: it must not panic, nor take more time or memory than its input deserves.
pub type Target = fn(&Bench, &[u8]);

/// The targets, by name. Each has a corpus in `fuzz/corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("action_result", |_, bytes| action_result(bytes)),
    ("challenge", |_, bytes| registry::fuzz::challenge(bytes)),
    ("config", |_, bytes| rootfs::fuzz::config(bytes)),
    ("deb", |bench, bytes| unpack(bench, Archive::Deb, bytes)),
    ("debian_lock", |_, bytes| debian_lock(bytes)),
    ("desired", |_, bytes| supervisor::fuzz::desired(bytes)),
    ("dns", |_, bytes| network::fuzz::question(bytes)),
    ("go_cache", |_, bytes| gocache::fuzz::requests(bytes)),
    ("go_sum", |bench, bytes| recipe(bench, GO, "go.sum", bytes)),
    ("image_name", |_, bytes| registry::fuzz::image_name(bytes)),
    ("images_lock", |bench, bytes| images_lock(bench, bytes)),
    ("journal", |_, bytes| same_again::<Journal>(bytes)),
    ("layer", |bench, bytes| {
        fetch::fuzz::layer(&bench.store, &bench.directory, bytes);
    }),
    ("manifest", |_, bytes| rootfs::fuzz::manifest(bytes)),
    ("metadata", |_, bytes| metadata(bytes)),
    ("npm_page", |_, bytes| fetch::fuzz::npm_page(bytes)),
    ("package_lock", |bench, bytes| {
        recipe(bench, NODE, "package-lock.json", bytes);
    }),
    ("packages", |_, bytes| fetch::fuzz::packages(bytes)),
    ("pushed_manifest", |_, bytes| {
        registry::fuzz::pushed_manifest(bytes)
    }),
    ("pypi_page", |_, bytes| fetch::fuzz::pypi_page(bytes)),
    ("recipe", |_, bytes| recipe::fuzz::parse(bytes)),
    ("record", |_, bytes| same_again::<Record>(bytes)),
    ("registry_error", |_, bytes| registry::fuzz::error(bytes)),
    ("registry_request", |_, bytes| registry::fuzz::request(bytes)),
    ("release", |_, bytes| fetch::fuzz::release(bytes)),
    ("saved_plan", |_, bytes| same_again::<SavedPlan>(bytes)),
    ("skep_toml", |bench, bytes| skep_toml(bench, bytes)),
    ("stack", |_, bytes| stack_file(bytes)),
    ("supervisor_request", |_, bytes| supervisor::fuzz::request(bytes)),
    ("tar", |bench, bytes| unpack(bench, Archive::Tar, bytes)),
    ("tree", |_, bytes| tree(bytes)),
    ("variables", |_, bytes| rollout::fuzz::variables(bytes)),
    ("versions", |_, bytes| fetch::fuzz::versions(bytes)),
    ("zip", |bench, bytes| unpack(bench, Archive::Zip, bytes)),
];

/// Gives `bytes` to the target called `name`.
pub fn run(name: &str, bench: &Bench, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.expect("a target of this name");
    target(bench, bytes);
}

impl Bench {
    /// In an empty directory.
    pub fn new(directory: &Path) -> Bench {
        let place = directory.join("files");
        fs::create_dir(&place).expect("the directory is empty");
        Bench {
            store: Store::open(&directory.join("store")).expect("a store can be made"),
            directory: place,
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.directory.join(name), bytes).expect("the directory can be written");
    }
}

fn unpack(bench: &Bench, format: Archive, bytes: &[u8]) {
    fetch::fuzz::unpack(&bench.store, &bench.directory, format, bytes);
}

/// Canonical: what is read is what is written, byte for byte.
fn tree(bytes: &[u8]) {
    if let Ok(directory) = Directory::decode(bytes) {
        assert_eq!(directory.encode(), bytes);
        for (name, _) in directory.iter() {
            let name = name.as_str();
            assert!(
                !name.contains(['/', '\0']) && !["", ".", ".."].contains(&name),
                "{name:?}"
            );
        }
    }
}

fn metadata(bytes: &[u8]) {
    if let Ok(metadata) = Metadata::decode(bytes) {
        let again = Metadata::decode(&metadata.encode());
        assert_eq!(again.expect("it was written so"), metadata);
    }
}

fn action_result(bytes: &[u8]) {
    if let Ok(result) = ActionResult::decode(bytes) {
        let again = ActionResult::decode(&result.encode());
        assert_eq!(again.expect("it was written so"), result);
    }
}

/// A record as JSON: what was read is written as it is read.
fn same_again<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<T>(bytes) {
        let json = serde_json::to_string(&record).expect("plain data encodes");
        let again: T = serde_json::from_str(&json).expect("it was written so");
        assert_eq!(serde_json::to_string(&again).expect("plain data encodes"), json);
    }
}

fn debian_lock(bytes: &[u8]) {
    if let Ok(lock) = DebianLock::from_toml(&String::from_utf8_lossy(bytes)) {
        assert_eq!(DebianLock::from_toml(&lock.to_toml()), Ok(lock));
    }
}

fn images_lock(bench: &Bench, bytes: &[u8]) {
    bench.write("images.lock", bytes);
    if let Ok(pins) = Pins::read(&bench.directory) {
        bench.write("images.lock", pins.to_toml().as_bytes());
        assert_eq!(Pins::read(&bench.directory).expect("it was written so"), pins);
    }
}

fn skep_toml(bench: &Bench, bytes: &[u8]) {
    bench.write("skep.toml", bytes);
    bench.write("skep.star", b"");
    match Project::open(&bench.directory) {
        Ok(project) => {
            let (line, column) = project.line_and_column(bytes.len());
            assert!(line >= 1 && column >= 1);
        }
        Err(error) => assert!(error.to_string().contains("skep.toml"), "{error}"),
    }
}

/// A stack file: problems have places in it, and what is read is the same twice.
fn stack_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variables = |name: &str| (name != "UNSET").then(|| format!("value of {name}"));
    let files = |_: &Path| -> io::Result<Vec<u8>> { Ok(b"A=1\nB=\"two\"\n".to_vec()) };
    let read = || stack::read(&text, Path::new("stack.yml"), &variables, &files);
    let reading = match read() {
        Ok(reading) => reading,
        Err(error) => return assert!(error.to_string().contains("stack.yml:"), "{error}"),
    };
    assert_eq!(read().expect("it was read before").stack, reading.stack);
    let json = serde_json::to_string(&reading.stack).expect("plain data encodes");
    let again: stack::Stack = serde_json::from_str(&json).expect("it was written so");
    assert_eq!(again, reading.stack);
    let _ = stack::fill(&text, &variables);
}

const GO: &str = "load(\"@skep//go.star\", \"go_modules\")\n\
    load(\"@skep//image.star\", \"image\")\n\
    image(name = \"a\", platforms = [\"linux/amd64\"], contents = lambda platform: [go_modules(\"go.sum\")])\n";
const NODE: &str = "load(\"@skep//node.star\", \"node_modules\")\n\
    load(\"@skep//image.star\", \"image\")\n\
    image(name = \"a\", platforms = [\"linux/amd64\"], contents = lambda platform: [node_modules(\"package-lock.json\", \"amd64\")])\n";

/// A lock file that a function of the library reads: its plan is the same twice.
fn recipe(bench: &Bench, recipe: &str, name: &str, bytes: &[u8]) {
    bench.write("skep.star", recipe.as_bytes());
    bench.write(name, bytes);
    let evaluate = || recipe::evaluate(&bench.directory, Purpose::Build, &Events::none());
    if let Ok(evaluated) = evaluate() {
        let again = evaluate().expect("it was evaluated before");
        assert_eq!(format!("{:?}", again.plan), format!("{:?}", evaluated.plan));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files by target, from `fuzz/corpus/`.
    fn corpora() -> BTreeMap<String, Vec<PathBuf>> {
        let list = |path: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            paths
        };
        let directories = list(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus"));
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        directories.iter().map(|path| (name(path), list(path))).collect()
    }

    #[test]
    fn every_target_has_a_corpus_and_a_program() {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let corpora = corpora();
        assert_eq!(corpora.keys().cloned().collect::<Vec<_>>(), names);
        assert!(corpora.values().all(|files| !files.is_empty()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let text = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(text.contains(&format!("(\"{name}\", bytes)")), "{name}");
        }
    }

    #[test]
    fn corpora_are_replayed() {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench::new(directory.path());
        for (name, files) in corpora() {
            for file in files {
                let bytes = fs::read(&file).unwrap();
                let replayed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    run(&name, &bench, &bytes);
                }));
                assert!(replayed.is_ok(), "{}", file.display());
            }
        }
    }

    #[test]
    fn sound_lock_files_come_to_plans() {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench::new(directory.path());
        for (recipe, name, file) in [
            (GO, "go.sum", "go_sum/two"),
            (NODE, "package-lock.json", "package_lock/one"),
        ] {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
            bench.write("skep.star", recipe.as_bytes());
            bench.write(name, &fs::read(corpus.join(file)).unwrap());
            recipe::evaluate(&bench.directory, Purpose::Build, &Events::none()).unwrap();
        }
    }
}
