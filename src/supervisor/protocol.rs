//! What clients and the supervisor say to each other: lines of JSON over a Unix socket. The supervisor begins
//! with a [`Hello`]; then each [`Request`] has one [`Reply`].

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::{ServiceSpec, millis};
use super::state::{State, Task};

/// Another number, and neither side understands the other.
pub(super) const VERSION: u32 = 1;

/// The longest line, in bytes.
pub(super) const MAX_MESSAGE: usize = 4 << 20;

/// Who is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) skep: String,
}

/// What a client wants. Content of secrets and configs is base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    PutSecret {
        name: String,
        content: String,
    },
    PutConfig {
        name: String,
        content: String,
    },
    DeleteSecret {
        name: String,
    },
    DeleteConfig {
        name: String,
    },
    /// The reply is [`Reply::Go`], and then the listener follows, or [`Reply::Done`] if it is here already.
    Publish {
        port: u16,
    },
    Put {
        service: String,
        spec: Box<ServiceSpec>,
        replicas: u32,
        hold: Option<u32>,
    },
    Remove {
        service: String,
    },
    RunTask {
        name: String,
        spec: Box<ServiceSpec>,
        #[serde(with = "millis")]
        timeout: Duration,
    },
    Task {
        name: String,
    },
    StopTask {
        name: String,
    },
    Observe,
    Stop {
        volumes: bool,
    },
}

/// What comes of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Done,
    Go,
    State(Box<State>),
    Task(Option<Task>),
    /// Nothing was done, for this reason.
    Refused(String),
}

/// Sends one message.
pub(super) fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the message is longer than 4 MiB",
        ));
    }
    stream.write_all(&line)
}

/// The next message; `None` when the other side has hung up.
pub(super) fn receive<T: DeserializeOwned>(reader: &mut BufReader<UnixStream>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    reader.take(MAX_MESSAGE as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message was cut off, or is longer than 4 MiB",
        ));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
