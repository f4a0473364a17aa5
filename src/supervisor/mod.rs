//! Keeps the replicas of a preview's services running, and replaces them one at a time. Knows containers,
//! networks and files; nothing of releases, stack files, probes, or the order of a rollout.
//!
//! One process per preview, process 1 of a world of its own ([`crate::container`]), outlives the command that
//! started it; when it ends, everything in it does. It does what clients ask over a Unix socket, keeps what
//! should run in its state directory, and never undoes anything by itself: it is what Swarm is to a stack.
//!
//! | piece          | what it does                                                                |
//! |----------------|-----------------------------------------------------------------------------|
//! | [`start`]      | connects to the supervisor of a state directory, or starts it                |
//! | [`Client`]     | asks it: put, remove, observe, tasks, secrets, configs, ports                |
//! | [`ServiceSpec`] | what a replica is made of                                                   |
//! | [`State`]      | what it says                                                                |
//! | [`logs`]       | reads what containers printed, from outside                                  |
//! | `reconcile`    | decides, without doing anything                                              |
//! | `driver`       | takes events in, keeps what is desired, has done what is decided             |
//! | `containers`   | does it                                                                     |

mod assemble;
mod client;
mod containers;
mod driver;
mod follow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod logs;
mod place;
mod protocol;
mod reconcile;
mod roots;
mod server;
mod spec;
mod start;
mod state;
mod threads;

use std::io;
use std::path::{Path, PathBuf};

pub use client::Client;
pub use follow::{LogLine, LogReader, logs};
pub use logs::Stream;
pub use place::{Kind, content, versions};
pub use roots::roots;
pub use spec::{
    Condition, FileMount, Healthcheck, MAX_REPLICAS, Mount, MountSource, Order, Restart, ServiceSpec,
    SpecError, Test, Tmpfs, Update,
};
pub use start::{connect, run_if_asked, start};
pub use state::{
    End, Exit, Failure, Port, Replica, ReplicaState, Service, Stamp, State, Supervisor, Task, TaskState,
};

use crate::{container, network, store};

/// Why a supervisor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said no; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It could not be started.
    #[error("cannot start the preview's supervisor: {0}")]
    Start(String),
    /// The kernel does not let it be started.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// A port of the host cannot be had.
    #[error(transparent)]
    Port(#[from] network::ListenError),
    /// It ended while it was asked.
    #[error("the preview's supervisor has ended; the same command starts it again")]
    Gone,
    /// One that was started by another version of skep.
    #[error(
        "the preview is run by skep {running}, which this version does not understand; end it with `skep down` of that version"
    )]
    Protocol {
        /// That version.
        running: String,
    },
    /// It was no longer waited for.
    #[error("interrupted")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Files of the state directory could not be read or written, or the connection broke.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    fn at(path: &Path, source: io::Error) -> Error {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod testing;
