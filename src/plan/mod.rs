//! What evaluation yields: a static graph of plain data, free of Starlark.
//!
//! A plan holds patterns and declared digests, never the content of source files, so editing a source does
//! not change it. The value of every node is a [`crate::tree::Tree`]. There are three ways to get it:
//!
//! | node                                       | value                                                   |
//! |--------------------------------------------|---------------------------------------------------------|
//! | `Source`                                   | the project's files that match, as they are now         |
//! | `Tree`, `ByHost`                           | computed from other nodes' trees, without touching files|
//! | `Fetch`, `Run`, `Layer`, `Image`, `Index`  | the result of an action, see [`Node::template`]         |
//!
//! The outputs of the image builtins hold their inputs, so that a root keeps alive all that it needs:
//!
//! | builtin        | tree                                                                                 |
//! |----------------|--------------------------------------------------------------------------------------|
//! | `skep:fetch/1` | what was unpacked, or the one file                                                   |
//! | `skep:layer/1` | `layer.json` ([`crate::image::Layer`]), `files/` (its tree), `metadata`              |
//! | `skep:image/1` | `image.json` ([`crate::image::Image`]), `manifest`, `config`, `layers/<n>/`          |
//! | `skep:index/1` | `index.json` ([`crate::image::Index`]), `manifest`, `images/<arch>/`                 |

mod graph;
mod location;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use graph::{Builder, Graph, NodeId, Plan, Target};
pub use location::Location;

use crate::action::Limits;
use crate::digest::{Digest, Fingerprint};
use crate::image::LAYER_FORMAT;
use crate::platform::{Arch, Platform};
use crate::tree::{Name, TreePath};

/// One step from inputs to an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Node {
    /// Files of the project.
    Source(Source),
    /// Bytes from outside, pinned.
    Fetch(Fetch),
    /// A program run in the sandbox.
    Run(Box<Run>),
    /// An expression over trees.
    Tree(TreeExpr),
    /// One of several nodes, by the architecture of the machine that builds.
    ByHost(BTreeMap<Arch, NodeId>),
    /// A tree as an image layer.
    Layer(NodeId),
    /// One platform's image.
    Image(Box<ImageSpec>),
    /// The images of several platforms.
    Index(BTreeMap<Platform, NodeId>),
}

/// Files of the project: those that git tracks, and untracked ones that no ignore file excludes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Source {
    /// The directory that patterns and the tree's paths start from.
    pub root: TreePath,
    /// Glob patterns (`*` stays in a directory, `**` does not); at least one file must match each.
    pub include: Vec<String>,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
}

/// Bytes from outside. The first source that answers with the pinned content is taken; none of them is in
/// the action's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Fetch {
    /// Package URLs (`pkg:…`) or `https://` addresses.
    pub sources: Vec<String>,
    /// What the content must be.
    pub integrity: Integrity,
    /// How bytes become a tree.
    pub unpack: Unpack,
}

/// A pinned content, in the form its ecosystem writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Integrity {
    /// `sha256:<hex>` of the file.
    Sha256(String),
    /// `sha512-<base64>` of the file (W3C Subresource Integrity, npm).
    Sha512(String),
    /// `h1:<base64>` of the files in a zip, or of the one file (`golang.org/x/mod/sumdb/dirhash`).
    H1(String),
    /// `tree:<hex>/<size>`: the root of the unpacked tree.
    Tree(Digest),
}

/// An integrity in none of the known forms.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an integrity: expected `sha256:<64 hex>`, `sha512-<base64>`, `h1:<base64>` or `tree:<64 hex>/<size>`"
)]
pub struct ParseIntegrityError(String);

impl FromStr for Integrity {
    type Err = ParseIntegrityError;

    fn from_str(text: &str) -> Result<Integrity, ParseIntegrityError> {
        let base64 = |text: &str, bytes: usize| {
            use base64::Engine as _;
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            decoded.is_ok_and(|decoded| decoded.len() == bytes)
        };
        let parsed = if let Some(hex) = text.strip_prefix("sha256:") {
            Digest::from_hex(hex, 0)
                .ok()
                .map(|_| Integrity::Sha256(hex.to_owned()))
        } else if let Some(rest) = text.strip_prefix("sha512-") {
            base64(rest, 64).then(|| Integrity::Sha512(rest.to_owned()))
        } else if let Some(rest) = text.strip_prefix("h1:") {
            base64(rest, 32).then(|| Integrity::H1(rest.to_owned()))
        } else {
            let digest = text.strip_prefix("tree:").and_then(|rest| rest.parse().ok());
            digest.map(Integrity::Tree)
        };
        parsed.ok_or_else(|| ParseIntegrityError(text.to_owned()))
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integrity::Sha256(hex) => write!(f, "sha256:{hex}"),
            Integrity::Sha512(base64) => write!(f, "sha512-{base64}"),
            Integrity::H1(base64) => write!(f, "h1:{base64}"),
            Integrity::Tree(digest) => write!(f, "tree:{digest}"),
        }
    }
}

