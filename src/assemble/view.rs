//! What a program sees at a path of an image: its layers on each other, with symlinks followed inside. Reads the
//! directories on the way and puts nothing together. The layers hold no whiteouts.

use std::collections::VecDeque;

use super::Error;
use crate::digest::Digest;
use crate::image::Layer;
use crate::store::Store;
use crate::tree::{Attributes, Directories as _, Metadata, Name, Node, TreePath};

/// Symlinks that are followed for one path, as Linux does (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// An image's layers, the lowest first.
pub(super) struct View<'a> {
    store: &'a Store,
    layers: Vec<(Digest, Metadata)>,
}

/// What stands at a path, and its attributes.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it stands, after all symlinks.
    pub path: TreePath,
    /// A file or a directory.
    pub node: Node,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The directories on the way, the root left out, as `(path, mode, uid, gid)`.
    pub above: Vec<(TreePath, u32, u32, u32)>,
}

/// What one layer has at a path.
enum Here<'a> {
    /// Nothing: lower layers show through.
    Nothing,
    /// Something else stands on the way: lower layers do not show through.
    Hidden,
    Entry(Node, &'a Metadata),
}

impl<'a> View<'a> {
    pub(super) fn new(store: &'a Store, layers: &[Layer]) -> Result<View<'a>, Error> {
        let read = |layer: &Layer| {
            let metadata = match &layer.tree.metadata {
                None => Metadata::default(),
                Some(digest) => Metadata::decode(&store.read(digest)?)
                    .map_err(|source| Error::Metadata(*digest, source))?,
            };
            Ok((layer.tree.root, metadata))
        };
        let layers = layers.iter().map(read).collect::<Result<_, Error>>()?;
        Ok(View { store, layers })
    }

    /// Whether no layer holds anything.
    pub(super) fn is_empty(&self) -> bool {
        let empty = Digest::of(b"");
        self.layers.iter().all(|(root, _)| *root == empty)
    }

    /// What stands at `path`, from the directory `cwd` where it is relative; `None` if nothing does.
    pub(super) fn find(&self, path: &str, cwd: &str) -> Result<Option<Found>, Error> {
        let mut left: VecDeque<String> = VecDeque::new();
        push_front(&mut left, path);
        if !path.starts_with('/') {
            push_front(&mut left, cwd);
        }
        let (mut links, mut above) = (0, Vec::new());
        let mut here = root();
        while let Some(component) = left.pop_front() {
            if component == ".." {
                here = above.pop().unwrap_or_else(root);
                continue;
            }
            let Ok(name) = Name::new(&component) else {
                return Ok(None);
            };
            let at = here.path.join(&name);
            if !matches!(here.node, Node::Directory(_)) || at.names().len() > TreePath::MAX_DEPTH {
                return Ok(None);
            }
            match self.entry(&at)? {
                None => return Ok(None),
                Some((Node::Symlink(target), attributes)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(None);
                    }
                    let target = attributes.target.unwrap_or(target);
                    push_front(&mut left, &target);
                    if target.starts_with('/') {
                        above.clear();
                        here = root();
                    }
                }
                Some((node, attributes)) => {
                    above.push(std::mem::replace(&mut here, found(at, node, &attributes)));
                }
            }
        }
        let passed = |found: &Found| (found.path.clone(), found.mode, found.uid, found.gid);
        here.above = above.iter().skip(1).map(passed).collect();
        Ok(Some(here))
    }

    /// The entry at `path`, whose parents are directories; symlinks are not followed.
    fn entry(&self, path: &TreePath) -> Result<Option<(Node, Attributes)>, Error> {
        for (root, metadata) in self.layers.iter().rev() {
            match self.in_layer(root, metadata, path)? {
                Here::Nothing => {}
                Here::Hidden => return Ok(None),
                Here::Entry(node, metadata) => {
                    let mut attributes = metadata.0.get(path).cloned().unwrap_or_default();
                    if let Some(first) = attributes.hard_link.take() {
                        attributes = metadata.0.get(&first).cloned().unwrap_or_default();
                    }
                    return Ok(Some((node, attributes)));
                }
            }
        }
        Ok(None)
    }

    fn in_layer<'m>(
        &self,
        root: &Digest,
        metadata: &'m Metadata,
        path: &TreePath,
    ) -> Result<Here<'m>, Error> {
        let mut node = Node::Directory(*root);
        for name in path.names() {
            let Node::Directory(digest) = node else {
                return Ok(Here::Hidden);
            };
            match self.store.load(&digest)?.get(name.as_str()) {
                Some(child) => node = child.clone(),
                None => return Ok(Here::Nothing),
            }
        }
        Ok(Here::Entry(node, metadata))
    }
}

fn root() -> Found {
    let nothing = Node::Directory(Digest::of(b""));
    found(TreePath::root(), nothing, &Attributes::default())
}

fn found(path: TreePath, node: Node, attributes: &Attributes) -> Found {
    let default = match node {
        Node::File {
            executable: false, ..
        } => 0o644,
        _ => 0o755,
    };
    Found {
        path,
        node,
        mode: attributes.mode.unwrap_or(default),
        uid: attributes.uid.unwrap_or(0),
        gid: attributes.gid.unwrap_or(0),
        above: Vec::new(),
    }
}

fn push_front(left: &mut VecDeque<String>, path: &str) {
    let components = path
        .split('/')
        .filter(|component| !matches!(*component, "" | "."));
    for component in components.rev() {
        left.push_front(component.to_owned());
    }
}
