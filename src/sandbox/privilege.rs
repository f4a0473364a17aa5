//! What a process of ours takes on and gives up before it becomes a program that is not: the user that it
//! is, its network device, limits, capabilities and system calls.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::filter::{self, Program};
use super::refusal::{During as _, Refusal, Result};
use super::sys;

/// Enters a user namespace of its own, in which this process is `uid` and `gid` and has every capability.
/// With `drop_to`, becomes that user first. The process must have one thread.
pub(crate) fn enter_user_namespace(drop_to: Option<u32>, uid: u32, gid: u32) -> Result<()> {
    if let Some(id) = drop_to {
        sys::become_user(id).during(|| format!("become uid {id}"))?;
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .during(|| "stay inspectable".to_owned())?;
    }
    let (outer_uid, outer_gid) = (rustix::process::getuid(), rustix::process::getgid());
    sys::unshare(libc::CLONE_NEWUSER).during(|| "unshare the user namespace".to_owned())?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {} 1", outer_uid.as_raw()))?;
    write("/proc/self/gid_map", &format!("{gid} {} 1", outer_gid.as_raw()))
}

/// Writes a file of the kernel.
pub(crate) fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).during(|| format!("write {path}"))
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn bring_loopback_up() -> Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .during(|| "open a socket".to_owned())?;
    sys::loopback_up(socket.as_fd()).during(|| "bring the loopback interface up".to_owned())
}

/// Sets a limit that cannot be raised again; a host that allows less has the last word.
pub(crate) fn limit_to(resource: Resource, limit: u64) -> rustix::io::Result<()> {
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

/// Gives up every capability but `kept`, the way to new ones, and the calls that the filter refuses to `program`.
pub(crate) fn drop_all_but(kept: CapabilitySet, program: Program) -> Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        // Numbers that this kernel does not know are refused, and need not be removed.
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set().during(|| "clear ambient capabilities".to_owned())?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).during(|| "drop capabilities".to_owned())?;
    rustix::thread::set_no_new_privs(true).during(|| "forbid new privileges".to_owned())?;
    let refusal = |step: &str, errno: i32| Refusal {
        step: step.to_owned(),
        source: io::Error::from_raw_os_error(errno),
    };
    let programs =
        filter::programs(program).map_err(|_| refusal("compile the system call filter", libc::EINVAL))?;
    for program in programs {
        seccompiler::apply_filter(&program)
            .map_err(|_| refusal("install the system call filter", libc::EACCES))?;
    }
    Ok(())
}
