//! HTTP/1.0 in its plainest form: a request over a connection of its own, and an answer that ends with it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer takes no longer than this from one byte to the next.
const LIMIT: Duration = Duration::from_secs(60);

/// Who is asked.
pub struct Peer {
    stream: Box<dyn Stream>,
    host: String,
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Status and body of an answer. What is not UTF-8 in the body is replaced.
pub type Answer = (u16, String);

impl Peer {
    pub fn tcp(address: impl ToSocketAddrs + ToString) -> io::Result<Peer> {
        let stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Peer {
            stream: Box::new(stream),
            host: address.to_string(),
        })
    }

    pub fn unix(socket: impl AsRef<Path>) -> io::Result<Peer> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Peer {
            stream: Box::new(stream),
            host: "localhost".to_owned(),
        })
    }

    /// Asks, with lines of the head besides those that every request has.
    pub fn ask(
        mut self,
        method: &str,
        target: &str,
        head: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        let mut request = format!(
            "{method} {target} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.host,
            body.len()
        );
        for (name, value) in head {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        self.stream.write_all((request + body).as_bytes())?;
        let mut answer = Vec::new();
        self.stream.read_to_end(&mut answer)?;
        parsed(&String::from_utf8_lossy(&answer))
    }
}

/// The answer to a GET on a port of the loopback device.
pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    Peer::tcp(format!("127.0.0.1:{port}"))?.ask("GET", path, &[], "")
}

fn parsed(answer: &str) -> io::Result<Answer> {
    let odd = || io::Error::other(format!("no answer of HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(odd)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(odd)?, body.to_owned()))
}
