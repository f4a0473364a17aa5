//! Runs an action where it sees its declared inputs and nothing else. Knows actions and trees, and nothing
//! of plans, caches or images.
//!
//! Every run has its own user, mount, pid, net, ipc, uts and cgroup namespaces. Its root is a tmpfs on which
//! input trees are bound read-only, output directories read-write, and overlays where the action may write
//! over inputs. It runs as uid 1000 without capabilities, under a system call filter, with a loopback
//! interface and no other. Its whole process tree ends with its main process, with its time, and with skep.
//!
//! | who                  | what it does                                                        |
//! |----------------------|---------------------------------------------------------------------|
//! | skep                 | plans the mounts, reads the log, keeps the time, takes the outputs in |
//! | outer init           | enters the namespaces, waits, kills process 1 when skep hangs up or the action uses too much |
//! | inner init, pid 1    | builds the root, starts the action, reaps                           |
//! | the action           | replaces a child of process 1, without privileges                   |
//!
//! Nothing degrades: what the kernel refuses is an error that names the remedy.

mod bounds;
pub(crate) mod filter;
mod init;
mod layout;
pub(crate) mod mounts;
pub(crate) mod privilege;
mod proc;
pub(crate) mod refusal;
mod remedy;
mod spec;
pub(crate) mod sys;
mod watch;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use bounds::Bound;
pub(crate) use init::exit_code;
pub use init::init_if_asked;
pub(crate) use remedy::remedy;

use crate::action::Action;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::store::{self, BlobWriter, IngestError, IngestLimits, SANDBOX_UID, Scratch, Store};
use crate::tree::{Node, TreePath, ops};
use bounds::Bounds;
use spec::{ARGUMENT, Spec, Status};

/// How often a waiting parent looks whether it should stop.
const TICK: Duration = Duration::from_millis(100);

/// The init's answer is a line; more is not from it.
const MAX_ANSWER: usize = 64 << 10;

/// A kernel that can run actions, and the store whose trees they see.
#[derive(Debug)]
pub struct Sandbox {
    store: Arc<Store>,
    exe: PathBuf,
}

/// What to run.
#[derive(Debug)]
pub struct Request<'a> {
    /// The action; not a builtin.
    pub action: &'a Action,
    /// Trees among its inputs that are best mounted whole.
    pub units: &'a BTreeSet<Digest>,
    /// The content of its secrets, for each path that it declares.
    pub secrets: &'a BTreeMap<TreePath, Vec<u8>>,
}

/// Where an action finds the directory of [`Beside`].
pub const BESIDE: &str = "/dev/skep";

