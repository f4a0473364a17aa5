//! Reads everything that the store holds, and forgets what is not sound; it is made again when needed.

use std::fs;
use std::path::PathBuf;

use super::blobs::Soundness;
use super::error::{Error, io as failed};
use super::{Store, compiled, disk, results, shape};
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
    /// Entries of compilers that were damaged or named lost content, now forgotten.
    pub compiled: usize,
    /// Materialized trees that were not what their name says, now forgotten.
    pub trees: usize,
    /// Files that are not the store's. They are left alone.
    pub foreign: Vec<PathBuf>,
}

impl FsckReport {
    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.results + self.compiled + self.trees == 0
    }
}

impl Store {
    /// Reads every blob, result and tree. Other processes may use the store meanwhile.
    pub fn fsck(&self) -> Result<FsckReport, Error> {
        let mut report = FsckReport::default();
        for (area, mode) in [("blobs", 0o644), ("exec", 0o755)] {
            self.check_content(area, mode, &mut report)?;
        }
        self.check_trees(&mut report)?;
        self.check_results(&mut report)?;
        self.check_compiled_entries(&mut report)?;
        Ok(report)
    }

    fn check_content(&self, area: &str, mode: u32, report: &mut FsckReport) -> Result<(), Error> {
        let mut damaged = Vec::new();
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
            if self.soundness(&path, &digest, mode)? == Soundness::Damaged {
                damaged.push(path);
            }
        }
        if !damaged.is_empty() {
            self.forget(&damaged)?;
        }
        let damaged = damaged.into_iter().map(|path| self.relative(path));
        report.damaged.extend(damaged);
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
            if known && self.is_materialized(&root, &path)? {
                // Of one that an earlier version made, or whose record was damaged.
                if let Some(shape) = shape::fingerprint(&path) {
                    self.record_shape(&root, &shape)?;
                }
            } else {
                self.discard(&path)?;
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
            let complete = match results::open_envelope(&name, &bytes) {
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

    fn check_compiled_entries(&self, report: &mut FsckReport) -> Result<(), Error> {
        for (name, path) in disk::list_fanned(&self.root.join("compiled"))? {
            if Digest::from_hex(&name, 0).is_err() {
                report.foreign.push(self.relative(path));
                continue;
            }
            let Ok(bytes) = fs::read(&path) else { continue };
            let sound = compiled::open(&bytes)
                .is_some_and(|(key, entry)| key.hex() == name && self.has(&entry.digest));
            if !sound {
                disk::remove_file(&path)?;
                report.compiled += 1;
            }
        }
        Ok(())
    }

    fn relative(&self, path: PathBuf) -> PathBuf {
        path.strip_prefix(&self.root).map(PathBuf::from).unwrap_or(path)
    }
}
