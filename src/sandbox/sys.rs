//! System calls that Rust cannot check: the only `unsafe` code. Each function is one call.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;

/// Namespaces in which every sandbox is alone, but for the user namespace, which comes first.
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Leaves the namespaces named by `flags` for new ones. A user namespace needs a single-threaded process.
pub(super) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes no pointers; it moves this process, which has one thread and keeps its memory.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Moves the calling thread, and no other, into a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointers; threads of a process may stand in different network namespaces, and share
    // their memory and descriptors as before.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }.into()).map(drop)
}

/// Becomes another user for good: all uids and gids, and no supplementary groups.
pub(super) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: takes no pointers but a null one with a length of 0.
    check(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setresgid(id, id, id) }.into())?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setresuid(id, id, id) }.into()).map(drop)
}

/// Forks. `None` in the child, which goes on with a copy of everything.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread, so that no lock can be held by another in the child's copy.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(0)))
}

/// Sets mount attributes (such as `MOUNT_ATTR_RDONLY`) of a detached or attached mount.
pub(super) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: both pointers are to live values, and the size is that of the structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is live, and of the type that SIOCSIFFLAGS reads.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// Marks every descriptor above `last` to be closed by the next `execve`.
pub(super) fn close_on_exec_above(last: u32) -> io::Result<()> {
    // SAFETY: takes no pointers; nothing is closed before the program is replaced.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            last + 1,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Replaces this program. Returns only if that fails.
pub(super) fn exec(argv: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let pointers = |strings: &[CString]| {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        pointers
    };
    let (argv_pointers, env_pointers) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and the strings that they point to are live.
    unsafe { libc::execve(argv_pointers[0], argv_pointers.as_ptr(), env_pointers.as_ptr()) };
    Err(io::Error::last_os_error())
}
