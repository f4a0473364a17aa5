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
//! | `compiled/ab/<hex>` | what a compiler made, by its own key: the name of a blob, with a checksum         |
//! | `trees/ab/<hex>`    | a materialized tree: directories, and hard links to `blobs` and `exec`         |
//! | `shapes/ab/<hex>`   | the fingerprint of what `stat` said of that tree when it was made              |
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
//! No other account can enter the store: its directories have the mode 0700, whatever the umask; as root, 0710
//! with the group of the uid that sandboxes run as where something is bound for them. So it does not matter
//! to others which modes files and trees have inside.
//!
//! Files come to be by writing under `tmp` and renaming. Modification times are a constant that actions
//! see; recency is the change time, which the kernel keeps. [`durable`] says what a power cut may undo,
//! [`gc`](Store::gc) what collection spares.

mod blobs;
mod compiled;
mod disk;
mod durable;
mod error;
mod fsck;
mod gc;
mod ingest;
mod lease;
mod lost;
mod materialize;
mod notes;
mod program;
mod remove;
mod results;
mod shape;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use blobs::{BlobReader, BlobWriter};
pub use compiled::Compiled;
pub use error::Error;
pub use fsck::FsckReport;
pub use gc::GcReport;
pub use ingest::{IngestError, IngestLimits};
pub use lease::{KeyLock, Scratch};
pub use lost::Lost;
pub(crate) use remove::remove_tree;

use crate::cancel::Cancel;
use crate::digest::Digest;

/// The uid that sandboxes run as when skep runs as root; trees belong to it, so that an action sees the
/// same owner in both cases. No system account has it (Debian policy 9.2.2 leaves 60000 to 64999 to
/// static allocation, of which this one is not used).
pub const SANDBOX_UID: u32 = 64990;

/// Modification time of every file and directory of a materialized tree: 1980-01-01T00:00:00Z, the first
/// that a zip file can hold.
pub const MTIME: i64 = 315_532_800;

const FORMAT: &str = "skep store 1";

/// Directories with something that sandboxes and containers have mounted.
const PASSAGES: [&str; 4] = ["blobs", "trees", "tmp", "preview"];
/// Directories that no sandbox needs.
const CLOSED: [&str; 8] = [
    "exec", "actions", "compiled", "shapes", "leases", "locks", "notes", "previews",
];
/// How many of these tell a store that has lost its `FORMAT`.
const MIN_AREAS: usize = 3;
/// What else an intact store holds.
const OTHERS: [&str; 7] = [
    "registry",
    "logs",
    "generation",
    "synced",
    "boot",
    "sweep.lock",
    "FORMAT",
];

/// An open store. Share it between threads as `Arc<Store>`; every call blocks.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lease: lease::Lease,
    /// Inodes that this process wrote or hashed, with what they hold.
    verified: Mutex<HashMap<u64, Digest>>,
    /// Trees that this process was asked for.
    turns: materialize::Turns,
    lost: Mutex<lost::Found>,
    /// What was found complete, and in which generation.
    complete: Mutex<results::Complete>,
    synced: Mutex<durable::Synced>,
}

impl Store {
    /// Opens the store at `root`, and makes it if there is none. What a power cut left unfinished is
    /// forgotten, and leftovers of processes that died are removed.
    pub fn open(root: &Path) -> Result<Store, Error> {
        Store::open_cancellable(root, Cancel::default())
    }

    /// Like [`Store::open`]; once `cancel` is raised, what is left to be removed is left to the next process.
    pub fn open_cancellable(root: &Path, cancel: Cancel) -> Result<Store, Error> {
        fs::create_dir_all(root).map_err(|source| match error::io("create", root)(source) {
            // Whatever stands in the way, another place helps.
            Error::Io { path, source, .. } => Error::Unwritable { path, source },
            error => error,
        })?;
        let root = root.canonicalize().map_err(error::io("read", root))?;
        disk::check_owner(&root)?;
        check_format(&root)?;
        // Stores of earlier versions were open to every account.
        disk::create_passage(&root)?;
        for name in PASSAGES {
            disk::create_passage(&root.join(name))?;
        }
        for name in CLOSED {
            disk::create_closed(&root.join(name))?;
        }
        let lease = lease::Lease::take(&root, cancel)?;
        let store = Store {
            verified: Mutex::default(),
            turns: materialize::Turns::default(),
            lost: Mutex::default(),
            complete: Mutex::default(),
            synced: Mutex::default(),
            lease,
            root,
        };
        store.recover()?;
        store.remove_leftovers()?;
        Ok(store)
    }

    /// Replaces a small file of the store, whatever stands in its place.
    fn replace(&self, place: &Path, bytes: &[u8]) -> Result<(), Error> {
        let new = self.lease.fresh();
        fs::write(&new, bytes).map_err(error::io("write", &new))?;
        self.replace_by(&new, place)
    }

    /// Renames a finished file to its place, whatever stands there.
    fn replace_by(&self, new: &Path, place: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(place).is_ok_and(|metadata| metadata.is_dir()) {
            self.discard(place)?;
        }
        disk::rename_into(new, place)
    }

    /// Takes whatever stands at `path` out of the way at once, and removes it in the background.
    fn discard(&self, path: &Path) -> Result<(), Error> {
        let aside = self.lease.fresh();
        let rename = || fs::rename(path, &aside);
        let renamed = match rename() {
            // Another directory of a directory without permissions cannot be told to it.
            Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                disk::chmod(path, 0o700)?;
                rename()
            }
            other => other,
        };
        match renamed {
            Ok(()) => self.lease.remove(aside),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(error::io("remove", path)(source)),
        }
        Ok(())
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
    let found = match fs::read(&path) {
        Ok(bytes) if bytes.strip_suffix(b"\n") == Some(FORMAT.as_bytes()) => return Ok(()),
        Ok(bytes) => Some(
            String::from_utf8_lossy(&bytes[..bytes.len().min(64)])
                .trim()
                .to_owned(),
        ),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(String::new()),
    };
    let names = disk::list(root)?;
    match found {
        Some(found) if is_format(&found) || !is_layout(&names) => {
            return Err(Error::Format {
                root: root.to_owned(),
                found,
                expected: FORMAT,
            });
        }
        // Another process may be making the same new store: its temporary file, or its whole layout.
        None if !names.iter().all(|name| name.starts_with("FORMAT"))
            && !is_layout(&names)
            && !path.exists() =>
        {
            return Err(Error::Foreign(root.to_owned()));
        }
        // It is new, or its file was lost or damaged.
        _ => {}
    }
    if path.is_dir() {
        remove_tree(&path)?;
    }
    let new = root.join(format!("FORMAT.{}", std::process::id()));
    fs::write(&new, format!("{FORMAT}\n")).map_err(error::io("write", &new))?;
    fs::rename(&new, &path).map_err(error::io("write", &path))
}

/// Whether this is what some version of skep writes.
fn is_format(text: &str) -> bool {
    let version = text.strip_prefix("skep store ");
    version.is_some_and(|version| version.parse::<u32>().is_ok())
}

/// Whether these are the names in a store, without its `FORMAT`.
fn is_layout(names: &[String]) -> bool {
    let known = |name: &String| {
        let known = PASSAGES.iter().chain(&CLOSED).chain(&OTHERS);
        known.into_iter().any(|known| known == name)
            || name.starts_with("complete.")
            || name.starts_with("FORMAT.")
    };
    let is_area = |name: &&String| PASSAGES.iter().chain(&CLOSED).any(|area| area == name);
    names.iter().all(known) && names.iter().filter(is_area).count() >= MIN_AREAS
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
