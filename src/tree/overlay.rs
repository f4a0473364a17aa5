//! The layers of an image put on each other (OCI image specification 1.1, "Image Layer Filesystem Changeset"),
//! without a look at any file.
//!
//! What a layer takes away is an entry of it: `.wh.NAME` removes `NAME` of the layers below, `.wh..wh..opq` all that
//! they have in its directory. The result is in one form, whatever made the layers: metadata holds what differs
//! from the defaults and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::links::{Lead, lead};
use super::ops::{self, Result};
use super::{Attributes, Directories, Directory, Metadata, Name, Node, TreePath, is_indirect, link_inside};
use crate::digest::Digest;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// One layer.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// What it holds, whiteouts among it; `None` is nothing.
    pub root: Option<Digest>,
    /// The attributes of that.
    pub metadata: Metadata,
    /// Directories that it says nothing of, but that something is in them: those below keep their attributes.
    pub implied: BTreeSet<TreePath>,
}

/// All of `sheets`, the lowest first, as one tree with its metadata.
pub fn overlay<D: Directories>(dirs: &D, sheets: Vec<Sheet>) -> Result<(Digest, Metadata), D> {
    let mut root = dirs.save(&Directory::new())?;
    let mut metadata = Metadata::default();
    for sheet in sheets {
        let Some(upper) = sheet.root else { continue };
        let mut layer = Layer {
            dirs,
            implied: &sheet.implied,
            said: HashSet::new(),
            removed: HashSet::new(),
        };
        root = layer.put(Some(&root), &upper, &TreePath::root())?;
        metadata.0.retain(|path, _| !layer.has_taken(path));
        layer.relink(&mut metadata);
        metadata.extend(settled(&sheet.metadata));
    }
    normal(dirs, root, &metadata)
}

struct Layer<'a, D> {
    dirs: &'a D,
    implied: &'a BTreeSet<TreePath>,
    /// Directories whose attributes are this layer's.
    said: HashSet<TreePath>,
    /// What stood below, and all that was in it.
    removed: HashSet<TreePath>,
}

impl<D: Directories> Layer<'_, D> {
    /// The directory `upper` at `at`, on the one below it.
    fn put(&mut self, lower: Option<&Digest>, upper: &Digest, at: &TreePath) -> Result<Digest, D> {
        ops::check_depth(at)?;
        let above = self.dirs.load(upper)?;
        let below = lower.map(|lower| self.dirs.load(lower)).transpose()?;
        let below = below.unwrap_or_default();
        let mut entries = below.clone();
        for (name, _) in below.iter() {
            let whiteout = format!("{WHITEOUT}{name}");
            if above.get(OPAQUE).is_some() || above.get(&whiteout).is_some() {
                entries.remove(name.as_str());
                self.removed.insert(at.join(name));
            }
        }
        for (name, node) in above.iter().filter(|(name, _)| !is_whiteout(name)) {
            let path = at.join(name);
            let before = entries.get(name.as_str()).cloned();
            let node = match node {
                Node::Directory(upper) => self.put_directory(before, upper, path)?,
                node => {
                    self.removed.insert(path);
                    node.clone()
                }
            };
            entries.insert(name.clone(), node);
        }
        match lower {
            _ if entries == above => Ok(*upper),
            Some(lower) if entries == below => Ok(*lower),
            _ => Ok(self.dirs.save(&entries)?),
        }
    }

    fn put_directory(&mut self, before: Option<Node>, upper: &Digest, path: TreePath) -> Result<Node, D> {
        let lower = match before {
            Some(Node::Directory(lower)) => Some(lower),
            Some(_) => {
                self.removed.insert(path.clone());
                None
            }
            None => None,
        };
        let root = self.put(lower.as_ref(), upper, &path)?;
        if lower.is_none() || !self.implied.contains(&path) {
            self.said.insert(path);
        }
        Ok(Node::Directory(root))
    }

    /// Whether what lower layers said of `path` is void.
    fn has_taken(&self, path: &TreePath) -> bool {
        let mut here = TreePath::root();
        let removed = path.names().iter().any(|name| {
            here = here.join(name);
            self.removed.contains(&here)
        });
        removed || self.said.contains(path)
    }

    /// Files that shared an inode with one that is gone share it with the first of them.
    fn relink(&self, metadata: &mut Metadata) {
        let mut first: BTreeMap<TreePath, TreePath> = BTreeMap::new();
        for (path, attributes) in &mut metadata.0 {
            let Some(gone) = attributes.hard_link.take_if(|target| self.has_taken(target)) else {
                continue;
            };
            match first.get(&gone) {
                Some(other) => attributes.hard_link = Some(other.clone()),
                None => drop(first.insert(gone, path.clone())),
            }
        }
    }
}

