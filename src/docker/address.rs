//! Where an engine is: the address of a manager, read from text and written as text. It looks at nothing.

use std::fmt;
use std::str::FromStr;

/// The engine's socket on a machine that is reached with ssh, unless its address names another.
const SOCKET: &str = "/var/run/docker.sock";

/// The address of a Docker engine: `unix:///PATH`, or `ssh://[USER@]HOST[:PORT][/PATH]`, where the path is
/// that of the engine's socket on the host, by default `/var/run/docker.sock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub(super) Place);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// The absolute path of a socket here.
    Unix(String),
    Ssh(Remote),
}

/// A socket of a machine that ssh knows the way to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Remote {
    pub(super) user: Option<String>,
    /// A name, which may be an alias of the user's ssh configuration, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// Absolute.
    pub(super) socket: String,
}

/// Why a text is no address of an engine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{text}` is no address of a Docker engine: {reason}; \
     write `unix:///var/run/docker.sock` or `ssh://user@host:port`"
)]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// The machine that ssh goes to, as it is written; `None` for a socket of this one.
    pub fn host(&self) -> Option<&str> {
        match &self.0 {
            Place::Unix(_) => None,
            Place::Ssh(remote) => Some(&remote.host),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let place = match text.split_once("://") {
            Some(("unix", path)) => socket(path).map(Place::Unix),
            Some(("ssh", rest)) => remote(rest).map(Place::Ssh),
            Some(_) => Err("only `unix` and `ssh` are known"),
            None => Err("it has no `://`"),
        };
        place.map(Address).map_err(|reason| AddressError {
            // A password has no place in a message.
            text: match reason == PASSWORD {
                true => "ssh://…".to_owned(),
                false => text.to_owned(),
            },
            reason,
        })
    }
}

const PASSWORD: &str = "it holds a password, which ssh takes from nobody; use a key";

fn socket(path: &str) -> Result<String, &'static str> {
    if !path.starts_with('/') || path.len() < 2 {
        return Err("the path of the socket is not absolute");
    }
    if path.chars().any(|char| char.is_control() || "?#%".contains(char)) {
        return Err("the path of the socket has a character that has no place in it");
    }
    Ok(path.to_owned())
}

fn remote(rest: &str) -> Result<Remote, &'static str> {
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, place) = match place.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => return Err(PASSWORD),
        Some((user, place)) => (Some(word(user, "the user is no name")?), place),
        None => (None, place),
    };
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("the port is no number")?)),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if place.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_err() {
        return Err("what is in brackets is no IPv6 address");
    }
    let port = match port.map(str::parse) {
        Some(Err(_) | Ok(0)) => return Err("the port is no number of 1 to 65535"),
        Some(Ok(port)) => Some(port),
        None => None,
    };
    Ok(Remote {
        user,
        host: word(host, "the host is no name")?,
        port,
        socket: match path {
            "" | "/" => SOCKET.to_owned(),
            path => socket(path)?,
        },
    })
}

/// What may become an argument of ssh: no option, nothing that a shell or ssh would read more into.
fn word(text: &str, reason: &'static str) -> Result<String, &'static str> {
    let plain = |char: char| char.is_ascii_alphanumeric() || ".-_:".contains(char);
    match !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(reason),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = match &self.0 {
            Place::Unix(path) => return write!(to, "unix://{path}"),
            Place::Ssh(remote) => remote,
        };
        to.write_str("ssh://")?;
        if let Some(user) = &remote.user {
            write!(to, "{user}@")?;
        }
        match remote.host.contains(':') {
            true => write!(to, "[{}]", remote.host)?,
            false => to.write_str(&remote.host)?,
        }
        if let Some(port) = remote.port {
            write!(to, ":{port}")?;
        }
        match remote.socket.as_str() {
            SOCKET => Ok(()),
            socket => to.write_str(socket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_were_read() {
        for text in [
            "unix:///var/run/docker.sock",
            "unix:///tmp/a b.sock",
            "ssh://swarm-1",
            "ssh://deploy@swarm-1.example.org",
            "ssh://deploy@10.0.0.1:2222",
            "ssh://[fd00::1]:22",
            "ssh://host/run/docker.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let same = "ssh://host/var/run/docker.sock".parse::<Address>().unwrap();
        assert_eq!(same.to_string(), "ssh://host");
        assert_eq!("ssh://host/".parse(), Ok(same));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("/var/run/docker.sock", "it has no `://`"),
            ("tcp://host:2375", "only `unix` and `ssh`"),
            ("unix://docker.sock", "not absolute"),
            ("unix:///", "not absolute"),
            ("unix:///a?b", "no place in it"),
            ("ssh://", "the host is no name"),
            ("ssh://-oProxyCommand=x", "the host is no name"),
            ("ssh://-x@host", "the user is no name"),
            ("ssh://@host", "the user is no name"),
            ("ssh://host:", "the port is no number"),
            ("ssh://host:0", "the port is no number"),
            ("ssh://host:65536", "the port is no number"),
            ("ssh://fd00::1", "the port is no number"),
            ("ssh://[host]", "no IPv6 address"),
            ("ssh://[::1]22", "the port is no number"),
            ("ssh://host name", "the host is no name"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_shown() {
        let error = "ssh://me:hunter2@host"
            .parse::<Address>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a password") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
