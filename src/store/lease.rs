//! Who uses the store right now: leases, scratch directories, and one run per key. Decides nothing about
//! what is kept; that is collection's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::error::{Error, io as failed};
use super::remove::{Remover, remove_tree, remove_unless};
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
    remover: Arc<Remover>,
    _locked: File,
}

/// The beginning of names of what a dead process left, in the directory of the lease that took it over.
const LEFT: &str = "left-";

impl Lease {
    pub(super) fn take(root: &Path, cancel: Cancel) -> Result<Lease, Error> {
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
            disk::create_passage(&tmp)?;
            let metadata = file.metadata().map_err(failed("read", &path))?;
            return Ok(Lease {
                taken: disk::changed(&metadata),
                next: AtomicU64::new(0),
                remover: Arc::new(Remover::new(cancel)),
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

    /// Removes something with a name of [`Lease::fresh`] in the background.
    pub(super) fn remove(&self, path: PathBuf) {
        self.remover.remove(path);
    }

    /// Waits until everything that was to be removed is.
    pub(super) fn finish_removal(&self) {
        self.remover.finish();
    }

    /// Takes over what a dead process was writing, which then has another name, and removes it in the background.
    fn take_over(&self, tmp: &Path) -> Result<(), Error> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let left = self.tmp.join(format!("{LEFT}{n}"));
        match fs::rename(tmp, &left) {
            Ok(()) => self.remover.remove_left(left),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("remove", tmp)(source)),
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.remover.close();
        // Best effort: what stays is removed by the next process that opens the store.
        for name in disk::list(&self.tmp).unwrap_or_default() {
            if !name.starts_with(LEFT) {
                let _ = remove_unless(&self.tmp.join(name), &|| self.remover.is_cancelled());
            }
        }
        let _ = fs::remove_dir(&self.tmp);
        let _ = disk::remove_file(&self.path);
    }
}

fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// A directory of one's own inside the store. When it is dropped, its name goes at once, and what is in it, whatever it
/// is, in the background.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    relative: PathBuf,
    remover: Arc<Remover>,
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
        let aside = self.path.with_extension("gone");
        let renamed = fs::rename(&self.path, &aside);
        self.remover.remove(match renamed {
            Ok(()) => aside,
            Err(_) => std::mem::take(&mut self.path),
        });
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
        disk::create_closed(&path)?;
        disk::give_to_sandbox(&path)?;
        let relative = path
            .strip_prefix(&self.root)
            .expect("leases are inside")
            .to_owned();
        Ok(Scratch {
            path,
            relative,
            remover: Arc::clone(&self.lease.remover),
        })
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

    /// Takes over what dead processes were writing, and what they would have removed.
    pub(super) fn remove_leftovers(&self) -> Result<(), Error> {
        for path in self.leases()? {
            let Ok(file) = File::open(&path) else { continue };
            if disk::try_lock(&file) {
                let name = path.file_name().expect("leases have names");
                self.lease.take_over(&self.root.join("tmp").join(name))?;
                remove_tree(&path)?;
            }
        }
        // A directory whose lease is gone: its process died between removing the two.
        for name in disk::list(&self.root.join("tmp"))? {
            if !self.root.join("leases").join(&name).exists() {
                self.lease.take_over(&self.root.join("tmp").join(&name))?;
            }
        }
        let locks = self.root.join("locks");
        for name in disk::list(&locks)? {
            let path = locks.join(name);
            if let Ok(file) = File::open(&path)
                && disk::try_lock(&file)
                && is_linked(&file)
            {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}
