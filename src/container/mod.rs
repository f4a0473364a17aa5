//! Runs programs of images for as long as they like, without root and without a daemon. Knows file system
//! trees, processes and namespaces, and nothing of images, services, networks or when to start what.
//!
//! A *world* is one process, started with [`detach`], that outlives whoever started it. It is process 1 of a
//! pid namespace, and uid 0 of a user namespace in which that uid is the ordinary user outside. Containers
//! are started from inside a world, as its children. When its process 1 ends, however it does, the kernel
//! ends every container and removes every mount and namespace: nothing has to be cleaned up.
//!
//! | who                     | what it does                                                          |
//! |-------------------------|-----------------------------------------------------------------------|
//! | the world's process 1   | starts containers, waits for them, runs programs inside               |
//! | a stub                  | enters new namespaces, forks, hands its child over by ending          |
//! | a container's process 1 | builds the root, gives up its privileges, becomes the program         |
//! | a program run inside    | a child of a stub that keeps its time, in the container's namespaces   |
//!
//! A container has mount, pid, ipc, uts and cgroup namespaces of its own and the network namespace that it
//! is given. In a nested user namespace the image's uid and gid are the only ones, and are again the
//! ordinary user: what that user owns in the store is seen as the image's user's own. So owners cannot keep
//! anything from being written; mounts do. The root is one overlay that cannot be written; where the image's
//! user may write, the same overlay is mounted on itself and can be.

mod detach;
mod exec;
mod init;
mod program;
mod root;
mod spec;
mod start;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

pub use detach::{Detached, detach, inherited};
pub use exec::{Executed, Execution};
pub(crate) use program::candidates;
pub use spec::{File, Mount, Spec, Tmpfs};

use crate::sandbox;
use spec::{ARGUMENT, Answer, Order};

/// If this process was started to be a stub of a sandbox, a world or a container, is that and does not
/// return. To be called first of all, while there is one thread.
pub fn init_if_asked() {
    sandbox::init_if_asked();
    if sandbox::wire::is_asked(ARGUMENT) {
        std::process::exit(stub());
    }
}

fn stub() -> i32 {
    let Ok((socket, order, descriptors)) = sandbox::wire::receive::<Order>() else {
        return 1;
    };
    match order {
        Order::Detach(world) => detach::stub(&world, socket, descriptors),
        Order::Start(spec) => start::stub(&spec, socket, descriptors),
        Order::Exec(execution) => exec::stub(&execution, &socket, descriptors),
    }
}

/// Why there is no world, no container, or no answer of a program inside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or the file system does not let it be built.
    #[error("cannot build a container: {step}: {source}{}", remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default())]
    Refused {
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
        /// What can be done about it.
        remedy: Option<String>,
    },
    /// The program cannot be started.
    #[error("cannot start `{program}`: {reason}; tried {}", if tried.is_empty() { "nothing".to_owned() } else { tried.join(", ") })]
    NoProgram {
        /// The first argument.
        program: String,
        /// What is wrong.
        reason: String,
        /// The paths that were looked at, in this order.
        tried: Vec<String>,
    },
    /// It has ended.
    #[error("the container has ended")]
    Ended,
    /// The stub broke down.
    #[error("the container's stub ended without saying how; the machine may be out of memory")]
    Lost,
    /// Files or processes could not be made.
    #[error("cannot prepare a container: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Error {
        Error::Io(errno.into())
    }
}

/// How a container ended: with an exit code, or killed by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; `None` if a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it. SIGKILL that nobody here sent is most likely the kernel's, out of memory.
    pub signal: Option<i32>,
}

/// What a container writes to, and where it is on the network.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors<'a> {
    /// Its stdout.
    pub stdout: BorrowedFd<'a>,
    /// Its stderr.
    pub stderr: BorrowedFd<'a>,
    /// A network namespace of the world's user namespace; `None` for one with a loopback interface alone.
    pub network: Option<BorrowedFd<'a>>,
}

/// A container that was started. Dropping it kills it and waits until no process of it is left.
#[derive(Debug)]
pub struct Container {
    exe: PathBuf,
    identity: Identity,
    pid: Pid,
    pidfd: OwnedFd,
    exit: Mutex<Option<Exit>>,
}

/// What every program inside has in common.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Identity {
    uid: u32,
    gid: u32,
}

impl Container {
    /// Starts a container, from a process of a world. Returns when its program runs. `exe` is a program that
    /// calls [`init_if_asked`] first, such as `/proc/self/exe`.
    pub fn start(exe: &Path, spec: &Spec, descriptors: Descriptors<'_>) -> Result<Container, Error> {
        start::start(exe, spec, descriptors)
    }

    /// Its process 1, as the world sees it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to its process 1. A signal for which that has no handler does nothing, as to any process
    /// 1, unless it is SIGKILL; with [`Spec::init`], the program gets it, and all do what they usually do.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Err(Error::Ended),
            other => Ok(other?),
        }
    }

    /// Ends every process of it. Returns at once.
    pub fn kill(&self) -> Result<(), Error> {
        match self.signal(Signal::KILL) {
            Err(Error::Ended) => Ok(()),
            other => other,
        }
    }

    /// How it ended; `None` while it runs.
    pub fn try_wait(&self) -> Result<Option<Exit>, Error> {
        let mut exit = self
            .exit
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if exit.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            *exit = status.map(|status| Exit {
                code: status.exit_status(),
                signal: status.terminating_signal(),
            });
        }
        Ok(*exit)
    }

    /// Waits until it has ended, and no process of it is left.
    pub fn wait(&self) -> Result<Exit, Error> {
        loop {
            if let Some(exit) = self.wait_for(Duration::from_secs(3600))? {
                return Ok(exit);
            }
        }
    }

    /// Waits that long for it to end; `None` if it still runs.
    pub fn wait_for(&self, time: Duration) -> Result<Option<Exit>, Error> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(Some(exit));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut events = [PollFd::new(&self.pidfd, PollFlags::IN)];
            let left = Timespec::try_from(left).expect("a short time");
            match poll(&mut events, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Runs a program in its namespaces, as its user, and waits for it.
    pub fn exec(&self, execution: &Execution) -> Result<Executed, Error> {
        exec::exec(self, execution)
    }
}

/// Readable when the container has ended.
impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What cannot be killed or waited for has been already.
        let _ = self.kill();
        let _ = self.wait();
    }
}

/// What a stub's complaint is to whoever started it.
fn refused(answer: Answer, program: &str) -> Error {
    match answer {
        Answer::Failed { step, errno } => Error::Refused {
            remedy: sandbox::remedy(&step, errno),
            source: io::Error::from_raw_os_error(errno),
            step,
        },
        Answer::NoProgram { tried, reason } => Error::NoProgram {
            program: program.to_owned(),
            reason,
            tried,
        },
        Answer::Pid(_) | Answer::Ended(_) => Error::Lost,
    }
}

fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}