/// How fetched bytes become a tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Unpack {
    /// A tree with the one file in it.
    File {
        /// The file's name.
        name: Name,
        /// Whether it may be executed.
        executable: bool,
    },
    /// What an archive holds.
    Archive {
        /// Its format.
        format: Archive,
        /// Leading path components to drop; entries with fewer are left out.
        strip: u32,
        /// Patterns of files that may be executed, whatever the archive says.
        executable: Vec<String>,
    },
}

/// An archive format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Archive {
    /// Zip, wheels and Go modules among them.
    Zip,
    /// Tar, plain or compressed with gzip, xz or zstd; the compression is told by its first bytes.
    Tar,
    /// A Debian package: `control/` and `data/` of the tree hold the content of its two archives.
    Deb,
}

impl Archive {
    /// `zip`, `tar` or `deb`.
    pub fn as_str(self) -> &'static str {
        match self {
            Archive::Zip => "zip",
            Archive::Tar => "tar",
            Archive::Deb => "deb",
        }
    }
}

/// A program run in the sandbox: the template of an action, which becomes exact when its inputs are known.
/// Its value holds each output directory at its path in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// What it does, in one word such as `go_build`; the last part of its label.
    pub mnemonic: String,
    /// Program (an absolute path) and arguments.
    pub argv: Vec<String>,
    /// Environment, added to what every action gets.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: TreePath,
    /// Trees, and where they are mounted; several may share a path, and merge.
    pub inputs: Vec<(TreePath, NodeId)>,
    /// Output directories.
    pub outputs: BTreeSet<TreePath>,
    /// Input directories over which the action may write.
    pub writable: BTreeSet<TreePath>,
    /// Secret files, by the path where the action sees them.
    pub secrets: BTreeMap<TreePath, Secret>,
    /// Where the action has a Go distribution whose compile cache skep keeps. In no key.
    pub compile_cache: Option<TreePath>,
    /// Bounds on the run.
    pub limits: Limits,
}

/// A secret input: a file of the project whose content is in no key, no store and no log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Secret {
    /// Where the project keeps it.
    pub file: TreePath,
    /// The version of its content, the same on every machine.
    pub fingerprint: Fingerprint,
}

/// An expression over trees. Only `Concat` and `GoPackage` read the content of files.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum TreeExpr {
    /// All entries of all trees; what two have at one path must be equal, or both directories.
    Merge(Vec<NodeId>),
    /// What stands at `path`, moved to `at`.
    Select {
        /// The tree to take from.
        of: NodeId,
        /// What to take; the root for all of it.
        path: TreePath,
        /// Where to put it; the root if it is a directory that becomes the whole tree.
        at: TreePath,
    },
    /// The files that match a pattern of `include` and none of `exclude`.
    Filter {
        /// The tree to take from.
        of: NodeId,
        /// Glob patterns.
        include: Vec<String>,
        /// Glob patterns.
        exclude: Vec<String>,
    },
    /// The files that a package of a Go module is compiled of, and more where that cannot be told.
    GoPackage {
        /// The module.
        of: NodeId,
        /// The package's directory.
        package: TreePath,
    },
    /// One file with literal content.
    File {
        /// Where it stands.
        at: TreePath,
        /// What it holds.
        content: String,
        /// Whether it may be executed.
        executable: bool,
    },
    /// One symlink.
    Link {
        /// Where it stands.
        at: TreePath,
        /// Its relative target.
        target: String,
    },
    /// An empty directory.
    Directory {
        /// Where it stands.
        at: TreePath,
    },
    /// `of`, with what stands at each `from` taken out, and its replacement put in where it was present.
    Replace {
        /// The tree to change.
        of: NodeId,
        /// What to replace.
        replacements: Vec<Replacement>,
    },
    /// One file that holds the content of all files that match, in the order of their paths.
    Concat {
        /// The tree to read.
        of: NodeId,
        /// Glob patterns.
        include: Vec<String>,
        /// Where the file stands.
        at: TreePath,
    },
    /// `of`, with other attributes for the entry at `path`.
    Attributes {
        /// The tree to change.
        of: NodeId,
        /// An entry of it.
        path: TreePath,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner and group.
        owner: Option<(u32, u32)>,
    },
}

/// "Replace these packages where present."
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Replacement {
    /// What is taken out; where it is absent, nothing happens.
    pub from: TreePath,
    /// Where the replacement goes; its last component may differ from `from`'s.
    pub at: TreePath,
    /// The replacement; `None` only takes out.
    pub with: Option<NodeId>,
}

/// One platform's image before it is built.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ImageSpec {
    /// The platform it runs on.
    pub platform: Platform,
    /// [`Node::Layer`]s, lowest first.
    pub layers: Vec<NodeId>,
    /// How it runs.
    pub config: Config,
}

/// How an image runs: the fields of an OCI image config that a recipe sets (image specification 1.1,
/// `config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `Entrypoint`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// `Env`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `WorkingDir`, absolute.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `User`: a uid, `uid:gid`, or a name that `/etc/passwd` of the image knows.
    #[serde(default)]
    pub user: Option<String>,
    /// `ExposedPorts`, TCP.
    #[serde(default)]
    pub ports: BTreeSet<u16>,
    /// `Volumes`, absolute paths.
    #[serde(default)]
    pub volumes: BTreeSet<String>,
    /// `Labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `StopSignal`, such as `SIGTERM`.
    #[serde(default)]
    pub stop_signal: Option<String>,
}

