//! What can go wrong when bytes are fetched; no message holds a credential.

use std::io;
use std::path::PathBuf;

use super::archive::ArchiveError;
use super::debian::LockError;
use super::http::Failure;
use crate::store;

/// Why a fetch or a lock gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network may not be used, and what is needed is not in the store.
    #[error("not in the store, and would be fetched from {}; run once without `--offline`", quoted(.sources))]
    Offline {
        /// Its sources, as the recipe wrote them.
        sources: Vec<String>,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
    /// A source that is neither a known package URL nor an address.
    #[error("`{text}` is not a source: {reason}")]
    Source {
        /// What the recipe wrote.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing says where an ecosystem's packages come from.
    #[error(
        "no address for {ecosystem} packages: {asked} says where they are; write in skep.toml\n\n    [registries]\n    {key} = \"https://…\"\n"
    )]
    NoAddress {
        /// `Go`, `npm`, `PyPI` or `Debian`.
        ecosystem: &'static str,
        /// Where skep looked, as in `neither … nor …`.
        asked: &'static str,
        /// The key of `[registries]`.
        key: &'static str,
    },
    /// An ecosystem's configuration keeps a package away from its registry.
    #[error("`{package}` may not be asked of a registry: {reason}")]
    Private {
        /// The package.
        package: String,
        /// Which setting says so, and what may be done.
        reason: String,
    },
    /// An ecosystem's configuration cannot be read or makes no sense.
    #[error("cannot use `{name}`: {reason}")]
    Config {
        /// A file or a variable.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An address did not answer with the bytes.
    #[error("`{url}`: {failure}")]
    Transfer {
        /// The address, without credentials.
        url: String,
        /// What happened.
        failure: Failure,
    },
    /// A registry's index does not list a package, or makes no sense.
    #[error("`{url}`: {reason}")]
    Index {
        /// The index, without credentials.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The bytes are others than those that were pinned.
    #[error("`{from}` is not what was pinned: expected {expected}, got {got}")]
    Mismatch {
        /// The source, and the address where it was found.
        from: String,
        /// The pinned integrity.
        expected: String,
        /// What the bytes have.
        got: String,
    },
    /// An archive that is damaged, or hostile, or more than skep unpacks.
    #[error("`{from}`: {error}")]
    Archive {
        /// The source, and the address where it was found.
        from: String,
        /// What is wrong with it.
        error: ArchiveError,
    },
    /// Every source of a fetch failed.
    #[error("no source of `{label}` has it:{}", listed(.failures))]
    AllSources {
        /// The action's label.
        label: String,
        /// What each source came to.
        failures: Vec<Error>,
    },
    /// The packages that a lock asks for do not fit together, or the mirror's metadata cannot be trusted.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A temporary file of the store cannot be written or read.
    #[error("cannot keep what is fetched in `{}`: {error}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether no other source can help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Error::Cancelled | Error::Disk { .. } | Error::Store(_) | Error::Offline { .. } => true,
            Error::Archive { error, .. } => matches!(error, ArchiveError::Store(_)),
            Error::Transfer { failure, .. } => matches!(failure, Failure::Sink(_)),
            _ => false,
        }
    }

    /// Whether the registry says that there is no such thing, rather than that it cannot answer.
    pub(super) fn is_absence(&self) -> bool {
        matches!(
            self,
            Error::Transfer {
                failure: Failure::NotFound,
                ..
            }
        )
    }
}

fn quoted(sources: &[String]) -> String {
    let quoted: Vec<_> = sources.iter().map(|source| format!("`{source}`")).collect();
    quoted.join(" or ")
}

fn listed(failures: &[Error]) -> String {
    failures.iter().map(|failure| format!("\n  {failure}")).collect()
}
