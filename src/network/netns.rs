//! Network namespaces: makes one for a replica, and sets the one that the supervisor stands in. Decides
//! nothing about addresses.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netlink::Netlink;
use super::{During as _, Error};
use crate::sandbox::sys;

/// A network namespace of its own, with a loopback interface that is up. It goes when this is dropped and the
/// last process in it has ended.
#[derive(Debug)]
pub struct Netns {
    namespace: OwnedFd,
    /// Opened inside, so that nobody has to go there to configure it.
    netlink: Mutex<Netlink>,
}

impl Netns {
    /// Needs CAP_SYS_ADMIN and CAP_NET_ADMIN in the user namespace of the caller, and a writable `/proc/sys`
    /// that belongs to its pid namespace. The caller's thread stays where it is.
    pub fn new() -> Result<Netns, Error> {
        // A thread that leaves its namespace cannot be given back to anybody: it ends here.
        let thread = thread::Builder::new().name("netns".to_owned());
        let made = thread
            .spawn(|| {
                sys::unshare_network().during(|| "unshare the network".to_owned())?;
                let namespace = own()?;
                Ok(Netns {
                    namespace,
                    netlink: Mutex::new(settle()?),
                })
            })
            .during(|| "start a thread".to_owned())?;
        made.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread into the namespace, for good. A process that is about to become a replica
    /// calls this while it has one thread, CAP_SYS_ADMIN, and the user namespace that the namespace was made in.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(
            self.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// What `work` gives, done by a thread inside the namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Does something with the inside's configuration.
    pub(super) fn configure<T>(&self, work: impl FnOnce(&mut Netlink) -> io::Result<T>) -> io::Result<T> {
        // A request that panicked left no half of an answer that the next one could take for its own.
        work(&mut self.netlink.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// The namespace of the calling thread.
fn own() -> Result<OwnedFd, Error> {
    let file =
        File::open("/proc/thread-self/ns/net").during(|| "open /proc/thread-self/ns/net".to_owned())?;
    Ok(file.into())
}

/// Makes the calling thread's network namespace fit for a preview. Refuses one from which a route leads
/// somewhere: it is the host's.
///
/// `/proc/sys/net` shows each thread the settings of the namespace that it stands in. The kernel copies some of
/// them from the host's into a new one, forwarding among them, which Docker turns on.
pub(super) fn settle() -> Result<Netlink, Error> {
    let routes = "/proc/thread-self/net/route";
    let table = fs::read_to_string(routes).during(|| format!("read {routes}"))?;
    if table.lines().count() > 1 {
        return Err(Error::NotAlone);
    }
    set("ipv4/ip_forward", "0")?;
    // Any user inside may serve port 80 and ping, as container engines have it.
    set("ipv4/ip_unprivileged_port_start", "0")?;
    set("ipv4/ping_group_range", &ping_groups()?)?;
    if fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
        // Networks are IPv4; no interface but `lo` gets an address by itself. IPv6 sockets still work.
        set("ipv6/conf/default/addr_gen_mode", "1")?;
        set("ipv6/conf/default/accept_ra", "0")?;
    }
    let mut netlink = Netlink::open().during(|| "open a netlink socket".to_owned())?;
    netlink
        .up("lo")
        .during(|| "bring the loopback interface up".to_owned())?;
    Ok(netlink)
}

fn set(setting: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{setting}");
    fs::write(&path, value).during(|| format!("write {path}"))
}

/// A range of group numbers that holds all of this user namespace. The kernel takes only mapped ones.
fn ping_groups() -> Result<String, Error> {
    let path = "/proc/thread-self/gid_map";
    let map = fs::read_to_string(path).during(|| format!("read {path}"))?;
    let range = widest(&map).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
    let (first, last) = range.during(|| format!("read {path}"))?;
    Ok(format!("{first} {last}"))
}

/// The inner numbers of the lowest and the highest outer group: those are what the kernel compares.
fn widest(map: &str) -> Option<(u32, u32)> {
    let mut groups = Vec::new();
    for line in map.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inner, outer, count) = (
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
        );
        // The last number of all is no group, and the kernel refuses one above i32::MAX here.
        let last = count.checked_sub(1)?.min((i32::MAX as u32).checked_sub(inner)?);
        groups.extend([(outer, inner), (outer.checked_add(last)?, inner + last)]);
    }
    Some((groups.iter().min()?.1, groups.iter().max()?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_range_of_groups_is_found() {
        assert_eq!(widest("         0       1000          1\n"), Some((0, 0)));
        assert_eq!(
            widest("         0          0 4294967295\n"),
            Some((0, i32::MAX as u32))
        );
        assert_eq!(widest("0 1000 1\n1 100000 65536\n"), Some((0, 65_536)));
        assert_eq!(widest(""), None);
        assert_eq!(widest("a b c"), None);
    }
}
