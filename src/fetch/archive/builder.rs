//! A tree under construction: entries come in any order, and are checked against each other at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::ArchiveError;
use crate::digest::Digest;
use crate::store::Store;
use crate::tree::links::{Lead, lead};
use crate::tree::{
    Attributes, Directories as _, Directory, Metadata, Name, Node, TreePath, is_indirect, link_stays_inside,
    ops,
};

/// Collects entries. Memory grows with their number, which is bounded, and not with their content.
pub(super) struct Builder {
    root: BTreeMap<Name, Entry>,
    metadata: Metadata,
    /// Files that share an inode: the further paths of each, by the one that came first.
    hard_links: BTreeMap<TreePath, Vec<TreePath>>,
    /// The path that came first, for each further one.
    first: HashMap<TreePath, TreePath>,
    /// Directories that something is in, and that are no entry of their own.
    implied: BTreeSet<TreePath>,
    /// Links that can be judged only when the tree is complete.
    indirect: Vec<(TreePath, String)>,
    left: usize,
}

/// What the tree is, which decides what is made of names and links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// A tree of its own: no link leaves it, and no names differ only in case.
    Tree,
    /// Parts of root file systems, each in a directory at the top: above its root is its root.
    Packages,
    /// A part of a root file system that others complete, and where links are looked at then.
    Layer,
}

enum Entry {
    Directory(BTreeMap<Name, Entry>),
    File { digest: Digest, executable: bool },
    Symlink(String),
}

impl Builder {
    pub(super) fn new(max_entries: usize) -> Builder {
        Builder {
            root: BTreeMap::new(),
            metadata: Metadata::default(),
            hard_links: BTreeMap::new(),
            first: HashMap::new(),
            implied: BTreeSet::new(),
            indirect: Vec::new(),
            left: max_entries,
        }
    }

    pub(super) fn directory(&mut self, path: &TreePath) -> Result<(), ArchiveError> {
        self.enter(path)?;
        self.implied.remove(path);
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        path: &TreePath,
        digest: Digest,
        executable: bool,
    ) -> Result<(), ArchiveError> {
        self.insert(path, Entry::File { digest, executable })
    }

    /// A symlink whose relative target stays inside the tree.
    pub(super) fn symlink(&mut self, path: &TreePath, target: &str) -> Result<(), ArchiveError> {
        if !link_stays_inside(path, target) {
            return Err(ArchiveError::Link {
                name: path.to_string(),
                target: super::shown(target),
                reason: "leaves the archive",
            });
        }
        if is_indirect(target) {
            self.indirect.push((path.clone(), target.to_owned()));
        }
        self.insert(path, Entry::Symlink(target.to_owned()))
    }

    /// Another name for a file that came before. `keep` says that both shall share their inode.
    pub(super) fn hard_link(
        &mut self,
        path: &TreePath,
        to: &TreePath,
        keep: bool,
    ) -> Result<(), ArchiveError> {
        let Some(Entry::File { digest, executable }) = self.find(to) else {
            return Err(ArchiveError::Link {
                name: path.to_string(),
                target: to.to_string(),
                reason: "is a hard link to something that is no earlier file",
            });
        };
        let (digest, executable) = (*digest, *executable);
        self.file(path, digest, executable)?;
        if keep {
            let first = self.first.get(to).unwrap_or(to).clone();
            self.first.insert(path.clone(), first.clone());
            self.hard_links.entry(first).or_default().push(path.clone());
        }
        Ok(())
    }

    /// Attributes of an entry that differ from the default; those of a directory may be given again.
    pub(super) fn attributes(&mut self, path: &TreePath, attributes: Attributes) {
        match attributes == Attributes::default() {
            true => self.metadata.0.remove(path),
            false => self.metadata.0.insert(path.clone(), attributes),
        };
    }

    /// Directories that are there only because something is in them.
    pub(super) fn implied(&self) -> &BTreeSet<TreePath> {
        &self.implied
    }

    /// Saves every directory, and gives the root and the metadata.
    pub(super) fn finish(mut self, store: &Store, whole: Whole) -> Result<(Digest, Metadata), ArchiveError> {
        for (first, others) in &self.hard_links {
            let mut paths: Vec<_> = std::iter::once(first).chain(others).collect();
            paths.sort();
            // A layer is written in the order of paths, and a link can only name what was written before.
            let attributes = self.metadata.0.get(first).cloned().unwrap_or_default();
            for path in &paths {
                let linked = Attributes {
                    hard_link: (*path != paths[0]).then(|| paths[0].clone()),
                    ..attributes.clone()
                };
                match linked == Attributes::default() {
                    true => self.metadata.0.remove(*path),
                    false => self.metadata.0.insert((*path).clone(), linked),
                };
            }
        }
        let root = save(store, &self.root, &TreePath::root(), whole == Whole::Tree)?;
        let root = match whole {
            Whole::Tree => self.check_indirect(store, root)?,
            Whole::Packages => self.rewrite_indirect(store, root)?,
            Whole::Layer => root,
        };
        Ok((root, self.metadata))
    }

