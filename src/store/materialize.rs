//! Trees as directories on disk, made once and bound into sandboxes. Nothing writes into one again; what something
//! else did to one is noticed before an action sees it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::blobs::{Soundness, seal};
use super::error::{Error, io as failed};
use super::{Store, disk, shape};
use crate::digest::{Digest, Fingerprint};
use crate::tree::{Directories as _, Node};

/// How often something is made again that another process removes or damages at the same time.
pub(super) const TRIES: usize = 8;

/// Of each tree that this process was asked for, whether it was found to be as it was made. The lock of a tree is
/// held while it is checked or made, so that threads do neither twice.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Digest, Arc<Mutex<bool>>>>);

impl Turns {
    fn of(&self, root: &Digest) -> Arc<Mutex<bool>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(*root).or_default())
    }
}

impl Store {
    /// A directory that holds the tree `root`, as a path from the store's root. Complete and checked when
    /// it is there; files have the mode 0644 or 0755, directories 0755, all of them [`super::MTIME`]. The first
    /// time that this process asks, one that was there is compared with how it was made.
    pub fn materialize(&self, root: &Digest) -> Result<PathBuf, Error> {
        let relative = super::tree_place(root);
        let place = self.root.join(&relative);
        let turn = self.turns.of(root);
        let mut checked = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_there(root, &place, *checked)? {
            self.make_tree(root, &place)?;
        }
        *checked = true;
        Ok(relative)
    }

    /// Whether the tree `root` stands at `place`, which then is spared by collection.
    fn is_there(&self, root: &Digest, place: &Path, checked: bool) -> Result<bool, Error> {
        if !checked {
            disk::mend_passage(place.parent().expect("places in the store have parents"))?;
        }
        {
            let _sweep = self.rely_on_content()?;
            match fs::symlink_metadata(place) {
                // To touch one that was changed would hide that.
                Ok(metadata) if metadata.is_dir() && disk::is_untouched(&metadata) => {
                    disk::touch(place).map_err(failed("write", place))?;
                }
                _ => return Ok(false),
            }
        }
        Ok(checked || self.is_as_made(root, place)?)
    }

    /// Whether the tree at `place` is as it was when it was made; where that is not known, or other inodes hold it
    /// now, whether it is `root`.
    fn is_as_made(&self, root: &Digest, place: &Path) -> Result<bool, Error> {
        let Some(found) = shape::fingerprint(place) else {
            return Ok(false);
        };
        let recorded = fs::read(self.shape_path(root)).unwrap_or_default();
        if recorded == found.hex().as_bytes() {
            return Ok(true);
        }
        let sound = self.is_materialized(root, place)?;
        if sound {
            self.record_shape(root, &found)?;
        }
        Ok(sound)
    }

    pub(super) fn shape_path(&self, root: &Digest) -> PathBuf {
        self.root.join(disk::fanned("shapes", &root.hex()))
    }

    pub(super) fn record_shape(&self, root: &Digest, shape: &Fingerprint) -> Result<(), Error> {
        self.replace(&self.shape_path(root), shape.hex().as_bytes())
    }

    fn make_tree(&self, root: &Digest, place: &Path) -> Result<(), Error> {
        let new = self.lease.fresh();
        let made = self
            .fill(root, &new)
            .and_then(|()| self.put_tree(root, &new, place));
        if !matches!(made, Ok(true)) {
            self.discard(&new)?;
        }
        made.map(drop)
    }

    /// Puts a new tree in its place. False if another process was faster.
    fn put_tree(&self, root: &Digest, new: &Path, place: &Path) -> Result<bool, Error> {
        let shape = shape::fingerprint(new);
        for _ in 0..TRIES {
            {
                let _sweep = self.rely_on_content()?;
                if disk::rename_new(new, place)? {
                    disk::touch(place).map_err(failed("write", place))?;
                    if let Some(shape) = &shape {
                        self.record_shape(root, shape)?;
                    }
                    return Ok(true);
                }
            }
            if self.is_there(root, place, false)? {
                return Ok(false);
            }
            self.discard(place)?;
        }
        Err(failed("write", place)(io::ErrorKind::AlreadyExists.into()))
    }

