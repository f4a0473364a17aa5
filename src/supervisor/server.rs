//! The supervisor's side of the control socket: one thread per client, which passes requests to the main loop.

use std::io::{self, BufReader};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, sync_channel};

use super::driver::Message;
use super::protocol::{self, Hello, Reply, Request};
use super::threads;
use crate::network::receive_listener;

/// So many clients at a time; a further one is hung up on.
const MAX_CLIENTS: usize = 32;

/// Serves clients for as long as the main loop takes messages.
pub(super) fn serve(listener: &UnixListener, messages: &Sender<Message>) {
    let clients = Arc::new(());
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // For want of descriptors, most likely; the next one may have more luck.
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        };
        let place = clients.clone();
        if Arc::strong_count(&clients) > MAX_CLIENTS + 1 {
            continue;
        }
        let messages = messages.clone();
        // One who cannot be served is hung up on, and so is one who does not speak the language.
        let _ = threads::spawn("client", move || {
            let _ = converse(stream, &messages);
            drop(place);
        });
    }
}

fn converse(stream: UnixStream, messages: &Sender<Message>) -> io::Result<()> {
    let hello = Hello {
        protocol: protocol::VERSION,
        skep: env!("CARGO_PKG_VERSION").to_owned(),
    };
    protocol::send(&stream, &hello)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = protocol::receive::<Request>(&mut reader)? {
        let port = match &request {
            Request::Publish { port } => Some(*port),
            _ => None,
        };
        let mut reply = ask(messages, |reply| Message::Request(request, reply))?;
        if let (Some(port), Reply::Go) = (port, &reply) {
            protocol::send(&stream, &reply)?;
            // The client waited for the reply: nothing of the listener is in the buffer.
            let listener: TcpListener = receive_listener(&stream)?.0;
            reply = ask(messages, |reply| Message::Listener(port, listener, reply))?;
        }
        protocol::send(&stream, &reply)?;
    }
    Ok(())
}

fn ask(
    messages: &Sender<Message>,
    message: impl FnOnce(std::sync::mpsc::SyncSender<Reply>) -> Message,
) -> io::Result<Reply> {
    let (reply, answer) = sync_channel(1);
    let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
    messages.send(message(reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())
}
