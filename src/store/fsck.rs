//! Reads everything that the store holds, and forgets what is not sound; it is made again when needed.

use std::fs;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::error::{Error, io as failed};
use super::{Store, disk, durable, results};
use crate::digest::Digest;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FsckReport {
    /// Files of content that were read.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose content is not what their name says, now forgotten; by their path in the store.
    pub damaged: Vec<PathBuf>,
    /// Results that named lost content, now forgotten.
    pub results: usize,
    /// Materialized trees that were not what their name says, now forgotten.
    pub trees: usize,
    /// Files that are not the store's. They are left alone.
    pub foreign: Vec<PathBuf>,
}

impl FsckReport {
    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.results == 0 && self.trees == 0
    }
}

impl Store {
    /// Reads every blob, result and tree. Other processes may use the store meanwhile.
    pub fn fsck(&self) -> Result<FsckReport, Error> {
        let mut report = FsckReport::default();
        for area in ["blobs", "exec"] {
            self.check_content(area, &mut report)?;
        }
        self.check_trees(&mut report)?;
        if !report.damaged.is_empty() {
            self.next_generation()?;
        }
        self.check_results(&mut report)?;
        Ok(report)
    }

    fn check_content(&self, area: &str, report: &mut FsckReport) -> Result<(), Error> {
        for (name, path) in disk::list_fanned(&self.root.join(area))? {
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            let Ok(digest) = Digest::from_hex(&name, metadata.len()) else {
                report.foreign.push(self.relative(path));
                continue;
            };
            report.blobs += 1;
            report.bytes += metadata.len();
            let sound = metadata.is_file() && durable::is_sound(&name, &path)?;
            if !sound && path.exists() {
                // Finds the copy in `exec`, and the trees that share either inode, too.
                self.damaged(&digest)?;
                report.damaged.push(self.relative(path));
            }
        }
        Ok(())
    }

    fn check_trees(&self, report: &mut FsckReport) -> Result<(), Error> {
        for (name, path) in disk::list_fanned(&self.root.join("trees"))? {
            // The name has no size; the blob of the root directory does.
            let blob = self
                .root
                .join("blobs")
                .join(name.get(..2).unwrap_or(""))
                .join(&name);
            let size = match fs::metadata(&blob) {
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            };
            let Ok(root) = Digest::from_hex(&name, size) else {
                report.foreign.push(self.relative(path));
                continue;
            };
            let known = self.has(&root) || root == Digest::of(b"");
            if !(known && self.is_materialized(&root, &path)?) {
                let _sweep = disk::lock(&self.root.join("sweep.lock"), FlockOperation::LockExclusive)?;
                disk::remove_tree(&path)?;
                report.trees += 1;
            }
        }
        Ok(())
    }

    fn check_results(&self, report: &mut FsckReport) -> Result<(), Error> {
        for (name, path) in disk::list_fanned(&self.root.join("actions"))? {
            if Digest::from_hex(&name, 0).is_err() {
                report.foreign.push(self.relative(path));
                continue;
            }
            let Ok(bytes) = fs::read(&path) else { continue };
            let complete = match results::open_envelope(&bytes) {
                Some(result) => self.names_present(&result)?,
                None => false,
            };
            if !complete {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                report.results += 1;
            }
        }
        Ok(())
    }

    fn relative(&self, path: PathBuf) -> PathBuf {
        path.strip_prefix(&self.root).map(PathBuf::from).unwrap_or(path)
    }
}
