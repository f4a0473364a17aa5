//! The way to an engine on another machine: one connection of the user's own ssh, which carries a socket of
//! that machine to one in a private directory here. It asks nobody anything and decides on no host's key.

use std::fs::DirBuilder;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use openssh::{ControlPersist, ForwardType, KnownHosts, Session, SessionBuilder};

use super::address::Remote;
use super::error::chain;

/// How long ssh may take to reach the host, and to be let in.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// After three of these without an answer, ssh gives a connection up.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A connection that nothing was sent over for so long ends by itself, so that one whose run was killed is
/// not left for ever. Seconds.
const IDLE_LIMIT: NonZeroUsize = NonZeroUsize::new(900).unwrap();
/// The most bytes of ssh's messages that are read.
const LOG_LIMIT: u64 = 4096;

/// A connection and the socket that it carries. Both end with it.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Ended before the directory goes.
    session: Option<Session>,
    directory: Directory,
}

impl Tunnel {
    /// Connects. The private directory is made in `scratch`, whose path must be short, as paths of sockets
    /// are bounded. `config` replaces the user's own configuration of ssh.
    ///
    /// # Errors
    ///
    /// In words, which are ssh's own where it said something.
    pub(super) async fn open(
        remote: &Remote,
        config: Option<&Path>,
        scratch: &Path,
    ) -> Result<Tunnel, String> {
        let directory = Directory::new(scratch).map_err(|error| {
            format!(
                "no private directory can be made in `{}`: {error}",
                scratch.display()
            )
        })?;
        let mut builder = SessionBuilder::default();
        builder
            .control_directory(&directory.0)
            .control_persist(ControlPersist::IdleFor(IDLE_LIMIT))
            .connect_timeout(CONNECT_LIMIT)
            .server_alive_interval(ALIVE_INTERVAL)
            .known_hosts_check(host_keys(remote, config));
        if let Some(user) = &remote.user {
            builder.user(user.clone());
        }
        if let Some(port) = remote.port {
            builder.port(port);
        }
        if let Some(config) = config {
            builder.config_file(config);
        }
        let mut tunnel = Tunnel {
            session: None,
            directory,
        };
        // ssh bounds what it does itself, and not what the user's configuration runs.
        let connected = tokio::time::timeout(2 * CONNECT_LIMIT, builder.connect(&remote.host)).await;
        let session = connected
            .map_err(|_| "ssh did not connect in time".to_owned())?
            .map_err(|error| failure(&error))?;
        let session = tunnel.session.insert(session);
        let forwarding = session.request_port_forward(
            ForwardType::Local,
            tunnel.directory.socket(),
            PathBuf::from(&remote.socket),
        );
        forwarding.await.map_err(|error| failure(&error))?;
        Ok(tunnel)
    }

    /// The path here that leads to the engine's socket there.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.socket()
    }

    /// What ssh has said about the connection since it stands: why the other end does not reach the socket.
    pub(super) fn complaints(&self) -> Option<String> {
        let entries = std::fs::read_dir(&self.directory.0).ok()?;
        let log = entries
            .flatten()
            .map(|entry| entry.path().join("log"))
            .find(|path| path.is_file())?;
        let mut text = Vec::new();
        std::fs::File::open(log)
            .ok()?
            .take(LOG_LIMIT)
            .read_to_end(&mut text)
            .ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // Tells ssh to exit; it is gone already where the connection broke.
        drop(self.session.take());
    }
}

/// A directory that only this user may enter. It is removed with what is in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new(scratch: &Path) -> io::Result<Directory> {
        let random = std::hash::RandomState::new().hash_one(std::process::id());
        let path = scratch.join(format!("skep-{:08x}", random as u32));
        // It fails if somebody else has made it.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Directory(path))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("engine.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing of value is in it; what cannot be removed stays, unreadable for others.
        _ = std::fs::remove_dir_all(&self.0);
    }
}

fn failure(error: &openssh::Error) -> String {
    let text = chain(error);
    match error {
        openssh::Error::Connect(cause) if cause.kind() == io::ErrorKind::NotFound => {
            "`ssh` is not installed".to_owned()
        }
        openssh::Error::Connect(_) if text.contains("Host key verification failed") => {
            format!("{text}; connect once with `ssh`, and compare the key")
        }
        _ => text,
    }
}

/// What the user's configuration says of hosts whose key is not known. The crate says something to ssh in any
/// case, so it must be this. As nobody can be asked, `ask` means no.
fn host_keys(remote: &Remote, config: Option<&Path>) -> KnownHosts {
    let mut command = Command::new("ssh");
    command.arg("-G").stdin(Stdio::null()).stderr(Stdio::null());
    if let Some(config) = config {
        command.arg("-F").arg(config);
    }
    if let Some(user) = &remote.user {
        command.args(["-l", user]);
    }
    if let Some(port) = remote.port {
        command.args(["-p", &port.to_string()]);
    }
    // An ssh that does not know its configuration says so when it connects.
    match command.arg(&remote.host).output() {
        Ok(output) => checking(&String::from_utf8_lossy(&output.stdout)),
        Err(_) => KnownHosts::Strict,
    }
}

fn checking(settings: &str) -> KnownHosts {
    let found = settings
        .lines()
        .find_map(|line| line.strip_prefix("stricthostkeychecking "));
    match found {
        Some("accept-new") => KnownHosts::Add,
        Some("no" | "off" | "false") => KnownHosts::Accept,
        _ => KnownHosts::Strict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn host_keys_are_checked_as_the_user_wants() {
        assert!(matches!(
            checking("port 22\nstricthostkeychecking ask\n"),
            KnownHosts::Strict
        ));
        assert!(matches!(
            checking("stricthostkeychecking true"),
            KnownHosts::Strict
        ));
        assert!(matches!(
            checking("stricthostkeychecking accept-new"),
            KnownHosts::Add
        ));
        assert!(matches!(
            checking("stricthostkeychecking false"),
            KnownHosts::Accept
        ));
        assert!(matches!(checking(""), KnownHosts::Strict));
    }

    #[test]
    fn the_directory_is_private_and_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::new(scratch.path()).unwrap();
        let path = directory.0.clone();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::write(directory.socket(), "").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
