//! The root file system of an image that is known by its digest: built here, or pulled from a registry.
//!
//! Both ways give the same tree. No file is copied or written: a [`Root`] is directories and metadata over content
//! of the store, for whoever materializes it. What was found is kept as results like those of actions:
//!
//! | key                            | what it holds                                                       |
//! |--------------------------------|---------------------------------------------------------------------|
//! | `skep:manifest/1 <digest>`     | a manifest or index that was pulled, and the config                 |
//! | `skep:layer-of/1 <digest>`     | a layer that was pulled, unpacked                                   |
//! | `skep:root/1 <digest>`         | the layers of a manifest put on each other                          |

mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod manifest;
mod pull;

use std::sync::Arc;

pub use config::{Config, Healthcheck};

use crate::action::{Action, ActionResult};
use crate::assemble::{self, Known};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::fetch::ArchiveError;
use crate::image::Image;
use crate::platform::Platform;
use crate::registry::{self, Client, Repository};
use crate::store::{self, Lost, Store};
use crate::tree::overlay::{Sheet, overlay};
use crate::tree::{Metadata, Node, Tree, TreePath, ops};

/// An image's root file system, and how it wants to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// All of its layers in one tree, in the one form that [`crate::tree::overlay`] gives.
    pub tree: Tree,
    /// How it wants to be run.
    pub config: Config,
    /// Digest and size of the platform's manifest.
    pub digest: Digest,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not built here, and no registry is named.
    #[error(
        "the image `{0}` is not in this store, and nothing says which registry has it; build it, or push it"
    )]
    Unknown(String),
    /// The registry does not have it, or not all of it.
    #[error(
        "the image `{repository}@{image}` is gone: `{}` has no {what}; push it again, or take another release",
        repository.host()
    )]
    Gone {
        /// Where it was looked for.
        repository: Repository,
        /// The `sha256:…` that was asked for.
        image: String,
        /// What is missing, such as `manifest sha256:…`.
        what: String,
    },
    /// It is not for the platform.
    #[error("the image `{image}` is not for {wanted}; it is for {}", or_nothing(.has))]
    Platform {
        /// The `sha256:…` that was asked for.
        image: String,
        /// The platform that was asked for.
        wanted: Platform,
        /// Those that it is for, such as `linux/arm64`.
        has: Vec<String>,
    },
    /// It is no image that skep can run.
    #[error("the image `{image}`: {reason}")]
    Malformed {
        /// The `sha256:…` of the manifest, index or config.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer is none, or not a sound one.
    #[error("the layer `{layer}`: {source}")]
    Layer {
        /// Its `sha256:…`.
        layer: String,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// The registry did not answer as it should.
    #[error(transparent)]
    Registry(registry::Error),
    /// What was built here cannot be read.
    #[error(transparent)]
    Assemble(#[from] assemble::Error),
    /// A tree is not what it should be.
    #[error(transparent)]
    Tree(ops::Error<store::Error>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
}

fn or_nothing(platforms: &[String]) -> String {
    match platforms {
        [] => "no platform that has a name".to_owned(),
        platforms => platforms.join(", "),
    }
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Error {
        match error {
            registry::Error::Cancelled => Error::Cancelled,
            registry::Error::Store(error) => Error::Store(error),
            error => Error::Registry(error),
        }
    }
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Store(error) => error.lost(),
            Error::Assemble(error) => error.lost(),
            _ => Vec::new(),
        }
    }
}

impl From<ops::Error<store::Error>> for Error {
    fn from(error: ops::Error<store::Error>) -> Error {
        match error {
            ops::Error::Directories(error) => Error::Store(error),
            error => Error::Tree(error),
        }
    }
}

/// Where an image can be pulled from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// Whom to ask.
    pub client: &'a Client,
    /// The repository that holds it.
    pub repository: &'a Repository,
}

/// The root of the image `digest` on `platform`: a manifest, or an index that has one for the platform. The size
/// of `digest` does not matter. What is not in the store is pulled from `origin`.
pub async fn root(
    store: &Arc<Store>,
    origin: Option<Origin<'_>>,
    digest: &Digest,
    platform: Platform,
    cancel: &Cancel,
) -> Result<Root, Error> {
    let (shared, asked) = (Arc::clone(store), *digest);
    match blocking(move || assemble::recall(&shared, &asked)).await? {
        Some(Known::Index(index)) => {
            check_platform(digest, platform, index.images.keys())?;
            of_image(store, &index.images[&platform]).await
        }
        Some(Known::Image(image)) => {
            check_platform(digest, platform, [&image.platform])?;
            of_image(store, &image).await
        }
        None => pull::root(store, origin, digest, platform, cancel).await,
    }
}

