//! Operations on trees: pure functions from directories to directories.
//!
//! None of them touches a file's content, and each shares every subtree that it does not change, so their
//! cost is that of the directories on the way. They carry structure only; [`super::Metadata`] has its own
//! `select`, `extend` and `retain`, and the caller applies both.

use std::collections::{BTreeMap, HashSet};

use super::{Directories, Directory, Name, Node, TreePath};
use crate::digest::Digest;

/// Why an operation gave no tree.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// Reading or keeping a directory failed.
    #[error(transparent)]
    Directories(E),
    /// Two trees have different things at one path.
    #[error("two different {kinds} at `{path}`")]
    Conflict {
        /// Where.
        path: TreePath,
        /// What stands there, such as "files" or "entries (a file and a directory)".
        kinds: &'static str,
    },
    /// There is nothing at a path that an operation names.
    #[error("there is no `{0}`")]
    Missing(TreePath),
    /// A directory is needed and something else stands there.
    #[error("`{0}` is not a directory")]
    NotDirectory(TreePath),
    /// A symlink leads out of the tree.
    #[error("symlink `{path}` -> `{target}` leaves the tree")]
    Escape {
        /// The link.
        path: TreePath,
        /// Its target.
        target: String,
    },
    /// A symlink whose target goes up behind a name that is not there.
    #[error(
        "symlink `{path}` -> `{target}` leads through `{through}`, which is not there, so that it cannot be known to stay \
         in the tree"
    )]
    Undecided {
        /// The link.
        path: TreePath,
        /// Its target.
        target: String,
        /// What is missing.
        through: TreePath,
    },
    /// Nested deeper than [`TreePath::MAX_DEPTH`].
    #[error("`{0}` is nested deeper than 128 directories")]
    TooDeep(TreePath),
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Error<E> {
        Error::Directories(error)
    }
}

pub(super) type Result<T, D> = std::result::Result<T, Error<<D as Directories>::Error>>;

/// A tree of single entries. An entry may be a directory with content of its own, or an empty one; what
/// two entries say of one path must be equal, or both directories.
pub fn collect<D: Directories>(
    dirs: &D,
    entries: impl IntoIterator<Item = (TreePath, Node)>,
) -> Result<Digest, D> {
    #[derive(Default)]
    struct Level {
        below: BTreeMap<Name, Level>,
        node: Option<Node>,
    }
    fn keep<D: Directories>(dirs: &D, level: Level, at: &TreePath) -> Result<Node, D> {
        check_depth(at)?;
        let conflict = || Error::Conflict {
            path: at.clone(),
            kinds: "entries (a file and a directory)",
        };
        match (level.node, level.below.is_empty()) {
            (Some(node), true) => return Ok(node),
            (Some(Node::Directory(content)), false) => {
                let below = Level {
                    node: None,
                    below: level.below,
                };
                let Node::Directory(below) = keep(dirs, below, at)? else {
                    return Err(conflict());
                };
                return Ok(Node::Directory(merge_at(dirs, &[content, below], at)?));
            }
            (Some(_), false) => return Err(conflict()),
            (None, _) => {}
        }
        let mut directory = Directory::new();
        for (name, below) in level.below {
            let node = keep(dirs, below, &at.join(&name))?;
            directory.insert(name, node);
        }
        Ok(Node::Directory(dirs.save(&directory)?))
    }
    let mut root = Level::default();
    for (path, node) in entries {
        let mut level = &mut root;
        for name in path.names() {
            level = level.below.entry(name.clone()).or_default();
        }
        let merged = match (level.node.take(), node) {
            (Some(Node::Directory(one)), Node::Directory(two)) => {
                Node::Directory(merge_at(dirs, &[one, two], &path)?)
            }
            (Some(one), two) if one != two => {
                return Err(Error::Conflict {
                    path,
                    kinds: "entries",
                });
            }
            (_, node) => node,
        };
        level.node = Some(merged);
    }
    match keep(dirs, root, &TreePath::root())? {
        Node::Directory(root) => Ok(root),
        _ => Err(Error::NotDirectory(TreePath::root())),
    }
}

