//! From an input tree to mounts: which directories are bound whole, and which are made anew because
//! something else is mounted inside. Only plans; [`super::init`] mounts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::Error;
use super::spec::Step;
use crate::action::Action;
use crate::digest::Digest;
use crate::store::Store;
use crate::tree::{Directories as _, Directory, Node, TreePath, ops};

/// Binds beyond this cost more than linking the files of whole directories.
const MAX_BINDS: usize = 4_000;

/// Accounts of a sandbox whose inputs bring none.
const PASSWD: &str = "root:x:0:0:root:/:/bin/false\nskep:x:1000:1000:skep:/tmp:/bin/false\n";
const GROUP: &str = "root:x:0:\nskep:x:1000:\n";
const HOSTS: &str = "127.0.0.1 localhost skep\n";

/// The steps that make the root file system of `action`. Outputs and scratch space of overlays are taken
/// from `scratch`, a directory from the store's root, where `out/<n>` and `over/<n>` must be there.
pub(super) fn steps(
    store: &Store,
    action: &Action,
    units: &BTreeSet<Digest>,
    secrets: &BTreeMap<TreePath, Vec<u8>>,
    scratch: &Path,
) -> Result<Vec<Step>, Error> {
    let steps = Layout::new(store, action, units, secrets, scratch)?.plan()?;
    let binds = steps
        .iter()
        .filter(|step| matches!(step, Step::Bind { .. }))
        .count();
    if binds <= MAX_BINDS {
        return Ok(steps);
    }
    Layout::new(store, action, &BTreeSet::new(), secrets, scratch)?.plan()
}

struct Layout<'a> {
    store: &'a Store,
    action: &'a Action,
    units: &'a BTreeSet<Digest>,
    secrets: &'a BTreeMap<TreePath, Vec<u8>>,
    scratch: &'a Path,
    /// Directories that must be made anew, because something is mounted or written inside.
    open: BTreeSet<TreePath>,
    /// Whether a directory has a unit below it.
    has_units: HashMap<Digest, bool>,
    steps: Vec<Step>,
}