/// What an action gets that is in no key, because it only makes it faster.
#[derive(Debug)]
pub struct Beside {
    /// A directory, from the store's root, that the action sees read-only at [`BESIDE`] as it fills.
    pub directory: PathBuf,
    /// Variables that are set over the action's own.
    pub env: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code, or 128 and the signal that ended it.
    pub exit_code: i32,
    /// The tree of each output directory; empty unless the exit code is 0.
    pub outputs: BTreeMap<TreePath, Digest>,
    /// What it wrote to stdout and stderr; `None` if nothing.
    pub log: Option<Digest>,
    /// How long it ran.
    pub wall: Duration,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or the file system does not let a sandbox be built.
    #[error("cannot build a sandbox: {step}: {source}{}", remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default())]
    Refused {
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
        /// What can be done about it.
        remedy: Option<String>,
    },
    /// The program cannot be started.
    #[error(
        "cannot start `{program}`: {source}; a program is an absolute path among the action's inputs, and so is its interpreter"
    )]
    NoProgram {
        /// The first argument.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A path that should be writable is not a directory of the inputs.
    #[error("`/{0}` is declared writable, and the inputs have no such directory")]
    NotWritable(TreePath),
    /// It ran for too long, and was killed.
    #[error("ran for longer than {} seconds, and was stopped", limit.as_secs())]
    TimedOut {
        /// How long it may.
        limit: Duration,
        /// What it printed.
        log: Option<Digest>,
    },
    /// It printed too much, and was killed.
    #[error("printed more than {limit} bytes, and was stopped")]
    LogTooLong {
        /// How much it may.
        limit: u64,
        /// The first of it.
        log: Option<Digest>,
    },
    /// It used more than it may, and was killed or had no room left.
    #[error("{}", bound.passed(*limit))]
    Exceeded {
        /// What was bounded.
        bound: Bound,
        /// How much it may.
        limit: u64,
        /// What it printed.
        log: Option<Digest>,
    },
    /// Its outputs cannot be taken in.
    #[error("output {source}")]
    Output {
        /// Why not.
        source: Box<IngestError>,
        /// What it printed.
        log: Option<Digest>,
    },
    /// It was no longer wanted.
    #[error("interrupted")]
    Cancelled,
    /// The init process broke down.
    #[error("the sandbox ended without saying how; the machine may be out of memory")]
    Lost,
    /// A secret that the action declares was not handed over.
    #[error("the content of the secret `/{0}` is missing")]
    NoSecret(TreePath),
    /// Files of the sandbox could not be made.
    #[error("cannot prepare a sandbox: {0}")]
    Io(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The input tree is broken.
    #[error(transparent)]
    Tree(#[from] ops::Error<store::Error>),
}

impl Error {
    /// What the action printed until then.
    pub fn log(&self) -> Option<Digest> {
        match self {
            Error::TimedOut { log, .. }
            | Error::LogTooLong { log, .. }
            | Error::Exceeded { log, .. }
            | Error::Output { log, .. } => *log,
            _ => None,
        }
    }
}

impl Sandbox {
    /// `exe` is a program that calls [`init_if_asked`] first, such as `/proc/self/exe`.
    pub fn new(store: Arc<Store>, exe: PathBuf) -> Sandbox {
        Sandbox { store, exe }
    }

    /// Runs an action and waits for it.
    pub fn run(&self, request: &Request<'_>, cancel: &Cancel) -> Result<Outcome, Error> {
        self.run_with(request, None, cancel)
    }

    /// [`Sandbox::run`], with something beside what the action declares.
    pub fn run_with(
        &self,
        request: &Request<'_>,
        beside: Option<&Beside>,
        cancel: &Cancel,
    ) -> Result<Outcome, Error> {
        let action = request.action;
        self.check(request)?;
        let scratch = self.prepare_scratch(action)?;
        let mut spec = self.spec(request, &scratch)?;
        if let Some(beside) = beside {
            spec.env.extend(beside.env.clone());
            spec.beside = Some(beside.directory.clone());
        }
        let began = Instant::now();
        let limits = &action.command.limits;
        let mut running = Running::start(self, &spec, limits.max_log)?;
        let ended = running.wait(limits.timeout, cancel);
        let wall = began.elapsed();
        let log = running.finish()?;
        let status = match ended? {
            Ended::Itself(status) => status,
            Ended::TimedOut => {
                let limit = limits.timeout;
                return Err(Error::TimedOut { limit, log });
            }
            Ended::LogTooLong => {
                let limit = limits.max_log;
                return Err(Error::LogTooLong { limit, log });
            }
        };
        let exit_code = match status {
            Status::Ended(exit_code) => exit_code,
            Status::Exceeded(bound) => {
                let limit = spec.bounds.limit(bound);
                return Err(Error::Exceeded { bound, limit, log });
            }
            Status::NoProgram(errno) => {
                return Err(Error::NoProgram {
                    program: action.command.argv.first().cloned().unwrap_or_default(),
                    source: io::Error::from_raw_os_error(errno),
                });
            }
            Status::Failed { step, errno } => {
                return Err(Error::Refused {
                    remedy: remedy(&step, errno),
                    source: io::Error::from_raw_os_error(errno),
                    step,
                });
            }
        };
        let outputs = match exit_code {
            0 => self.take_outputs(action, &scratch, log)?,
            _ => BTreeMap::new(),
        };
        Ok(Outcome {
            exit_code,
            outputs,
            log,
            wall,
        })
    }

    /// Whether what the action declares is there.
    fn check(&self, request: &Request<'_>) -> Result<(), Error> {
        let action = request.action;
        for path in action.command.secrets.keys() {
            if !request.secrets.contains_key(path) {
                return Err(Error::NoSecret(path.clone()));
            }
        }
        for path in &action.command.writable {
            let node = ops::lookup(&*self.store, &action.input_root, path)?;
            if !matches!(node, Some(Node::Directory(_))) {
                return Err(Error::NotWritable(path.clone()));
            }
        }
        Ok(())
    }

    fn prepare_scratch(&self, action: &Action) -> Result<Scratch, Error> {
        let scratch = self.store.scratch()?;
        for directory in layout::scratch_directories(action) {
            let path = scratch.path().join(directory);
            fs::create_dir(&path)?;
            // The action sees these modes, which no umask may change.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            let owner = drop_to();
            std::os::unix::fs::chown(&path, owner, owner)?;
        }
        Ok(scratch)
    }

    fn spec(&self, request: &Request<'_>, scratch: &Scratch) -> Result<Spec, Error> {
        let command = &request.action.command;
        let steps = layout::steps(
            &self.store,
            request.action,
            request.units,
            request.secrets,
            scratch.relative(),
        )?;
        let of_scratch = |paths: Vec<PathBuf>| -> Vec<PathBuf> {
            paths.iter().map(|path| scratch.relative().join(path)).collect()
        };
        Ok(Spec {
            drop_to: drop_to(),
            root: scratch.relative().join("root"),
            steps,
            argv: command.argv.clone(),
            env: command.env.clone(),
            cwd: command.cwd.clone(),
            beside: None,
            max_processes: command.limits.max_processes,
            bounds: Bounds::new(&command.limits, self.store.root())?,
            shown_memory: command.limits.memory.unwrap_or(proc::MEMORY),
            outputs: of_scratch(layout::outputs(request.action)),
            uppers: of_scratch(layout::uppers(request.action)),
        })
    }

    fn take_outputs(
        &self,
        action: &Action,
        scratch: &Scratch,
        log: Option<Digest>,
    ) -> Result<BTreeMap<TreePath, Digest>, Error> {
        let limits = IngestLimits {
            max_bytes: action.command.limits.max_output,
            max_entries: action.command.limits.max_entries,
        };
        let directories = layout::outputs(action);
        let directories: Vec<PathBuf> = directories.iter().map(|path| scratch.path().join(path)).collect();
        let directories: Vec<&Path> = directories.iter().map(PathBuf::as_path).collect();
        let roots = self.store.ingest_all(&directories, &limits);
        let roots = roots.map_err(|source| match source {
            IngestError::TooLarge(limit) => Error::Exceeded {
                bound: Bound::Output,
                limit,
                log,
            },
            IngestError::TooMany(limit) => Error::Exceeded {
                bound: Bound::Entries,
                limit,
                log,
            },
            source => Error::Output {
                source: Box::new(source),
                log,
            },
        })?;
        Ok(action.command.outputs.iter().cloned().zip(roots).collect())
    }
}

/// The outer uid that a sandbox takes on: another one when skep runs as root, because what is mapped to root
/// could still write root's files.
pub(crate) fn drop_to() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(SANDBOX_UID)
}

enum Ended {
    Itself(Status),
    TimedOut,
    LogTooLong,
}

/// A sandbox that was started. Dropping it ends every process in it.
struct Running<'a> {
    child: Child,
    socket: UnixStream,
    log: Log<'a>,
}