fn is_whiteout(name: &Name) -> bool {
    name.as_str().starts_with(WHITEOUT)
}

/// Metadata in which files that share an inode have its attributes, each a link to the first.
fn settled(metadata: &Metadata) -> Metadata {
    let settle = |(path, attributes): (&TreePath, &Attributes)| {
        let (mut first, mut found) = (path, Some(attributes));
        // Links lead to earlier paths, so this ends.
        while let Some(earlier) = found.and_then(|found| found.hard_link.as_ref())
            && earlier < first
        {
            (first, found) = (earlier, metadata.0.get(earlier));
        }
        let attributes = Attributes {
            hard_link: (first != path).then(|| first.clone()),
            ..found.cloned().unwrap_or_default()
        };
        (path.clone(), attributes)
    };
    Metadata(metadata.0.iter().map(settle).collect())
}

/// The one form of a tree: no attributes of what is not there or is as it is by default, and absolute links
/// that lead to the same place in the tree, wherever their package was put.
fn normal<D: Directories>(dirs: &D, root: Digest, metadata: &Metadata) -> Result<(Digest, Metadata), D> {
    let mut kept = Metadata::default();
    let mut moved = Vec::new();
    if let Some(attributes) = metadata.0.get(&TreePath::root()) {
        keep(&mut kept, &TreePath::root(), attributes.clone(), 0o755);
    }
    let mut indirect = Vec::new();
    ops::walk(dirs, &root, &mut |path, node| {
        if let Node::Symlink(target) = node
            && is_indirect(target)
        {
            indirect.push((path.clone(), target.clone()));
        }
        let Some(attributes) = metadata.0.get(path) else {
            return;
        };
        match node {
            Node::Directory(_) => keep(&mut kept, path, attributes.clone(), 0o755),
            Node::File { executable, .. } => {
                let default = if *executable { 0o755 } else { 0o644 };
                keep(&mut kept, path, attributes.clone(), default);
            }
            Node::Symlink(target) => {
                let mut attributes = attributes.clone();
                attributes.mode = None;
                if let Some(original) = attributes.target.take_if(|original| original != target) {
                    let inside = link_inside(path, &original);
                    if inside != *target {
                        moved.push((path.clone(), Node::Symlink(inside)));
                    }
                    attributes.target = Some(original);
                }
                keep(&mut kept, path, attributes, 0o777);
            }
        }
    })?;
    for (path, target) in indirect {
        // Nothing is added to a root: what is not there leads nowhere.
        if let Lead::Outside(plain) = lead(dirs, &root, &path, &target)? {
            let attributes = kept.0.entry(path.clone()).or_default();
            attributes.target.get_or_insert(target);
            moved.push((path, Node::Symlink(plain)));
        }
    }
    let root = moved
        .iter()
        .try_fold(root, |root, (path, link)| ops::insert(dirs, &root, path, link))?;
    Ok((root, kept))
}

fn keep(kept: &mut Metadata, path: &TreePath, mut attributes: Attributes, default: u32) {
    attributes.mode.take_if(|mode| *mode == default);
    attributes.uid.take_if(|uid| *uid == 0);
    attributes.gid.take_if(|gid| *gid == 0);
    if attributes != Attributes::default() {
        kept.0.insert(path.clone(), attributes);
    }
}

#[cfg(test)]
mod tests;
