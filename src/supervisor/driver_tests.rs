//! Clients, the control socket and the main loop together; containers are pretended.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::driver::{Driver, Ended};
use super::place::Place;
use super::protocol::{self, Hello};
use super::testing::{Idle, ms, spec};
use super::*;
use crate::cancel::Cancel;
use crate::store::{IngestLimits, Store};
use crate::tree::Tree;

/// A supervisor without containers, on a thread.
struct Bench {
    directory: tempfile::TempDir,
    store: Store,
    thread: Option<JoinHandle<Ended>>,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        std::fs::create_dir(directory.path().join("preview")).unwrap();
        let mut bench = Bench {
            directory,
            store,
            thread: None,
        };
        bench.start();
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("preview")
    }

    fn start(&mut self) {
        let place = Place::at(&self.path());
        place.lay_out().unwrap();
        let socket = place.path("control.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, messages) = channel();
        let hands = Idle {
            messages: sender.clone(),
            listeners: BTreeMap::new(),
        };
        let lock = place.lock().unwrap().unwrap();
        let forgotten = place.clone();
        let mut driver = Driver::new(place, hands, 4711).unwrap();
        std::thread::spawn(move || server::serve(&listener, &sender));
        self.thread = Some(std::thread::spawn(move || {
            let ended = driver.run(&messages);
            forgotten.forget(ended.volumes).unwrap();
            drop(lock);
            ended
        }));
    }

    fn client(&self) -> Client {
        connect(&self.path()).unwrap().unwrap()
    }

    /// A spec whose tree is in the store.
    fn spec(&self, image: &str) -> ServiceSpec {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("image"), image).unwrap();
        let root = self
            .store
            .ingest(source.path(), &IngestLimits::default())
            .unwrap();
        ServiceSpec {
            root: Tree { root, metadata: None },
            ports: BTreeMap::new(),
            ..spec(image)
        }
    }
}

#[track_caller]
fn until(client: &mut Client, what: &str, holds: impl Fn(&State) -> bool) -> State {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let state = client.observe().unwrap();
        if holds(&state) {
            return state;
        }
        assert!(Instant::now() < deadline, "never {what}: {state:#?}");
        std::thread::sleep(ms(5));
    }
}

fn refusal(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_service_is_put_observed_and_stopped() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    let spec = bench.spec("v1");
    client.put(&bench.store, "api", &spec, 2, None).unwrap();
    let converged = |state: &State| state.services.get("api").is_some_and(Service::is_converged);
    let state = until(&mut client, "converged", converged);
    assert_eq!(
        (state.supervisor.pid, state.supervisor.trouble.clone()),
        (4711, None)
    );
    let replica = &state.services["api"].replicas[0];
    assert_eq!(
        (replica.image.as_str(), replica.container.as_deref()),
        ("v1", Some("api.1.1"))
    );
    assert_eq!(replica.tail, ["line of 1"]);
    client.stop(&bench.store, false, &Cancel::default()).unwrap();
    let ended = bench.thread.take().unwrap().join().unwrap();
    assert_eq!(
        ended,
        Ended {
            forget: true,
            volumes: false
        }
    );
}

#[test]
fn secrets_are_needed_before_they_are_used_and_kept_while_they_are() {
    let bench = Bench::new();
    let mut client = bench.client();
    let mut spec = bench.spec("v1");
    spec.secrets = vec![FileMount {
        version: "key_1".to_owned(),
        at: "/run/secrets/key".to_owned(),
        mode: 0o400,
    }];
    let reason = refusal(client.put(&bench.store, "api", &spec, 1, None));
    assert_eq!(reason, "the secret `key_1` was never put");
    client.put_secret("key_1", b"\0secret").unwrap();
    let reason = refusal(client.put_secret("key_1", b"other"));
    assert!(reason.contains("with other content") && !reason.contains("other\""));
    assert!(refusal(client.put_config("../up", b"")).contains("is not a name"));
    client.put(&bench.store, "api", &spec, 1, None).unwrap();
    assert_eq!(
        refusal(client.delete_secret("key_1")),
        "the secret `key_1` is in use"
    );
    let state = client.observe().unwrap();
    assert!(state.secrets.contains("key_1") && state.configs.is_empty());
    client.remove("api").unwrap();
    until(&mut client, "removed", |state| state.services.is_empty());
    client.delete_secret("key_1").unwrap();
    assert!(client.observe().unwrap().secrets.is_empty());
}