    fn check_indirect(&self, store: &Store, root: Digest) -> Result<Digest, ArchiveError> {
        for (path, target) in &self.indirect {
            let reason = match lead(store, &root, path, target).map_err(of_tree)? {
                Lead::Inside => continue,
                Lead::Outside(_) => "leaves the archive",
                Lead::Through(..) => "leads through what the archive does not have, and up again",
            };
            return Err(ArchiveError::Link {
                name: path.to_string(),
                target: super::shown(target),
                reason,
            });
        }
        Ok(root)
    }

    /// Makes links plain that leave their package's root, or whose way other packages decide; what they are in an
    /// image is metadata.
    fn rewrite_indirect(&mut self, store: &Store, mut root: Digest) -> Result<Digest, ArchiveError> {
        for (path, target) in std::mem::take(&mut self.indirect) {
            let Some((top, inner)) = path.names().split_first() else {
                continue;
            };
            let top = TreePath::root().join(top);
            let inner = inner.iter().fold(TreePath::root(), |path, name| path.join(name));
            let Some(Node::Directory(package)) = ops::lookup(store, &root, &top).map_err(of_tree)? else {
                continue;
            };
            match lead(store, &package, &inner, &target).map_err(of_tree)? {
                Lead::Inside => {}
                Lead::Outside(plain) | Lead::Through(_, plain) => {
                    root = ops::insert(store, &root, &path, &Node::Symlink(plain)).map_err(of_tree)?;
                    self.metadata
                        .0
                        .entry(path)
                        .or_default()
                        .target
                        .get_or_insert(target);
                }
            }
        }
        Ok(root)
    }

    fn find(&self, path: &TreePath) -> Option<&Entry> {
        let (last, parents) = path.names().split_last()?;
        let mut here = &self.root;
        for name in parents {
            match here.get(name) {
                Some(Entry::Directory(entries)) => here = entries,
                _ => return None,
            }
        }
        here.get(last)
    }

    fn insert(&mut self, path: &TreePath, entry: Entry) -> Result<(), ArchiveError> {
        let Some((parent, name)) = path.split_last() else {
            return Err(ArchiveError::Kind {
                name: "/".to_owned(),
                kind: "the root and no directory",
            });
        };
        self.count()?;
        match self.enter(&parent)?.insert(name.clone(), entry) {
            None => Ok(()),
            Some(_) => Err(ArchiveError::Duplicate(path.to_string())),
        }
    }

    /// The directory at `path`, made where it is missing.
    fn enter(&mut self, path: &TreePath) -> Result<&mut BTreeMap<Name, Entry>, ArchiveError> {
        let missing = self.missing(path);
        for missing in 0..missing {
            self.count()?;
            let names = path.names().iter().take(path.names().len() - missing);
            let implied = names.fold(TreePath::root(), |path, name| path.join(name));
            self.implied.insert(implied);
        }
        let mut here = &mut self.root;
        for name in path.names() {
            let entry = here
                .entry(name.clone())
                .or_insert_with(|| Entry::Directory(BTreeMap::new()));
            match entry {
                Entry::Directory(entries) => here = entries,
                _ => return Err(ArchiveError::Duplicate(path.to_string())),
            }
        }
        Ok(here)
    }

    /// How many directories on the way to `path` are not there.
    fn missing(&self, path: &TreePath) -> usize {
        let mut here = &self.root;
        for (depth, name) in path.names().iter().enumerate() {
            match here.get(name) {
                Some(Entry::Directory(entries)) => here = entries,
                _ => return path.names().len() - depth,
            }
        }
        0
    }

    fn count(&mut self) -> Result<(), ArchiveError> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| ArchiveError::TooLarge("1,000,000 entries".to_owned()))?;
        Ok(())
    }
}

fn of_tree(error: ops::Error<crate::store::Error>) -> ArchiveError {
    match error {
        ops::Error::Directories(error) => ArchiveError::Store(error),
        error => ArchiveError::Malformed(error.to_string()),
    }
}

/// Depth is bounded by [`TreePath::MAX_DEPTH`].
fn save(
    store: &Store,
    entries: &BTreeMap<Name, Entry>,
    at: &TreePath,
    case: bool,
) -> Result<Digest, ArchiveError> {
    if case {
        let mut folded: HashMap<String, &Name> = HashMap::new();
        for name in entries.keys() {
            if let Some(first) = folded.insert(name.as_str().to_lowercase(), name) {
                return Err(ArchiveError::Case {
                    first: at.join(first).to_string(),
                    second: at.join(name).to_string(),
                });
            }
        }
    }
    let mut directory = Directory::new();
    for (name, entry) in entries {
        let node = match entry {
            Entry::Directory(entries) => Node::Directory(save(store, entries, &at.join(name), case)?),
            Entry::File { digest, executable } => Node::File {
                digest: *digest,
                executable: *executable,
            },
            Entry::Symlink(target) => Node::Symlink(target.clone()),
        };
        directory.insert(name.clone(), node);
    }
    Ok(store.save(&directory)?)
}
