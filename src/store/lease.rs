//! Who uses the store right now: leases, scratch directories, and one run per key. Decides nothing about
//! what is kept; that is collection's.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::error::{Error, io as failed};
use super::{Store, disk};
use crate::cancel::Cancel;
use crate::digest::Digest;

/// A locked file that says: content that is newer than me is in use.
#[derive(Debug)]
pub(super) struct Lease {
    path: PathBuf,
    tmp: PathBuf,
    id: String,
    taken: SystemTime,
    next: AtomicU64,
    _locked: File,
}

impl Lease {
    pub(super) fn take(root: &Path) -> Result<Lease, Error> {
        // A sweep in progress does not know this lease: what it removes is removed before this returns.
        let _sweep = disk::lock(&root.join("sweep.lock"), FlockOperation::LockShared)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let nanos = nanos.unwrap_or_default().as_nanos();
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let id = format!("{}-{nanos:x}-{count}", std::process::id());
            let path = root.join("leases").join(&id);
            let file = disk::open_lock(&path)?;
            // Whoever looks for dead leases may have got hold of it first, and then removes it.
            if !disk::try_lock(&file) || !is_linked(&file) {
                continue;
            }
            let tmp = root.join("tmp").join(&id);
            disk::create_dir(&tmp)?;
            let metadata = file.metadata().map_err(failed("read", &path))?;
            return Ok(Lease {
                taken: disk::changed(&metadata),
                next: AtomicU64::new(0),
                _locked: file,
                path,
                tmp,
                id,
            });
        }
    }

    /// When it was taken, by the file system's clock.
    pub(super) fn taken(&self) -> SystemTime {
        self.taken
    }

    /// A name that nothing has, under this lease's directory in `tmp`.
    pub(super) fn fresh(&self) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.tmp.join(n.to_string())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Best effort: what stays is removed by the next process that opens the store.
        let _ = disk::remove_tree(&self.tmp);
        let _ = disk::remove_file(&self.path);
    }
}

fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// A directory of one's own inside the store, removed when dropped, whatever is in it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    relative: PathBuf,
}

impl Scratch {
    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, from the store's root.
    pub fn relative(&self) -> &Path {
        &self.relative
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = disk::remove_tree(&self.path);
    }
}

/// The right to run the action of one key, held by one thread of one process.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _locked: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while it is locked; who waits for it finds that its file is gone, and starts over.
        let _ = disk::remove_file(&self.path);
    }
}

impl Store {
    /// A new, empty directory.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        let path = self.lease.fresh();
        disk::create_dir(&path)?;
        disk::give_to_sandbox(&path)?;
        let relative = path
            .strip_prefix(&self.root)
            .expect("leases are inside")
            .to_owned();
        Ok(Scratch { path, relative })
    }

    /// Waits until no other thread or process runs the action `key`. [`Error::Cancelled`] when `cancel` is
    /// raised first.
    pub fn lock_key(&self, key: &Digest, cancel: &Cancel) -> Result<KeyLock, Error> {
        let path = self.root.join("locks").join(key.hex());
        let mut pause = Duration::from_millis(2);
        loop {
            let file = disk::open_lock(&path)?;
            if disk::try_lock(&file) && is_linked(&file) {
                return Ok(KeyLock { path, _locked: file });
            }
            if cancel.is_raised() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// When the oldest lease was taken whose process lives.
    pub(super) fn oldest_lease(&self) -> Result<SystemTime, Error> {
        let mut oldest = self.lease.taken();
        for path in self.leases()? {
            if let Ok(file) = File::open(&path)
                && !disk::try_lock(&file)
                && let Ok(metadata) = file.metadata()
            {
                oldest = oldest.min(disk::changed(&metadata));
            }
        }
        Ok(oldest)
    }

    fn leases(&self) -> Result<Vec<PathBuf>, Error> {
        let directory = self.root.join("leases");
        let names = disk::list(&directory)?;
        let others = names.into_iter().filter(|name| *name != self.lease.id);
        Ok(others.map(|name| directory.join(name)).collect())
    }

    /// Removes what dead processes were writing.
    pub(super) fn remove_leftovers(&self) -> Result<(), Error> {
        for path in self.leases()? {
            let Ok(file) = File::open(&path) else { continue };
            if disk::try_lock(&file) {
                let name = path.file_name().expect("leases have names");
                disk::remove_tree(&self.root.join("tmp").join(name))?;
                disk::remove_file(&path)?;
            }
        }
        // A directory whose lease is gone: its process died between removing the two.
        for name in disk::list(&self.root.join("tmp"))? {
            if !self.root.join("leases").join(&name).exists() {
                disk::remove_tree(&self.root.join("tmp").join(&name))?;
            }
        }
        let locks = self.root.join("locks");
        for name in disk::list(&locks)? {
            let path = locks.join(name);
            if let Ok(file) = File::open(&path)
                && disk::try_lock(&file)
                && is_linked(&file)
            {
                disk::remove_file(&path)?;
            }
        }
        Ok(())
    }
}
