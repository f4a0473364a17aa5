//! Runs a program in a running container: from the world's side, and in the stub that keeps its processes.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;

use super::program::{become_program, settle};
use super::spec::{ARGUMENT, Answer, Inside, Order};
use super::{Container, Error, pidfd, refused};
use crate::sandbox::refusal::{During as _, Result};
use crate::sandbox::sys;
use crate::sandbox::wire::{self, answer};
use crate::tree::TreePath;

/// A program to run in a container.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The program and its arguments. A program without a slash is looked up along PATH of `env`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: TreePath,
    /// When it is killed, with every process of its session.
    pub timeout: Duration,
    /// Bytes that are kept of what it prints; what comes after is dropped.
    pub max_output: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The exit code, or 128 and the signal that ended it.
    pub exit_code: i32,
    /// What it wrote to stdout and stderr.
    pub output: Vec<u8>,
    /// Whether its time was over.
    pub timed_out: bool,
}

pub(super) fn exec(container: &Container, execution: &Execution) -> std::result::Result<Executed, Error> {
    let (socket, theirs) = UnixStream::pair()?;
    let (pipe, output) = io::pipe()?;
    rustix::io::ioctl_fionbio(&pipe, true)?;
    let stub = Command::new(&container.exe)
        .arg(ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let order = Order::Exec(Inside {
        argv: execution.argv.clone(),
        env: execution.env.clone(),
        cwd: execution.cwd.clone(),
        identity: container.identity.clone(),
    });
    let mut running = Running {
        stub,
        socket,
        pipe,
        output: Vec::new(),
        max_output: execution.max_output,
        open: true,
    };
    let sent = wire::send(&running.socket, &order, &[container.as_fd(), output.as_fd()]);
    drop(output);
    let waited = running.wait(execution.timeout);
    running.stub.wait()?;
    let (said, timed_out) = waited?;
    while running.open && running.read()? {}
    let program = execution.argv.first().map_or("", String::as_str);
    let exit_code = match serde_json::Deserializer::from_slice(&said).into_iter().next() {
        Some(Ok(Answer::Ended(exit_code))) => exit_code,
        Some(Ok(Answer::Failed {
            errno: libc::ESRCH, ..
        })) => return Err(Error::Ended),
        Some(Ok(answer)) => return Err(refused(answer, program)),
        _ if container.try_wait()?.is_some() => return Err(Error::Ended),
        _ => return Err(sent.err().map_or(Error::Lost, Error::Io)),
    };
    Ok(Executed {
        exit_code,
        output: running.output,
        timed_out,
    })
}

struct Running {
    stub: Child,
    socket: UnixStream,
    pipe: io::PipeReader,
    output: Vec<u8>,
    max_output: usize,
    /// Whether somebody may still write.
    open: bool,
}

impl Running {
    /// What the stub said until it ended, and whether it had to be told to.
    fn wait(&mut self, timeout: Duration) -> io::Result<(Vec<u8>, bool)> {
        let deadline = Instant::now() + timeout;
        let (mut said, mut timed_out) = (Vec::new(), false);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !timed_out {
                timed_out = true;
                self.socket.shutdown(std::net::Shutdown::Write)?;
            }
            let mut events = vec![PollFd::new(&self.socket, PollFlags::IN)];
            events.extend(self.open.then(|| PollFd::new(&self.pipe, PollFlags::IN)));
            let left = Timespec::try_from(left).expect("a time that a clock can tell");
            match poll(&mut events, (!timed_out).then_some(&left)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let answered = !events[0].revents().is_empty();
            if events.get(1).is_some_and(|pipe| !pipe.revents().is_empty()) {
                self.read()?;
            }
            if answered {
                let mut buffer = [0; 4 << 10];
                match self.socket.read(&mut buffer) {
                    Ok(0) => return Ok((said, timed_out)),
                    Ok(read) => said.extend(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok((said, timed_out));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Whether there was something to read.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        match self.pipe.read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(read) => {
                let room = self.max_output - self.output.len();
                self.output.extend(&buffer[..read.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(self.open)
    }
}

/// The stub, which has one thread. It stays outside of the container's pid namespace: no process inside sees
/// it. Its child returns from here only if it fails.
pub(super) fn stub(inside: &Inside, socket: &UnixStream, descriptors: Vec<OwnedFd>) -> i32 {
    let mut descriptors = descriptors.into_iter();
    let (Some(container), Some(output)) = (descriptors.next(), descriptors.next()) else {
        return 1;
    };
    match enter(&container) {
        Err(refusal) => {
            answer(socket, &Answer::from(refusal));
            1
        }
        Ok((processes, Some(child))) => {
            drop(output);
            if let Some(code) = watch(socket, &processes, child) {
                answer(socket, &Answer::Ended(code));
            }
            0
        }
        Ok((_, None)) => {
            let ended = settle(&inside.cwd, &output, &output, &inside.identity)
                .map_err(Answer::from)
                .and_then(|()| become_program(&inside.argv, &inside.env));
            let Err(complaint) = ended;
            answer(socket, &complaint);
            127
        }
    }
}

/// Enters the container; gives `/proc` of the world and the process inside to the stub, and `None` for the
/// process to that process.
fn enter(container: &OwnedFd) -> Result<(OwnedFd, Option<Pid>)> {
    // Nobody inside may look into a process that still is our program, or write that program's file.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(|| "stay hidden".to_owned())?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let processes = openat(CWD, "/proc", flags, Mode::empty()).during(|| "open /proc".to_owned())?;
    let all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    rustix::thread::move_into_thread_name_spaces(container.as_fd(), all)
        .during(|| "enter the container".to_owned())?;
    let child = sys::fork().during(|| "fork".to_owned())?;
    Ok((processes, child))
}

/// Waits for the program, and kills its session when the world hangs up.
fn watch(socket: &UnixStream, processes: &OwnedFd, child: Pid) -> Option<i32> {
    let pidfd = pidfd(child).ok()?;
    loop {
        let mut events = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(socket, PollFlags::RDHUP),
        ];
        if poll(&mut events, None).is_err() {
            continue;
        }
        if !events[1].revents().is_empty() {
            kill_session(processes, child);
        }
        if !events[0].revents().is_empty() || !events[1].revents().is_empty() {
            let (_, status) = rustix::process::waitpid(Some(child), WaitOptions::empty()).ok()??;
            return Some(crate::sandbox::exit_code(status));
        }
    }
}

/// Kills every process of the session that `leader` leads, until there is none.
fn kill_session(processes: &OwnedFd, leader: Pid) {
    // A fork bomb may be faster than we are; it is not the world's end.
    for _ in 0..100 {
        let _ = rustix::process::kill_process(leader, Signal::KILL);
        let others = session(processes, leader);
        if others.is_empty() {
            return;
        }
        for pid in others {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// The living processes of a session but its leader.
fn session(processes: &OwnedFd, leader: Pid) -> Vec<Pid> {
    let Ok(entries) = rustix::fs::Dir::read_from(processes) else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str().ok()?.parse().ok()?));
    pids.filter(|pid| *pid != leader && session_of(processes, *pid) == Some(leader))
        .collect()
}

/// The session of a process that lives.
fn session_of(processes: &OwnedFd, pid: Pid) -> Option<Pid> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("{}/stat", pid.as_raw_pid());
    let mut file = fs::File::from(openat(processes, path, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    // The name, in parentheses, may hold anything; then come state, parent, group and session.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let session = Pid::from_raw(fields.nth(2)?.parse().ok()?);
    session.filter(|_| !dead)
}
