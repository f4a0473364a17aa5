//! What the parent tells the init process, and what that answers: JSON over one socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::bounds::{Bound, Bounds};
use crate::tree::TreePath;

/// The argument that makes this program the init process of a sandbox.
pub(super) const ARGUMENT: &str = "sandbox-init";

/// Everything about one run. Paths on the host are from the working directory, the store's root.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Spec {
    /// The outer uid and gid to become first; `None` to stay who one is.
    pub drop_to: Option<u32>,
    /// An empty directory on which the new root is mounted.
    pub root: PathBuf,
    /// How the root is put together, in this order.
    pub steps: Vec<Step>,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: TreePath,
    /// A directory of the host, mounted read-only at [`super::BESIDE`].
    pub beside: Option<PathBuf>,
    pub max_processes: u64,
    pub bounds: Bounds,
    /// Bytes of memory that `/proc/meminfo` shows.
    pub shown_memory: u64,
    /// The directories that become outputs.
    pub outputs: Vec<PathBuf>,
    /// Those that take what is written over inputs.
    pub uppers: Vec<PathBuf>,
}

/// One step in putting the root together. Targets are paths in the new root.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Step {
    /// A directory, with its parents.
    Directory { at: TreePath },
    /// A symlink.
    Link { at: TreePath, target: String },
    /// A small file of our own.
    File {
        at: TreePath,
        content: Vec<u8>,
        mode: u32,
    },
    /// A directory of the host, which cannot be written.
    Bind { at: TreePath, from: PathBuf },
    /// A file of the host, which cannot be written.
    BindFile { at: TreePath, from: PathBuf },
    /// A directory over which the action may write; `lower` stays as it is.
    Overlay {
        at: TreePath,
        lower: PathBuf,
        scratch: PathBuf,
    },
    /// A directory of the host that the action fills.
    Output { at: TreePath, from: PathBuf },
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Status {
    /// The action's program ended: its exit code, or 128 and the signal that killed it.
    Ended(i32),
    /// The sandbox could not be built.
    Failed {
        /// What was tried.
        step: String,
        /// What the kernel answered.
        errno: i32,
    },
    /// The action went past a bound, and was killed; or, behind [`Status::Ended`], has no room left.
    Exceeded(Bound),
    /// There is no such program, or it cannot be executed.
    NoProgram(i32),
}