/// What all nodes that are actions have in common: a command over placed inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template<'a> {
    /// The builtin's arguments, or `None` for a [`Run`].
    pub builtin: Option<Vec<String>>,
    /// The program, for a [`Run`].
    pub run: Option<&'a Run>,
    /// Trees and where they stand in the input root.
    pub inputs: Vec<(TreePath, NodeId)>,
}

impl Node {
    /// The action that makes this node's value; `None` for nodes that need no action.
    pub fn template(&self) -> Option<Template<'_>> {
        let numbered = |prefix: &str, ids: &mut dyn Iterator<Item = (String, NodeId)>| {
            ids.map(|(name, id)| (format!("{prefix}/{name}").parse().expect("plain names"), id))
                .collect::<Vec<_>>()
        };
        let (argv, inputs) = match self {
            Node::Source(_) | Node::Tree(_) | Node::ByHost(_) => return None,
            Node::Run(run) => {
                return Some(Template {
                    builtin: None,
                    run: Some(run),
                    inputs: run.inputs.clone(),
                });
            }
            Node::Fetch(fetch) => (fetch.argv(), Vec::new()),
            Node::Layer(of) => {
                let argv = vec!["skep:layer/1".to_owned(), LAYER_FORMAT.to_owned()];
                (argv, vec![(TreePath::root(), *of)])
            }
            Node::Image(image) => {
                let config = serde_json::to_string(&image.config).expect("plain data encodes");
                let argv = vec!["skep:image/1".to_owned(), image.platform.to_string(), config];
                let mut layers = image
                    .layers
                    .iter()
                    .enumerate()
                    .map(|(n, id)| (n.to_string(), *id));
                (argv, numbered("layers", &mut layers))
            }
            Node::Index(images) => {
                let mut images = images
                    .iter()
                    .map(|(platform, id)| (platform.arch.to_string(), *id));
                (vec!["skep:index/1".to_owned()], numbered("images", &mut images))
            }
        };
        Some(Template {
            builtin: Some(argv),
            run: None,
            inputs,
        })
    }

    /// The nodes that this one needs. For [`Node::ByHost`], those of every host.
    pub fn inputs(&self) -> Vec<NodeId> {
        match self {
            Node::Source(_) => Vec::new(),
            Node::ByHost(branches) => branches.values().copied().collect(),
            Node::Tree(expr) => match expr {
                TreeExpr::Merge(all) => all.clone(),
                TreeExpr::Select { of, .. }
                | TreeExpr::Filter { of, .. }
                | TreeExpr::GoPackage { of, .. }
                | TreeExpr::Concat { of, .. }
                | TreeExpr::Attributes { of, .. } => vec![*of],
                TreeExpr::Replace { of, replacements } => {
                    let with = replacements.iter().filter_map(|replacement| replacement.with);
                    std::iter::once(*of).chain(with).collect()
                }
                TreeExpr::File { .. } | TreeExpr::Link { .. } | TreeExpr::Directory { .. } => Vec::new(),
            },
            Node::Fetch(_) => Vec::new(),
            Node::Run(run) => run.inputs.iter().map(|(_, id)| *id).collect(),
            Node::Layer(of) => vec![*of],
            Node::Image(image) => image.layers.clone(),
            Node::Index(images) => images.values().copied().collect(),
        }
    }

    /// The last part of the node's label, for nodes that are actions.
    pub fn mnemonic(&self) -> Option<&str> {
        match self {
            Node::Source(_) | Node::Tree(_) | Node::ByHost(_) => None,
            Node::Run(run) => Some(&run.mnemonic),
            Node::Fetch(_) => Some("fetch"),
            Node::Layer(_) => Some("layer"),
            Node::Image(_) => Some("image"),
            Node::Index(_) => Some("index"),
        }
    }
}

impl Fetch {
    fn argv(&self) -> Vec<String> {
        let mut argv = vec!["skep:fetch/1".to_owned(), self.integrity.to_string()];
        match &self.unpack {
            Unpack::File { name, executable } => {
                argv.push(format!("file={name}"));
                argv.push(format!("executable={executable}"));
            }
            Unpack::Archive {
                format,
                strip,
                executable,
            } => {
                argv.push(format!("archive={}", format.as_str()));
                argv.push(format!("strip={strip}"));
                argv.extend(executable.iter().map(|pattern| format!("executable={pattern}")));
            }
        }
        argv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrities_round_trip_and_others_are_refused() {
        let h1 = format!("h1:{}=", "A".repeat(43));
        for text in [&h1, &format!("tree:{}", Digest::of(b"x"))] {
            assert_eq!(text.parse::<Integrity>().unwrap().to_string(), *text);
        }
        for text in ["sha1-abc", "md5:1", "h1:AA==", "sha512-x", "sha256:ABC", ""] {
            assert!(text.parse::<Integrity>().is_err(), "{text}");
        }
    }
}
