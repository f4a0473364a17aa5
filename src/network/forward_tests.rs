//! The forwarder over loopback, whose other addresses stand for replicas.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Counts, Forwarder, Limits, Protocol, listen};

struct Bench {
    forwarder: Forwarder,
    port: u16,
}

impl Bench {
    fn new(limits: Limits) -> Bench {
        let listener = listen(0, Protocol::Tcp).unwrap();
        let port = listener.local_addr().unwrap().port();
        let forwarder = Forwarder::start(listener, limits).unwrap();
        Bench { forwarder, port }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .unwrap()
    }

    async fn ask(&self) -> io::Result<String> {
        ask(self.port).await
    }
}

/// Sends a line, ends, and gives all that comes back.
async fn ask(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"question").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A server that waits for the end of a question, and then answers with its name.
struct Server {
    address: SocketAddrV4,
    served: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(name: &'static str) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Server::on(listener, name)
    }

    fn on(listener: TcpListener, name: &'static str) -> Server {
        let port = listener.local_addr().unwrap().port();
        let served = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&served);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut question = Vec::new();
                    // A client that was cut off gets no answer.
                    if stream.read_to_end(&mut question).await.is_ok() {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(name.as_bytes()).await;
                    }
                });
            }
        });
        Server {
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            served,
            task,
        }
    }

    /// Stops accepting at once.
    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// An address on which nobody listens.
async fn nobody() -> SocketAddrV4 {
    let server = Server::start("").await;
    let address = server.address;
    server.stop().await;
    address
}

