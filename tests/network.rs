//! The network of a preview on the real kernel. Each test runs twice: as the host's side, and again as a child
//! in namespaces of its own, which is the supervisor's side. A socket between them is the child's stdin.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use skep::network::{
    Attachment, Error, Forwarder, Hub, Limits, ListenError, Names, Netns, Network, Protocol, Resolver,
    listen, receive_listener, send_listener,
};

/// Set in the child.
const INSIDE: &str = "SKEP_TEST_INSIDE";

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `host` here and `inside` in the child, and reports what went wrong there.
fn both(name: &str, host: impl FnOnce(&UnixStream), inside: impl FnOnce(UnixStream)) {
    if std::env::var_os(INSIDE).is_some() {
        let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
        return inside(socket.into());
    }
    let (near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let child = Command::new("unshare")
        .args("--user --map-root-user --net --pid --fork --kill-child --mount-proc --".split(' '))
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(far)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`unshare` of util-linux is missing");
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host(&near)));
    // A child that waits for the host is told that nothing comes any more.
    drop(near);
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inside: {printed}");
    assert!(printed.contains("1 passed"), "inside: {printed}");
    judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn inside(name: &str, test: impl FnOnce()) {
    both(name, |_| {}, |_| test());
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

/// A replica: its namespace, and its interfaces in the order of its networks.
struct Replica {
    namespace: Netns,
    attachments: Vec<Attachment>,
}

impl Replica {
    fn on(networks: &[&Network]) -> Replica {
        let namespace = Netns::new().unwrap();
        let attach = |(number, network): (usize, &&Network)| {
            network.attach(&namespace, &format!("eth{number}")).unwrap()
        };
        let attachments = networks.iter().enumerate().map(attach).collect();
        Replica {
            namespace,
            attachments,
        }
    }

    fn address(&self) -> Ipv4Addr {
        self.attachments[0].address()
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.within(work).unwrap()
    }

    /// Serves `answer` on a port, until the process ends.
    fn serve(&self, port: u16, answer: &'static str) -> SocketAddrV4 {
        let listener = self.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut question = Vec::new();
                    // A client that was cut off wants no answer.
                    if stream.read_to_end(&mut question).is_ok() {
                        let _ = stream.write_all(answer.as_bytes());
                    }
                });
            }
        });
        SocketAddrV4::new(self.address(), port)
    }

    fn connect(&self, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        let to = to.into();
        self.within(|| TcpStream::connect_timeout(&to, PATIENCE))
    }

    fn resolve(&self, gateway: Ipv4Addr, name: &str, kind: RecordType) -> (ResponseCode, Vec<IpAddr>) {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let question = question.to_vec().unwrap();
        let answer = self.within(|| {
            let socket = client(gateway);
            socket.send(&question).unwrap();
            receive(&socket).expect("no answer")
        });
        let answer = Message::from_vec(&answer).unwrap();
        let addresses = answer.answers.iter().filter_map(|record| match record.data {
            RData::A(address) => Some(address.0.into()),
            _ => None,
        });
        (answer.response_code, addresses.collect())
    }
}

/// A socket to the resolver, of the calling thread's namespace.
fn client(gateway: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((gateway, 53)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4_096];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Asks a server by its own connection; what it answers, or how it failed.
fn ask(to: impl Into<SocketAddr>) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"question")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[test]
fn replicas_of_one_network_reach_each_other_and_nothing_else() {
    inside(
        "replicas_of_one_network_reach_each_other_and_nothing_else",
        || {
            let hub = Hub::open().unwrap();
            let [front, back] = ["front", "back"].map(|name| hub.network(name).unwrap());
            let [one, two] = [(); 2].map(|()| Replica::on(&[&front]));
            let other = Replica::on(&[&back]);
            let both = Replica::on(&[&front, &back]);
            let served = two.serve(80, "two");
            let hidden = other.serve(80, "other");
            assert_eq!(one.within(|| ask(served)).unwrap(), "two");
            assert_eq!(
                one.within(|| ask((Ipv4Addr::LOCALHOST, 80))).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
            assert_eq!(both.within(|| ask(served)).unwrap(), "two");
            assert_eq!(both.within(|| ask(hidden)).unwrap(), "other");
            // The hub itself reaches all of them.
            assert_eq!(ask(hidden).unwrap(), "other");
            let elsewhere = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
            for to in [hidden, elsewhere, SocketAddrV4::new(back.subnet().gateway(), 53)] {
                let began = Instant::now();
                let error = one.connect(to).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable, "{to}: {error}");
                assert!(began.elapsed() < Duration::from_millis(500));
            }
            assert_eq!(
                TcpStream::connect(elsewhere).unwrap_err().kind(),
                io::ErrorKind::NetworkUnreachable
            );
        },
    );
}

