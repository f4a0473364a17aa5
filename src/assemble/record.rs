//! What was built here, by the digests that registries know it by.
//!
//! A record is an action's result like others: complete or absent, kept while it is used, collected with all that
//! it names. The next build writes those that are gone.

use super::{Error, children, path, read_record};
use crate::action::{Action, ActionResult};
use crate::digest::Digest;
use crate::image::{Image, Index};
use crate::store::Store;
use crate::tree::{Node, TreePath, ops};

/// Something that was built here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A multi-platform image.
    Index(Index),
    /// One platform's image.
    Image(Image),
}

/// Records the index that an action of the builtin `index/1` left at `root`, and its images.
pub fn remember_index(store: &Store, root: &Digest) -> Result<(), Error> {
    for (_, image) in children(store, root, "images")? {
        remember_image(store, &image)?;
    }
    remember(store, root)
}

/// Records the image that an action of the builtin `image/1` left at `root`.
pub fn remember_image(store: &Store, root: &Digest) -> Result<(), Error> {
    remember(store, root)
}

/// What was built here under this digest of a manifest or index, whose size does not matter; `None` if nothing
/// was, or not all of it is left.
pub fn recall(store: &Store, digest: &Digest) -> Result<Option<Known>, Error> {
    let Some(result) = store.result(&key(digest))? else {
        return Ok(None);
    };
    let Some(root) = result.outputs.get(&TreePath::root()) else {
        return Ok(None);
    };
    Ok(Some(match ops::lookup(store, root, &path("index.json"))? {
        Some(_) => Known::Index(read_record(store, root, "index.json")?),
        None => Known::Image(read_record(store, root, "image.json")?),
    }))
}

fn remember(store: &Store, root: &Digest) -> Result<(), Error> {
    let Some(Node::File { digest, .. }) = ops::lookup(store, root, &path("manifest"))? else {
        return Err(Error::Tree(ops::Error::Missing(path("manifest"))));
    };
    let result = ActionResult {
        outputs: [(TreePath::root(), *root)].into(),
        ..ActionResult::default()
    };
    Ok(store.publish(&key(&digest), &result)?)
}

fn key(digest: &Digest) -> Digest {
    Action::builtin(vec!["skep:built/1".to_owned(), digest.oci()], Digest::of(b"")).key()
}
