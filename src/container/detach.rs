//! Starts a world: from outside, and in the stub that leaves its process 1 behind.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::Pid;

use super::spec::{ARGUMENT, Answer, Order};
use super::{Error, refused};
use crate::sandbox::privilege::{bring_loopback_up, enter_user_namespace};
use crate::sandbox::refusal::{During as _, Refusal, Result};
use crate::sandbox::wire::{self, answer};
use crate::sandbox::{drop_to, mounts, sys};

/// Descriptors are put out of the way above this number, before they get the one that they are known by.
const ASIDE: i32 = 100;

/// What the first process of a world is.
#[derive(Debug)]
pub struct Detached<'a> {
    /// A program that calls [`super::init_if_asked`] first, such as `/proc/self/exe`.
    pub stub: &'a Path,
    /// What becomes process 1, such as `/proc/self/exe`. It gets the caller's environment.
    pub program: &'a Path,
    /// Its arguments, without its name. Everybody can read them.
    pub arguments: &'a [&'a str],
    /// Its working directory, such as the store's root. As root skep gives up its privileges first, and can
    /// then reach a store in root's home by a path from here only.
    pub directory: &'a Path,
    /// Directories that are mounted on others, for this world alone: from where the caller can reach them to
    /// paths from `directory`. Nothing else of the caller's can be reached by who gave up being root.
    pub mounts: &'a [(&'a Path, &'a Path)],
    /// Its stdin; `/dev/null` if absent.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Its stdout and stderr.
    pub log: BorrowedFd<'a>,
    /// More descriptors, at most 16: the first of them is number 3. [`inherited`] takes them.
    pub descriptors: &'a [BorrowedFd<'a>],
}

/// What the stub is told; the descriptors are the log, stdin if there is one, and the others.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct World {
    drop_to: Option<u32>,
    program: PathBuf,
    arguments: Vec<String>,
    mounts: Vec<(PathBuf, PathBuf)>,
    has_stdin: bool,
}

/// Starts a world and returns its process 1, as the caller sees it. It is in a session of its own, and not
/// the caller's child.
pub fn detach(detached: &Detached<'_>) -> std::result::Result<Pid, Error> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut stub = Command::new(detached.stub)
        .arg(ARGUMENT)
        .current_dir(detached.directory)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let order = Order::Detach(World {
        drop_to: drop_to(),
        program: detached.program.to_owned(),
        arguments: detached.arguments.iter().map(|text| (*text).to_owned()).collect(),
        mounts: detached
            .mounts
            .iter()
            .map(|(from, to)| (from.to_path_buf(), to.to_path_buf()))
            .collect(),
        has_stdin: detached.stdin.is_some(),
    });
    let descriptors: Vec<_> = [detached.log]
        .into_iter()
        .chain(detached.stdin)
        .chain(detached.descriptors.iter().copied())
        .collect();
    let sent = wire::send(&socket, &order, &descriptors);
    let mut pid = None;
    let mut complaint = None;
    for answer in serde_json::Deserializer::from_reader(&socket).into_iter::<Answer>() {
        match answer {
            Ok(Answer::Pid(raw)) => pid = Pid::from_raw(raw),
            Ok(other) => complaint = Some(refused(other, &detached.program.to_string_lossy())),
            Err(_) => complaint = Some(Error::Lost),
        }
    }
    stub.wait()?;
    match (complaint, sent, pid) {
        (Some(complaint), ..) => Err(complaint),
        (None, Ok(()), Some(pid)) => Ok(pid),
        (None, Err(error), _) => Err(error.into()),
        (None, Ok(()), None) => Err(Error::Lost),
    }
}

/// A descriptor that this process, the first of a world, was started with: `n` from 0. The next program does
/// not get it.
pub fn inherited(n: usize) -> io::Result<OwnedFd> {
    sys::inherited(i32::try_from(n).map_or(i32::MAX, |n| n.saturating_add(3)))
}

