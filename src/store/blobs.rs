//! Content by digest: in, out, and forgotten. What is read out is checked; knows nothing of results.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::{Error, io as failed};
use super::{MTIME, Store, disk};
use crate::digest::{Digest, Hasher};
use crate::tree::{Directories, Directory};

/// Blobs read at once into memory are at most this long; longer ones are read through a [`BlobReader`].
const MAX_IN_MEMORY: u64 = 1 << 30;

impl Store {
    /// Whether a blob is here, by name and size. Its bytes are not looked at.
    pub fn has(&self, digest: &Digest) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|metadata| metadata.len() == digest.size())
    }

    /// Like [`Store::has`], and keeps collection away from a blob that is here for as long as this store is
    /// open.
    pub fn keep(&self, digest: &Digest) -> Result<bool, Error> {
        let _sweep = self.rely_on_content()?;
        Ok(self.has(digest) && disk::touch(&self.blob_path(digest)).is_ok())
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

    /// Hashes a blob, unless this process has done so and nobody wrote to it since: that would show in its
    /// time.
    pub(super) fn verify(&self, digest: &Digest) -> Result<(), Error> {
        let is_untouched = || {
            let metadata = fs::metadata(self.blob_path(digest));
            metadata.is_ok_and(|metadata| metadata.len() == digest.size() && metadata.mtime() == MTIME)
        };
        if self.verified.lock().expect("never poisoned").contains(digest) && is_untouched() {
            return Ok(());
        }
        let mut reader = self.reader(digest)?;
        match io::copy(&mut reader, &mut io::sink()) {
            Ok(_) => {
                self.verified.lock().expect("never poisoned").insert(*digest);
                Ok(())
            }
            Err(source) => Err(reader.error(source)),
        }
    }

    /// Takes content out that is damaged, with every tree that shares its inode, and says so.
    pub(super) fn damaged(&self, digest: &Digest) -> Result<Error, Error> {
        let _sweep = disk::lock(&self.root.join("sweep.lock"), FlockOperation::LockExclusive)?;
        self.verified.lock().expect("never poisoned").remove(digest);
        for path in [self.blob_path(digest), self.exec_path(digest)] {
            if let Ok(metadata) = fs::symlink_metadata(&path) {
                disk::remove_file(&path)?;
                if metadata.nlink() > 1 {
                    self.forget_trees_with(metadata.ino())?;
                }
            }
        }
        self.next_generation()?;
        Ok(Error::Corrupt(*digest))
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

    fn open_blob(&self, digest: &Digest, path: &Path) -> Result<File, Error> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(*digest)),
            Err(source) => return Err(failed("read", path)(source)),
        };
        let size = file.metadata().map_err(failed("read", path))?.len();
        match size == digest.size() {
            true => Ok(file),
            false => Err(self.damaged(digest)?),
        }
    }
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
        if !self.store.keep(&digest)? {
            seal(&self.path, 0o644)?;
            let _sweep = self.store.rely_on_content()?;
            disk::rename_into(&self.path, &place)?;
            // Of a blob that was there already, only the name is known to be right.
            self.store.verified.lock().expect("never poisoned").insert(digest);
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