/// Root inside of replicas, which a stack does not get, adds the routes that are missing.
#[test]
fn the_hub_forwards_nothing() {
    inside("the_hub_forwards_nothing", || {
        // As if the host had been told to forward.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let hub = Hub::open().unwrap();
        let [front, back] = ["front", "back"].map(|name| hub.network(name).unwrap());
        let (one, other) = (Replica::on(&[&front]), Replica::on(&[&back]));
        let hidden = other.serve(80, "other");
        for (replica, network) in [(&one, &front), (&other, &back)] {
            assert_eq!(replica.within(forwards), "0\n");
            let gateway = network.subnet().gateway().to_string();
            let add = || {
                Command::new("ip")
                    .args(["route", "add", "default", "via", &gateway])
                    .status()
            };
            let added = replica.within(add).expect("`ip` of iproute2 is missing");
            assert!(added.success());
        }
        let reaches = || {
            let limit = Duration::from_millis(1_500);
            one.within(|| TcpStream::connect_timeout(&hidden.into(), limit))
                .is_ok()
        };
        assert_eq!(forwards(), "0\n");
        assert!(!reaches());
        // It is this setting that keeps them apart.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        assert!(reaches());
    });
}

/// Whether the calling thread's namespace forwards.
fn forwards() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()
}

#[test]
fn a_port_that_is_reserved_for_root_is_told_so() {
    inside("a_port_that_is_reserved_for_root_is_told_so", || {
        // Every new namespace begins with this.
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        assert_eq!(start, "1024\n");
        let none = rustix::thread::CapabilitySet::empty();
        let none = rustix::thread::CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, none).unwrap();
        let error = listen(80, Protocol::Tcp).unwrap_err();
        assert!(matches!(error, ListenError::Reserved { port: 80 }), "{error}");
    });
}

