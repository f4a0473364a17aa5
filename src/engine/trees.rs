//! Tree expressions: the nodes that are computed from other trees without running anything.

use std::collections::BTreeSet;
use std::io;

use super::gopackage;
use crate::digest::Digest;
use crate::plan::{NodeId, Replacement, TreeExpr};
use crate::source::{self, globs};
use crate::store::{self, Store};
use crate::tree::{
    Directories as _, Directory, Metadata, Node, Tree, TreePath, is_indirect, link_stays_inside, ops,
};

/// Why an expression has no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Tree(ops::Error<store::Error>),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Pattern(#[from] source::Error),
    #[error("`{pattern}` matches no file of the tree")]
    NoMatch { pattern: String },
    #[error("symlink `{at}` -> `{target}` leaves the tree")]
    Escape { at: TreePath, target: String },
    #[error("malformed metadata {digest}: {source}")]
    Metadata {
        digest: Digest,
        source: serde_json::Error,
    },
}

impl From<ops::Error<store::Error>> for Error {
    fn from(error: ops::Error<store::Error>) -> Error {
        match error {
            ops::Error::Directories(error) => Error::Store(error),
            error => Error::Tree(error),
        }
    }
}

/// The value of `expr`, whose inputs have the values that `value_of` gives.
pub(super) fn evaluate(
    store: &Store,
    expr: &TreeExpr,
    value_of: &dyn Fn(NodeId) -> Tree,
) -> Result<Tree, Error> {
    match expr {
        TreeExpr::Merge(all) => merge(store, all.iter().map(|id| value_of(*id))),
        TreeExpr::Select { of, path, at } => select(store, value_of(*of), path, at),
        TreeExpr::Filter { of, include, exclude } => filter(store, value_of(*of), include, exclude),
        TreeExpr::GoPackage { of, package } => {
            let tree = value_of(*of);
            let sources = gopackage::sources(store, &tree.root, package)?;
            keep(store, tree, &|path| sources.have(path))
        }
        TreeExpr::File {
            at,
            content,
            executable,
        } => {
            let digest = store.put(content.as_bytes())?;
            let executable = *executable;
            plain(ops::place(store, Node::File { digest, executable }, at)?)
        }
        // One that goes up behind a name stays inside or not by what it is merged with.
        TreeExpr::Link { at, target } if !link_stays_inside(at, target) || is_indirect(target) => {
            Err(Error::Escape {
                at: at.clone(),
                target: target.clone(),
            })
        }
        TreeExpr::Link { at, target } => plain(ops::place(store, Node::Symlink(target.clone()), at)?),
        TreeExpr::Directory { at } => {
            let empty = Node::Directory(store.save(&Directory::new())?);
            plain(ops::place(store, empty, at)?)
        }
        TreeExpr::Replace { of, replacements } => replace(store, value_of(*of), replacements, value_of),
        TreeExpr::Concat { of, include, at } => concat(store, value_of(*of), include, at),
        TreeExpr::Attributes {
            of,
            path,
            mode,
            owner,
        } => {
            let tree = value_of(*of);
            ops::lookup(store, &tree.root, path)?.ok_or_else(|| ops::Error::Missing(path.clone()))?;
            let mut metadata = load(store, &tree)?;
            let attributes = metadata.0.entry(path.clone()).or_default();
            attributes.mode = mode.or(attributes.mode);
            attributes.uid = owner.map(|(uid, _)| uid).or(attributes.uid);
            attributes.gid = owner.map(|(_, gid)| gid).or(attributes.gid);
            with_metadata(store, tree.root, &metadata)
        }
    }
}

/// All of `trees` in one; of two attributes for a path, the later tree's count.
pub(super) fn merge(store: &Store, trees: impl Iterator<Item = Tree>) -> Result<Tree, Error> {
    let trees: Vec<Tree> = trees.collect();
    let roots: Vec<Digest> = trees.iter().map(|tree| tree.root).collect();
    let root = ops::merge(store, &roots)?;
    let mut metadata = Metadata::default();
    for tree in trees.iter().filter(|tree| tree.metadata.is_some()) {
        metadata.extend(load(store, tree)?);
    }
    with_metadata(store, root, &metadata)
}

