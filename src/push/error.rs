//! What can go wrong with a push, and what kind of trouble that is.

use crate::digest::Digest;
use crate::registry::{self, Repository, Tag};
use crate::store::{self, Lost};

/// Why a push did not end. No tag of it was put, unless it was one of several.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
    /// A tag that must not change is there, and names something else.
    #[error(
        "`{repository}:{tag}` is there already and names `{theirs}`, not `{ours}`; a tag is never moved: push \
         under another one"
    )]
    Taken {
        /// Where.
        repository: Repository,
        /// Which tag.
        tag: Tag,
        /// The `sha256:…` that it names.
        theirs: String,
        /// The `sha256:…` that was to be pushed.
        ours: String,
    },
    /// The registry did not do what was asked, or was not reached.
    #[error(transparent)]
    Registry(registry::Error),
    /// Content is lost or damaged, or the disk fails.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A layer's bytes cannot be made.
    #[error("cannot make the layer {layer}: {source}")]
    Layer {
        /// Which one.
        layer: Digest,
        /// What kind of trouble that is.
        kind: Kind,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Store(error) => error.lost(),
            _ => Vec::new(),
        }
    }
}

impl From<registry::Error> for Error {
    fn from(error: registry::Error) -> Error {
        match error {
            registry::Error::Cancelled => Error::Cancelled,
            registry::Error::Store(error) => Error::Store(error),
            error => Error::Registry(error),
        }
    }
}

/// What kind of trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The run was interrupted (exit code 130).
    Interrupted,
    /// It would change what must stay (exit code 7).
    Refused,
    /// The disk, the network or the registry (exit code 4).
    Environment,
    /// What was built is not what is built now: a bug (exit code 70).
    Internal,
}

impl Error {
    /// What kind of trouble this is.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Cancelled => Kind::Interrupted,
            Error::Taken { .. } => Kind::Refused,
            Error::Store(_) | Error::Registry(_) => Kind::Environment,
            Error::Layer { kind, .. } => *kind,
        }
    }

    pub(super) fn layer(layer: &Digest, error: LayerError) -> Error {
        match error {
            LayerError::Store(error) => Error::Store(error),
            LayerError::Other { kind, source } => Error::Layer {
                layer: *layer,
                kind,
                source,
            },
        }
    }
}

/// Why the bytes of a layer are not to be had, for whoever makes them.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store failed; lost content can be built again.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Anything else.
    #[error("{source}")]
    Other {
        /// What kind of trouble it is.
        kind: Kind,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