#[test]
fn a_replica_may_serve_low_ports_and_ping() {
    inside("a_replica_may_serve_low_ports_and_ping", || {
        let namespace = Netns::new().unwrap();
        let read = |setting: &str| {
            let path = format!("/proc/sys/net/ipv4/{setting}");
            let text = namespace
                .within(|| std::fs::read_to_string(path).unwrap())
                .unwrap();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(read("ip_unprivileged_port_start"), "0");
        assert_eq!(read("ping_group_range"), "0 0");
    });
}

#[test]
fn a_namespace_that_is_in_use_is_refused() {
    inside("a_namespace_that_is_in_use_is_refused", || {
        let hub = Hub::open().unwrap();
        let _network = hub.network("front").unwrap();
        assert!(matches!(Hub::open(), Err(Error::NotAlone)));
    });
}

#[test]
fn attachments_go_and_addresses_come_again_late() {
    inside("attachments_go_and_addresses_come_again_late", || {
        let hub = Hub::open().unwrap();
        let network = hub.network("front").unwrap();
        let interfaces = || {
            let table = std::fs::read_to_string("/proc/self/net/dev").unwrap();
            let names = table
                .lines()
                .skip(2)
                .map(|line| line.split_once(':').unwrap().0.trim().to_owned());
            names
                .filter(|name| name.starts_with("veth") || name.starts_with("skep"))
                .collect::<Vec<_>>()
        };
        let first = Replica::on(&[&network]);
        let address = first.address();
        assert_eq!(interfaces().len(), 2);
        drop(first);
        assert_eq!(interfaces(), ["skep0"]);
        assert_ne!(Replica::on(&[&network]).address(), address);
        // A namespace that is gone took its interfaces along.
        let Replica {
            namespace,
            attachments,
        } = Replica::on(&[&network]);
        drop(namespace);
        drop(attachments);
        let namespace = Netns::new().unwrap();
        let kept = network.attach(&namespace, "eth0").unwrap();
        let again = network.attach(&namespace, "eth0").unwrap_err();
        assert!(again.to_string().contains("attach `eth0` to `front`"), "{again}");
        drop(network);
        assert_eq!(interfaces().len(), 2);
        drop(kept);
        assert!(interfaces().is_empty());
    });
}

#[test]
fn names_are_those_of_the_network() {
    inside("names_are_those_of_the_network", || {
        let hub = Hub::open().unwrap();
        let networks = ["front", "back"].map(|name| hub.network(name).unwrap());
        let names = Names::default();
        let runtime = runtime();
        let _entered = runtime.enter();
        let _resolvers = networks
            .each_ref()
            .map(|network| Resolver::start(network, &names).unwrap());
        let [front, back] = &networks;
        let [one, two] = [(); 2].map(|()| Replica::on(&[front]));
        let (gateway, hidden) = (front.subnet().gateway(), back.subnet().gateway());
        names.set("front", "api", vec![one.address(), two.address()]);
        names.set("back", "db", vec![hidden]);
        let (first, second): (IpAddr, IpAddr) = (one.address().into(), two.address().into());
        let api = || one.resolve(gateway, "API.", RecordType::A);
        assert_eq!(api(), (ResponseCode::NoError, vec![first, second]));
        assert_eq!(api(), (ResponseCode::NoError, vec![second, first]));
        names.set("front", "api", vec![two.address()]);
        assert_eq!(api(), (ResponseCode::NoError, vec![second]));
        let began = Instant::now();
        for name in ["db.", "outside.example.com."] {
            let answer = one.resolve(gateway, name, RecordType::A);
            assert_eq!(answer, (ResponseCode::NXDomain, vec![]), "{name}");
        }
        assert!(began.elapsed() < Duration::from_secs(1));
        // Garbage is survived, on both transports.
        one.within(|| {
            let socket = client(gateway);
            for garbage in [&b""[..], b"\0", &[0xff; 64], &[0; 12], &[0; 4_000]] {
                socket.send(garbage).unwrap();
            }
        });
        let mut stream = one.connect((gateway, 53)).unwrap();
        stream.write_all(b"\xff\xffgarbage").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(api(), (ResponseCode::NoError, vec![second]));
    });
}

#[test]
fn long_answers_come_by_tcp() {
    inside("long_answers_come_by_tcp", || {
        let hub = Hub::open().unwrap();
        let network = hub.network("front").unwrap();
        let names = Names::default();
        let runtime = runtime();
        let _entered = runtime.enter();
        let _resolver = Resolver::start(&network, &names).unwrap();
        let replica = Replica::on(&[&network]);
        let many = (0..100).map(|number| Ipv4Addr::new(10, 128, 1, number)).collect();
        names.set("front", "tasks.api", many);
        let gateway = network.subnet().gateway();
        assert_eq!(
            replica.resolve(gateway, "tasks.api.", RecordType::A).1,
            Vec::<IpAddr>::new()
        );
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(
            Name::from_ascii("tasks.api.").unwrap(),
            RecordType::A,
        ));
        let question = question.to_vec().unwrap();
        let mut stream = replica.connect((gateway, 53)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Two questions over one connection.
        for _ in 0..2 {
            stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&question).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 100);
        }
    });
}

/// A program that knows nothing of us resolves a name, by the library that most programs use.
#[test]
fn the_system_library_resolves_names() {
    inside("the_system_library_resolves_names", || {
        let hub = Hub::open().unwrap();
        let network = hub.network("front").unwrap();
        let names = Names::default();
        let runtime = runtime();
        let _entered = runtime.enter();
        let _resolver = Resolver::start(&network, &names).unwrap();
        let replica = Replica::on(&[&network]);
        names.set("front", "api", vec![replica.address()]);
        let configuration = tempfile::NamedTempFile::new().unwrap();
        let text = format!("nameserver {}\noptions ndots:0\n", network.subnet().gateway());
        std::fs::write(&configuration, text).unwrap();
        let path = configuration.path();
        // This mount namespace is the test's own.
        rustix::mount::mount_bind(path, std::fs::canonicalize("/etc/resolv.conf").unwrap()).unwrap();
        let look_up = |name: &str| {
            let lookup = || Command::new("getent").args(["ahostsv4", name]).output().unwrap();
            let output = replica.within(lookup);
            String::from_utf8(output.stdout).unwrap()
        };
        let found = look_up("api");
        assert!(found.starts_with(&replica.address().to_string()), "{found:?}");
        assert_eq!(look_up("absent"), "");
    });
}