/// What stands at `path` of `tree`, moved to `at`.
pub(super) fn select(store: &Store, tree: Tree, path: &TreePath, at: &TreePath) -> Result<Tree, Error> {
    let node = ops::lookup(store, &tree.root, path)?.ok_or_else(|| ops::Error::Missing(path.clone()))?;
    let root = ops::place(store, node, at)?;
    match tree.metadata {
        None => plain(root),
        Some(_) => with_metadata(store, root, &load(store, &tree)?.select(path, at)),
    }
}

fn filter(store: &Store, tree: Tree, include: &[String], exclude: &[String]) -> Result<Tree, Error> {
    let (included, excluded) = (globs(include)?, globs(exclude)?);
    keep(store, tree, &|path: &TreePath| {
        let path = path.to_string();
        included.is_match(&path) && !excluded.is_match(&path)
    })
}

/// The files of `tree` that `wanted` takes.
fn keep(store: &Store, tree: Tree, wanted: &dyn Fn(&TreePath) -> bool) -> Result<Tree, Error> {
    let root = ops::filter(store, &tree.root, &wanted)?;
    if tree.metadata.is_none() {
        return plain(root);
    }
    let mut left = BTreeSet::new();
    ops::walk(store, &root, &mut |path, _| {
        left.insert(path.clone());
    })?;
    let mut metadata = load(store, &tree)?;
    metadata.retain(|path| left.contains(path));
    with_metadata(store, root, &metadata)
}

fn replace(
    store: &Store,
    tree: Tree,
    replacements: &[Replacement],
    value_of: &dyn Fn(NodeId) -> Tree,
) -> Result<Tree, Error> {
    let mut metadata = load(store, &tree)?;
    let mut root = tree.root;
    for replacement in replacements {
        if ops::lookup(store, &root, &replacement.from)?.is_none() {
            continue;
        }
        root = ops::remove(store, &root, &replacement.from)?;
        metadata.retain(|path| !path.starts_with(&replacement.from));
        if let Some(with) = replacement.with {
            let with = value_of(with);
            root = ops::insert(store, &root, &replacement.at, &Node::Directory(with.root))?;
            metadata.extend(load(store, &with)?.select(&TreePath::root(), &replacement.at));
        }
    }
    with_metadata(store, root, &metadata)
}

fn concat(store: &Store, tree: Tree, include: &[String], at: &TreePath) -> Result<Tree, Error> {
    let patterns = globs(include)?;
    let mut matched = vec![false; include.len()];
    let mut files = Vec::new();
    ops::walk(store, &tree.root, &mut |path, node| {
        if let Node::File { digest, .. } = node {
            let hits = patterns.matches(path.to_string());
            files.extend((!hits.is_empty()).then_some(*digest));
            hits.into_iter().for_each(|hit| matched[hit] = true);
        }
    })?;
    if let Some(index) = matched.iter().position(|hit| !hit) {
        let pattern = include[index].clone();
        return Err(Error::NoMatch { pattern });
    }
    let mut writer = store.writer()?;
    for file in files {
        let mut reader = store.reader(&file)?;
        io::copy(&mut reader, &mut writer).map_err(|error| reader.error(error))?;
    }
    let digest = writer.finish()?;
    let executable = false;
    plain(ops::place(store, Node::File { digest, executable }, at)?)
}

fn plain(root: Digest) -> Result<Tree, Error> {
    Ok(Tree { root, metadata: None })
}

fn load(store: &Store, tree: &Tree) -> Result<Metadata, Error> {
    let Some(digest) = tree.metadata else {
        return Ok(Metadata::default());
    };
    let bytes = store.read(&digest)?;
    Metadata::decode(&bytes).map_err(|source| Error::Metadata { digest, source })
}

fn with_metadata(store: &Store, root: Digest, metadata: &Metadata) -> Result<Tree, Error> {
    let metadata = match metadata.is_empty() {
        true => None,
        false => Some(store.put(&metadata.encode())?),
    };
    Ok(Tree { root, metadata })
}
