//! What can go wrong with the store, each with its path or digest and, where there is one, the remedy.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::tree::DecodeError;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No blob of this digest is here.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// A blob's bytes are not what its name says. It has been forgotten.
    #[error("blob {0} is damaged in the store, and was forgotten; a build that needs it makes it again")]
    Corrupt(Digest),
    /// A blob is used as a directory, and is none.
    #[error("blob {digest} is not a directory: {source}")]
    NotADirectory {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The directory holds something else.
    #[error("`{}` is not a store: it is not empty, and has no file `FORMAT`; set SKEP_STORE to another directory", .0.display())]
    Foreign(PathBuf),
    /// The store was made by another version of skep.
    #[error("`{}` is a store of the format `{found}`, and this skep reads `{expected}`; set SKEP_STORE to another directory, or remove it", root.display())]
    Format {
        /// Where the store is.
        root: PathBuf,
        /// What its `FORMAT` says, cut to 64 bytes.
        found: String,
        /// What this version writes.
        expected: &'static str,
    },
    /// The store belongs to somebody else.
    #[error("the store `{}` belongs to uid {owner}, and skep runs as uid {user}; set SKEP_STORE to a directory of your own", root.display())]
    Owner {
        /// Where the store is.
        root: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The disk is full, or a quota is reached.
    #[error("no space left for the store at `{}`; `skep gc --keep 5G` frees some", .0.display())]
    Full(PathBuf),
    /// Nothing can be written there.
    #[error("cannot write to the store at `{}`: {source}; set SKEP_STORE to a directory that can be written", path.display())]
    Unwritable {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The wait for another process was interrupted.
    #[error("interrupted while waiting for another skep to finish the same action")]
    Cancelled,
}

impl Error {
    /// Whether making the lost content again would help.
    pub fn is_lost_content(&self) -> bool {
        matches!(self, Error::Missing(_) | Error::Corrupt(_))
    }
}

/// Turns an I/O error on `path` into the one that helps most.
pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full(path),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if what != "read" => {
            Error::Unwritable { path, source }
        }
        _ => Error::Io { what, path, source },
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Full(_) => io::Error::new(io::ErrorKind::StorageFull, error),
            Error::Missing(_) => io::Error::new(io::ErrorKind::NotFound, error),
            Error::Corrupt(_) => io::Error::new(io::ErrorKind::InvalidData, error),
            error => io::Error::other(error),
        }
    }
}
