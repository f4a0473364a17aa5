//! Content by digest: in, out, and forgotten. What is read out is checked; knows nothing of results.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::error::{Error, io as failed};
use super::materialize::TRIES;
use super::{Store, disk};
use crate::digest::{Digest, Hasher};
use crate::tree::{Directories, Directory};

/// Blobs read at once into memory are at most this long; longer ones are read through a [`BlobReader`].
const MAX_IN_MEMORY: u64 = 1 << 30;

impl Store {
    /// Whether a blob is here, by name and size. Its bytes are not looked at.
    pub fn has(&self, digest: &Digest) -> bool {
        let metadata = fs::symlink_metadata(self.blob_path(digest));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == digest.size())
    }

    /// Like [`Store::has`], and keeps collection away from a blob that is here for as long as this store is
    /// open. Hashes it if something wrote to it since it came, or if this process met lost content.
    pub fn keep(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.blob_path(digest);
        let is_written = |metadata: fs::Metadata| !disk::is_untouched(&metadata);
        if (self.is_doubtful() || fs::symlink_metadata(&path).is_ok_and(is_written))
            && self.soundness(&path, digest, 0o644)? != Soundness::Sound
        {
            return Ok(false);
        }
        let _sweep = self.rely_on_content()?;
        Ok(self.has(digest) && disk::touch(&path).is_ok())
    }

    /// Keeps `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if !self.keep(&digest)? {
            let mut writer = self.writer()?;
            writer.write_all(bytes).map_err(failed("write", &writer.path))?;
            writer.finish()?;
        }
        Ok(digest)
    }

    /// A new blob, written bit by bit.
    pub fn writer(&self) -> Result<BlobWriter<'_>, Error> {
        let path = self.lease.fresh();
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o644)
            .open(&path)
            .map_err(failed("write", &path))?;
        Ok(BlobWriter {
            store: self,
            path,
            file: Some(file),
            hasher: Hasher::new(),
        })
    }

    /// An empty file to write and read, on this store's disk, which nobody else can open.
    pub fn nameless_file(&self) -> Result<File, Error> {
        let path = self.lease.fresh();
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("write", &path))?;
        disk::remove_file(&path)?;
        Ok(file)
    }

    /// A whole blob, of at most 1 GiB.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let failed = || failed("read", &path);
        let file = self.open_blob(digest, &path)?;
        if digest.size() > MAX_IN_MEMORY {
            return Err(failed()(io::ErrorKind::FileTooLarge.into()));
        }
        let mut bytes = Vec::with_capacity(digest.size() as usize);
        file.take(digest.size() + 1)
            .read_to_end(&mut bytes)
            .map_err(failed())?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(self.damaged(digest)?),
        }
    }

    /// A blob, read bit by bit. The last read fails if the bytes were not those of `digest`.
    pub fn reader(&self, digest: &Digest) -> Result<BlobReader<'_>, Error> {
        let file = self.open_blob(digest, &self.blob_path(digest))?;
        Ok(BlobReader {
            store: self,
            digest: *digest,
            file,
            hasher: Some(Hasher::new()),
        })
    }

    /// A blob from the byte `start` on. A part cannot be checked by itself: all of the blob is hashed first,
    /// unless this process has done so.
    pub fn reader_from(&self, digest: &Digest, start: u64) -> Result<BlobReader<'_>, Error> {
        self.verify(digest)?;
        let path = self.blob_path(digest);
        let mut file = self.open_blob(digest, &path)?;
        file.seek(SeekFrom::Start(start)).map_err(failed("read", &path))?;
        Ok(BlobReader {
            store: self,
            digest: *digest,
            file,
            hasher: None,
        })
    }

    /// Hashes a blob, unless this process has done so and nothing wrote to it since.
    pub fn verify(&self, digest: &Digest) -> Result<(), Error> {
        match self.soundness(&self.blob_path(digest), digest, 0o644)? {
            Soundness::Sound => Ok(()),
            Soundness::Missing => Err(Error::Missing(*digest)),
            Soundness::Damaged => Err(self.damaged(digest)?),
        }
    }

    /// Whether the file at `path`, a blob or an executable copy, holds what `digest` says. It is hashed unless this
    /// process has hashed the same inode, and nothing wrote to it since: that would show in its time. One that is
    /// sound gets the mode, owner and time back that it should have.
    pub(super) fn soundness(&self, path: &Path, digest: &Digest, mode: u32) -> Result<Soundness, Error> {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            return Ok(Soundness::Missing);
        };
        if !metadata.is_file() || metadata.len() != digest.size() {
            return Ok(Soundness::Damaged);
        }
        if !self.is_verified(&metadata, digest) {
            let mut hasher = Hasher::new();
            let hashed = open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
            match hashed {
                Ok(_) if hasher.finish() == *digest => {}
                Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Soundness::Missing),
                // What cannot be read is as good as lost.
                Ok(_) | Err(_) => return Ok(Soundness::Damaged),
            }
            self.set_verified(metadata.ino(), digest);
        }
        if !(disk::is_untouched(&metadata) && metadata.mode() & 0o7777 == mode && disk::is_given(&metadata)) {
            seal(path, mode)?;
        }
        Ok(Soundness::Sound)
    }

    /// Whether this process wrote or hashed the inode, which holds `digest`, and nothing wrote to it since.
    pub(super) fn is_verified(&self, metadata: &fs::Metadata, digest: &Digest) -> bool {
        let verified = self.verified.lock().expect("never poisoned");
        disk::is_untouched(metadata) && verified.get(&metadata.ino()) == Some(digest)
    }

    pub(super) fn set_verified(&self, inode: u64, digest: &Digest) {
        let mut verified = self.verified.lock().expect("never poisoned");
        verified.insert(inode, *digest);
    }

    /// Puts a finished file of `digest` in its place, with `mode`, unless the same came there first: what is there
    /// may be about to be linked by another thread or process, which fails once it has lost its name. The file is
    /// gone afterwards.
    pub(super) fn install(&self, new: &Path, place: &Path, digest: &Digest, mode: u32) -> Result<(), Error> {
        seal(new, mode)?;
        let inode = fs::symlink_metadata(new).map_err(failed("read", new))?.ino();
        for _ in 0..TRIES {
            {
                let _sweep = self.rely_on_content()?;
                if disk::rename_new(new, place)? {
                    self.set_verified(inode, digest);
                    return Ok(());
                }
            }
            match self.soundness(place, digest, mode)? {
                Soundness::Missing => {}
                Soundness::Damaged => self.forget(&[place.to_owned()])?,
                Soundness::Sound => {
                    let _sweep = self.rely_on_content()?;
                    if disk::touch(place).is_ok() {
                        return disk::remove_file(new);
                    }
                }
            }
        }
        Err(failed("write", place)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Takes a damaged blob out, and says so.
    pub(super) fn damaged(&self, digest: &Digest) -> Result<Error, Error> {
        self.forget(&[self.blob_path(digest)])?;
        Ok(Error::Corrupt(*digest))
    }

    /// Takes damaged blobs and executable copies out, with every tree that shares their inodes.
    pub(super) fn forget(&self, paths: &[PathBuf]) -> Result<(), Error> {
        let mut shared = HashSet::new();
        {
            let _sweep = disk::lock(&self.root.join("sweep.lock"), FlockOperation::LockExclusive)?;
            for path in paths {
                if let Ok(metadata) = fs::symlink_metadata(path) {
                    if metadata.is_file() && metadata.nlink() > 1 {
                        shared.insert(metadata.ino());
                    }
                    self.discard(path)?;
                }
            }
            self.next_generation()?;
        }
        match shared.is_empty() {
            true => Ok(()),
            false => self.forget_trees_with(&shared),
        }
    }

    /// While this is held, nothing is removed.
    pub(super) fn rely_on_content(&self) -> Result<File, Error> {
        disk::lock(&self.root.join("sweep.lock"), FlockOperation::LockShared)
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(super::blob_place(digest))
    }

    pub(super) fn exec_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(disk::fanned("exec", &digest.hex()))
    }

    pub(super) fn open_blob(&self, digest: &Digest, path: &Path) -> Result<File, Error> {
        let file = match open(path) {
            Ok(file) => file,
            Err(source) => {
                return match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Err(Error::Missing(*digest)),
                    // It is the user's own: something else changed it, or put a link there.
                    io::ErrorKind::PermissionDenied => Err(self.damaged(digest)?),
                    _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                        Err(self.damaged(digest)?)
                    }
                    _ => Err(failed("read", path)(source)),
                };
            }
        };
        let metadata = file.metadata().map_err(failed("read", path))?;
        match metadata.is_file() && metadata.len() == digest.size() {
            true => Ok(file),
            false => Err(self.damaged(digest)?),
        }
    }
}

