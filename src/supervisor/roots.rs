//! What the store has to keep for previews: the trees that their state directories name. Each store has a
//! record of every state directory whose supervisor uses it, and collection reads what is desired there.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::Error;
use super::place::Place;
use crate::digest::{Digest, Fingerprint};
use crate::store::{self, Store};
use crate::tree::Tree;

/// Makes a tree ready for containers.
pub(super) fn prepare(store: &Store, tree: &Tree) -> Result<(), Error> {
    store.materialize(&tree.root)?;
    if let Some(metadata) = &tree.metadata {
        store.verify(metadata)?;
        store.keep(metadata)?;
    }
    Ok(())
}

/// Where a tree is, from the store's root, once it was made ready.
pub(super) fn place_of(tree: &Tree) -> PathBuf {
    store::tree_place(&tree.root)
}

/// Where a tree's metadata is, from the store's root.
pub(super) fn metadata_place(tree: &Tree) -> Option<PathBuf> {
    tree.metadata.as_ref().map(store::blob_place)
}

fn record(store: &Store, directory: &Path) -> PathBuf {
    let name = Fingerprint::of("skep 1 preview directory", directory.as_os_str().as_bytes());
    store.root().join("previews").join(&name.hex()[..32])
}

/// Has the store keep what the state directory names.
pub(super) fn register(store: &Store, directory: &Path) -> Result<(), Error> {
    let path = record(store, directory);
    fs::write(&path, directory.as_os_str().as_bytes()).map_err(|error| Error::at(&path, error))
}

/// Undoes [`register`]; it may not have been done.
pub(super) fn unregister(store: &Store, directory: &Path) -> Result<(), Error> {
    let path = record(store, directory);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::at(&path, error)),
        _ => Ok(()),
    }
}

/// All content that previews need of this store, for collection to spare. State directories that are gone are
/// forgotten.
pub fn roots(store: &Store) -> Result<Vec<Digest>, Error> {
    let directory = store.root().join("previews");
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| Error::at(&directory, error))?,
    };
    let mut trees = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::at(&directory, error))?.path();
        let failed = |error| Error::at(&path, error);
        let preview = PathBuf::from(std::ffi::OsString::from_vec(fs::read(&path).map_err(failed)?));
        if !preview.exists() {
            fs::remove_file(&path).map_err(failed)?;
            continue;
        }
        let desired = Place::at(&preview).desired();
        let desired = desired.map_err(|error| Error::at(&preview.join("desired.json"), error))?;
        trees.extend(desired.map(|desired| desired.trees()).unwrap_or_default());
    }
    Ok(store.contents(&trees))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::IngestLimits;
    use crate::supervisor::testing::{driven, spec};

    #[test]
    fn what_a_preview_names_survives_collection_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = Store::open(&path).unwrap();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), b"content").unwrap();
        let root = store.ingest(&source, &IngestLimits::default()).unwrap();
        let metadata = store.put(b"{}").unwrap();
        let preview = directory.path().join("preview");
        fs::create_dir(&preview).unwrap();
        let mut spec = spec("v1");
        spec.root = Tree {
            root,
            metadata: Some(metadata),
        };
        driven(&Place::at(&preview), "api", &spec);
        register(&store, &preview).unwrap();
        prepare(&store, &spec.root).unwrap();
        drop(store);
        // Whatever is older than the oldest lease may go.
        std::thread::sleep(Duration::from_secs(3));
        let store = Store::open(&path).unwrap();
        store.gc(0, &roots(&store).unwrap()).unwrap();
        assert!(store.has(&root) && store.has(&metadata));
        assert!(store.root().join(place_of(&spec.root)).join("file").exists());
        unregister(&store, &preview).unwrap();
        store.gc(0, &roots(&store).unwrap()).unwrap();
        assert!(!store.has(&root) && !store.root().join(place_of(&spec.root)).exists());
        register(&store, &preview).unwrap();
        fs::remove_dir_all(&preview).unwrap();
        assert!(roots(&store).unwrap().is_empty());
        assert!(!record(&store, &preview).exists());
    }
}