#[test]
fn a_port_is_handed_over_once_and_given_back() {
    let bench = Bench::new();
    let mut client = bench.client();
    let port = listen_somewhere();
    client.publish(port).unwrap();
    client.publish(port).unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut spec = bench.spec("v1");
    spec.ports = BTreeMap::from([(port, 80)]);
    client.put(&bench.store, "api", &spec, 1, None).unwrap();
    let state = client.observe().unwrap();
    let expected = Port {
        listening: true,
        service: Some("api".to_owned()),
    };
    assert_eq!(state.ports[&port], expected);
    let reason = refusal(client.put(&bench.store, "web", &spec, 1, None));
    assert_eq!(reason, format!("port {port} is published by `api` already"));
    client.remove("api").unwrap();
    until(&mut client, "given back", |state| state.ports.is_empty());
    // A port that is taken says so, and the connection goes on.
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = client.publish(port).unwrap_err();
    assert!(matches!(error, Error::Port(_)), "{error}");
    client.observe().unwrap();
    drop(taken);
    client.publish(port).unwrap();
}

fn listen_somewhere() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_new_supervisor_goes_on_and_says_which_ports_it_lacks() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    let port = listen_somewhere();
    client.publish(port).unwrap();
    let mut spec = bench.spec("v1");
    spec.ports = BTreeMap::from([(port, 80)]);
    client.put(&bench.store, "api", &spec, 1, None).unwrap();
    client
        .run_task(&bench.store, "migrate", &bench.spec("v2"), ms(60_000))
        .unwrap();
    let other = client.run_task(&bench.store, "migrate", &bench.spec("v3"), ms(60_000));
    assert_eq!(refusal(other), "there was a task `migrate` with another spec");
    client.stop_task("migrate").unwrap();
    until(&mut client, "ended", |state| {
        state.tasks["migrate"].state == TaskState::Failed
    });
    assert_eq!(client.task("absent").unwrap(), None);
    // What a killed one leaves: its files.
    let desired = std::fs::read(bench.path().join("desired.json")).unwrap();
    client.stop(&bench.store, false, &Cancel::default()).unwrap();
    bench.thread.take().unwrap().join().unwrap();
    std::fs::write(bench.path().join("desired.json"), desired).unwrap();
    bench.start();
    let mut client = bench.client();
    let state = until(&mut client, "converged", |state| {
        state.services["api"].is_converged()
    });
    assert_eq!(state.tasks["migrate"].state, TaskState::Failed);
    assert!(!state.ports[&port].listening);
    client.publish(port).unwrap();
    assert!(client.observe().unwrap().ports[&port].listening);
}

#[test]
fn who_does_not_speak_the_language_is_hung_up_on_and_others_are_not() {
    let bench = Bench::new();
    let mut stream = UnixStream::connect(bench.path().join("control.sock")).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let hello: Hello = protocol::receive(&mut reader).unwrap().unwrap();
    assert_eq!(hello.protocol, protocol::VERSION);
    stream.write_all(b"{\"destroy\":{}}\n").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    bench.client().observe().unwrap();
}

#[test]
fn one_that_ends_without_an_answer_has_stopped_if_nothing_is_left_to_go_on_with() {
    for killed in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let place = Place::at(directory.path());
        place.save(b"{}").unwrap();
        let lock = place.lock().unwrap().unwrap();
        let listener = UnixListener::bind(place.path("control.sock")).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let hello = Hello {
                protocol: protocol::VERSION,
                skep: String::new(),
            };
            protocol::send(&stream, &hello).unwrap();
            BufReader::new(stream).read_line(&mut String::new()).unwrap();
            if !killed {
                std::fs::remove_file(place.path("desired.json")).unwrap();
            }
            drop(lock);
        });
        let client = connect(directory.path()).unwrap().unwrap();
        let stopped = client.stop(&store, false, &Cancel::default());
        thread.join().unwrap();
        assert_eq!(matches!(stopped, Err(Error::Gone)), killed, "{stopped:?}");
        assert_eq!(stopped.is_ok(), !killed);
    }
}

#[test]
fn where_there_is_no_supervisor_there_is_no_client() {
    assert!(connect(Path::new("/nowhere/at/all")).unwrap().is_none());
    let bench = tempfile::tempdir().unwrap();
    assert!(connect(bench.path()).unwrap().is_none());
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(bench.path().join("control.sock")).unwrap());
    assert!(connect(bench.path()).unwrap().is_none());
}
