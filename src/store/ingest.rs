//! A directory that an action filled, taken into the store. Everything in it is hostile; the processes
//! that wrote it must be gone.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::Store;
use super::error::{Error, io as failed};
use crate::digest::Digest;
use crate::tree::links::{Lead, lead};
use crate::tree::{Directories as _, Directory, Name, Node, TreePath, is_indirect, link_stays_inside, ops};

/// What bounds one directory.
#[derive(Clone, Debug)]
pub struct IngestLimits {
    /// Bytes of all files together.
    pub max_bytes: u64,
    /// Files, directories and links together.
    pub max_entries: u64,
}

impl Default for IngestLimits {
    fn default() -> IngestLimits {
        IngestLimits {
            max_bytes: 8 << 30,
            max_entries: 1_000_000,
        }
    }
}

/// What is left of the limits, and what is to be looked at when a tree is complete.
struct Taking {
    left: IngestLimits,
    indirect: Vec<(TreePath, String)>,
}

/// Why a directory is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// It holds something that no tree can.
    #[error("`{path}` {problem}")]
    Refused {
        /// Where, from the directory's root.
        path: String,
        /// What is wrong there.
        problem: String,
    },
    /// More bytes than allowed.
    #[error("more than {0} bytes of output")]
    TooLarge(u64),
    /// More files than allowed.
    #[error("more than {0} files of output")]
    TooMany(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Store {
    /// Takes in the directory at `dir` and gives the digest of its tree. Refuses setuid and setgid files,
    /// devices, sockets, pipes, names that are not UTF-8, and symlinks that are absolute or leave it.
    pub fn ingest(&self, dir: &Path, limits: &IngestLimits) -> Result<Digest, IngestError> {
        Ok(self.ingest_all(&[dir], limits)?[0])
    }

    /// [`Store::ingest`] for several directories, each a tree of its own, within one bound.
    pub fn ingest_all(&self, dirs: &[&Path], limits: &IngestLimits) -> Result<Vec<Digest>, IngestError> {
        let mut taking = Taking {
            left: limits.clone(),
            indirect: Vec::new(),
        };
        let mut roots = Vec::new();
        for dir in dirs {
            let root = self.ingest_directory(dir, &TreePath::root(), limits, &mut taking)?;
            taking.indirect.sort();
            self.check_indirect(&root, &std::mem::take(&mut taking.indirect))?;
            roots.push(root);
        }
        Ok(roots)
    }

    /// Looks where links lead that cannot be judged by themselves.
    fn check_indirect(&self, root: &Digest, links: &[(TreePath, String)]) -> Result<(), IngestError> {
        for (path, target) in links {
            match lead(self, root, path, target).map_err(of_tree)? {
                Lead::Inside => {}
                Lead::Outside(_) => return Err(leaves(path, target)),
                Lead::Through(through, _) => {
                    let problem = format!("is a symlink to `{target}`, and the output has no `{through}`");
                    return Err(refused(path, &problem));
                }
            }
        }
        Ok(())
    }

    fn ingest_directory(
        &self,
        dir: &Path,
        at: &TreePath,
        limits: &IngestLimits,
        taking: &mut Taking,
    ) -> Result<Digest, IngestError> {
        if at.names().len() >= TreePath::MAX_DEPTH {
            return Err(refused(at, "is nested too deeply"));
        }
        // The action may have taken its own right to read.
        super::disk::chmod(dir, 0o755)?;
        let mut directory = Directory::new();
        for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
            let entry = entry.map_err(failed("read", dir))?;
            let shown = entry.file_name().to_string_lossy().into_owned();
            let name = entry
                .file_name()
                .into_string()
                .ok()
                .and_then(|name| Name::new(&name).ok());
            let Some(name) = name else {
                return Err(refused_name(at, &shown));
            };
            taking.left.max_entries = taking
                .left
                .max_entries
                .checked_sub(1)
                .ok_or(IngestError::TooMany(limits.max_entries))?;
            let path = at.join(&name);
            let node = self.ingest_entry(&entry.path(), &path, limits, taking)?;
            directory.insert(name, node);
        }
        Ok(self.save(&directory)?)
    }

    fn ingest_entry(
        &self,
        file: &Path,
        path: &TreePath,
        limits: &IngestLimits,
        taking: &mut Taking,
    ) -> Result<Node, IngestError> {
        let metadata = fs::symlink_metadata(file).map_err(failed("read", file))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Ok(Node::Directory(
                self.ingest_directory(file, path, limits, taking)?,
            ));
        }
        if kind.is_symlink() {
            let target = fs::read_link(file).map_err(failed("read", file))?;
            let Some(target) = target.to_str().filter(|target| link_stays_inside(path, target)) else {
                return Err(leaves(path, &target.to_string_lossy()));
            };
            if is_indirect(target) {
                taking.indirect.push((path.clone(), target.to_owned()));
            }
            return Ok(Node::Symlink(target.to_owned()));
        }
        if !kind.is_file() {
            let what = match () {
                () if kind.is_fifo() => "a pipe",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(refused(
                path,
                &format!("is {what}; an output holds files, directories and symlinks"),
            ));
        }
        if metadata.mode() & 0o6000 != 0 {
            return Err(refused(path, "is setuid or setgid"));
        }
        taking.left.max_bytes = taking
            .left
            .max_bytes
            .checked_sub(metadata.len())
            .ok_or(IngestError::TooLarge(limits.max_bytes))?;
        Ok(Node::File {
            digest: self.ingest_file(file, metadata.mode())?,
            executable: metadata.mode() & 0o100 != 0,
        })
    }

    /// Keeps the content of a regular file of our own.
    fn ingest_file(&self, file: &Path, mode: u32) -> Result<Digest, Error> {
        if mode & 0o400 == 0 {
            super::disk::chmod(file, 0o600)?;
        }
        let mut from = File::open(file).map_err(failed("read", file))?;
        let mut writer = self.writer()?;
        io::copy(&mut from, &mut writer).map_err(failed("write", writer.path()))?;
        writer.finish()
    }
}

fn refused(path: &TreePath, problem: &str) -> IngestError {
    IngestError::Refused {
        path: path.to_string(),
        problem: problem.to_owned(),
    }
}

fn leaves(path: &TreePath, target: &str) -> IngestError {
    refused(
        path,
        &format!("is a symlink to `{target}`, which leaves the output"),
    )
}

fn of_tree(error: ops::Error<Error>) -> IngestError {
    match error {
        ops::Error::Directories(error) => IngestError::Store(error),
        // Only directories that were just saved are read.
        error => unreachable!("{error}"),
    }
}

fn refused_name(at: &TreePath, shown: &str) -> IngestError {
    IngestError::Refused {
        path: at.to_string(),
        problem: format!("holds `{shown}`, whose name is not UTF-8 or not allowed in a tree"),
    }
}
