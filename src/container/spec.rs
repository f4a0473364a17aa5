//! What a container is made of, and what stubs are told and answer: JSON over one socket.

use std::path::PathBuf;

use super::Identity;
use super::detach::World;
use crate::sandbox::refusal::Refusal;
use crate::tree::{Metadata, TreePath};

/// The argument that makes this program a stub.
pub(super) const ARGUMENT: &str = "container-init";

/// Everything about one container. Paths outside are absolute, or from the world's working directory.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// The image's file system: a materialized tree, which is never written.
    pub rootfs: PathBuf,
    /// A directory of this container alone, made when it is missing. What the program writes is kept in it,
    /// and is there again when the next container is started with it and the same `rootfs`.
    pub scratch: PathBuf,
    /// Modes and owners in the image. What belongs to `uid` or `gid`, or to everybody, can be written as
    /// far as its mode says, with all that is below. Everything else cannot, unless `uid` is 0.
    pub metadata: Metadata,
    /// Small files, such as `/etc/hosts` and secrets; they are in memory, and never on a disk.
    pub files: Vec<File>,
    /// Volumes and directories of the host.
    pub mounts: Vec<Mount>,
    /// Directories in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// The host name.
    pub hostname: String,
    /// The program and its arguments. A program without a slash is looked up along PATH of `env`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory, made when it is missing.
    pub cwd: TreePath,
    /// Who the program is; the only uid that exists inside.
    pub uid: u32,
    /// The only gid that exists inside.
    pub gid: u32,
    /// Whether nothing of the image can be written, not even what its user owns.
    pub read_only: bool,
    /// Whether process 1 is a small one of ours, which passes signals on to the program, and reaps.
    pub init: bool,
}

/// A file that cannot be written.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct File {
    /// Where it is seen.
    pub at: TreePath,
    /// What is in it.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A file or directory from outside.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// What is mounted, with all that is mounted below; it must be there.
    pub from: PathBuf,
    /// Where it is seen; made when it is missing.
    pub at: TreePath,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// A directory in memory that everybody may write, and that ends with the container.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Tmpfs {
    /// Where it is seen; made when it is missing.
    pub at: TreePath,
    /// Bytes that fit in.
    pub size: u64,
    /// Permission bits, such as 0o1777.
    pub mode: u32,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum Order {
    Detach(World),
    Start(Spec),
    Exec(Inside),
}

/// A program to run in a container.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Inside {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: TreePath,
    pub identity: Identity,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum Answer {
    /// The process that the stub leaves behind.
    Pid(i32),
    /// It could not be built: what was tried, and what the kernel answered.
    Failed { step: String, errno: i32 },
    /// There is no such program, or it cannot be executed.
    NoProgram { tried: Vec<String>, reason: String },
    /// The exit code, or 128 and the signal that ended it.
    Ended(i32),
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        Answer::Failed {
            errno: refusal.errno(),
            step: refusal.step,
        }
    }
}
