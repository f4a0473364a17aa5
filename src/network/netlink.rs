//! Configures network interfaces through the kernel's routing netlink (`man 7 rtnetlink`). Writes the few
//! messages that a preview needs, and dumps nothing: what exists is known to whoever made it.
//!
//! A socket belongs for good to the network namespace in which it was opened, whichever thread uses it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::subnet::Subnet;

/// The kernel answers before `sendto` returns; a lost answer must not hang the caller.
const PATIENCE: Duration = Duration::from_secs(10);

/// No answer to the requests below is longer, even one that quotes the request.
const MAX_ANSWER: usize = 8 << 10;

// Numbers of the kernel's interface (linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, veth.h).
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;

const MESSAGE_HEADER: usize = 16;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// A socket to the kernel's network configuration.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// One end of a veth pair.
#[derive(Debug)]
pub(super) struct End<'a> {
    /// At most 15 bytes.
    pub name: &'a str,
    pub mac: Mac,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Netlink> {
        // The protocol with number 0, which is what no protocol means, is routing.
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Brings an interface up.
    pub fn up(&mut self, name: &str) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.link(IFF_UP);
        message.text(IFLA_IFNAME, name);
        self.ask(message).map(drop)
    }

    /// Makes a bridge that is up. Its address is told, because the kernel would change one of its own choice
    /// with every port, and neighbours would go on writing to the old one.
    pub fn add_bridge(&mut self, name: &str, mac: Mac) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        message.link(IFF_UP);
        message.text(IFLA_IFNAME, name);
        message.attribute(IFLA_ADDRESS, &mac);
        message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        self.ask(message).map(drop)
    }

    /// Makes a veth pair: `near` is a port of the bridge with index `bridge`, and up; `far` is in `namespace`, and
    /// down, because the kernel brings an end up only when the pair is complete.
    pub fn add_veth(
        &mut self,
        near: &End<'_>,
        bridge: u32,
        far: &End<'_>,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        message.link(IFF_UP);
        message.text(IFLA_IFNAME, near.name);
        message.attribute(IFLA_ADDRESS, &near.mac);
        message.attribute(IFLA_MASTER, &bridge.to_ne_bytes());
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.link(0);
                    peer.text(IFLA_IFNAME, far.name);
                    peer.attribute(IFLA_ADDRESS, &far.mac);
                    peer.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.ask(message).map(drop)
    }

    /// Removes an interface, and its other end with it.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = Message::new(RTM_DELLINK, 0);
        message.link(0);
        message.text(IFLA_IFNAME, name);
        self.ask(message).map(drop)
    }

    /// The number of an interface.
    pub fn index(&mut self, name: &str) -> io::Result<u32> {
        let mut message = Message::new(RTM_GETLINK, 0);
        message.link(0);
        message.text(IFLA_IFNAME, name);
        let body = self.ask(message)?.ok_or(io::ErrorKind::InvalidData)?;
        // `ifinfomsg` begins with the family, padding and the type, and then the index.
        u32_at(&body, 4).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Gives an interface an address, and with it the route to its subnet.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, subnet: &Subnet) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        let family = AddressFamily::INET.as_raw() as u8;
        message.0.extend([family, subnet.prefix(), 0, 0]);
        message.0.extend(index.to_ne_bytes());
        message.attribute(IFA_LOCAL, &address.octets());
        message.attribute(IFA_ADDRESS, &address.octets());
        self.ask(message).map(drop)
    }

    /// Sends a request and waits for its end; gives the body of the message that came before, if one did.
    fn ask(&mut self, message: Message) -> io::Result<Option<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message.finish(self.sequence);
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &request, SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; MAX_ANSWER];
        let mut body = None;
        loop {
            let (_, length) = match rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
            {
                Err(rustix::io::Errno::INTR) => continue,
                received => received?,
            };
            for part in parts(buffer.get(..length).unwrap_or_default()) {
                let part = part?;
                if part.sequence != self.sequence {
                    // The late answer to a request that was given up.
                    continue;
                }
                if part.kind != NLMSG_ERROR {
                    body = Some(part.body.to_vec());
                    continue;
                }
                let code = u32_at(part.body, 0).ok_or(io::ErrorKind::InvalidData)?;
                return match code.cast_signed() {
                    0 => Ok(body),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
        }
    }
}

/// A request while it is written: a header, whose length and sequence are filled in last, a fixed structure,
/// and attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.resize(MESSAGE_HEADER, 0);
        Message(bytes)
    }

    /// An `ifinfomsg` that sets `flags` and leaves the others.
    fn link(&mut self, flags: u32) {
        self.0.extend([0; 8]);
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.0.extend(value));
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.nest(kind, |message| {
            message.0.extend(value.as_bytes());
            message.0.push(0);
        });
    }

    /// An attribute that holds what `write` writes. Its length is without the padding that follows it.
    fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Message)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        write(self);
        let length = u16::try_from(self.0.len() - start).expect("requests are short");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("requests are short");
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A message of an answer.
struct Part<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

fn parts(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<Part<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let part = first_part(bytes);
        let used = part.as_ref().map_or(bytes.len(), |part| {
            (MESSAGE_HEADER + part.body.len()).next_multiple_of(4)
        });
        bytes = bytes.get(used..).unwrap_or_default();
        Some(part.ok_or_else(|| io::ErrorKind::InvalidData.into()))
    })
}

fn first_part(bytes: &[u8]) -> Option<Part<'_>> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    Some(Part {
        kind: u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?),
        sequence: u32_at(bytes, 8)?,
        body: bytes.get(MESSAGE_HEADER..length)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_lengths_are_not() {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "veth"));
        let bytes = message.finish(7);
        assert_eq!(bytes.len(), 32);
        assert_eq!(u32_at(&bytes, 0), Some(32));
        assert_eq!(u32_at(&bytes, 8), Some(7));
        let length = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!((length(16), length(20)), (16, 9));
        assert_eq!(&bytes[24..], b"veth\0\0\0\0");
    }

    #[test]
    fn a_broken_answer_is_an_error_and_ends() {
        for bytes in [&[1, 2, 3][..], &[255; 20], &[0; 16], &[4; 40]] {
            let read: Vec<_> = parts(bytes).collect();
            assert_eq!(read.len(), 1);
            assert!(read[0].is_err());
        }
    }
}
