//! Archives into trees: straight into the store, never onto paths of the disk. Every archive is hostile.
//!
//! What is refused, for every format: names that leave the archive or are not UTF-8, symlinks that are
//! absolute or lead out, devices, FIFOs and sparse files, two entries at one path (directories may repeat),
//! encryption, and more than [`Limits`] allow. Names that differ only in case are refused but for Debian
//! packages, which are made for Linux alone and do hold such names (terminfo, kernel headers); there too a
//! symlink may be absolute, as it is meant for the root of the file system that the package goes into. Layers of
//! images are such a root, of whatever kind its files are: what cannot be made of them is passed over.

mod builder;
mod compression;
mod deb;
mod layer;
mod tar;
mod zip;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::plan::{Archive, Unpack};
use crate::store::{self, Store};
use crate::tree::{PathError, TreePath};

pub(super) use compression::decompress;
pub use layer::{UnpackedLayer, unpack_layer};

use builder::{Builder, Whole};

/// What bounds one archive.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of everything that it unpacks to.
    pub bytes: u64,
    /// Entries, and the directories that their names imply.
    pub entries: usize,
    /// How many times larger than the archive its content may be.
    pub ratio: u64,
    /// So many bytes may come from the smallest archive.
    pub floor: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bytes: 8 << 30,
            entries: 1_000_000,
            ratio: 1000,
            floor: 64 << 20,
        }
    }
}

impl Limits {
    /// Bytes that an archive of `size` bytes may unpack to.
    fn budget(&self, size: u64) -> u64 {
        self.bytes.min(size.saturating_mul(self.ratio).max(self.floor))
    }
}

/// Why an archive gave no tree.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Not an archive of the declared format, or a damaged one.
    #[error("not a sound archive: {0}")]
    Malformed(String),
    /// A name that no tree may hold.
    #[error("entry `{name}`: {reason}")]
    Name {
        /// The name, escaped and cut.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a kind that is not unpacked.
    #[error("entry `{name}` is {kind}, which is not unpacked")]
    Kind {
        /// Its name.
        name: String,
        /// Such as `a device`.
        kind: &'static str,
    },
    /// Two entries stand at one path.
    #[error("two entries at `{0}`")]
    Duplicate(String),
    /// Two names that are one where case does not matter.
    #[error("`{first}` and `{second}` differ only in case")]
    Case {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A link that leads out of the archive, or nowhere that can be kept.
    #[error("link `{name}` -> `{target}` {reason}")]
    Link {
        /// Its name.
        name: String,
        /// Its target.
        target: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than [`Limits`] allow.
    #[error("it unpacks to more than {0}")]
    TooLarge(String),
    /// A pattern of the recipe that is none.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive's file cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What an archive, or a single file, came to.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The tree.
    pub root: Digest,
    /// Its [`crate::tree::Metadata`], for Debian packages that need it.
    pub metadata: Option<Digest>,
    /// What `h1` is made of: every entry of a zip as the archive names it with the digest of its content, or
    /// a single file as `go.mod`. Empty for other archives.
    pub listing: Vec<(String, Digest)>,
}

/// Unpacks `file` into the store. Blocks.
pub(super) fn unpack(
    store: &Store,
    file: &Path,
    how: &Unpack,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Unpacked, ArchiveError> {
    let input = File::open(file).map_err(ArchiveError::Io)?;
    let size = input.metadata().map_err(ArchiveError::Io)?.len();
    let (format, strip, executable) = match how {
        Unpack::File { name, executable } => {
            let mut builder = Builder::new(limits.entries);
            let digest = keep(store, &mut BufReader::new(input))?;
            builder.file(&name.as_str().parse().map_err(bad_name)?, digest, *executable)?;
            let root = builder.finish(store, Whole::Tree)?.0;
            return Ok(Unpacked {
                root,
                metadata: None,
                // The one file of which Go keeps a hash of its own, whatever the file is called here.
                listing: vec![("go.mod".to_owned(), digest)],
            });
        }
        Unpack::Archive {
            format,
            strip,
            executable,
        } => (format, *strip as usize, patterns(executable)?),
    };
    let unpacking = Unpacking {
        store,
        strip,
        executable,
        budget: limits.budget(size),
        entries: limits.entries,
        cancel,
    };
    match format {
        Archive::Zip => zip::unpack(&unpacking, input),
        Archive::Tar => tar::unpack(&unpacking, input),
        Archive::Deb => deb::unpack(&unpacking, input),
    }
}

/// What every format needs.
struct Unpacking<'a> {
    store: &'a Store,
    strip: usize,
    executable: GlobSet,
    budget: u64,
    entries: usize,
    cancel: &'a Cancel,
}

impl Unpacking<'_> {
    fn budgeted<R: Read>(&self, inner: R) -> Budgeted<'_, R> {
        Budgeted {
            inner,
            left: self.budget,
            cancel: self.cancel,
        }
    }
}

