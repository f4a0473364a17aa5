//! What a power cut may undo, and how the next start finds out.
//!
//! Nothing waits for the disk one by one. The file `synced` carries the time of the last `syncfs` that
//! was finished; what is newer may be torn when the machine went down. So the first process of a new boot
//! forgets newer results, trees and executable copies, and hashes newer blobs. A process that is killed
//! loses nothing: the kernel still has its writes.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::blobs::Soundness;
use super::error::{Error, io as failed};
use super::{Store, disk};
use crate::digest::Digest;

/// The kernel's coarse clock, by which files are stamped, lags behind the fine one by less than this.
pub(super) const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// How long results may wait for a `syncfs`.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// When this process last asked for durability.
#[derive(Debug, Default)]
pub(super) struct Synced {
    last: Option<SystemTime>,
}

impl Store {
    /// Makes everything so far survive a power cut. `Store` does so by itself every few seconds of
    /// publishing, and the edge at the end of a run.
    pub fn sync(&self) -> Result<(), Error> {
        let mut synced = self.synced.lock().expect("never poisoned");
        let began = SystemTime::now();
        let root = File::open(&self.root).map_err(failed("read", &self.root))?;
        rustix::fs::syncfs(&root).map_err(|errno| failed("synchronize", &self.root)(errno.into()))?;
        let new = self.lease.fresh();
        let stamp = File::create(&new).map_err(failed("write", &new))?;
        stamp
            .set_modified(began - CLOCK_SLACK)
            .map_err(failed("write", &new))?;
        self.replace_by(&new, &self.root.join("synced"))?;
        synced.last = Some(began);
        Ok(())
    }

    /// [`Store::sync`], if the last one is a while ago.
    pub(super) fn sync_sometimes(&self) -> Result<(), Error> {
        let last = self.synced.lock().expect("never poisoned").last;
        let due = last.is_none_or(|last| last.elapsed().is_ok_and(|since| since >= SYNC_EVERY));
        if due { self.sync() } else { Ok(()) }
    }

    /// Forgets what an unclean end of the last boot may have torn.
    pub(super) fn recover(&self) -> Result<(), Error> {
        let path = self.root.join("boot");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if fs::read_to_string(&path).is_ok_and(|recorded| recorded == boot) {
            return Ok(());
        }
        let _sweep = disk::lock(&self.root.join("sweep.lock"), FlockOperation::LockExclusive)?;
        let synced = fs::metadata(self.root.join("synced")).and_then(|metadata| metadata.modified());
        let synced = synced.unwrap_or(SystemTime::UNIX_EPOCH);
        let newer = |path: &Path| {
            let metadata = fs::symlink_metadata(path);
            metadata.is_ok_and(|metadata| disk::changed(&metadata) >= synced)
        };
        for area in ["actions", "trees", "exec"] {
            for (_, path) in disk::list_fanned(&self.root.join(area))? {
                if newer(&path) {
                    self.discard(&path)?;
                }
            }
        }
        for (name, path) in disk::list_fanned(&self.root.join("blobs"))? {
            if newer(&path) {
                let size = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                if let Ok(digest) = Digest::from_hex(&name, size)
                    && self.soundness(&path, &digest, 0o644)? == Soundness::Damaged
                {
                    self.discard(&path)?;
                }
            }
        }
        self.next_generation()?;
        self.replace(&path, boot.as_bytes())
    }
}
