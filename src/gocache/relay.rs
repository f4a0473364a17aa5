//! What `go` starts inside the sandbox: bytes from stdin to a socket, and back to stdout. It understands none of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use crate::sandbox::wire;

/// The argument that makes this program the relay.
pub(super) const ARGUMENT: &str = "go-cache";
/// The name of this program in the action's directory.
pub(super) const PROGRAM: &str = "skep";
/// The name of the socket there.
pub(super) const SOCKET: &str = "socket";

/// If this process was started to be the relay, does that and does not return.
pub fn relay_if_asked() {
    if wire::is_asked(ARGUMENT) {
        std::process::exit(i32::from(relay().is_err()));
    }
}

fn relay() -> io::Result<()> {
    let socket = UnixStream::connect(format!("{}/{SOCKET}", super::MOUNT))?;
    let mut from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut upward = socket.try_clone()?;
    std::thread::spawn(move || {
        let copied = copy(&mut from, &mut upward);
        let _ = upward.shutdown(Shutdown::Write);
        copied
    });
    // The other side hangs up once it has answered `close`.
    copy(&mut &socket, &mut to)
}

/// Not `io::copy`, which splices: the kernel holds a pipe's lock while it waits for the socket, and `go` waits for the pipe.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
