//! The first processes of a sandbox. The outer one enters the namespaces and watches over the inner one,
//! which is process 1 inside: it builds the root, starts the action, and reaps.
//!
//! Runs in a process of its own that has one thread, never in skep itself.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus};

use super::spec::{ARGUMENT, MAX_SPEC, Spec, Status, Step};
use super::{filter, sys};
use crate::tree::TreePath;

/// The uid and gid that an action sees itself run as.
const INNER_ID: u32 = 1000;

const HOST_NAME: &[u8] = b"skep";

const DEVICES: [&str; 5] = ["full", "null", "random", "urandom", "zero"];

/// If this process was started to be a sandbox's init, does that and does not return.
pub fn init_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == ARGUMENT) && arguments.next().is_none() {
        std::process::exit(outer());
    }
}

/// What failed, and what the kernel said.
struct Refusal {
    step: String,
    source: io::Error,
}

type Result<T> = std::result::Result<T, Refusal>;

/// Names the step that an error belongs to.
trait During<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Refusal {
            step: step(),
            source: error.into(),
        })
    }
}

fn outer() -> i32 {
    let Ok((mut socket, spec)) = receive() else {
        return 1;
    };
    match enter(&spec) {
        Err(refusal) => {
            answer(&mut socket, &refusal.into());
            1
        }
        Ok(None) => inner(&spec, socket),
        Ok(Some(child)) => {
            watch(&socket, child);
            0
        }
    }
}

/// The specification, from the socket that is this process's stdin.
fn receive() -> io::Result<(UnixStream, Spec)> {
    let mut socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_SPEC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    (&mut socket).take(length).read_to_end(&mut bytes)?;
    Ok((socket, serde_json::from_slice(&bytes)?))
}

fn answer(socket: &mut UnixStream, status: &Status) {
    let bytes = serde_json::to_vec(status).expect("plain data encodes");
    // A parent that went away needs no answer.
    let _ = socket.write_all(&bytes);
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Status::Failed {
            step: refusal.step,
            errno: refusal.source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// Enters the namespaces; gives the inner process to the outer one, and `None` to the inner one.
fn enter(spec: &Spec) -> Result<Option<Pid>> {
    if let Some(id) = spec.drop_to {
        sys::become_user(id).during(|| format!("become uid {id}"))?;
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .during(|| "stay inspectable".to_owned())?;
    }
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    sys::unshare(libc::CLONE_NEWUSER).during(|| "unshare the user namespace".to_owned())?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{INNER_ID} {} 1", uid.as_raw()))?;
    write("/proc/self/gid_map", &format!("{INNER_ID} {} 1", gid.as_raw()))?;
    sys::unshare(sys::NAMESPACES).during(|| "unshare the other namespaces".to_owned())?;
    die_with_parent()?;
    let child = sys::fork().during(|| "fork".to_owned())?;
    if child.is_none() {
        die_with_parent()?;
    }
    Ok(child)
}

fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .during(|| "set the death signal".to_owned())
}

fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).during(|| format!("write {path}"))
}

/// Waits for the inner process, and kills it when the parent hangs up. When it is gone, the kernel has
/// removed every process of the sandbox.
fn watch(socket: &UnixStream, child: Pid) {
    let Ok(pidfd) = rustix::process::pidfd_open(child, PidfdFlags::empty()) else {
        return;
    };
    loop {
        let mut events = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP),
        ];
        if poll(&mut events, None).is_err() {
            continue;
        }
        if !events[1].revents().is_empty() {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        if !events[0].revents().is_empty() || !events[1].revents().is_empty() {
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            return;
        }
    }
}

/// Process 1 of the sandbox.
fn inner(spec: &Spec, mut socket: UnixStream) -> i32 {
    let started = build_root(spec).and_then(|()| {
        let child = sys::fork().during(|| "fork".to_owned())?;
        if let Some(child) = child {
            return Ok(child);
        }
        let status = match start(spec) {
            Ok(never) => match never {},
            Err(status) => status,
        };
        answer(&mut socket, &status);
        std::process::exit(127);
    });
    match started {
        Err(refusal) => answer(&mut socket, &refusal.into()),
        Ok(child) => answer(&mut socket, &Status::Ended(reap_until(child))),
    }
    0
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

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 128,
    }
}