/// A reader that fails when it gave more than it may, or when the run is interrupted.
struct Budgeted<'a, R> {
    inner: R,
    left: u64,
    cancel: &'a Cancel,
}

/// Travels through [`io::Error`] to [`read_error`].
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("over budget")]
    Budget,
    #[error("interrupted")]
    Cancelled,
}

impl<R: Read> Read for Budgeted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_raised() {
            return Err(io::Error::other(Stop::Cancelled));
        }
        let read = self.inner.read(buffer)? as u64;
        self.left = self
            .left
            .checked_sub(read)
            .ok_or_else(|| io::Error::other(Stop::Budget))?;
        Ok(read as usize)
    }
}

/// What a failed read of archive content means.
fn read_error(error: io::Error) -> ArchiveError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Stop>()) {
        Some(Stop::Budget) => {
            ArchiveError::TooLarge("it may: 8 GiB, and 1,000 times its own size".to_owned())
        }
        Some(Stop::Cancelled) => ArchiveError::Cancelled,
        None => ArchiveError::Malformed(error.to_string()),
    }
}

/// Keeps what a reader gives. A failure to read is the archive's, a failure to write the store's.
fn keep(store: &Store, content: &mut dyn Read) -> Result<Digest, ArchiveError> {
    use std::io::Write as _;
    let mut writer = store.writer()?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Ok(writer.finish()?),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(error)),
        };
        let written = writer.write_all(&buffer[..read]);
        written.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                store::Error::Full(store.root().to_owned())
            }
            _ => store::Error::Io {
                what: "write",
                path: writer.path().to_owned(),
                source,
            },
        })?;
    }
}

fn patterns(patterns: &[String]) -> Result<GlobSet, ArchiveError> {
    let failed = |pattern: &str, error: globset::Error| ArchiveError::Pattern {
        pattern: pattern.to_owned(),
        reason: error.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| failed(pattern, error))?);
    }
    set.build().map_err(|error| failed(&patterns.join(" "), error))
}

/// An entry's name as text.
fn utf8(bytes: Vec<u8>) -> Result<String, ArchiveError> {
    String::from_utf8(bytes).map_err(|error| ArchiveError::Name {
        name: shown(&String::from_utf8_lossy(error.as_bytes())),
        reason: "not UTF-8".to_owned(),
    })
}

/// Where an entry goes: below `prefix`, without its first `strip` components; `None` if it has no more.
fn place(name: &str, prefix: &TreePath, strip: usize) -> Result<Option<TreePath>, ArchiveError> {
    let failed = |reason: &str| ArchiveError::Name {
        name: shown(name),
        reason: reason.to_owned(),
    };
    if name.starts_with('/') {
        return Err(failed("an absolute path"));
    }
    let path = normalize(name)?;
    if prefix.names().len() + path.names().len() > TreePath::MAX_DEPTH {
        return Err(failed("nested too deep"));
    }
    match path.names().split_at_checked(strip) {
        Some((_, rest)) if strip == 0 || !rest.is_empty() => Ok(Some(
            rest.iter().fold(prefix.clone(), |path, name| path.join(name)),
        )),
        _ => Ok(None),
    }
}

/// A path without the `.` and empty components that archivers leave in; `..` stays an error.
fn normalize(name: &str) -> Result<TreePath, ArchiveError> {
    let parts: Vec<_> = name.split('/').filter(|part| !["", "."].contains(part)).collect();
    parts
        .join("/")
        .parse()
        .map_err(|error: PathError| ArchiveError::Name {
            name: shown(name),
            reason: error.to_string(),
        })
}

/// A hostile name for people: cut, and without control characters.
fn shown(name: &str) -> String {
    name.chars()
        .take(100)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

fn bad_name(error: PathError) -> ArchiveError {
    ArchiveError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests;
