//! System calls that Rust cannot check: the only `unsafe` code. Each function is one call.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::process::Pid;

/// Namespaces in which every sandbox and every supervisor is alone, but for the user namespace, which comes first.
pub(crate) const NAMESPACES: i32 = libc::CLONE_NEWNS
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
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
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
pub(crate) fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: takes no pointers but a null one with a length of 0.
    check(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setresgid(id, id, id) }.into())?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setresuid(id, id, id) }.into()).map(drop)
}

/// Words of a file in memory that other processes see change, for as long as this process lives. The file is long
/// enough for them, and stays so.
pub(crate) fn share_words<const N: usize>(file: BorrowedFd<'_>) -> io::Result<&'static [AtomicU64; N]> {
    let length = size_of::<[AtomicU64; N]>();
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is as long as the words, aligned to a page, and never unmapped; any bytes are words, and
    // others only change them as a whole.
    Ok(unsafe { &*start.cast::<[AtomicU64; N]>() })
}

/// Forks. `None` in the child, which goes on with a copy of everything.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread, so that no lock can be held by another in the child's copy.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(Pid::from_raw(i32::try_from(pid).unwrap_or(0)))
}

/// Which mounts of a tree are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The one at its root.
    One,
    /// Those below as well.
    All,
}

/// Sets mount attributes (such as `MOUNT_ATTR_RDONLY`) of a detached or attached mount.
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64, reach: Reach) -> io::Result<()> {
    let recursive = if reach == Reach::All {
        libc::AT_RECURSIVE
    } else {
        0
    };
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
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Sets what this process and the programs that it becomes expect of the kernel, such as `ADDR_NO_RANDOMIZE`.
pub(crate) fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: takes no pointers; what it changes takes effect when a program is executed.
    check(unsafe { libc::personality(persona.into()) }.into()).map(drop)
}

/// Bytes of System V shared memory of this ipc namespace, in memory or swapped.
pub(crate) fn shared_segments() -> io::Result<u64> {
    /// `struct shm_info` of `shmctl(2)`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        segments: libc::c_int,
        pages: [libc::c_ulong; 5],
    }
    const SHM_INFO: libc::c_int = 14;
    let mut info = Info::default();
    // SAFETY: for this command the kernel writes the structure above, which is live.
    check(unsafe { libc::shmctl(0, SHM_INFO, (&raw mut info).cast()) }.into())?;
    // Of all, resident, swapped, and two counts of attempts to swap.
    let [_, resident, swapped, ..] = info.pages;
    // SAFETY: takes no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok((resident + swapped) * u64::try_from(page).unwrap_or(4096))
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
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
pub(crate) fn close_on_exec_above(last: u32) -> io::Result<()> {
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

/// Closes every descriptor above `last`. The caller must use none of them again, and end without dropping
/// what owns them.
pub(crate) fn close_above(last: u32) {
    // SAFETY: takes no pointers; the caller does not use what is closed. It cannot fail.
    unsafe { libc::syscall(libc::SYS_close_range, last + 1, u32::MAX, 0) };
}

/// Replaces this program by the one at `path`. Returns only if that fails.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let pointers = |strings: &[CString]| {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        pointers
    };
    let (argv_pointers, env_pointers) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer, and the strings that they point to are live.
    unsafe { libc::execve(path.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Makes `number` another name of `descriptor`, one that the next `execve` keeps. What had that number is
/// closed: the caller must own nothing there.
pub(crate) fn place_at(descriptor: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: takes no pointers; the caller's own descriptors have other numbers.
    check(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }.into()).map(drop)
}

/// A new descriptor, closed by the next `execve`, for what this process was started with as `number`, which
/// from now on is closed by it too.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; a number that is not open is refused.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: as above.
    let new = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: the kernel just made it for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(new).expect("descriptors are small")) })
}

/// The set of all signals.
fn every_signal() -> libc::sigset_t {
    // SAFETY: an all-zero set is a valid value of this plain C structure.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live value.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

/// How many signals the kernel knows.
const SIGNALS: usize = 64;

/// Lets every signal do what it does in a program that has not asked for anything else, and blocks none.
/// What was ignored, such as SIGPIPE by Rust's runtime, would stay so in the next program.
pub(crate) fn reset_signals() -> io::Result<()> {
    // The C library keeps two signals to itself, which its way to spawn leaves ignored: so not through it.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: all zeroes are the kernel's structure, at most this large, for the default action; signals
        // that have no other are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGNALS / 8,
            )
        };
    }
    let set = every_signal();
    // SAFETY: the set is live, and the old one is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// Holds every signal back until it is [waited for](next_signal).
pub(crate) fn block_signals() -> io::Result<()> {
    let set = every_signal();
    // SAFETY: the set is live, and the old one is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// The next of the signals that are held back.
pub(crate) fn next_signal() -> io::Result<i32> {
    let set = every_signal();
    // SAFETY: the set is live, and what else is known of the signal is not asked for.
    check(unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) }.into())
        .map(|signal| i32::try_from(signal).unwrap_or(0))
}