#[test]
fn a_published_port_reaches_a_server_inside() {
    let host = |socket: &UnixStream| {
        let listener = listen(0, Protocol::Tcp).unwrap();
        let port = listener.local_addr().unwrap().port();
        send_listener(socket, &listener, "web").unwrap();
        // The socket is the supervisor's now.
        drop(listener);
        assert_eq!(ask(loopback(port)).unwrap(), "hello");
        let taken = listen(port, Protocol::Tcp).unwrap_err().to_string();
        assert!(
            taken.contains(&format!("port {port} of this machine is taken by `")),
            "{taken}"
        );
        { socket }.write_all(b"x").unwrap();
    };
    let inside = |mut socket: UnixStream| {
        let hub = Hub::open().unwrap();
        let network = hub.network("front").unwrap();
        let replica = Replica::on(&[&network]);
        let (listener, label) = receive_listener(&socket).unwrap();
        assert_eq!(label, "web");
        let runtime = runtime();
        let _entered = runtime.enter();
        let forwarder = Forwarder::start(listener, Limits::default()).unwrap();
        forwarder.add(replica.serve(80, "hello"));
        socket.read_exact(&mut [0]).unwrap();
        assert_eq!(forwarder.counts().forwarded, 1);
    };
    both("a_published_port_reaches_a_server_inside", host, inside);
}

#[test]
fn a_thousand_connections_lose_none_while_replicas_change() {
    const CLIENTS: usize = 8;
    const EACH: usize = 125;
    let host = |socket: &UnixStream| {
        let listener = listen(0, Protocol::Tcp).unwrap();
        let port = listener.local_addr().unwrap().port();
        send_listener(socket, &listener, "web").unwrap();
        drop(listener);
        let client = || {
            (0..EACH).for_each(|_| {
                assert_eq!(ask(loopback(port)).unwrap(), "answer");
                std::thread::sleep(Duration::from_millis(10));
            });
        };
        std::thread::scope(|scope| {
            (0..CLIENTS).for_each(|_| drop(scope.spawn(client)));
        });
        { socket }.write_all(b"x").unwrap();
    };
    let inside = |socket: UnixStream| {
        let hub = Hub::open().unwrap();
        let network = hub.network("front").unwrap();
        let (listener, _) = receive_listener(&socket).unwrap();
        socket.set_nonblocking(true).unwrap();
        let runtime = runtime();
        let forwarder = runtime.block_on(async { Forwarder::start(listener, Limits::default()).unwrap() });
        let start = || {
            let replica = Replica::on(&[&network]);
            let address = replica.serve(80, "answer");
            forwarder.add(address);
            (replica, address)
        };
        let mut replicas = [start(), start()];
        let mut changed = 0;
        while { &socket }.read(&mut [0]).is_err() {
            let oldest = &mut replicas[changed % 2];
            let left = runtime.block_on(forwarder.drain(oldest.1, Duration::from_secs(30)));
            assert_eq!(left, 0);
            // With its interface and its namespace, all that it was goes at once.
            *oldest = start();
            changed += 1;
        }
        let counts = forwarder.counts();
        assert!(changed > 4, "{changed}");
        assert_eq!((counts.forwarded, counts.unserved), ((CLIENTS * EACH) as u64, 0));
    };
    both(
        "a_thousand_connections_lose_none_while_replicas_change",
        host,
        inside,
    );
}

#[test]
fn a_replica_that_vanished_is_passed_over() {
    let host = |socket: &UnixStream| {
        let listener = listen(0, Protocol::Tcp).unwrap();
        let port = listener.local_addr().unwrap().port();
        send_listener(socket, &listener, "web").unwrap();
        for _ in 0..4 {
            assert_eq!(ask(loopback(port)).unwrap(), "alive");
        }
        { socket }.write_all(b"x").unwrap();
    };
    let inside = |mut socket: UnixStream| {
        let hub = Hub::open().unwrap();
        let network = hub.network("front").unwrap();
        let [alive, idle, gone] = [(); 3].map(|()| Replica::on(&[&network]));
        let (listener, _) = receive_listener(&socket).unwrap();
        let runtime = runtime();
        let _entered = runtime.enter();
        let forwarder = Forwarder::start(listener, Limits::default()).unwrap();
        // One that refuses, and one whose address leads nowhere.
        forwarder.add(SocketAddrV4::new(idle.address(), 80));
        forwarder.add(SocketAddrV4::new(gone.address(), 80));
        drop(gone);
        forwarder.add(alive.serve(80, "alive"));
        socket.read_exact(&mut [0]).unwrap();
        assert_eq!(forwarder.counts().unserved, 0);
    };
    both("a_replica_that_vanished_is_passed_over", host, inside);
}
