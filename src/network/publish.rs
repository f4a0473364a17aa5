//! Ports of the host: takes one on loopback, says who holds it otherwise, and passes the listening socket to
//! the supervisor. Accepts nothing.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::{set_socket_reuseaddr, socket_acceptconn};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// How many connections the kernel keeps for a supervisor that is busy.
const BACKLOG: i32 = 1_024;

/// What the kernel calls a listening socket in its table.
const LISTENING: &str = "0A";

/// The protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Why a port of the host cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has it.
    #[error("port {port} of this machine is taken{}", by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    Taken {
        /// The port.
        port: u16,
        /// The name and number of the process, where the kernel tells.
        by: Option<String>,
    },
    /// Ports this low are not for ordinary users.
    #[error(
        "port {port} of this machine is reserved for root; publish one above 1023, or allow it with \
         `sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}`"
    )]
    Reserved {
        /// The port.
        port: u16,
    },
    /// Only TCP is forwarded.
    #[error("port {port} is published for UDP, and a preview forwards TCP only")]
    Udp {
        /// The port.
        port: u16,
    },
    /// The kernel refused otherwise.
    #[error("cannot listen on port {port} of this machine: {source}")]
    Io {
        /// The port.
        port: u16,
        /// What it said.
        source: io::Error,
    },
}

/// Listens on 127.0.0.1, in the network namespace of the calling thread; with port 0, on any that is free.
pub fn listen(port: u16, protocol: Protocol) -> Result<TcpListener, ListenError> {
    if protocol == Protocol::Udp {
        return Err(ListenError::Udp { port });
    }
    try_listen(port).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken {
            port,
            by: holder(port),
        },
        io::ErrorKind::PermissionDenied => ListenError::Reserved { port },
        _ => ListenError::Io { port, source },
    })
}

fn try_listen(port: u16) -> io::Result<TcpListener> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Connections of an earlier preview that are not quite over must not hold the port.
    set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Which process listens on a port; `None` if it belongs to another user, or is gone by now.
fn holder(port: u16) -> Option<String> {
    let mut links = Vec::new();
    for table in ["tcp", "tcp6"] {
        // A kernel without IPv6 has one of them.
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        let sockets = table.lines().filter_map(|line| listening(line, port));
        links.extend(sockets.map(|inode| format!("socket:[{inode}]")));
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes.filter(|process| process.file_name().to_string_lossy().parse::<u32>().is_ok()) {
        if holds_any(&process.path(), &links) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let number = process.file_name();
            return Some(format!("`{}` (process {})", name.trim(), number.display()));
        }
    }
    None
}

/// The inode of a line of `/proc/net/tcp`, if it listens on the port where that stands in our way.
fn listening(line: &str, port: u16) -> Option<&str> {
    let mut words = line.split_whitespace();
    let (address, found) = words.nth(1)?.rsplit_once(':')?;
    let state = words.nth(1)?;
    let any = address.bytes().all(|byte| byte == b'0');
    // Addresses are written as the machine stores them: loopback ends in its first byte on most.
    let loopback = address.ends_with("0100007F") || address.ends_with("7F000001");
    let ours = u16::from_str_radix(found, 16) == Ok(port) && state == LISTENING && (any || loopback);
    words.nth(5).filter(|_| ours)
}

fn holds_any(process: &Path, links: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let targets = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let is_one = |target: &Path| links.iter().any(|link| target == Path::new(link));
    { targets }.any(|target| is_one(&target))
}

/// Passes a listening socket on, with a label of at most 255 bytes that says what it is for.
pub fn send_listener(socket: &UnixStream, listener: &TcpListener, label: &str) -> io::Result<()> {
    let length = u8::try_from(label.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    assert!(
        control.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "there is space for one descriptor"
    );
    // The descriptor travels with the length alone: a stream may cut what is longer anywhere.
    rustix::io::retry_on_intr(|| {
        let bytes = [length];
        rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    { socket }.write_all(label.as_bytes())
}

/// Takes what [`send_listener`] sent. Anything but one listening socket is an error.
pub fn receive_listener(socket: &UnixStream) -> io::Result<(TcpListener, String)> {
    let mut length = [0; 1];
    // Space for more than one, so that one too many is seen and closed.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut buffers = [IoSliceMut::new(&mut length)];
        rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, "a listening socket was expected");
    let listener = descriptors.pop().filter(|_| descriptors.is_empty());
    let listener = listener.ok_or_else(unexpected)?;
    if !socket_acceptconn(&listener).unwrap_or(false) {
        return Err(unexpected());
    }
    let mut label = vec![0; usize::from(length[0])];
    { socket }.read_exact(&mut label)?;
    let label = String::from_utf8(label).map_err(io::Error::other)?;
    Ok((listener.into(), label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_names_its_holder() {
        let first = listen(0, Protocol::Tcp).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen(port, Protocol::Tcp).unwrap_err().to_string();
        let expected = format!("port {port} of this machine is taken by `");
        assert!(error.starts_with(&expected), "{error}");
        assert!(
            error.ends_with(&format!("(process {})", std::process::id())),
            "{error}"
        );
        drop(first);
        listen(port, Protocol::Tcp).unwrap();
    }

    #[test]
    fn udp_is_refused() {
        let error = listen(53, Protocol::Udp).unwrap_err();
        assert!(matches!(error, ListenError::Udp { port: 53 }));
    }

    #[test]
    fn the_table_of_sockets_is_read() {
        let line = |address: &str, state: &str| {
            format!(
                "  0: {address}:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 424242 1 0 100 0"
            )
        };
        for (address, state, port, found) in [
            ("0100007F", "0A", 8_080, Some("424242")),
            ("00000000", "0A", 8_080, Some("424242")),
            ("00000000000000000000000000000000", "0A", 8_080, Some("424242")),
            ("0200007F", "0A", 8_080, None),
            ("0100007F", "01", 8_080, None),
            ("0100007F", "0A", 8_081, None),
        ] {
            assert_eq!(
                listening(&line(address, state), port),
                found,
                "{address} {state} {port}"
            );
        }
        assert_eq!(listening("  sl  local_address rem_address   st", 8_080), None);
    }

    #[test]
    fn a_listener_arrives_with_its_label() {
        let (near, far) = UnixStream::pair().unwrap();
        let listeners = [(); 2].map(|()| listen(0, Protocol::Tcp).unwrap());
        for (listener, label) in listeners.iter().zip(["web:8080", ""]) {
            send_listener(&near, listener, label).unwrap();
        }
        for (listener, label) in listeners.iter().zip(["web:8080", ""]) {
            let (received, found) = receive_listener(&far).unwrap();
            assert_eq!(found, label);
            assert_eq!(received.local_addr().unwrap(), listener.local_addr().unwrap());
        }
        assert!(send_listener(&near, &listeners[0], &"x".repeat(256)).is_err());
        { &near }.write_all(&[0]).unwrap();
        assert!(receive_listener(&far).is_err());
        drop(near);
        assert!(receive_listener(&far).is_err());
    }
}
