//! Starts a container: from the world's side, and in the stub that hands its child over by ending.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::LinkNameSpaceType;

use super::program::{become_program, settle};
use super::spec::{ARGUMENT, Answer, Order, Spec};
use super::{Container, Descriptors, Error, Identity, init, pidfd, refused, root};
use crate::sandbox::privilege::{bring_loopback_up, enter_user_namespace, write};
use crate::sandbox::refusal::{During as _, Result};
use crate::sandbox::sys;
use crate::sandbox::wire::{self, answer};

/// The world holds the child: it may become the program.
const GO: u8 = 1;

const NAMESPACES: i32 = sys::NAMESPACES & !libc::CLONE_NEWNET;

pub(super) fn start(
    exe: &Path,
    spec: &Spec,
    descriptors: Descriptors<'_>,
) -> std::result::Result<Container, Error> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut stub = Command::new(exe)
        .arg(ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let fds: Vec<_> = [descriptors.stdout, descriptors.stderr]
        .into_iter()
        .chain(descriptors.network)
        .collect();
    let sent = wire::send(&socket, &Order::Start(spec.clone()), &fds);
    let mut answers = serde_json::Deserializer::from_reader(&socket).into_iter::<Answer>();
    let first = answers.next();
    // The stub has ended, or is about to: only then is its child ours.
    stub.wait()?;
    let program = spec.argv.first().map_or("", String::as_str);
    let pid = match first {
        Some(Ok(Answer::Pid(pid))) => Pid::from_raw(pid).ok_or(Error::Lost)?,
        Some(Ok(other)) => return Err(refused(other, program)),
        _ => return Err(sent.err().map_or(Error::Lost, Error::Io)),
    };
    let container = Container {
        exe: exe.to_owned(),
        identity: Identity {
            uid: spec.uid,
            gid: spec.gid,
        },
        pid,
        pidfd: pidfd(pid)?,
        exit: Mutex::new(None),
    };
    // A child that failed already does not listen, and has said why.
    let _ = (&socket).write_all(&[GO]);
    match answers.next() {
        None => Ok(container),
        Some(Ok(answer)) => Err(refused(answer, program)),
        Some(Err(_)) => Err(Error::Lost),
    }
}

/// The stub, which has one thread. Its child returns from here only if it fails.
pub(super) fn stub(spec: &Spec, socket: UnixStream, descriptors: Vec<OwnedFd>) -> i32 {
    let mut descriptors = descriptors.into_iter();
    let (Some(stdout), Some(stderr)) = (descriptors.next(), descriptors.next()) else {
        return 1;
    };
    match enter(descriptors.next()) {
        Err(refusal) => {
            answer(&socket, &Answer::from(refusal));
            1
        }
        Ok(Some(child)) => {
            answer(&socket, &Answer::Pid(child.as_raw_pid()));
            0
        }
        Ok(None) => {
            let Err(complaint) = first_process(spec, &socket, &stdout, &stderr);
            answer(&socket, &complaint);
            127
        }
    }
}

/// Enters the namespaces; gives the first process inside to the stub, and `None` to that process.
fn enter(network: Option<OwnedFd>) -> Result<Option<Pid>> {
    // Nobody inside may look into a process that still is our program, or write that program's file.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(|| "stay hidden".to_owned())?;
    match network {
        Some(network) => {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(network.as_fd(), kind)
                .during(|| "enter the network namespace".to_owned())?;
        }
        None => {
            sys::unshare(libc::CLONE_NEWNET).during(|| "unshare the network namespace".to_owned())?;
            bring_loopback_up()?;
        }
    }
    // As docker has it: programs without privileges listen on port 80, and may ping.
    write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    sys::unshare(NAMESPACES).during(|| "unshare the other namespaces".to_owned())?;
    sys::fork().during(|| "fork".to_owned())
}

/// Process 1 of the container.
fn first_process(
    spec: &Spec,
    mut socket: &UnixStream,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
) -> std::result::Result<std::convert::Infallible, Answer> {
    root::build(spec)?;
    socket
        .read_exact(&mut [0; 1])
        .during(|| "wait to be taken over".to_owned())?;
    enter_user_namespace(None, spec.uid, spec.gid)?;
    let identity = Identity {
        uid: spec.uid,
        gid: spec.gid,
    };
    settle(&spec.cwd, stdout, stderr, &identity)?;
    if spec.init {
        init::stay()?;
    }
    become_program(&spec.argv, &spec.env)
}