impl<'a> Layout<'a> {
    fn new(
        store: &'a Store,
        action: &'a Action,
        units: &'a BTreeSet<Digest>,
        secrets: &'a BTreeMap<TreePath, Vec<u8>>,
        scratch: &'a Path,
    ) -> Result<Layout<'a>, Error> {
        let mut layout = Layout {
            store,
            action,
            units,
            secrets,
            scratch,
            open: BTreeSet::from([TreePath::root()]),
            has_units: HashMap::new(),
            steps: Vec::new(),
        };
        let command = &action.command;
        let fixed: Vec<TreePath> = layout.missing_accounts()?.into_iter().map(|(at, _)| at).collect();
        let mounted = fixed.iter().chain(&command.outputs).chain(&command.writable);
        for path in mounted.chain(secrets.keys()).chain([&command.cwd]) {
            layout.open_above(path);
        }
        Ok(layout)
    }

    fn plan(mut self) -> Result<Vec<Step>, Error> {
        let root = self.action.input_root;
        self.directory(&root, &TreePath::root())?;
        for (at, content) in self.missing_accounts()? {
            let content = content.as_bytes().to_vec();
            self.steps.push(Step::File {
                at,
                content,
                mode: 0o644,
            });
        }
        for (n, at) in self.action.command.outputs.iter().enumerate() {
            let from = self.scratch.join("out").join(n.to_string());
            self.steps.push(Step::Directory { at: at.clone() });
            self.steps.push(Step::Output { at: at.clone(), from });
        }
        for (at, content) in self.secrets {
            self.steps.push(Step::File {
                at: at.clone(),
                content: content.clone(),
                mode: 0o400,
            });
        }
        let at = self.action.command.cwd.clone();
        self.steps.push(Step::Directory { at });
        Ok(self.steps)
    }

    /// Programs look up who they are; where the inputs do not say, we do.
    fn missing_accounts(&self) -> Result<Vec<(TreePath, &'static str)>, Error> {
        let mut missing = Vec::new();
        for (path, content) in [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/hosts", HOSTS)] {
            let path: TreePath = path.parse().expect("a plain path");
            if self.lookup(&path)?.is_none() {
                missing.push((path, content));
            }
        }
        Ok(missing)
    }

    fn lookup(&self, path: &TreePath) -> Result<Option<Node>, Error> {
        Ok(ops::lookup(self.store, &self.action.input_root, path)?)
    }

    fn open_above(&mut self, path: &TreePath) {
        let mut path = path.clone();
        while let Some((parent, _)) = path.split_last() {
            self.open.insert(parent.clone());
            path = parent;
        }
    }

    /// Puts the directory `digest` at `at`, as few mounts as possible.
    fn directory(&mut self, digest: &Digest, at: &TreePath) -> Result<(), Error> {
        if self.action.command.writable.contains(at) {
            return self.overlay(digest, at);
        }
        let whole = !self.open.contains(at) && (self.units.contains(digest) || !self.has_units(digest)?);
        self.steps.push(Step::Directory { at: at.clone() });
        if whole {
            let from = self.store.materialize(digest)?;
            let at = at.clone();
            self.steps.push(Step::Bind { at, from });
            return Ok(());
        }
        let directory = self.store.load(digest)?;
        let is_file = |node: &&Node| matches!(node, Node::File { .. });
        let files = directory.iter().map(|(_, node)| node).filter(is_file).count();
        if files > 0 {
            self.files(&directory, at)?;
        }
        self.below(&directory, at)
    }

    /// Binds the files of a directory that is made anew, one by one.
    fn files(&mut self, directory: &Directory, at: &TreePath) -> Result<(), Error> {
        let only_files = directory
            .iter()
            .filter(|(_, node)| matches!(node, Node::File { .. }));
        let only_files: Directory = only_files
            .map(|(name, node)| (name.clone(), node.clone()))
            .collect();
        let from = self.store.materialize(&self.store.save(&only_files)?)?;
        for (name, _) in only_files.iter() {
            self.steps.push(Step::BindFile {
                at: at.join(name),
                from: from.join(name.as_str()),
            });
        }
        Ok(())
    }

    fn below(&mut self, directory: &Directory, at: &TreePath) -> Result<(), Error> {
        for (name, node) in directory.iter() {
            match node {
                Node::Directory(digest) => self.directory(digest, &at.join(name))?,
                Node::Symlink(target) => self.steps.push(Step::Link {
                    at: at.join(name),
                    target: target.clone(),
                }),
                Node::File { .. } => {}
            }
        }
        Ok(())
    }

    /// An overlay does not show what is mounted inside its lower directory, so that is made of what has
    /// nothing mounted inside, and the rest is bound on top.
    fn overlay(&mut self, digest: &Digest, at: &TreePath) -> Result<(), Error> {
        let mut on_top = Vec::new();
        let lower = self.without_units(digest, at, &mut on_top)?;
        let n = self.action.command.writable.iter().position(|path| path == at);
        let scratch = self
            .scratch
            .join("over")
            .join(n.expect("it is writable").to_string());
        self.steps.push(Step::Directory { at: at.clone() });
        self.steps.push(Step::Overlay {
            at: at.clone(),
            lower: self.store.materialize(&lower)?,
            scratch,
        });
        for (path, digest) in on_top {
            self.directory(&digest, &path)?;
        }
        Ok(())
    }

    fn without_units(
        &mut self,
        digest: &Digest,
        at: &TreePath,
        on_top: &mut Vec<(TreePath, Digest)>,
    ) -> Result<Digest, Error> {
        let nested = self
            .action
            .command
            .writable
            .iter()
            .any(|path| path != at && path.starts_with(at));
        if !nested && !self.has_units(digest)? {
            return Ok(*digest);
        }
        let mut rest = Directory::new();
        for (name, node) in self.store.load(digest)?.iter() {
            let path = at.join(name);
            let node = match node {
                Node::Directory(child)
                    if self.units.contains(child) || self.action.command.writable.contains(&path) =>
                {
                    on_top.push((path, *child));
                    continue;
                }
                Node::Directory(child) => Node::Directory(self.without_units(child, &path, on_top)?),
                node => node.clone(),
            };
            rest.insert(name.clone(), node);
        }
        Ok(self.store.save(&rest)?)
    }

    /// Whether something below `digest`, but not it itself, is a unit.
    fn has_units(&mut self, digest: &Digest) -> Result<bool, Error> {
        if self.units.is_empty() {
            return Ok(false);
        }
        if let Some(known) = self.has_units.get(digest) {
            return Ok(*known);
        }
        let mut found = false;
        for (_, node) in self.store.load(digest)?.iter() {
            if let Node::Directory(child) = node
                && (self.units.contains(child) || self.has_units(child)?)
            {
                found = true;
                break;
            }
        }
        self.has_units.insert(*digest, found);
        Ok(found)
    }
}

/// The directories that the steps expect in a scratch directory, from there.
pub(super) fn scratch_directories(action: &Action) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = ["root", "out", "over"].map(PathBuf::from).into();
    paths.extend(outputs(action));
    for upper in uppers(action) {
        let over = upper
            .parent()
            .expect("it is in its overlay's directory")
            .to_owned();
        paths.extend([over.clone(), upper, over.join("work")]);
    }
    paths
}

/// The directories of a scratch directory that become the outputs, in their order.
pub(super) fn outputs(action: &Action) -> Vec<PathBuf> {
    let numbers = 0..action.command.outputs.len();
    numbers.map(|n| Path::new("out").join(n.to_string())).collect()
}

/// Those that take what is written over inputs.
pub(super) fn uppers(action: &Action) -> Vec<PathBuf> {
    let numbers = 0..action.command.writable.len();
    numbers
        .map(|n| Path::new("over").join(n.to_string()).join("upper"))
        .collect()
}