    fn fill(&self, root: &Digest, at: &Path) -> Result<(), Error> {
        disk::create_tree(at)?;
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

    /// A hard link to the blob or its executable copy; a copy where the file system allows no more links.
    fn link(&self, digest: &Digest, executable: bool, at: &Path) -> Result<(), Error> {
        for _ in 0..TRIES {
            let from = match executable {
                true => self.executable(digest)?,
                false => {
                    self.verify(digest)?;
                    self.blob_path(digest)
                }
            };
            return match fs::hard_link(&from, at) {
                Err(source) if source.raw_os_error() == Some(rustix::io::Errno::MLINK.raw_os_error()) => {
                    fs::copy(&from, at).map_err(failed("write", at))?;
                    seal(at, mode_of(executable))
                }
                // It was found damaged by another process, which removed it.
                Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed("write", at)),
            };
        }
        Err(Error::Missing(*digest))
    }

    /// The executable copy of a blob. It has an inode of its own, because the mode belongs to the inode.
    pub(super) fn executable(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let place = self.exec_path(digest);
        match self.soundness(&place, digest, 0o755)? {
            Soundness::Missing => {}
            Soundness::Damaged => self.forget(std::slice::from_ref(&place))?,
            Soundness::Sound => {
                let _sweep = self.rely_on_content()?;
                if disk::touch(&place).is_ok() {
                    return Ok(place);
                }
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
        self.install(&new, &place, digest, 0o755)?;
        Ok(place)
    }

    /// Whether the directory at `at` is the tree `root`, by its content. Files that share an inode with a blob or
    /// an executable copy are as sound as that is, which is hashed once; others are hashed each.
    pub(super) fn is_materialized(&self, root: &Digest, at: &Path) -> Result<bool, Error> {
        let directory = match self.load(root) {
            Ok(directory) => directory,
            Err(error) if error.is_lost_content() => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_sealed = |metadata: &fs::Metadata, mode: u32| {
            metadata.mode() & 0o7777 == mode && disk::is_untouched(metadata) && disk::is_given(metadata)
        };
        let here = fs::symlink_metadata(at);
        if !here.is_ok_and(|here| here.is_dir() && is_sealed(&here, 0o755)) {
            return Ok(false);
        }
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
                Node::Symlink(target) => {
                    disk::is_untouched(&metadata)
                        && fs::read_link(&path).is_ok_and(|found| found == Path::new(target))
                }
                Node::File { digest, executable } => {
                    let mode = mode_of(*executable);
                    let original = match executable {
                        true => self.exec_path(digest),
                        false => self.blob_path(digest),
                    };
                    let shared = fs::symlink_metadata(&original)
                        .is_ok_and(|original| original.ino() == metadata.ino());
                    let hashed = if shared { &original } else { &path };
                    metadata.is_file()
                        && is_sealed(&metadata, mode)
                        && self.soundness(hashed, digest, mode)? == Soundness::Sound
                }
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes every materialized tree away in which one of the inodes `numbers` has a name.
    pub(super) fn forget_trees_with(&self, numbers: &HashSet<u64>) -> Result<(), Error> {
        for (_, path) in disk::list_fanned(&self.root.join("trees"))? {
            if holds_inode(&path, numbers) {
                self.discard(&path)?;
            }
        }
        Ok(())
    }
}

fn mode_of(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// A tree in which something cannot be read may hold it.
fn holds_inode(directory: &Path, numbers: &HashSet<u64>) -> bool {
    let Ok(names) = disk::list(directory) else {
        return true;
    };
    names.into_iter().any(|name| {
        let path = directory.join(name);
        fs::symlink_metadata(&path).is_ok_and(|metadata| {
            numbers.contains(&metadata.ino()) || (metadata.is_dir() && holds_inode(&path, numbers))
        })
    })
}
