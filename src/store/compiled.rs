//! What compilers keep from one action to the next: a blob under each key of theirs. It only makes actions faster: an
//! entry that is lost, damaged, or whose blob is, is a miss.
//!
//! An entry is a file `compiled/ab/<key>`: the SHA-256 of its second line, and JSON. Its blob is checked by BLAKE3 each time
//! that it is handed out, which takes half as long as SHA-256.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::blobs::seal;
use super::error::{Error, io as failed};
use super::{Store, disk};
use crate::digest::{Digest, Fingerprint, FingerprintHasher};

/// The most bytes that are read at once to check an entry.
const BUFFER: u64 = 128 << 10;

/// The domain of [`Compiled::check`].
const CHECK: &str = "skep 1 compiled bytes";

/// What a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The bytes.
    pub digest: Digest,
    /// The same bytes by [`Compiled::hasher`].
    pub check: Fingerprint,
}

impl Compiled {
    /// What [`Compiled::check`] is made with.
    pub fn hasher() -> FingerprintHasher {
        Fingerprint::hasher(CHECK)
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    key: String,
    digest: Digest,
    check: String,
}

impl Store {
    /// What stands under `key`. Whether its bytes are here and sound is for [`Store::link_compiled`] to say.
    pub fn compiled(&self, key: &Fingerprint) -> Result<Option<Compiled>, Error> {
        let path = self.compiled_path(key);
        let _sweep = self.rely_on_content()?;
        let Ok(bytes) = fs::read(&path) else {
            return Ok(None);
        };
        match open(&bytes) {
            Some((found, compiled)) if found == *key => {
                disk::touch(&path).map_err(failed("write", &path))?;
                Ok(Some(compiled))
            }
            _ => {
                disk::remove_file(&path)?;
                Ok(None)
            }
        }
    }

    /// Puts `compiled`, whose bytes must be in the store, under `key`. Of two writers at once, one wins.
    pub fn set_compiled(&self, key: &Fingerprint, compiled: &Compiled) -> Result<(), Error> {
        let new = self.lease.fresh();
        fs::write(&new, seal_record(key, compiled)).map_err(failed("write", &new))?;
        disk::touch(&new).map_err(failed("write", &new))?;
        self.replace_by(&new, &self.compiled_path(key))
    }

    /// Takes out what stands under `key`.
    pub fn forget_compiled(&self, key: &Fingerprint) -> Result<(), Error> {
        disk::remove_file(&self.compiled_path(key))
    }

    /// A hard link at `at`, on this store's disk, to the bytes of `compiled`, which are checked. `false` if they are not
    /// here, or were damaged; then they are forgotten.
    pub fn link_compiled(&self, compiled: &Compiled, at: &Path) -> Result<bool, Error> {
        match self.check_compiled(compiled) {
            Ok(()) => {}
            Err(error) if error.is_lost_content() => return Ok(false),
            Err(error) => return Err(error),
        }
        let from = self.blob_path(&compiled.digest);
        match fs::hard_link(&from, at) {
            Ok(()) => Ok(true),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(source) if source.kind() == io::ErrorKind::NotFound && !from.exists() => Ok(false),
            // The file system allows no more links to it.
            Err(source) if source.raw_os_error() == Some(rustix::io::Errno::MLINK.raw_os_error()) => {
                fs::copy(&from, at).map_err(failed("write", at))?;
                seal(at, 0o644).map(|()| true)
            }
            Err(source) => Err(failed("write", at)(source)),
        }
    }

    /// Whether the bytes are those that the entry was made with, by this process or now.
    fn check_compiled(&self, compiled: &Compiled) -> Result<(), Error> {
        use std::os::unix::fs::MetadataExt as _;
        let digest = &compiled.digest;
        let path = self.blob_path(digest);
        let mut file = self.open_blob(digest, &path)?;
        let metadata = file.metadata().map_err(failed("read", &path))?;
        if self.is_verified(&metadata, digest) {
            return Ok(());
        }
        // Most are small, and memory for the largest each time would take longer than to read them.
        let room = digest.size().clamp(1, BUFFER);
        let (mut hasher, mut buffer) = (Compiled::hasher(), vec![0; room as usize]);
        loop {
            match file.read(&mut buffer).map_err(failed("read", &path))? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        if hasher.finish() != compiled.check {
            return Err(self.damaged(digest)?);
        }
        if !disk::is_untouched(&metadata) {
            seal(&path, 0o644)?;
        }
        self.set_verified(metadata.ino(), digest);
        Ok(())
    }

    fn compiled_path(&self, key: &Fingerprint) -> PathBuf {
        self.root.join(disk::fanned("compiled", &key.hex()))
    }
}

fn seal_record(key: &Fingerprint, compiled: &Compiled) -> Vec<u8> {
    let record = Record {
        key: key.hex(),
        digest: compiled.digest,
        check: compiled.check.hex(),
    };
    let record = serde_json::to_vec(&record).expect("plain data encodes");
    let mut bytes = Digest::of(&record).hex().into_bytes();
    bytes.push(b'\n');
    bytes.extend(record);
    bytes
}

/// The key and the entry of a file of this area, if it is whole.
pub(super) fn open(bytes: &[u8]) -> Option<(Fingerprint, Compiled)> {
    let (checksum, record) = bytes.split_at_checked(65)?;
    if checksum != format!("{}\n", Digest::of(record).hex()).as_bytes() {
        return None;
    }
    let record: Record = serde_json::from_slice(record).ok()?;
    let compiled = Compiled {
        digest: record.digest,
        check: Fingerprint::from_hex(&record.check)?,
    };
    Some((Fingerprint::from_hex(&record.key)?, compiled))
}
