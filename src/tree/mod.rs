//! A Merkle directory: what every source, input and output is made of.
//!
//! The encoding is the REAPI v2 `Directory` message in its canonical form: entries sorted by name, each
//! list apart, no owners and no times. Operations on trees ([`ops`]) read and write directories only, never
//! the content of files, so putting a root file system together copies nothing. This module does no I/O:
//! directories come from whatever implements [`Directories`].

pub mod links;
mod metadata;
pub mod ops;
pub mod overlay;
mod path;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use prost::Message as _;

pub use links::{is_indirect, link_inside, link_stays_inside};
pub use metadata::{Attributes, Metadata};
pub use path::{Name, PathError, TreePath};

use crate::digest::{Digest, ParseDigestError};

/// A tree: its root directory, and the [`Metadata`] blob that travels beside it, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tree {
    /// The digest of the root's encoded [`Directory`].
    pub root: Digest,
    /// The digest of an encoded [`Metadata`]; `None` where every path has the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Digest>,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file.
    File {
        /// Its content.
        digest: Digest,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory, by the digest of its encoding.
    Directory(Digest),
    /// A symlink with a relative target that stays inside the tree.
    Symlink(String),
}

/// The entries of one directory, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    entries: BTreeMap<Name, Node>,
}

/// Why bytes are not a directory in canonical form.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a protobuf message.
    #[error("malformed directory: {0}")]
    Proto(#[from] prost::DecodeError),
    /// A name that no tree may hold.
    #[error(transparent)]
    Name(#[from] PathError),
    /// A digest field is missing or malformed.
    #[error("malformed directory: {0}")]
    Digest(#[from] ParseDigestError),
    /// A symlink with an absolute or empty target.
    #[error("symlink `{name}` has the target `{target}`, which is not relative")]
    Target {
        /// The link's name.
        name: String,
        /// Its target.
        target: String,
    },
    /// Encoding it again gives other bytes: unsorted, duplicate, or with fields that skep does not know.
    #[error("directory is not in canonical form")]
    NotCanonical,
}

/// Where directories come from and go to. Implemented by the store; a map will do in a test.
pub trait Directories {
    /// What goes wrong below: I/O, a missing or damaged blob.
    type Error;
    /// The directory with this digest.
    fn load(&self, digest: &Digest) -> Result<Directory, Self::Error>;
    /// Keeps `directory` and returns its digest.
    fn save(&self, directory: &Directory) -> Result<Digest, Self::Error>;
}

impl Directory {
    /// A directory without entries.
    pub fn new() -> Directory {
        Directory::default()
    }

    /// The entries, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.entries.iter()
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entries.get(name)
    }

    /// Adds or replaces an entry, and returns the one that was there.
    pub fn insert(&mut self, name: Name, node: Node) -> Option<Node> {
        self.entries.insert(name, node)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, name: &str) -> Option<Node> {
        self.entries.remove(name)
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The canonical REAPI encoding; its digest is the directory's name.
    pub fn encode(&self) -> Vec<u8> {
        let mut proto = reapi::Directory::default();
        for (name, node) in &self.entries {
            let name = name.as_str().to_owned();
            match node {
                Node::File { digest, executable } => proto.files.push(reapi::FileNode {
                    name,
                    digest: Some(digest.to_proto()),
                    is_executable: *executable,
                    node_properties: None,
                }),
                Node::Directory(digest) => proto.directories.push(reapi::DirectoryNode {
                    name,
                    digest: Some(digest.to_proto()),
                }),
                Node::Symlink(target) => proto.symlinks.push(reapi::SymlinkNode {
                    name,
                    target: target.clone(),
                    node_properties: None,
                }),
            }
        }
        proto.encode_to_vec()
    }

    /// Reads [`Directory::encode`]'s form, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Directory, DecodeError> {
        let proto = reapi::Directory::decode(bytes)?;
        let digest = |digest: Option<reapi::Digest>| Digest::from_proto(&digest.unwrap_or_default());
        let mut directory = Directory::new();
        for file in proto.files {
            let node = Node::File {
                digest: digest(file.digest)?,
                executable: file.is_executable,
            };
            directory.insert(Name::new(&file.name)?, node);
        }
        for child in proto.directories {
            directory.insert(Name::new(&child.name)?, Node::Directory(digest(child.digest)?));
        }
        for link in proto.symlinks {
            if link.target.is_empty() || link.target.starts_with('/') || link.target.contains('\0') {
                return Err(DecodeError::Target {
                    name: link.name,
                    target: link.target,
                });
            }
            directory.insert(Name::new(&link.name)?, Node::Symlink(link.target));
        }
        if directory.encode() != bytes {
            return Err(DecodeError::NotCanonical);
        }
        Ok(directory)
    }
}

impl FromIterator<(Name, Node)> for Directory {
    fn from_iter<I: IntoIterator<Item = (Name, Node)>>(entries: I) -> Directory {
        Directory {
            entries: entries.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// Assembled by hand from the wire format of `build.bazel.remote.execution.v2.Directory`.
    #[test]
    fn encoding_is_the_reapi_message() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let directory = Directory::from_iter([
            (
                name("run"),
                Node::File {
                    digest: Digest::of(b""),
                    executable: true,
                },
            ),
            (name("ln"), Node::Symlink("run".into())),
        ]);
        let mut expected = vec![0x0a, 0x4b, 0x0a, 3, b'r', b'u', b'n', 0x12, 0x42, 0x0a, 0x40];
        expected.extend(empty.bytes());
        expected.extend([0x20, 1]);
        expected.extend([0x1a, 9, 0x0a, 2, b'l', b'n', 0x12, 3, b'r', b'u', b'n']);
        assert_eq!(directory.encode(), expected);
        assert_eq!(Directory::decode(&expected).unwrap(), directory);
        assert_eq!(Digest::of(&Directory::new().encode()), Digest::of(b""));
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let link = |name: &str, target: &str| reapi::SymlinkNode {
            name: name.into(),
            target: target.into(),
            node_properties: None,
        };
        for links in [
            vec![link("b", "x"), link("a", "x")],
            vec![link("a", "x"), link("a", "x")],
            vec![link("a", "/etc")],
            vec![link("..", "x")],
        ] {
            let proto = reapi::Directory {
                symlinks: links,
                ..Default::default()
            };
            assert!(Directory::decode(&proto.encode_to_vec()).is_err(), "{proto:?}");
        }
    }
}
