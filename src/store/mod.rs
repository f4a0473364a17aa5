//! The disk that is ours: content by SHA-256, action results, materialized trees, leases.
//!
//! The store knows trees and results, and nothing of recipes, sandboxes or images. On disk:
//!
//! | path                | what it is                                                                     |
//! |---------------------|--------------------------------------------------------------------------------|
//! | `FORMAT`            | the version of this layout                                                     |
//! | `blobs/ab/<hex>`    | content; the file's size and SHA-256 are its name                              |
//! | `exec/ab/<hex>`     | the same content in an executable inode, made when a tree needs it             |
//! | `actions/ab/<hex>`  | an action's result, by its key, with a checksum                                |
//! | `trees/ab/<hex>`    | a materialized tree: directories, and hard links to `blobs` and `exec`         |
//! | `leases/<id>`       | one per open store, locked while its process lives                             |
//! | `tmp/<id>/`         | what that process is writing                                                   |
//! | `locks/<hex>`       | an action that runs right now, in whichever process                            |
//! | `notes/<project>.*` | small records about a project, such as which key each label had                |
//! | `previews/<id>`     | the path of a preview's state directory, whose trees collection spares         |
//! | `preview/`          | empty; a preview's supervisor has its state directory mounted there             |
//! | `generation`        | bumped when content goes: by collection and by repair                          |
//! | `complete.<n>`      | keys of results found complete in generation `n`                               |
//! | `synced`, `boot`    | since when everything is on the platter, and in which boot that was recorded   |
//! | `sweep.lock`        | shared by who relies on content, exclusive to who removes it                   |
//!
//! Files come to be by writing under `tmp` and renaming. Modification times are a constant that actions
//! see; recency is the change time, which the kernel keeps. [`durable`] says what a power cut may undo,
//! [`gc`](Store::gc) what collection spares.

mod blobs;
mod disk;
mod durable;
mod error;
mod fsck;
mod gc;
mod ingest;
mod lease;
mod materialize;
mod notes;
mod results;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use blobs::{BlobReader, BlobWriter};
pub(crate) use disk::remove_tree;
pub use error::Error;
pub use fsck::FsckReport;
pub use gc::GcReport;
pub use ingest::{IngestError, IngestLimits};
pub use lease::{KeyLock, Scratch};

use crate::digest::Digest;

/// The uid that sandboxes run as when skep runs as root; trees belong to it, so that an action sees the
/// same owner in both cases. No system account has it (Debian policy 9.2.2 leaves 60000 to 64999 to
/// static allocation, of which this one is not used).
pub const SANDBOX_UID: u32 = 64990;

/// Modification time of every file and directory of a materialized tree: 1980-01-01T00:00:00Z, the first
/// that a zip file can hold.
pub const MTIME: i64 = 315_532_800;

const FORMAT: &str = "skep store 1";

/// An open store. Share it between threads as `Arc<Store>`; every call blocks.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lease: lease::Lease,
    /// Blobs that this process wrote or hashed.
    verified: Mutex<HashSet<Digest>>,
    /// What was found complete, and in which generation.
    complete: Mutex<results::Complete>,
    synced: Mutex<durable::Synced>,
}

impl Store {
    /// Opens the store at `root`, and makes it if there is none. What a power cut left unfinished is
    /// forgotten, and leftovers of processes that died are removed.
    pub fn open(root: &Path) -> Result<Store, Error> {
        fs::create_dir_all(root).map_err(|source| match error::io("create", root)(source) {
            // Whatever stands in the way, another place helps.
            Error::Io { path, source, .. } => Error::Unwritable { path, source },
            error => error,
        })?;
        let root = root.canonicalize().map_err(error::io("read", root))?;
        disk::check_owner(&root)?;
        check_format(&root)?;
        for name in [
            "blobs", "exec", "actions", "trees", "leases", "tmp", "locks", "logs",
        ] {
            disk::create_dir(&root.join(name))?;
        }
        let lease = lease::Lease::take(&root)?;
        let store = Store {
            verified: Mutex::default(),
            complete: Mutex::default(),
            synced: Mutex::default(),
            lease,
            root,
        };
        store.recover()?;
        store.remove_leftovers()?;
        Ok(store)
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Where the tree `root` is once it was materialized, from a store's root.
pub fn tree_place(root: &Digest) -> PathBuf {
    disk::fanned("trees", &root.hex())
}

/// Where a blob is, from a store's root.
pub fn blob_place(digest: &Digest) -> PathBuf {
    disk::fanned("blobs", &digest.hex())
}

fn check_format(root: &Path) -> Result<(), Error> {
    let path = root.join("FORMAT");
    match fs::read(&path) {
        Ok(bytes) if bytes.strip_suffix(b"\n") == Some(FORMAT.as_bytes()) => Ok(()),
        Ok(bytes) => Err(Error::Format {
            root: root.to_owned(),
            found: String::from_utf8_lossy(&bytes[..bytes.len().min(64)])
                .trim()
                .to_owned(),
            expected: FORMAT,
        }),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            // Another process may be making the same new store: its temporary file, or its whole layout.
            let foreign = disk::list(root)?
                .into_iter()
                .any(|name| !name.starts_with("FORMAT"));
            if foreign && !path.exists() {
                return Err(Error::Foreign(root.to_owned()));
            }
            let new = root.join(format!("FORMAT.{}", std::process::id()));
            fs::write(&new, format!("{FORMAT}\n")).map_err(error::io("write", &new))?;
            fs::rename(&new, &path).map_err(error::io("write", &path))
        }
        Err(source) => Err(error::io("read", &path)(source)),
    }
}

#[cfg(test)]
mod tests;
