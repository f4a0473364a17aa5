//! One message, with descriptors, from skep to a process that it starts as its own program under a hidden
//! argument. The socket is that process's stdin: what it is told stands in no argument and no environment.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Messages longer than this are refused.
const MAX_MESSAGE: u64 = 64 << 20;

/// More descriptors than this are refused.
const MAX_DESCRIPTORS: usize = 32;

const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Whether this process was started with `argument`, and nothing else.
pub(crate) fn is_asked(argument: &str) -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|found| found == argument) && arguments.next().is_none()
}

/// Sends `message`; the descriptors arrive in the same order.
pub(crate) fn send<T: serde::Serialize>(
    mut socket: &UnixStream,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).expect("plain data encodes");
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = (bytes.len() as u64).to_le_bytes();
    // Eight bytes into an empty socket are never cut.
    sendmsg(
        socket,
        &[IoSlice::new(&length)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    socket.write_all(&bytes)
}

/// The message and the descriptors, from the socket that is this process's stdin.
pub(crate) fn receive<T: serde::de::DeserializeOwned>() -> io::Result<(UnixStream, T, Vec<OwnedFd>)> {
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?);
    let mut length = [0; 8];
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut length)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    (&socket).read_exact(&mut length[received.bytes..])?;
    let length = u64::from_le_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    (&socket).take(length).read_to_end(&mut bytes)?;
    Ok((socket, serde_json::from_slice(&bytes)?, descriptors))
}

/// Answers with one of any number of messages.
pub(crate) fn answer<T: serde::Serialize>(mut socket: &UnixStream, status: &T) {
    let bytes = serde_json::to_vec(status).expect("plain data encodes");
    // A parent that went away needs no answer.
    let _ = socket.write_all(&bytes);
}
