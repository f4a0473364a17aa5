//! Layers of images (OCI image specification 1.1, "Image Layer Filesystem Changeset"): a tar, plain or compressed,
//! whose whiteouts are entries like others. What they mean is [`crate::tree::overlay`]'s to say.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};

use globset::GlobSet;

use super::builder::{Builder, Whole};
use super::tar::{self, Dialect, Kind};
use super::{ArchiveError, Limits, Unpacking, decompress, read_error};
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::store::Store;
use crate::tree::{Tree, TreePath};

/// A layer in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// What it holds, whiteouts among it.
    pub tree: Tree,
    /// Directories that are no entry of their own.
    pub implied: BTreeSet<TreePath>,
    /// Digest and size of the uncompressed tar.
    pub diff_id: Digest,
}

/// Unpacks the layer in `file` into the store. Blocks.
pub fn unpack_layer(
    store: &Store,
    file: File,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<UnpackedLayer, ArchiveError> {
    let size = file.metadata().map_err(ArchiveError::Io)?.len();
    let unpacking = Unpacking {
        store,
        strip: 0,
        executable: GlobSet::empty(),
        budget: limits.budget(size),
        entries: limits.entries,
        cancel,
    };
    let dialect = Dialect {
        prefix: TreePath::root(),
        strip: 0,
        kind: Kind::Layer,
    };
    let mut builder = Builder::new(limits.entries);
    let content = decompress(BufReader::new(file)).map_err(read_error)?;
    let mut content = Hashed {
        inner: unpacking.budgeted(content),
        hasher: Hasher::new(),
    };
    tar::read(&unpacking, &mut content, &dialect, &mut builder)?;
    // The archive ends before its last bytes.
    io::copy(&mut content, &mut io::sink()).map_err(read_error)?;
    let diff_id = content.hasher.finish();
    let implied = builder.implied().clone();
    let (root, metadata) = builder.finish(store, Whole::Layer)?;
    let metadata = match metadata.is_empty() {
        true => None,
        false => Some(store.put(&metadata.encode())?),
    };
    Ok(UnpackedLayer {
        tree: Tree { root, metadata },
        implied,
        diff_id,
    })
}

/// Digests what is read.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