async fn of_image(store: &Arc<Store>, image: &Image) -> Result<Root, Error> {
    let layers = image.layers.iter().map(|layer| Unpacked {
        tree: layer.tree,
        implied: None,
    });
    assembled(store, image.manifest, image.config, layers.collect()).await
}

fn check_platform<'a>(
    digest: &Digest,
    wanted: Platform,
    has: impl IntoIterator<Item = &'a Platform>,
) -> Result<(), Error> {
    let has: Vec<&Platform> = has.into_iter().collect();
    match has.contains(&&wanted) {
        true => Ok(()),
        false => Err(Error::Platform {
            image: digest.oci(),
            wanted,
            has: has.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// A layer in the store.
#[derive(Clone, Debug)]
struct Unpacked {
    tree: Tree,
    /// The blob that lists the directories that are no entry of their own, as JSON.
    implied: Option<Digest>,
}

/// The root of layers that are here, put together once.
async fn assembled(
    store: &Arc<Store>,
    manifest: Digest,
    config: Digest,
    layers: Vec<Unpacked>,
) -> Result<Root, Error> {
    let store = Arc::clone(store);
    let put = move || {
        let tree = match kept(&store, "root", &manifest)? {
            Some(root) => read_tree(&store, &root)?,
            None => {
                let tree = put_together(&store, &layers)?;
                keep(&store, "root", &manifest, tree_entries(tree))?;
                tree
            }
        };
        let config = Config::read(&store.read(&config)?, &config)?.config;
        Ok(Root {
            tree,
            config,
            digest: manifest,
        })
    };
    blocking(put).await
}

fn put_together(store: &Store, layers: &[Unpacked]) -> Result<Tree, Error> {
    let damaged = |digest: &Digest, error: serde_json::Error| Error::Malformed {
        image: digest.oci(),
        reason: format!("its record is damaged: {error}"),
    };
    let mut sheets = Vec::new();
    for layer in layers {
        let mut sheet = Sheet {
            root: Some(layer.tree.root),
            ..Sheet::default()
        };
        if let Some(digest) = &layer.tree.metadata {
            sheet.metadata =
                Metadata::decode(&store.read(digest)?).map_err(|error| damaged(digest, error))?;
        }
        if let Some(digest) = &layer.implied {
            sheet.implied =
                serde_json::from_slice(&store.read(digest)?).map_err(|error| damaged(digest, error))?;
        }
        sheets.push(sheet);
    }
    let (root, metadata) = overlay(store, sheets)?;
    let metadata = match metadata.is_empty() {
        true => None,
        false => Some(store.put(&metadata.encode())?),
    };
    Ok(Tree { root, metadata })
}

// --- records -------------------------------------------------------------------------------------------

fn key(kind: &str, digest: &Digest) -> Digest {
    Action::builtin(vec![format!("skep:{kind}/1"), digest.oci()], Digest::of(b"")).key()
}

/// What was kept under `digest`, if it was and is complete.
fn kept(store: &Store, kind: &str, digest: &Digest) -> Result<Option<Digest>, Error> {
    let result = store.result(&key(kind, digest))?;
    Ok(result.and_then(|result| result.outputs.get(&TreePath::root()).copied()))
}

/// Keeps entries of the store under `digest`.
fn keep(
    store: &Store,
    kind: &str,
    digest: &Digest,
    entries: impl IntoIterator<Item = (&'static str, Node)>,
) -> Result<(), Error> {
    let entries = entries.into_iter().map(|(name, node)| (path(name), node));
    let root = ops::collect(store, entries)?;
    let result = ActionResult {
        outputs: [(TreePath::root(), root)].into(),
        ..ActionResult::default()
    };
    Ok(store.publish(&key(kind, digest), &result)?)
}

fn tree_entries(tree: Tree) -> Vec<(&'static str, Node)> {
    let mut entries = vec![("files", Node::Directory(tree.root))];
    entries.extend(tree.metadata.map(|digest| ("metadata", file(digest))));
    entries
}

fn read_tree(store: &Store, root: &Digest) -> Result<Tree, Error> {
    let Some(Node::Directory(files)) = ops::lookup(store, root, &path("files"))? else {
        return Err(ops::Error::Missing(path("files")).into());
    };
    Ok(Tree {
        root: files,
        metadata: blob_in(store, root, "metadata")?,
    })
}

/// The file called `name` of a record.
fn blob_in(store: &Store, root: &Digest, name: &str) -> Result<Option<Digest>, Error> {
    Ok(match ops::lookup(store, root, &path(name))? {
        Some(Node::File { digest, .. }) => Some(digest),
        _ => None,
    })
}

fn path(name: &str) -> TreePath {
    name.parse().expect("a plain name")
}

fn file(digest: Digest) -> Node {
    Node::File {
        digest,
        executable: false,
    }
}

/// Runs what blocks where that does no harm.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(run).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests;
