//! The first processes of a sandbox. The outer one enters the namespaces and watches over the inner one,
//! which is process 1 inside: it builds the root, starts the action, and reaps.
//!
//! Runs in a process of its own that has one thread, never in skep itself.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, PidfdFlags, Resource, Signal, WaitOptions, WaitStatus};
use rustix::thread::CapabilitySet;

use super::BESIDE;
use super::filter::{PERSONALITY, Program};
use super::mounts::{INPUT, OUTPUT, bind, devices, overlay, pivot, seal, tmpfs};
use super::privilege::{bring_loopback_up, drop_all_but, enter_user_namespace, limit_to, write};
use super::proc;
use super::refusal::{During as _, Refusal, Result};
use super::spec::{ARGUMENT, Spec, Status, Step};
use super::sys;
use super::watch::{DiskWatch, MemoryWatch};
use super::wire::{self, answer};
use crate::tree::TreePath;

/// The uid and gid that an action sees itself run as.
const INNER_ID: u32 = 1000;

const HOST_NAME: &[u8] = b"skep";

/// Limits of every action. What would be inherited else is that of the shell that skep runs in.
const LIMITS: [(Resource, u64); 13] = [
    (Resource::As, u64::MAX),
    (Resource::Core, 0),
    (Resource::Cpu, u64::MAX),
    (Resource::Data, u64::MAX),
    (Resource::Memlock, 8 << 20),
    (Resource::Msgqueue, 800 << 10),
    (Resource::Nice, 0),
    (Resource::Nofile, 16_384),
    (Resource::Rss, u64::MAX),
    (Resource::Rtprio, 0),
    (Resource::Rttime, u64::MAX),
    (Resource::Sigpending, 4096),
    (Resource::Stack, 8 << 20),
];

/// If this process was started to be a sandbox's init, does that and does not return.
pub fn init_if_asked() {
    if wire::is_asked(ARGUMENT) {
        std::process::exit(outer());
    }
}

fn outer() -> i32 {
    let Ok((socket, spec, _)) = wire::receive::<Spec>() else {
        return 1;
    };
    let memory = MemoryWatch::new(&spec).during(|| "watch memory".to_owned());
    let ended = match memory.and_then(|memory| Ok((memory, enter(&spec)?))) {
        Ok((_, None)) => return inner(&spec, socket),
        Ok((memory, Some(child))) => watch(&spec, memory, &socket, child),
        Err(refusal) => Err(refusal),
    };
    match ended {
        Ok(()) => 0,
        Err(refusal) => {
            answer::<Status>(&socket, &refusal.into());
            1
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Status::Failed {
            errno: refusal.errno(),
            step: refusal.step,
        }
    }
}

/// Enters the namespaces; gives the inner process to the outer one, and `None` to the inner one.
fn enter(spec: &Spec) -> Result<Option<Pid>> {
    enter_user_namespace(spec.drop_to, INNER_ID, INNER_ID)?;
    sys::unshare(sys::NAMESPACES).during(|| "unshare the other namespaces".to_owned())?;
    die_with_parent()?;
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let this = this.during(|| "open this process".to_owned())?;
    let child = sys::fork().during(|| "fork".to_owned())?;
    if child.is_none() {
        die_with_parent()?;
        // A parent that ended before that tells nothing to its child.
        let mut events = [PollFd::new(&this, PollFlags::IN)];
        let now = Timespec::default();
        if poll(&mut events, Some(&now)) != Ok(0) {
            std::process::exit(1);
        }
    }
    Ok(child)
}

fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .during(|| "set the death signal".to_owned())
}

/// Waits for the inner process, and kills it when the parent hangs up or the action goes past a bound. When it
/// is gone, the kernel has removed every process of the sandbox.
fn watch(spec: &Spec, mut memory: MemoryWatch, socket: &UnixStream, child: Pid) -> Result<()> {
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty()).during(|| "watch".to_owned())?;
    let mut disk = DiskWatch::new(spec).during(|| "watch outputs".to_owned())?;
    loop {
        let mut events = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP),
        ];
        let timeout = Timespec::try_from(memory.left().min(disk.left())).expect("a short time");
        if poll(&mut events, Some(&timeout)).is_err() {
            continue;
        }
        let [ended, hung_up] = [0, 1].map(|n: usize| !events[n].revents().is_empty());
        if hung_up {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        if ended || hung_up {
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            if let Some(bound) = memory.full() {
                answer::<Status>(socket, &Status::Exceeded(bound));
            }
            return Ok(());
        }
        if let Some(bound) = memory.look().or_else(|| disk.look()) {
            answer::<Status>(socket, &Status::Exceeded(bound));
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
    }
}

/// Process 1 of the sandbox.
fn inner(spec: &Spec, socket: UnixStream) -> i32 {
    let started = be_first_to_go().and_then(|()| build_root(spec)).and_then(|()| {
        let child = sys::fork().during(|| "fork".to_owned())?;
        if let Some(child) = child {
            return Ok(child);
        }
        let status = match start(spec) {
            Ok(never) => match never {},
            Err(status) => status,
        };
        answer::<Status>(&socket, &status);
        std::process::exit(127);
    });
    match started {
        Err(refusal) => answer::<Status>(&socket, &refusal.into()),
        Ok(child) => answer::<Status>(&socket, &Status::Ended(reap_until(child))),
    }
    0
}

