//! How the machines of a Swarm look to whoever has no key: what their sshd offers, and on which ports they answer. A
//! connection is opened and closed again; nothing is logged in to, and nothing waits for longer than a few seconds.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::address::{Address, Place, Remote};

/// How long a machine may take to answer on one port.
const CONNECT: Duration = Duration::from_secs(1);
/// How long ssh may take in all.
const SSH_LIMIT: Duration = Duration::from_secs(4);
/// The most connections that are opened at once.
const AT_ONCE: usize = 32;

/// What an sshd offers to somebody whom it does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sshd {
    /// Who would be logged in, as the user's configuration has it.
    pub user: String,
    /// The port, as the user's configuration has it.
    pub port: u16,
    /// Ways of proving who one is (RFC 4252, section 5), such as `publickey`; empty if none is asked for.
    pub methods: Vec<String>,
}

/// What the sshd of an address offers; `None` for a socket of this machine, and if ssh cannot tell, such as for a host
/// whose key it does not know.
pub fn sshd(address: &Address) -> Option<Sshd> {
    let Place::Ssh(remote) = &address.0 else {
        return None;
    };
    let configured = output(ssh(remote, &["-G"]))?.stdout;
    let configured = String::from_utf8_lossy(&configured);
    let value = |key: &str| {
        let mut lines = configured.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned))
    };
    let (user, port) = (value("user")?, value("port")?.parse().ok()?);
    let mut ask = ssh(
        remote,
        &[
            "-oBatchMode=yes",
            "-oPreferredAuthentications=none",
            "-oConnectTimeout=2",
            "-oControlPath=none",
            "-oStrictHostKeyChecking=yes",
            "-oLogLevel=ERROR",
        ],
    );
    ask.arg("exit");
    let answer = output(ask)?;
    let methods = match answer.status.success() {
        true => Vec::new(),
        false => offered(&String::from_utf8_lossy(&answer.stderr))?,
    };
    Some(Sshd { user, port, methods })
}

/// The methods in `Permission denied (publickey,password).`
fn offered(said: &str) -> Option<Vec<String>> {
    let (_, rest) = said.split_once("Permission denied (")?;
    let (methods, _) = rest.split_once(')')?;
    Some(methods.split(',').map(str::to_owned).collect())
}

fn ssh(remote: &Remote, options: &[&str]) -> Command {
    let mut command = Command::new("ssh");
    command.args(options);
    if let Some(port) = remote.port {
        command.args(["-p", &port.to_string()]);
    }
    if let Some(user) = &remote.user {
        command.args(["-l", user]);
    }
    command.args(["--", &remote.host]);
    command
}

/// What a command printed and how it ended; `None` if it did not end in time.
fn output(command: Command) -> Option<Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let mut command = tokio::process::Command::from(command);
        let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::time::timeout(SSH_LIMIT, ended).await.ok()?.ok()
    })
}

/// The addresses that a name leads to; none if it leads nowhere.
pub fn addresses_of(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs().into_iter().flatten();
    found.map(|at| at.ip()).collect()
}

/// Where somebody answers, of every one of `ports` on every one of `addresses`.
pub fn answering(addresses: &[IpAddr], ports: &[u16]) -> Vec<SocketAddr> {
    let all = addresses
        .iter()
        .flat_map(|address| ports.iter().map(|port| SocketAddr::new(*address, *port)));
    let all: Vec<SocketAddr> = all.collect();
    let mut open = Vec::new();
    for some in all.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let asked = some
                .iter()
                .map(|at| scope.spawn(|| TcpStream::connect_timeout(at, CONNECT).is_ok()));
            let asked: Vec<_> = asked.collect();
            let answers = some.iter().zip(asked);
            open.extend(answers.filter_map(|(at, asked)| asked.join().unwrap_or(false).then_some(*at)));
        });
    }
    open
}

/// Whether an address is one of this machine's own: only then can it be bound to.
pub fn is_here(address: IpAddr) -> bool {
    address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn what_is_offered_is_in_the_refusal() {
        let said = "keeper@node: Permission denied (publickey,password).\r\n";
        assert_eq!(
            offered(said),
            Some(vec!["publickey".to_owned(), "password".to_owned()])
        );
        assert_eq!(offered("Host key verification failed."), None);
    }

    #[test]
    fn only_those_answer_who_listen() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((here, 0)).unwrap();
        let closed = TcpListener::bind((here, 0)).unwrap();
        let (at, gone) = (listener.local_addr().unwrap(), closed.local_addr().unwrap());
        drop(closed);
        assert_eq!(answering(&[here], &[gone.port(), at.port()]), [at]);
        assert!(is_here(here));
        // RFC 5737: nobody has it.
        assert!(!is_here(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
    }
}