/// The root file system, and this process in it.
fn build_root(spec: &Spec) -> Result<()> {
    rustix::process::umask(rustix::fs::Mode::empty());
    rustix::system::sethostname(HOST_NAME).during(|| "set the host name".to_owned())?;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .during(|| "open a socket".to_owned())?;
    sys::loopback_up(socket.as_fd()).during(|| "bring the loopback interface up".to_owned())?;
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
        &format!("mode=1777,size={},nr_inodes=4m", spec.max_file),
    )?;
    let proc = special("proc")?;
    mount(
        "proc",
        &proc,
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .during(|| "mount /proc".to_owned())?;
    devices(&special("dev")?)?;
    seal(root)?;
    rustix::process::chdir(root).during(|| "enter the new root".to_owned())?;
    rustix::process::pivot_root(".", ".").during(|| "pivot the root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).during(|| "leave the old root".to_owned())
}

fn tmpfs(at: &Path, options: &str) -> Result<()> {
    let options = CString::new(options).expect("options have no NUL");
    mount(
        "tmpfs",
        at,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(options.as_c_str()),
    )
    .during(|| format!("mount a tmpfs on {}", at.display()))
}

fn devices(dev: &Path) -> Result<()> {
    tmpfs(dev, "mode=0755,size=64k,nr_inodes=64")?;
    for name in DEVICES {
        let at = dev.join(name);
        File::create(&at).during(|| format!("create /dev/{name}"))?;
        bind(
            &Path::new("/dev").join(name),
            &at,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
        )?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(target, dev.join(name)).during(|| format!("create /dev/{name}"))?;
    }
    let shm = dev.join("shm");
    fs::create_dir(&shm).during(|| "create /dev/shm".to_owned())?;
    tmpfs(&shm, "mode=1777,size=256m")?;
    seal(dev)
}

/// Makes the tmpfs at `at` unchangeable; what is mounted on it stays as it is.
fn seal(at: &Path) -> Result<()> {
    let mount = rustix::fs::open(
        at,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .during(|| format!("open {}", at.display()))?;
    sys::set_mount_attributes(mount.as_fd(), libc::MOUNT_ATTR_RDONLY)
        .during(|| format!("seal {}", at.display()))
}

const INPUT: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const OUTPUT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// Mounts what stands at `from` on `to`.
fn bind(from: &Path, to: &Path, attributes: u64) -> Result<()> {
    let step = || format!("bind {} on {}", from.display(), to.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree: OwnedFd = open_tree(CWD, from, flags).during(step)?;
    sys::set_mount_attributes(tree.as_fd(), attributes).during(step)?;
    move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during(step)
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
            let options = format!(
                "userxattr,index=off,xino=off,lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.display(),
                scratch.join("work").display()
            );
            let options = CString::new(options).expect("paths of the store have no NUL");
            fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))
                .during(|| format!("open /{at}"))?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("overlay", inside(at), "overlay", flags, Some(options.as_c_str()))
                .during(|| format!("mount an overlay on /{at}"))
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
    let error = match sys::exec(&argv, &env) {
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
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Nproc, spec.max_processes),
        (Resource::Fsize, spec.max_file),
        (Resource::Stack, 8 << 20),
        (Resource::Nofile, 16_384),
    ] {
        limit_to(resource, limit).during(|| format!("limit {resource:?}"))?;
    }
    drop_privileges()
}

/// Sets a limit that an action cannot raise; a host that allows less has the last word.
fn limit_to(resource: Resource, limit: u64) -> rustix::io::Result<()> {
    let allowed = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Some(limit.min(allowed));
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
}

fn drop_privileges() -> std::result::Result<(), Status> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // Numbers that this kernel does not know are refused, and need not be removed.
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set().during(|| "clear ambient capabilities".to_owned())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).during(|| "drop capabilities".to_owned())?;
    rustix::thread::set_no_new_privs(true).during(|| "forbid new privileges".to_owned())?;
    let programs = filter::programs().map_err(|_| Status::Failed {
        step: "compile the system call filter".to_owned(),
        errno: libc::EINVAL,
    })?;
    for program in programs {
        seccompiler::apply_filter(&program).map_err(|_| Status::Failed {
            step: "install the system call filter".to_owned(),
            errno: libc::EACCES,
        })?;
    }
    Ok(())
}
