//! Serves DNS on the gateway of a network, over UDP and TCP. What is answered is decided in `dns`.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::dns::{Transport, answer};
use super::{During as _, Error, Names, Network};

const PORT: u16 = 53;

/// No question is longer; what is, arrives cut off, and is malformed.
const MAX_QUESTION: usize = 4_096;

/// How many clients may hold a connection at a time. The next ones wait.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may be silent, or leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing is taken after the kernel refused, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A resolver that runs until it is dropped.
#[derive(Debug)]
pub struct Resolver(#[expect(dead_code, reason = "its tasks end when it is dropped")] JoinSet<()>);

#[derive(Clone)]
struct Table {
    names: Names,
    network: Arc<str>,
}

impl Resolver {
    /// Answers on the gateway's address for the names of that network. It hears its network alone, and not the
    /// hub. To be called within a tokio runtime, on a thread that stands in the hub.
    pub fn start(network: &Network, names: &Names) -> Result<Resolver, Error> {
        let address = SocketAddrV4::new(network.subnet().gateway(), PORT);
        let step = || format!("listen on {address}");
        let bridge = Some(network.0.bridge.as_bytes());
        let udp = std::net::UdpSocket::bind(address).and_then(|socket| {
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket)?;
            socket.bind_device(bridge)?;
            Ok(socket)
        });
        let tcp = TcpSocket::new_v4().and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind_device(bridge)?;
            socket.bind(address.into())?;
            socket.listen(MAX_CONNECTIONS as u32)
        });
        let table = Table {
            names: names.clone(),
            network: network.name().into(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_datagrams(udp.during(step)?, table.clone()));
        tasks.spawn(serve_connections(tcp.during(step)?, table));
        Ok(Resolver(tasks))
    }
}

impl Table {
    fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        answer(&self.names, &self.network, question, transport)
    }
}

async fn serve_datagrams(socket: UdpSocket, table: Table) {
    let mut question = vec![0; MAX_QUESTION];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut question).await else {
            sleep(PAUSE).await;
            continue;
        };
        if let Some(answer) = table.answer(&question[..length], Transport::Udp) {
            // A client that does not get it asks again.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_connections(listener: TcpListener, table: Table) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let table = table.clone();
                connections.spawn(async move {
                    // A connection that broke down is closed, as one that ended.
                    let _ = serve_connection(stream, &table).await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers questions one after the other, each with its length before it, until there is none.
async fn serve_connection(mut stream: TcpStream, table: &Table) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        timeout(PATIENCE, stream.read_exact(&mut length)).await??;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_QUESTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut question = vec![0; length];
        timeout(PATIENCE, stream.read_exact(&mut question)).await??;
        let Some(answer) = table.answer(&question, Transport::Tcp) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}