/// What stands at `path`; the root is a directory. `None` if nothing does; symlinks are not followed.
pub fn lookup<D: Directories>(dirs: &D, root: &Digest, path: &TreePath) -> Result<Option<Node>, D> {
    let mut node = Node::Directory(*root);
    for name in path.names() {
        let Node::Directory(digest) = node else {
            return Ok(None);
        };
        match dirs.load(&digest)?.get(name.as_str()) {
            Some(child) => node = child.clone(),
            None => return Ok(None),
        }
    }
    Ok(Some(node))
}

/// A tree that holds nothing but `node` at `at`. At the root only a directory can stand.
pub fn place<D: Directories>(dirs: &D, node: Node, at: &TreePath) -> Result<Digest, D> {
    let mut node = node;
    for name in at.names().iter().rev() {
        let parent = Directory::from_iter([(name.clone(), node)]);
        node = Node::Directory(dirs.save(&parent)?);
    }
    match node {
        Node::Directory(root) => Ok(root),
        _ => Err(Error::NotDirectory(at.clone())),
    }
}

/// All entries of `roots` in one tree. What two of them have at one path must be equal, or both directories.
pub fn merge<D: Directories>(dirs: &D, roots: &[Digest]) -> Result<Digest, D> {
    merge_at(dirs, roots, &TreePath::root())
}

/// Reads each directory once and keeps only the results, however many trees there are.
fn merge_at<D: Directories>(dirs: &D, roots: &[Digest], at: &TreePath) -> Result<Digest, D> {
    check_depth(at)?;
    let mut distinct: Vec<&Digest> = Vec::new();
    let mut seen = HashSet::from([Digest::of(b"")]);
    distinct.extend(roots.iter().filter(|root| seen.insert(**root)));
    match distinct[..] {
        [] => return Ok(dirs.save(&Directory::new())?),
        [root] => return Ok(*root),
        _ => {}
    }
    let mut entries: BTreeMap<Name, Vec<Node>> = BTreeMap::new();
    for root in distinct {
        for (name, node) in dirs.load(root)?.iter() {
            let here = entries.entry(name.clone()).or_default();
            if !here.contains(node) {
                here.push(node.clone());
            }
        }
    }
    let mut merged = Directory::new();
    for (name, mut nodes) in entries {
        let node = match nodes.len() {
            1 => nodes.remove(0),
            _ => merge_entries(dirs, &nodes, &at.join(&name))?,
        };
        merged.insert(name, node);
    }
    Ok(dirs.save(&merged)?)
}

fn merge_entries<D: Directories>(dirs: &D, nodes: &[Node], at: &TreePath) -> Result<Node, D> {
    let mut roots = Vec::new();
    for node in nodes {
        match node {
            Node::Directory(root) => roots.push(*root),
            _ => {
                let kinds = match (&nodes[0], &nodes[1]) {
                    (Node::File { .. }, Node::File { .. }) => "files",
                    (Node::Symlink(_), Node::Symlink(_)) => "symlinks",
                    _ => "kinds of entry",
                };
                let path = at.clone();
                return Err(Error::Conflict { path, kinds });
            }
        }
    }
    Ok(Node::Directory(merge_at(dirs, &roots, at)?))
}

/// The tree without what stands at `path`; unchanged if nothing does. Directories left empty stay.
pub fn remove<D: Directories>(dirs: &D, root: &Digest, path: &TreePath) -> Result<Digest, D> {
    edit(dirs, root, path, &mut |_| None)
}

/// The tree with `node` at `path`, in place of what stood there; missing parents are made.
pub fn insert<D: Directories>(dirs: &D, root: &Digest, path: &TreePath, node: &Node) -> Result<Digest, D> {
    edit(dirs, root, path, &mut |_| Some(node.clone()))
}

