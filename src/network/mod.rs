//! The network of a preview: bridges, names and published ports, all inside namespaces of an ordinary user.
//! Runs no replica, and knows nothing of stack files.
//!
//! The supervisor stands in a network namespace that has no way out, the hub. Each network of a preview is a
//! bridge in it, and each replica has a namespace of its own with one interface per network that it is on.
//! There is no default route anywhere, and the hub does not forward: a replica reaches its networks and
//! nothing else.
//!
//! | piece         | what it does                                                             |
//! |---------------|--------------------------------------------------------------------------|
//! | [`Hub`]       | makes networks                                                           |
//! | [`Netns`]     | is where a replica runs                                                  |
//! | [`Network`]   | attaches a replica's namespace, and gives it an address                  |
//! | [`Resolver`]  | answers for the names of one network on its gateway's address            |
//! | [`listen`]    | takes a port of the host, in the host's network namespace                |
//! | [`Forwarder`] | takes connections from such a port into the hub, and on to a replica     |
//!
//! A listening socket stays in the namespace where it was made. So the host's side listens and passes the
//! socket on ([`send_listener`]), and what the supervisor accepts on it are connections of the host, though
//! the supervisor itself can reach only replicas.

mod dns;
#[cfg(test)]
mod dns_tests;
mod forward;
#[cfg(test)]
mod forward_tests;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod name;
mod netlink;
mod netns;
mod publish;
mod resolver;
mod subnet;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use forward::{Counts, Forwarder, Limits};
pub use name::Names;
pub use netns::Netns;
pub use publish::{ListenError, Protocol, listen, receive_listener, send_listener};
pub use resolver::Resolver;
pub use subnet::Subnet;

use netlink::{End, Mac, Netlink};
use subnet::{Addresses, MAX_SUBNETS};

/// Why a network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not let it be made.
    #[error("cannot make a network: {step}: {source}{}", remedy(step, source))]
    Refused {
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A route leads out of the namespace.
    #[error("this network namespace is in use: a preview's networks are made in an empty one")]
    NotAlone,
    /// The network has no address left.
    #[error("the network `{0}` has no free address: it takes 1,021 replicas")]
    Full(String),
    /// The hub made as many networks as it can.
    #[error("no further network can be made: {MAX_SUBNETS} were made since the preview was started")]
    TooMany,
}

/// What can be done about a refusal, as the end of its message.
fn remedy(step: &str, source: &io::Error) -> &'static str {
    let kind = source.kind();
    let absent = source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error());
    if step.starts_with("write /proc/sys") && kind != io::ErrorKind::StorageFull {
        "; in a container, start it with `--security-opt systempaths=unconfined`"
    } else if absent {
        "; this kernel lacks `bridge` or `veth`: `sudo modprobe -a bridge veth` loads them"
    } else {
        ""
    }
}

/// Names the step that an error belongs to.
trait During<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Refused { step: step(), source })
    }
}

/// The network namespace of the supervisor, in which bridges stand.
#[derive(Debug)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    netlink: Netlink,
    networks: u32,
    /// Counts the veth pairs, for their names.
    pairs: u32,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Requests are whole, and names are never used again: a panic elsewhere breaks neither.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// Takes over the network namespace of the calling thread, which must be empty and the thread's process
    /// have CAP_NET_ADMIN in it. Call it once, and before there are other threads: they must stand there too.
    pub fn open() -> Result<Hub, Error> {
        let netlink = netns::settle()?;
        Ok(Hub(Arc::new(Shared {
            state: Mutex::new(State {
                netlink,
                networks: 0,
                pairs: 0,
            }),
        })))
    }

    /// Makes a network. The first has 10.128.0.0/22, the second 10.128.4.0/22, and so on, whatever their names.
    pub fn network(&self, name: &str) -> Result<Network, Error> {
        let mut state = self.0.lock();
        let subnet = Subnet::numbered(state.networks).ok_or(Error::TooMany)?;
        let bridge = format!("skep{}", state.networks);
        state.networks += 1;
        let step = || format!("make the bridge of `{name}`");
        let netlink = &mut state.netlink;
        netlink.add_bridge(&bridge, mac(subnet.gateway())).during(step)?;
        let index = netlink.index(&bridge).and_then(|index| {
            netlink.add_address(index, subnet.gateway(), &subnet)?;
            Ok(index)
        });
        if index.is_err() {
            let _ = netlink.delete(&bridge);
        }
        Ok(Network(Arc::new(Bridge {
            index: index.during(step)?,
            bridge,
            hub: Arc::clone(&self.0),
            name: name.to_owned(),
            subnet,
            addresses: Mutex::new(Addresses::of(subnet)),
        })))
    }
}

/// A network of a preview. Clones are the same one; it goes when the last of them and the last attachment do.
#[derive(Clone, Debug)]
pub struct Network(Arc<Bridge>);

#[derive(Debug)]
struct Bridge {
    hub: Arc<Shared>,
    name: String,
    /// The interface in the hub.
    bridge: String,
    index: u32,
    subnet: Subnet,
    addresses: Mutex<Addresses>,
}

impl Network {
    /// What the stack calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its addresses.
    pub fn subnet(&self) -> Subnet {
        self.0.subnet
    }

    /// Gives `namespace` an `interface` (such as `eth0`, at most 15 bytes) on this network, with an address and
    /// without a route beyond it. That lasts until the attachment is dropped.
    pub fn attach(&self, namespace: &Netns, interface: &str) -> Result<Attachment, Error> {
        let full = || Error::Full(self.0.name.clone());
        let address = self.0.addresses().take().ok_or_else(full)?;
        let mut attachment = Attachment {
            bridge: Arc::clone(&self.0),
            address,
            near: None,
        };
        let step = || format!("attach `{interface}` to `{}`", self.0.name);
        let mut state = self.0.hub.lock();
        state.pairs = state.pairs.wrapping_add(1);
        let near = format!("veth{}", state.pairs);
        let [mut outer, inner] = [mac(address); 2];
        // Both are locally administered; this bit tells them apart.
        outer[1] ^= 1;
        let ends = [(near.as_str(), outer), (interface, inner)];
        let [near_end, far_end] = ends.map(|(name, mac)| End { name, mac });
        let made = state
            .netlink
            .add_veth(&near_end, self.0.index, &far_end, namespace.as_fd());
        drop(state);
        made.during(step)?;
        attachment.near = Some(near);
        let configured = namespace.configure(|inside| {
            let index = inside.index(interface)?;
            inside.add_address(index, address, &self.0.subnet)?;
            inside.up(interface)
        });
        configured.during(step)?;
        Ok(attachment)
    }
}

impl Bridge {
    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // An address that a panic left taken is only one less.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // What fails goes with the namespace.
        let _ = self.hub.lock().netlink.delete(&self.bridge);
    }
}

/// An interface of a replica. Dropping it removes the interface, and gives the address back: the kernel takes
/// some 40 ms for that, so that a thread which must not wait lets another one drop it.
#[derive(Debug)]
pub struct Attachment {
    bridge: Arc<Bridge>,
    address: Ipv4Addr,
    /// The end in the hub, once it exists.
    near: Option<String>,
}

impl Attachment {
    /// The replica's address on the network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(near) = &self.near {
            // It is gone already if the replica's namespace is.
            let _ = self.bridge.hub.lock().netlink.delete(near);
        }
        self.bridge.addresses().give_back(self.address);
    }
}

/// An Ethernet address that follows from an IP address: whoever remembers the one is right about the other,
/// when the address is another replica's later.
fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x74, a, b, c, d]
}
