//! Stands between the client and an engine, to see requests and to break them.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use skep::docker::Address;
use skep_test_support::variable;

use crate::{SWARM, address};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The engine's answer comes back.
    Through,
    /// The engine carries it out, and the answer is lost.
    Unanswered,
    /// The connection is closed before the engine sees it.
    Cut,
    /// The swarm has no leader, which the engine's version does not depend on.
    Leaderless,
}

/// A socket that leads to the engine which manages a swarm.
pub struct Proxy {
    state: Arc<State>,
    directory: tempfile::TempDir,
}

struct State {
    fate: Mutex<Fate>,
    /// The requests' heads.
    seen: Mutex<Vec<String>>,
    engine: PathBuf,
}

impl Proxy {
    /// Nothing, where there is no engine.
    pub fn new() -> Option<Proxy> {
        let engine = variable(SWARM)?.trim_start_matches("unix://").into();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let state = Arc::new(State {
            fate: Mutex::new(Fate::Through),
            seen: Mutex::default(),
            engine,
        });
        let shared = Arc::clone(&state);
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.pass_on(client));
            }
        });
        Some(Proxy { state, directory })
    }

    pub fn address(&self) -> Address {
        address(&format!("unix://{}/engine.sock", self.directory.path().display()))
    }

    /// The fate of requests from now on.
    pub fn set(&self, fate: Fate) {
        *self.state.fate.lock().unwrap() = fate;
    }

    /// Heads of the requests since the last look.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }
}

impl State {
    fn pass_on(&self, mut client: UnixStream) -> io::Result<()> {
        let (head, body) = read_request(&mut client)?;
        self.seen.lock().unwrap().push(head.clone());
        let fate = *self.fate.lock().unwrap();
        if fate == Fate::Cut {
            return Ok(());
        }
        if fate == Fate::Leaderless && !head.starts_with("GET /version") {
            let text = r#"{"message":"rpc error: code = Unknown desc = The swarm does not have a leader."}"#;
            let length = text.len();
            return write!(
                client,
                "HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{text}"
            );
        }
        let mut engine = UnixStream::connect(&self.engine)?;
        let closing = head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        engine.write_all(closing.as_bytes())?;
        engine.write_all(&body)?;
        if fate == Fate::Unanswered {
            // All of it has come: it has been carried out.
            return io::copy(&mut engine, &mut io::sink()).map(drop);
        }
        io::copy(&mut engine, &mut client).map(drop)
    }
}

fn read_request(client: &mut UnixStream) -> io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body)?;
    Ok((head, body))
}

/// The value of a header in a request's head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(": "));
    pairs
        .into_iter()
        .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
}