/// Rewrites the entry at `path` (`None` where there is none), and the directories above it.
fn edit<D: Directories>(
    dirs: &D,
    root: &Digest,
    path: &TreePath,
    change: &mut dyn FnMut(Option<&Node>) -> Option<Node>,
) -> Result<Digest, D> {
    fn step<D: Directories>(
        dirs: &D,
        node: Option<&Node>,
        path: &TreePath,
        depth: usize,
        change: &mut dyn FnMut(Option<&Node>) -> Option<Node>,
    ) -> Result<Option<Node>, D> {
        let Some(name) = path.names().get(depth) else {
            return Ok(change(node));
        };
        let mut directory = match node {
            Some(Node::Directory(digest)) => dirs.load(digest)?,
            None => Directory::new(),
            Some(_) => return Err(Error::NotDirectory(path.clone())),
        };
        let before = directory.get(name.as_str()).cloned();
        let after = step(dirs, before.as_ref(), path, depth + 1, change)?;
        if before == after {
            return Ok(node.cloned());
        }
        match after {
            Some(node) => directory.insert(name.clone(), node),
            None => directory.remove(name.as_str()),
        };
        Ok(Some(Node::Directory(dirs.save(&directory)?)))
    }
    match step(dirs, Some(&Node::Directory(*root)), path, 0, change)? {
        Some(Node::Directory(root)) => Ok(root),
        _ => Err(Error::NotDirectory(path.clone())),
    }
}

/// The files and symlinks for which `keep` holds, and the directories that lead to them. A directory that
/// is itself kept by `keep` stays even when nothing in it does.
pub fn filter<D: Directories>(
    dirs: &D,
    root: &Digest,
    keep: &dyn Fn(&TreePath) -> bool,
) -> Result<Digest, D> {
    fn step<D: Directories>(
        dirs: &D,
        digest: &Digest,
        at: &TreePath,
        keep: &dyn Fn(&TreePath) -> bool,
    ) -> Result<Digest, D> {
        check_depth(at)?;
        let empty = Digest::of(b"");
        let mut kept = Directory::new();
        for (name, node) in dirs.load(digest)?.iter() {
            let path = at.join(name);
            let node = match node {
                Node::Directory(child) => {
                    let child = step(dirs, child, &path, keep)?;
                    if child == empty && !keep(&path) {
                        continue;
                    }
                    Node::Directory(child)
                }
                _ if keep(&path) => node.clone(),
                _ => continue,
            };
            kept.insert(name.clone(), node);
        }
        Ok(dirs.save(&kept)?)
    }
    step(dirs, root, &TreePath::root(), keep)
}

/// Calls `visit` for every entry below `root` in sorted order, parents before their children; the root
/// itself is not visited.
pub fn walk<D: Directories>(
    dirs: &D,
    root: &Digest,
    visit: &mut dyn FnMut(&TreePath, &Node),
) -> Result<(), D> {
    fn step<D: Directories>(
        dirs: &D,
        digest: &Digest,
        at: &TreePath,
        visit: &mut dyn FnMut(&TreePath, &Node),
    ) -> Result<(), D> {
        check_depth(at)?;
        for (name, node) in dirs.load(digest)?.iter() {
            let path = at.join(name);
            visit(&path, node);
            if let Node::Directory(child) = node {
                step(dirs, child, &path, visit)?;
            }
        }
        Ok(())
    }
    step(dirs, root, &TreePath::root(), visit)
}

