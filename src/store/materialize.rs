//! Trees as directories on disk, made once and bound into sandboxes. Nothing writes into one again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::blobs::seal;
use super::error::{Error, io as failed};
use super::{Store, disk};
use crate::digest::Digest;
use crate::tree::{Directories as _, Node};

impl Store {
    /// A directory that holds the tree `root`, as a path from the store's root. Complete and checked when
    /// it is there; files have the mode 0644 or 0755, directories 0755, all of them [`super::MTIME`].
    pub fn materialize(&self, root: &Digest) -> Result<PathBuf, Error> {
        let relative = super::tree_place(root);
        let place = self.root.join(&relative);
        {
            let _sweep = self.rely_on_content()?;
            if place.exists() {
                disk::touch(&place).map_err(failed("write", &place))?;
                return Ok(relative);
            }
        }
        let new = self.lease.fresh();
        self.fill(root, &new)?;
        let _sweep = self.rely_on_content()?;
        match disk::rename_into(&new, &place) {
            Ok(()) => {}
            // Somebody else was faster.
            Err(_) if place.exists() => disk::remove_tree(&new)?,
            Err(error) => return Err(error),
        }
        disk::touch(&place).map_err(failed("write", &place))?;
        Ok(relative)
    }

    fn fill(&self, root: &Digest, at: &Path) -> Result<(), Error> {
        disk::create_dir(at)?;
        for (name, node) in self.load(root)?.iter() {
            let path = at.join(name.as_str());
            match node {
                Node::Directory(digest) => self.fill(digest, &path)?,
                Node::Symlink(target) => {
                    std::os::unix::fs::symlink(target, &path).map_err(failed("write", &path))?;
                    disk::give_to_sandbox(&path)?;
                    disk::touch(&path).map_err(failed("write", &path))?;
                }
                Node::File { digest, executable } => self.link(digest, *executable, &path)?,
            }
        }
        disk::give_to_sandbox(at)?;
        disk::touch(at).map_err(failed("write", at))
    }

    /// A hard link to the blob; a copy where the file system allows no more links.
    fn link(&self, digest: &Digest, executable: bool, at: &Path) -> Result<(), Error> {
        self.verify(digest)?;
        let from = match executable {
            true => self.executable(digest)?,
            false => self.blob_path(digest),
        };
        match fs::hard_link(&from, at) {
            Err(source) if source.raw_os_error() == Some(rustix::io::Errno::MLINK.raw_os_error()) => {
                fs::copy(&from, at).map_err(failed("write", at))?;
                seal(at, if executable { 0o755 } else { 0o644 })
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => Err(Error::Missing(*digest)),
            other => other.map_err(failed("write", at)),
        }
    }

    /// The executable copy of a blob. It has an inode of its own, because the mode belongs to the inode.
    fn executable(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let place = self.exec_path(digest);
        {
            let _sweep = self.rely_on_content()?;
            if fs::metadata(&place).is_ok_and(|metadata| metadata.len() == digest.size()) {
                disk::touch(&place).map_err(failed("write", &place))?;
                return Ok(place);
            }
        }
        let new = self.lease.fresh();
        let mut reader = self.reader(digest)?;
        let mut file = File::create_new(&new).map_err(failed("write", &new))?;
        let copied = io::copy(&mut reader, &mut file);
        drop(file);
        if let Err(source) = copied {
            disk::remove_file(&new)?;
            return Err(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed("write", &new)(source),
                _ => reader.error(source),
            });
        }
        seal(&new, 0o755)?;
        disk::rename_into(&new, &place)?;
        Ok(place)
    }

    /// Whether the directory at `at` is the tree `root`. Files that share an inode with a blob or an
    /// executable copy are as sound as that is; others are hashed.
    pub(super) fn is_materialized(&self, root: &Digest, at: &Path) -> Result<bool, Error> {
        let Ok(directory) = self.load(root) else {
            return Ok(false);
        };
        let names = disk::list(at)?;
        if names.len() != directory.len() {
            return Ok(false);
        }
        for (name, node) in directory.iter() {
            let path = at.join(name.as_str());
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                return Ok(false);
            };
            let same = match node {
                Node::Directory(digest) => metadata.is_dir() && self.is_materialized(digest, &path)?,
                Node::Symlink(target) => fs::read_link(&path).is_ok_and(|found| found == Path::new(target)),
                Node::File { digest, executable } => {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    let original = match executable {
                        true => self.exec_path(digest),
                        false => self.blob_path(digest),
                    };
                    let shared =
                        fs::metadata(original).is_ok_and(|original| original.ino() == metadata.ino());
                    metadata.is_file()
                        && metadata.mode() & 0o7777 == mode
                        && metadata.len() == digest.size()
                        && (shared || super::durable::is_sound(&digest.hex(), &path)?)
                }
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes every materialized tree in which the inode `ino` has a name.
    pub(super) fn forget_trees_with(&self, ino: u64) -> Result<(), Error> {
        for (_, path) in disk::list_fanned(&self.root.join("trees"))? {
            if holds_inode(&path, ino)? {
                disk::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

fn holds_inode(directory: &Path, ino: u64) -> Result<bool, Error> {
    for name in disk::list(directory)? {
        let path = directory.join(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.ino() == ino || (metadata.is_dir() && holds_inode(&path, ino)?) {
            return Ok(true);
        }
    }
    Ok(false)
}
