//! From trees to images: layers, configs, manifests, indexes, and layouts on disk.
//!
//! Layers, images and indexes are builtin actions ([`crate::plan`] has their outputs). A layer's action
//! finds out digest and size by making the bytes once, and throws them away; [`layer_bytes`] makes them again
//! when somebody needs them, and checks that they are the same. Sends nothing anywhere.

mod check;
mod export;
mod gzip;
mod image;
mod record;
mod tar;
mod view;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

pub use check::{check_image, check_layer};
pub use export::{Exported, export};
pub use record::{Known, recall, remember_image, remember_index};

use crate::action::{Action, ActionResult};
use crate::digest::{Digest, Hasher};
use crate::image::{Image, Index, LAYER_FORMAT, Layer};
use crate::plan::Config;
use crate::platform::Platform;
use crate::store::{self, Lost, Store};
use crate::tree::{Node, Tree, TreePath, ops};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A tree is not what it should be.
    #[error(transparent)]
    Tree(ops::Error<store::Error>),
    /// Metadata cannot be read.
    #[error("malformed metadata {0}: {1}")]
    Metadata(Digest, serde_json::Error),
    /// A record of an image cannot be read or written.
    #[error("malformed image record: {0}")]
    Json(serde_json::Error),
    /// Not an action of this version of skep.
    #[error("unknown builtin `{0}`; another version of skep made this plan")]
    UnknownBuiltin(String),
    /// No engine could run it.
    #[error("{0}")]
    Unfit(String),
    /// The bytes of a layer cannot be written.
    #[error("cannot write a layer: {0}")]
    Write(io::Error),
    /// The bytes of a layer are not what they were.
    #[error("the layer {expected} came out as {found} when it was made again; please report this")]
    Unreproducible {
        /// What it was.
        expected: Digest,
        /// What it is now.
        found: Digest,
    },
    /// The image specification does not allow it.
    #[error("cannot describe an image: {0}")]
    Specification(#[from] oci_spec::OciSpecError),
    /// An export would overwrite something.
    #[error("`{}` is there already and not empty; export to a new directory", .0.display())]
    Occupied(PathBuf),
    /// A layout cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Export {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Store(error) => error.lost(),
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

/// Runs a builtin of this module.
pub fn run_builtin(store: &Store, action: &Action) -> Result<ActionResult, Error> {
    let argv = &action.command.argv;
    let root = match (action.builtin_name().unwrap_or_default(), &argv[1..]) {
        ("layer/1", [format, rest @ ..]) if format == LAYER_FORMAT => {
            let metadata = rest
                .iter()
                .find_map(|argument| argument.strip_prefix("metadata="));
            let metadata = metadata.map(str::parse).transpose();
            let metadata = metadata.map_err(|_| Error::UnknownBuiltin(argv.join(" ")))?;
            make_layer(
                store,
                Tree {
                    root: action.input_root,
                    metadata,
                },
            )?
        }
        ("image/1", [platform, config]) => {
            let platform = platform
                .parse()
                .map_err(|_| Error::UnknownBuiltin(argv.join(" ")))?;
            let config = serde_json::from_str(config).map_err(Error::Json)?;
            make_image(store, &action.input_root, platform, &config)?
        }
        ("index/1", []) => make_index(store, &action.input_root)?,
        _ => return Err(Error::UnknownBuiltin(argv.join(" "))),
    };
    Ok(ActionResult {
        outputs: BTreeMap::from([(TreePath::root(), root)]),
        ..Default::default()
    })
}

/// The index that an action of the builtin `index/1` left at `root`.
pub fn read_index(store: &Store, root: &Digest) -> Result<Index, Error> {
    read_record(store, root, "index.json")
}

/// The image that an action of the builtin `image/1` left at `root`.
pub fn read_image(store: &Store, root: &Digest) -> Result<Image, Error> {
    read_record(store, root, "image.json")
}

/// Sees to it that a layer's bytes are in the store.
pub fn layer_bytes(store: &Store, layer: &Layer) -> Result<(), Error> {
    if store.keep(&layer.digest)? {
        return Ok(());
    }
    let (diff_id, writer) = pack(store, &layer.tree, store.writer()?)?;
    let found = writer.finish()?;
    match found == layer.digest && diff_id == layer.diff_id {
        true => Ok(()),
        false => Err(Error::Unreproducible {
            expected: layer.digest,
            found,
        }),
    }
}

fn make_layer(store: &Store, tree: Tree) -> Result<Digest, Error> {
    let (diff_id, compressed) = pack(store, &tree, Hasher::new())?;
    let layer = Layer {
        digest: compressed.finish(),
        diff_id,
        tree,
        format: LAYER_FORMAT.to_owned(),
    };
    let mut entries = vec![
        record(store, "layer.json", &layer)?,
        (path("files"), Node::Directory(tree.root)),
    ];
    entries.extend(tree.metadata.map(|digest| (path("metadata"), file(digest))));
    Ok(ops::collect(store, entries)?)
}

fn make_image(store: &Store, inputs: &Digest, platform: Platform, config: &Config) -> Result<Digest, Error> {
    let layers = layers_of(store, inputs)?;
    let config = store.put(&image::config(platform, config, &layers)?)?;
    let manifest = store.put(&image::manifest(&config, &layers)?)?;
    let image = Image {
        platform,
        manifest,
        config,
        layers,
    };
    let entries = [
        record(store, "image.json", &image)?,
        (path("manifest"), file(manifest)),
        (path("config"), file(config)),
        (TreePath::root(), Node::Directory(*inputs)),
    ];
    Ok(ops::collect(store, entries)?)
}

/// The layers in the inputs of an image, the lowest first.
fn layers_of(store: &Store, inputs: &Digest) -> Result<Vec<Layer>, Error> {
    let mut layers: Vec<(usize, Layer)> = Vec::new();
    for (name, root) in children(store, inputs, "layers")? {
        let number = name
            .parse()
            .map_err(|_| Error::UnknownBuiltin(format!("layer `{name}`")))?;
        layers.push((number, read_record(store, &root, "layer.json")?));
    }
    layers.sort_by_key(|(number, _)| *number);
    Ok(layers.into_iter().map(|(_, layer)| layer).collect())
}

fn make_index(store: &Store, inputs: &Digest) -> Result<Digest, Error> {
    let mut images = BTreeMap::new();
    for (_, root) in children(store, inputs, "images")? {
        let image: Image = read_record(store, &root, "image.json")?;
        images.insert(image.platform, image);
    }
    let digest = store.put(&image::index(&images)?)?;
    let index = Index { digest, images };
    let entries = [
        record(store, "index.json", &index)?,
        (path("manifest"), file(digest)),
        (TreePath::root(), Node::Directory(*inputs)),
    ];
    Ok(ops::collect(store, entries)?)
}

/// Writes the compressed archive of `tree`, and gives the digest of the uncompressed one.
fn pack<W: Write>(store: &Store, tree: &Tree, to: W) -> Result<(Digest, W), Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let gzip = gzip::Gzip::new(to, threads).map_err(Error::Write)?;
    let hashed = Hashed {
        to: gzip,
        hasher: Hasher::new(),
    };
    let Hashed { to, hasher } = tar::write(store, tree, hashed)?;
    Ok((hasher.finish(), to.finish().map_err(Error::Write)?))
}