/// What the sandbox prints, as far as it was read.
struct Log<'a> {
    pipe: io::PipeReader,
    kept: BlobWriter<'a>,
    bytes: u64,
    limit: u64,
    /// Whether somebody may still write.
    open: bool,
}

impl<'a> Running<'a> {
    fn start(sandbox: &'a Sandbox, spec: &Spec, max_log: u64) -> Result<Running<'a>, Error> {
        let (socket, theirs) = UnixStream::pair()?;
        let (pipe, log_end) = io::pipe()?;
        let child = Command::new(&sandbox.exe)
            .arg(ARGUMENT)
            .current_dir(sandbox.store.root())
            .env_clear()
            // Ctrl-C is for skep, which then ends it.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log_end.try_clone()?)
            .stderr(log_end)
            .spawn()?;
        let log = Log {
            pipe,
            kept: sandbox.store.writer()?,
            bytes: 0,
            limit: max_log,
            open: true,
        };
        let running = Running { child, socket, log };
        wire::send(&running.socket, spec, &[])?;
        Ok(running)
    }

    /// Until the sandbox has said how it ended, or has to be ended.
    fn wait(&mut self, timeout: Duration, cancel: &Cancel) -> Result<Ended, Error> {
        let deadline = Instant::now() + timeout;
        let mut answer = Vec::new();
        loop {
            if cancel.is_raised() {
                return Err(Error::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Ended::TimedOut);
            }
            let (printed, said) = self.poll(left.min(TICK))?;
            if printed && !self.log.read()? {
                return Ok(Ended::LogTooLong);
            }
            if said && self.read_answer(&mut answer)? {
                break;
            }
        }
        self.child.wait()?;
        // Nobody is left to write, so the pipe has an end.
        while self.log.open {
            if !self.log.read()? {
                return Ok(Ended::LogTooLong);
            }
        }
        let answers = serde_json::Deserializer::from_slice(&answer).into_iter();
        let mut answers = answers.filter_map(std::result::Result::ok);
        let status = match answers.next() {
            None => return Err(Error::Lost),
            // What failed where there was no room left, failed for that.
            Some(Status::Ended(code)) if code != 0 => answers.next().unwrap_or(Status::Ended(code)),
            Some(status) => status,
        };
        Ok(Ended::Itself(status))
    }

    /// Whether there is something to read from the log, and from the init.
    fn poll(&self, timeout: Duration) -> Result<(bool, bool), Error> {
        let mut events = vec![PollFd::new(&self.socket, PollFlags::IN)];
        events.extend(self.log.open.then(|| PollFd::new(&self.log.pipe, PollFlags::IN)));
        let timeout = Timespec::try_from(timeout).expect("a short time");
        match poll(&mut events, Some(&timeout)) {
            Ok(_) => {
                let printed = events.get(1).is_some_and(|log| !log.revents().is_empty());
                Ok((printed, !events[0].revents().is_empty()))
            }
            Err(rustix::io::Errno::INTR) => Ok((false, false)),
            Err(errno) => Err(Error::Io(errno.into())),
        }
    }

    /// Whether the answer is complete: every process that could write one has ended.
    fn read_answer(&mut self, answer: &mut Vec<u8>) -> Result<bool, Error> {
        let mut buffer = [0; 4 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => Ok(true),
            Ok(read) if answer.len() + read <= MAX_ANSWER => {
                answer.extend(&buffer[..read]);
                Ok(false)
            }
            Ok(_) => Err(Error::Lost),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the sandbox if it still runs, and keeps what it printed.
    fn finish(self) -> Result<Option<Digest>, Error> {
        let Running { child, socket, log } = self;
        end(child, socket)?;
        match log.bytes {
            0 => Ok(None),
            _ => Ok(Some(log.kept.finish()?)),
        }
    }
}

/// Hangs up, on which the init kills everything, and waits until it has.
fn end(mut child: Child, socket: UnixStream) -> io::Result<()> {
    drop(socket);
    child.wait().map(drop)
}

impl Log<'_> {
    /// Whether what was printed is still within its bound.
    fn read(&mut self) -> Result<bool, Error> {
        let mut buffer = [0; 64 << 10];
        let read = self.pipe.read(&mut buffer)?;
        self.open = read > 0;
        let room = (self.limit - self.bytes).min(read as u64);
        self.kept.write_all(&buffer[..room as usize])?;
        self.bytes += room;
        Ok(room == read as u64)
    }
}