/// Opens a file, and nothing that a link or a pipe in its place leads to.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// How a file of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Soundness {
    Sound,
    /// Other bytes, no file at all, or not to be read.
    Damaged,
    Missing,
}

/// A blob being written. Dropping it without [`BlobWriter::finish`] leaves nothing.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    path: PathBuf,
    file: Option<File>,
    hasher: Hasher,
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().expect("open until finished");
        let written = file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter<'_> {
    /// Puts the blob in its place.
    pub fn finish(mut self) -> Result<Digest, Error> {
        let digest = std::mem::take(&mut self.hasher).finish();
        self.file = None;
        let place = self.store.blob_path(&digest);
        // Of a blob that was there already, only the name is known to be right.
        if !self.store.keep(&digest)? {
            self.store.install(&self.path, &place, &digest, 0o644)?;
        }
        Ok(digest)
    }

    /// Where the bytes are until then.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        let _ = disk::remove_file(&self.path);
    }
}

/// Gives a finished file the mode, owner and time that every sandbox shall see.
pub(super) fn seal(path: &Path, mode: u32) -> Result<(), Error> {
    disk::chmod(path, mode)?;
    disk::give_to_sandbox(path)?;
    disk::touch(path).map_err(failed("write", path))
}

/// A blob being read.
#[derive(Debug)]
pub struct BlobReader<'a> {
    store: &'a Store,
    digest: Digest,
    file: File,
    hasher: Option<Hasher>,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..read]);
            }
        } else if !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
            && hasher.finish() != self.digest
        {
            return Err(self
                .store
                .damaged(&self.digest)
                .unwrap_or_else(|error| error)
                .into());
        }
        Ok(read)
    }
}

impl BlobReader<'_> {
    /// The store's error behind one that a read gave.
    pub fn error(&self, source: io::Error) -> Error {
        match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => failed("read", &self.store.blob_path(&self.digest))(source),
        }
    }
}

impl Directories for Store {
    type Error = Error;

    fn load(&self, digest: &Digest) -> Result<Directory, Error> {
        if digest.size() == 0 {
            return Ok(Directory::new());
        }
        let bytes = self.read(digest)?;
        Directory::decode(&bytes).map_err(|source| Error::NotADirectory {
            digest: *digest,
            source,
        })
    }

    fn save(&self, directory: &Directory) -> Result<Digest, Error> {
        self.put(&directory.encode())
    }
}