/// Digests what passes through.
struct Hashed<W> {
    to: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn path(text: &str) -> TreePath {
    text.parse().expect("a plain path")
}

fn file(digest: Digest) -> Node {
    Node::File {
        digest,
        executable: false,
    }
}

fn record(store: &Store, name: &str, value: &impl serde::Serialize) -> Result<(TreePath, Node), Error> {
    let bytes = serde_json::to_vec(value).map_err(Error::Json)?;
    Ok((path(name), file(store.put(&bytes)?)))
}

fn read_record<T: serde::de::DeserializeOwned>(store: &Store, root: &Digest, name: &str) -> Result<T, Error> {
    match ops::lookup(store, root, &path(name))? {
        Some(Node::File { digest, .. }) => serde_json::from_slice(&store.read(&digest)?).map_err(Error::Json),
        _ => Err(Error::Tree(ops::Error::Missing(path(name)))),
    }
}

/// The directories in the directory `name` of a tree; none if that is absent.
fn children(store: &Store, root: &Digest, name: &str) -> Result<Vec<(String, Digest)>, Error> {
    use crate::tree::Directories as _;
    let Some(Node::Directory(digest)) = ops::lookup(store, root, &path(name))? else {
        return Ok(Vec::new());
    };
    let directory = store.load(&digest)?;
    let directories = directory.iter().filter_map(|(name, node)| match node {
        Node::Directory(digest) => Some((name.to_string(), *digest)),
        _ => None,
    });
    Ok(directories.collect())
}

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod tests;