fn quick() -> Limits {
    Limits {
        connect: Duration::from_millis(200),
        wait: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[tokio::test]
async fn backends_take_turns_and_half_closed_connections_go_on() {
    let bench = Bench::new(quick());
    let servers = [Server::start("a").await, Server::start("b").await];
    for server in &servers {
        bench.forwarder.add(server.address);
    }
    let mut answers = String::new();
    for _ in 0..4 {
        answers += &bench.ask().await.unwrap();
    }
    assert_eq!(answers, "abab");
    // The end of the last connection is noticed after its client has noticed it.
    while bench.forwarder.counts().open > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let expected = Counts {
        accepted: 4,
        forwarded: 4,
        ..Counts::default()
    };
    assert_eq!(bench.forwarder.counts(), expected);
}

#[tokio::test]
async fn a_backend_that_refuses_or_is_silent_is_passed_over() {
    let bench = Bench::new(quick());
    bench.forwarder.add(nobody().await);
    // Its queue of one is full, so that further connections get no answer.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let full = full.listen(0).unwrap();
    let silent = SocketAddrV4::new(Ipv4Addr::LOCALHOST, full.local_addr().unwrap().port());
    let _occupied = TcpStream::connect(silent).await.unwrap();
    bench.forwarder.add(silent);
    let server = Server::start("a").await;
    bench.forwarder.add(server.address);
    for _ in 0..6 {
        assert_eq!(bench.ask().await.unwrap(), "a");
    }
    assert_eq!(bench.forwarder.counts().unserved, 0);
}

#[tokio::test]
async fn a_connection_waits_for_a_backend() {
    let bench = Bench::new(Limits::default());
    let server = Server::start("late").await;
    let began = Instant::now();
    let (answer, ()) = tokio::join!(bench.ask(), async {
        sleep(Duration::from_millis(300)).await;
        bench.forwarder.add(server.address);
    });
    assert_eq!(answer.unwrap(), "late");
    assert!((300..2_000).contains(&began.elapsed().as_millis()));
}

#[tokio::test]
async fn a_backend_that_begins_to_accept_is_found() {
    let bench = Bench::new(Limits::default());
    let address = nobody().await;
    bench.forwarder.add(address);
    let (answer, server) = tokio::join!(bench.ask(), async {
        sleep(Duration::from_millis(300)).await;
        Server::on(TcpListener::bind(address).await.unwrap(), "restarted")
    });
    assert_eq!(answer.unwrap(), "restarted");
    assert_eq!(server.served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_waits_too_long_or_with_too_many_is_turned_away() {
    let limits = Limits {
        waiting: 2,
        ..quick()
    };
    let bench = Bench::new(limits);
    let began = Instant::now();
    let asked = futures_util::future::join_all((0..5).map(|_| bench.ask())).await;
    assert!(
        asked
            .iter()
            .all(|answer| answer.is_err() || answer.as_deref().is_ok_and(str::is_empty))
    );
    assert!(began.elapsed() >= limits.wait);
    let counts = bench.forwarder.counts();
    assert_eq!((counts.accepted, counts.unserved, counts.open), (5, 5, 0));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_to_be_accepted() {
    let limits = Limits {
        connections: 1,
        ..quick()
    };
    let bench = Bench::new(limits);
    let server = Server::start("a").await;
    bench.forwarder.add(server.address);
    let mut first = bench.connect().await;
    first.write_all(b"x").await.unwrap();
    let mut second = Box::pin(bench.ask());
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err());
    assert_eq!(bench.forwarder.counts().accepted, 1);
    drop(first);
    assert_eq!(second.await.unwrap(), "a");
}

#[tokio::test]
async fn drain_waits_for_the_last_connection() {
    let bench = Bench::new(quick());
    let (old, new) = (Server::start("old").await, Server::start("new").await);
    bench.forwarder.add(old.address);
    let mut open = bench.connect().await;
    open.write_all(b"question").await.unwrap();
    while bench.forwarder.counts().open == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    bench.forwarder.add(new.address);
    let began = Instant::now();
    let left = bench
        .forwarder
        .drain(old.address, Duration::from_millis(100))
        .await;
    assert_eq!(left, 1);
    assert!(began.elapsed() >= Duration::from_millis(100));
    for _ in 0..3 {
        assert_eq!(bench.ask().await.unwrap(), "new");
    }
    let finish = async {
        sleep(Duration::from_millis(100)).await;
        open.shutdown().await.unwrap();
        let mut answer = String::new();
        open.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let drained = bench.forwarder.drain(old.address, Duration::from_secs(60));
    let (left, answer) = tokio::join!(drained, finish);
    assert_eq!((left, answer.as_str()), (0, "old"));
    // One that nobody knows is drained.
    assert_eq!(bench.forwarder.drain(old.address, Duration::ZERO).await, 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let bench = Bench::new(quick());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    bench.forwarder.add(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let mut client = bench.connect().await;
    client.write_all(b"question").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"half").await.unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let end = client.read(&mut answer).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropping_the_forwarder_cuts_everything() {
    let bench = Bench::new(quick());
    let server = Server::start("a").await;
    bench.forwarder.add(server.address);
    let mut open = bench.connect().await;
    open.write_all(b"question").await.unwrap();
    while bench.forwarder.counts().open == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let port = bench.port;
    drop(bench);
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(5), open.read_to_end(&mut rest)).await;
    assert!(end.unwrap().map_or(0, |length| length) == 0);
    assert!(ask(port).await.is_err());
}

#[tokio::test]
async fn a_thousand_connections_lose_none_while_backends_change() {
    let bench = Bench::new(Limits::default());
    let mut current = Server::start("answer").await;
    bench.forwarder.add(current.address);
    let change = async {
        let mut served = 0;
        for _ in 0..10 {
            sleep(Duration::from_millis(20)).await;
            let next = Server::start("answer").await;
            bench.forwarder.add(next.address);
            let left = bench
                .forwarder
                .drain(current.address, Duration::from_secs(30))
                .await;
            assert_eq!(left, 0);
            served += current.served.load(Ordering::Relaxed);
            current.stop().await;
            current = next;
        }
        served
    };
    let port = bench.port;
    let load = async {
        let mut asked = 0;
        for _ in 0..20 {
            let answers = futures_util::future::join_all((0..50).map(|_| ask(port))).await;
            asked += answers.len();
            for answer in answers {
                assert_eq!(answer.unwrap(), "answer");
            }
        }
        asked
    };
    let (before, asked) = tokio::join!(change, load);
    assert_eq!(asked, 1_000);
    assert!(before > 0);
    let counts = bench.forwarder.counts();
    assert_eq!((counts.forwarded, counts.unserved), (1_000, 0));
}