/// The stub, which has one thread. Its child returns from here only if it fails.
pub(super) fn stub(world: &World, socket: UnixStream, descriptors: Vec<OwnedFd>) -> i32 {
    match enter(world) {
        Err(refusal) => {
            answer(&socket, &Answer::from(refusal));
            1
        }
        Ok(Some(child)) => {
            answer(&socket, &Answer::Pid(child.as_raw_pid()));
            0
        }
        Ok(None) => {
            let aside = |descriptor: OwnedFd| rustix::io::fcntl_dupfd_cloexec(&descriptor, ASIDE);
            let moved = (
                aside(socket.into()),
                descriptors
                    .into_iter()
                    .map(aside)
                    .collect::<rustix::io::Result<Vec<_>>>(),
            );
            let (Ok(socket), Ok(descriptors)) = moved else {
                return 1;
            };
            let Err(refusal) = become_program(world, descriptors);
            answer(&socket.into(), &Answer::from(refusal));
            127
        }
    }
}

/// Enters the namespaces; gives process 1 to the stub, and `None` to process 1.
fn enter(world: &World) -> Result<Option<Pid>> {
    let mounts = || -> Result<()> {
        let mut mounts = world.mounts.iter();
        mounts.try_for_each(|(from, to)| mounts::bind(from, to, mounts::OUTPUT))
    };
    if world.drop_to.is_some() {
        sys::unshare(libc::CLONE_NEWNS).during(|| "unshare the mount namespace".to_owned())?;
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .during(|| "make mounts private".to_owned())?;
        mounts()?;
    }
    enter_user_namespace(world.drop_to, 0, 0)?;
    sys::unshare(sys::NAMESPACES).during(|| "unshare the other namespaces".to_owned())?;
    if world.drop_to.is_none() {
        mounts()?;
    }
    rustix::process::setsid().during(|| "begin a session".to_owned())?;
    sys::fork().during(|| "fork".to_owned())
}

/// Process 1 becomes the program. What is unmounted outside goes away inside too, and nothing the other way.
fn become_program(
    world: &World,
    descriptors: Vec<OwnedFd>,
) -> std::result::Result<std::convert::Infallible, Refusal> {
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .during(|| "make mounts private".to_owned())?;
    mounts::proc(Path::new("/proc"))?;
    bring_loopback_up()?;
    let count = place(world, descriptors).during(|| "place descriptors".to_owned())?;
    sys::close_on_exec_above(count).during(|| "close descriptors".to_owned())?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    sys::reset_signals().during(|| "reset signals".to_owned())?;
    let string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
    let encode = || -> io::Result<_> {
        let program = string(world.program.as_os_str().as_bytes().to_vec())?;
        let mut argv = vec![program.clone()];
        for argument in &world.arguments {
            argv.push(string(argument.clone().into_bytes())?);
        }
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let variable: OsString = [name.as_os_str(), value.as_os_str()].join("=".as_ref());
            env.push(string(variable.into_vec())?);
        }
        Ok((program, argv, env))
    };
    let (program, argv, env) = encode().during(|| "encode arguments".to_owned())?;
    sys::exec(&program, &argv, &env).during(|| format!("execute {}", world.program.display()))
}

/// Gives the descriptors the numbers that they are known by; the highest of these.
fn place(world: &World, descriptors: Vec<OwnedFd>) -> io::Result<u32> {
    let mut descriptors = descriptors.into_iter();
    let log = descriptors.next().ok_or(io::ErrorKind::InvalidInput)?;
    let stdin = match world.has_stdin {
        true => descriptors.next().ok_or(io::ErrorKind::InvalidInput)?,
        false => File::open("/dev/null")?.into(),
    };
    rustix::stdio::dup2_stdin(&stdin)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    let mut last = 2;
    // All that is ours has a number above those.
    drop(stdin);
    for descriptor in descriptors {
        last += 1;
        sys::place_at(descriptor.as_fd(), last)?;
    }
    Ok(last.unsigned_abs())
}