/// Makes the kernel end this process and those below it before any other, if memory runs out.
fn be_first_to_go() -> Result<()> {
    write("/proc/self/oom_score_adj", "1000")
}

/// Reaps every process that ends, until the action's own has.
fn reap_until(child: Pid) -> i32 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return exit_code(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 128,
        }
    }
}

/// The exit code, or 128 and the signal.
pub(crate) fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 128,
    }
}

/// The root file system, and this process in it.
fn build_root(spec: &Spec) -> Result<()> {
    // Directories that are made anew have the mode of those that are bound.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    rustix::system::sethostname(HOST_NAME).during(|| "set the host name".to_owned())?;
    bring_loopback_up()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during(|| "make mounts private".to_owned())?;
    let root = &spec.root;
    tmpfs(root, "mode=0755,size=256m,nr_inodes=1m")?;
    for step in &spec.steps {
        take(root, step)?;
    }
    let special = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(&path).during(|| format!("create /{name}"))?;
        Ok(path)
    };
    tmpfs(
        &special("tmp")?,
        &format!(
            "mode=1777,size={},nr_inodes={}",
            spec.bounds.memory, spec.bounds.entries
        ),
    )?;
    proc::mount(&special("proc")?, spec.shown_memory)?;
    devices(&special("dev")?, || match &spec.beside {
        Some(from) => {
            let at = root.join(BESIDE.trim_start_matches('/'));
            fs::create_dir(&at).during(|| format!("create {BESIDE}"))?;
            bind(from, &at, INPUT)
        }
        None => Ok(()),
    })?;
    seal(root)?;
    pivot(root)
}

fn take(root: &Path, step: &Step) -> Result<()> {
    let inside = |at: &TreePath| -> PathBuf { root.join(at.to_string()) };
    match step {
        Step::Directory { at } => fs::create_dir_all(inside(at)).during(|| format!("create /{at}")),
        Step::Link { at, target } => symlink(target, inside(at)).during(|| format!("link /{at}")),
        Step::File { at, content, mode } => {
            let path = inside(at);
            fs::create_dir_all(path.parent().expect("files have names"))
                .during(|| format!("create /{at}"))?;
            fs::OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(*mode)
                .open(path)
                .and_then(|mut file| file.write_all(content))
                .during(|| format!("write /{at}"))
        }
        Step::Bind { at, from } => bind(from, &inside(at), INPUT),
        Step::BindFile { at, from } => {
            let path = inside(at);
            File::create(&path).during(|| format!("create /{at}"))?;
            bind(from, &path, INPUT)
        }
        Step::Output { at, from } => bind(from, &inside(at), OUTPUT),
        Step::Overlay { at, lower, scratch } => {
            let upper = scratch.join("upper");
            fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))
                .during(|| format!("open /{at}"))?;
            overlay(&inside(at), &format!("/{at}"), lower, scratch)
        }
    }
}

/// Becomes the action's program.
fn start(spec: &Spec) -> std::result::Result<std::convert::Infallible, Status> {
    prepare(spec)?;
    let strings = |strings: Vec<String>| {
        let strings = strings
            .into_iter()
            .map(CString::new)
            .collect::<std::result::Result<Vec<_>, _>>();
        strings.map_err(|_| Status::NoProgram(libc::EINVAL))
    };
    let argv = strings(spec.argv.clone())?;
    let env = strings(
        spec.env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
    )?;
    let error = match sys::exec(&argv[0], &argv, &env) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    Err(Status::NoProgram(error.raw_os_error().unwrap_or(libc::ENOEXEC)))
}

fn prepare(spec: &Spec) -> std::result::Result<(), Status> {
    let cwd = format!("/{}", spec.cwd);
    rustix::process::chdir(&*cwd).during(|| format!("enter {cwd}"))?;
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let null = File::open("/dev/null").during(|| "open /dev/null".to_owned())?;
    rustix::stdio::dup2_stdin(&null).during(|| "close stdin".to_owned())?;
    drop(null);
    sys::close_on_exec_above(2).during(|| "close descriptors".to_owned())?;
    for (resource, limit) in LIMITS.into_iter().chain([
        (Resource::Nproc, spec.max_processes),
        (Resource::Fsize, spec.bounds.output),
    ]) {
        limit_to(resource, limit).during(|| format!("limit {resource:?}"))?;
    }
    // Rust's runtime ignores SIGPIPE, and whatever started skep may have ignored or blocked more.
    sys::reset_signals().during(|| "reset signals".to_owned())?;
    sys::set_personality(PERSONALITY).during(|| "set the personality".to_owned())?;
    Ok(drop_all_but(CapabilitySet::empty(), Program::Action)?)
}