pub(super) fn check_depth<E>(at: &TreePath) -> std::result::Result<(), Error<E>> {
    if at.names().len() >= TreePath::MAX_DEPTH {
        return Err(Error::TooDeep(at.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::testing::Memory;

    fn file(content: &str) -> Node {
        Node::File {
            digest: Digest::of(content.as_bytes()),
            executable: false,
        }
    }

    fn path(text: &str) -> TreePath {
        text.parse().unwrap()
    }

    fn tree(dirs: &Memory, files: &[(&str, &str)]) -> Digest {
        let roots: Vec<_> = files
            .iter()
            .map(|(at, content)| place(dirs, file(content), &path(at)).unwrap())
            .collect();
        merge(dirs, &roots).unwrap()
    }

    fn list(dirs: &Memory, root: &Digest) -> Vec<String> {
        let mut paths = Vec::new();
        walk(dirs, root, &mut |path, _| paths.push(path.to_string())).unwrap();
        paths
    }

    #[test]
    fn collecting_entries_is_merging_them() {
        let dirs = Memory::default();
        let empty = Node::Directory(dirs.save(&Directory::new()).unwrap());
        let inner = tree(&dirs, &[("x", "1")]);
        let root = collect(
            &dirs,
            [
                (path("a/b"), file("1")),
                (path("a/c/d"), file("2")),
                (path("e"), Node::Directory(inner)),
                (path("e/y"), file("3")),
                (path("f"), empty.clone()),
                (path("a"), empty),
            ],
        )
        .unwrap();
        let files = tree(&dirs, &[("a/b", "1"), ("a/c/d", "2"), ("e/x", "1"), ("e/y", "3")]);
        assert_eq!(remove(&dirs, &root, &path("f")).unwrap(), files);
        for entries in [
            [(path("a"), file("1")), (path("a/b"), file("1"))],
            [(path("a"), file("1")), (path("a"), file("2"))],
        ] {
            let error = collect(&dirs, entries).unwrap_err();
            assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        }
    }

    #[test]
    fn merge_joins_directories_and_names_conflicts() {
        let dirs = Memory::default();
        let left = tree(&dirs, &[("a/x", "1"), ("b", "2")]);
        let right = tree(&dirs, &[("a/y", "3"), ("b", "2")]);
        let merged = merge(&dirs, &[left, right]).unwrap();
        assert_eq!(list(&dirs, &merged), ["a", "a/x", "a/y", "b"]);

        let other = tree(&dirs, &[("a/x", "other")]);
        let error = merge(&dirs, &[left, other]).unwrap_err();
        assert_eq!(error.to_string(), "two different files at `a/x`");
        let error = merge(&dirs, &[left, tree(&dirs, &[("b/c", "1")])]).unwrap_err();
        assert_eq!(error.to_string(), "two different kinds of entry at `b`");
    }

    #[test]
    fn edits_touch_one_path() {
        let dirs = Memory::default();
        let root = tree(&dirs, &[("a/x", "1"), ("b", "2")]);
        let edited = insert(&dirs, &root, &path("c/d"), &file("3")).unwrap();
        assert_eq!(list(&dirs, &edited), ["a", "a/x", "b", "c", "c/d"]);
        assert_eq!(
            list(&dirs, &remove(&dirs, &edited, &path("a/x")).unwrap()),
            ["a", "b", "c", "c/d"]
        );
        assert_eq!(remove(&dirs, &root, &path("no/such")).unwrap(), root);
        assert!(insert(&dirs, &root, &path("b/c"), &file("3")).is_err());
        assert_eq!(lookup(&dirs, &root, &path("a/x")).unwrap(), Some(file("1")));
        assert_eq!(lookup(&dirs, &root, &path("b/x")).unwrap(), None);
    }

    #[test]
    fn filter_drops_directories_left_empty() {
        let dirs = Memory::default();
        let root = tree(&dirs, &[("a/x.go", "1"), ("b/y.md", "2")]);
        let kept = filter(&dirs, &root, &|path| path.to_string().ends_with(".go")).unwrap();
        assert_eq!(list(&dirs, &kept), ["a", "a/x.go"]);
    }

    fn files() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[ab](/[abc]){0,3}/f[0-9]", "[xy]", 0..12)
    }

    proptest! {
        #[test]
        fn merge_is_a_union_in_any_order(files in files(), at in 0usize..12) {
            let dirs = Memory::default();
            let pairs: Vec<_> = files.iter().map(|(at, content)| (at.as_str(), content.as_str())).collect();
            let (left, right) = pairs.split_at(at.min(pairs.len()));
            let whole = tree(&dirs, &pairs);
            let (left, right) = (tree(&dirs, left), tree(&dirs, right));
            prop_assert_eq!(merge(&dirs, &[left, right]).unwrap(), whole);
            prop_assert_eq!(merge(&dirs, &[right, left]).unwrap(), whole);
            prop_assert_eq!(filter(&dirs, &whole, &|_| true).unwrap(), whole);
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(directory) = Directory::decode(&bytes) {
                prop_assert_eq!(directory.encode(), bytes);
            }
        }

        #[test]
        fn names_are_single_components(text in "\\PC{0,8}") {
            if let Ok(name) = Name::new(&text) {
                prop_assert_eq!(path(name.as_str()), TreePath::root().join(&name));
            }
        }
    }
}
