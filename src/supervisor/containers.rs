//! The supervisor's hands: containers, their networks, their logs, and forwarded ports. Decides nothing.
//!
//! Each container has a thread that starts it, takes what it prints, waits for its end and cleans up; a health
//! check has one for as long as it takes. Names and ports are served by one further thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::driver::{Hands, Message};
use super::logs::{Logs, Printer, Stream, Tail};
use super::place::Place;
use super::reconcile::{Act, Event, Routes, RunId, container};
use super::spec::{ServiceSpec, Test};
use super::state::End;
use super::{assemble, threads};
use crate::container::{Container, Descriptors, Execution, Exit};
use crate::network::{Attachment, Forwarder, Hub, Limits, Names, Netns, Network, Resolver};
use crate::store::remove_tree;
use crate::tree::TreePath;

/// The most of a health check's output that is read, in bytes.
const MAX_OUTPUT: usize = 4 << 10;

/// Containers of this process.
#[derive(Debug)]
pub(super) struct Containers {
    shared: Arc<Shared>,
    forwarders: BTreeMap<u16, Forwarder>,
    /// Where forwarders lead now.
    ports: BTreeMap<u16, BTreeSet<(Ipv4Addr, u16)>>,
}

/// What threads share.
#[derive(Debug)]
struct Shared {
    place: Place,
    logs: Logs,
    messages: Sender<Message>,
    running: Mutex<HashMap<RunId, Running>>,
    names: Names,
    hub: Hub,
    networks: Mutex<HashMap<String, (Network, Resolver)>>,
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug)]
struct Running {
    tail: Tail,
    spec: Arc<ServiceSpec>,
    /// Once it is up.
    container: Option<Arc<Container>>,
}

/// What one container is given and has to give back.
struct Connected {
    namespace: Netns,
    attachments: Vec<(String, Attachment)>,
}

impl Containers {
    /// To be called while there is one thread. What goes wrong is a sentence.
    pub(super) fn new(place: Place, messages: Sender<Message>) -> Result<Containers, String> {
        let hub = Hub::open().map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .thread_stack_size(512 << 10)
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        stop_on_signals(&runtime, messages.clone());
        Ok(Containers {
            shared: Arc::new(Shared {
                logs: Logs::new(place.clone()),
                place,
                messages,
                running: Mutex::default(),
                names: Names::default(),
                hub,
                networks: Mutex::default(),
                runtime,
            }),
            forwarders: BTreeMap::new(),
            ports: BTreeMap::new(),
        })
    }
}

/// A machine that shuts down asks so; what should run is kept for the next start.
fn stop_on_signals(runtime: &tokio::runtime::Runtime, messages: Sender<Message>) {
    use tokio::signal::unix::{SignalKind, signal};
    let _context = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        // Without a handler, process 1 does not hear it.
        let Ok(mut signals) = signal(kind) else { continue };
        let messages = messages.clone();
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                let _ = messages.send(Message::Event(Event::Stop { forget: false }));
            }
        });
    }
}

impl Hands for Containers {
    fn perform(&mut self, act: Act) {
        match act {
            Act::Start {
                run,
                service,
                slot,
                spec,
            } => {
                let printer = self.shared.logs.printer(&service, slot);
                let running = Running {
                    tail: printer.tail(),
                    spec: spec.clone(),
                    container: None,
                };
                self.shared.running().insert(run, running);
                let shared = self.shared.clone();
                let live = move || shared.live(run, &service, slot, &spec, printer);
                if let Err(error) = threads::spawn("container", live) {
                    self.shared.ended(run, unstartable(error));
                }
            }
            // One that has ended meanwhile needs neither.
            Act::Signal { run, signal } => {
                let signal = Signal::from_named_raw(signal).unwrap_or(Signal::TERM);
                let _ = self.shared.container(run).map(|it| it.signal(signal));
            }
            Act::Kill { run } => {
                let _ = self.shared.container(run).map(|it| it.kill());
            }
            Act::Probe { run, test, timeout } => {
                let shared = self.shared.clone();
                let probe = move || shared.probe(run, &test, timeout);
                if let Err(error) = threads::spawn("probe", probe) {
                    self.shared.probed(run, false, error.to_string());
                }
            }
            Act::Exit => {}
        }
    }

    fn route(&mut self, from: &Routes, to: &Routes) {
        let names = &self.shared.names;
        for (network, known) in &to.names {
            let before = from.names.get(network);
            for (name, addresses) in known {
                if before.and_then(|before| before.get(name)) != Some(addresses) {
                    names.set(network, name, addresses.iter().copied().collect());
                }
            }
        }
        for (network, known) in &from.names {
            let after = to.names.get(network);
            for name in known.keys() {
                if after.is_none_or(|after| !after.contains_key(name)) {
                    names.remove(network, name);
                }
            }
        }
        for (port, forwarder) in &self.forwarders {
            let before = self.ports.get(port).cloned().unwrap_or_default();
            let after = to.ports.get(port).cloned().unwrap_or_default();
            // A moment with both is better than one with none.
            for (address, inside) in after.difference(&before) {
                forwarder.add(SocketAddrV4::new(*address, *inside));
            }
            for (address, inside) in before.difference(&after) {
                forwarder.withdraw(SocketAddrV4::new(*address, *inside));
            }
        }
        self.ports.clone_from(&to.ports);
    }

    fn listen(&mut self, port: u16, listener: TcpListener) -> io::Result<()> {
        let _context = self.shared.runtime.enter();
        let forwarder = Forwarder::start(listener, Limits::default())?;
        for (address, inside) in self.ports.get(&port).into_iter().flatten() {
            forwarder.add(SocketAddrV4::new(*address, *inside));
        }
        self.forwarders.insert(port, forwarder);
        Ok(())
    }

    fn listening(&self) -> Vec<u16> {
        self.forwarders.keys().copied().collect()
    }

    fn close(&mut self, port: u16) {
        self.forwarders.remove(&port);
    }

    fn tail(&self, run: RunId) -> Vec<String> {
        let running = self.shared.running();
        running
            .get(&run)
            .map(|running| lines(&running.tail))
            .unwrap_or_default()
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<RunId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, run: RunId) -> Option<Arc<Container>> {
        self.running().get(&run)?.container.clone()
    }

    fn send(&self, event: Event) {
        // Without a main loop the process is about to end.
        let _ = self.messages.send(Message::Event(event));
    }

    fn probed(&self, run: RunId, passed: bool, output: String) {
        self.send(Event::Probed { run, passed, output });
    }

    fn ended(&self, run: RunId, end: End) {
        let running = self.running().remove(&run);
        let tail = running.map(|running| lines(&running.tail)).unwrap_or_default();
        self.send(Event::Ended { run, end, tail });
    }

    /// The whole life of a container.
    fn live(&self, run: RunId, service: &str, slot: u32, spec: &ServiceSpec, printer: Printer) {
        let name = container(service, slot, run);
        let scratch = self.place.container(&name);
        let end = self
            .start_and_wait(run, &scratch, service, slot, spec, printer)
            .unwrap_or_else(unstartable);
        // What cannot be removed now is when the next supervisor starts.
        let _ = remove_tree(&scratch);
        self.ended(run, end);
    }

    fn start_and_wait(
        &self,
        run: RunId,
        scratch: &Path,
        service: &str,
        slot: u32,
        spec: &ServiceSpec,
        mut printer: Printer,
    ) -> Result<End, Box<dyn std::error::Error>> {
        let connected = self.connect(spec)?;
        let addresses: BTreeMap<String, Ipv4Addr> = connected
            .attachments
            .iter()
            .map(|(network, attachment)| (network.clone(), attachment.address()))
            .collect();
        let resolvers = connected.attachments.iter();
        let resolvers: Vec<_> = resolvers
            .filter_map(|(network, _)| self.gateway(network))
            .collect();
        let hostname = spec.hostname(service, slot);
        let mut made = assemble::spec(&self.place, scratch, spec)?;
        let address = addresses.values().next().copied();
        made.files
            .extend(assemble::network_files(spec, &hostname, address, &resolvers));
        made.hostname = hostname;
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        let descriptors = Descriptors {
            stdout: stdout_end.as_fd(),
            stderr: stderr_end.as_fd(),
            network: Some(connected.namespace.as_fd()),
        };
        let container = Container::start(Path::new("/proc/self/exe"), &made, descriptors)?;
        drop((stdout_end, stderr_end, made));
        let container = Arc::new(container);
        for (network, address) in &addresses {
            let name = format!("{service}.{slot}");
            self.names.call(network, *address, Some(&name));
        }
        if let Some(running) = self.running().get_mut(&run) {
            running.container = Some(container.clone());
        }
        self.send(Event::Started {
            run,
            addresses: addresses.clone(),
        });
        let exit = attend(&container, stdout, stderr, &mut printer);
        if let Some(running) = self.running().get_mut(&run) {
            running.container = None;
        }
        for (network, address) in &addresses {
            self.names.call(network, *address, None);
        }
        Ok(match exit? {
            Exit { code: Some(code), .. } => End::Code(code),
            Exit {
                signal: Some(signal), ..
            } => End::Signal(signal),
            Exit { .. } => End::Unseen,
        })
    }

    fn connect(&self, spec: &ServiceSpec) -> Result<Connected, Box<dyn std::error::Error>> {
        let namespace = Netns::new()?;
        let mut attachments = Vec::new();
        for (number, name) in spec.networks.keys().enumerate() {
            let network = self.network(name)?;
            let attachment = network.attach(&namespace, &format!("eth{number}"))?;
            attachments.push((name.clone(), attachment));
        }
        Ok(Connected {
            namespace,
            attachments,
        })
    }

    /// The network of that name, made when it is first needed; it stays until the supervisor ends.
    fn network(&self, name: &str) -> Result<Network, crate::network::Error> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((network, _)) = networks.get(name) {
            return Ok(network.clone());
        }
        let network = self.hub.network(name)?;
        let _context = self.runtime.enter();
        let resolver = Resolver::start(&network, &self.names)?;
        networks.insert(name.to_owned(), (network.clone(), resolver));
        Ok(network)
    }

    fn gateway(&self, name: &str) -> Option<Ipv4Addr> {
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        Some(networks.get(name)?.0.subnet().gateway())
    }

    fn probe(&self, run: RunId, test: &Test, timeout: Duration) {
        let (container, spec) = {
            let running = self.running();
            let found = running
                .get(&run)
                .and_then(|it| Some((it.container.clone()?, it.spec.clone())));
            let Some(found) = found else { return };
            found
        };
        let execution = Execution {
            argv: test.argv(),
            env: spec.env.clone(),
            cwd: spec.cwd.parse().unwrap_or_else(|_| TreePath::root()),
            timeout,
            max_output: MAX_OUTPUT,
        };
        match container.exec(&execution) {
            Ok(executed) => {
                let mut output = String::from_utf8_lossy(&executed.output).into_owned();
                if executed.timed_out {
                    output = format!("took longer than {} ms\n{output}", timeout.as_millis());
                }
                let passed = executed.exit_code == 0 && !executed.timed_out;
                self.probed(run, passed, output);
            }
            // Its end is told by the thread that waits for it.
            Err(crate::container::Error::Ended) => {}
            Err(error) => self.probed(run, false, error.to_string()),
        }
    }
}

fn unstartable(reason: impl Into<Box<dyn std::error::Error>>) -> End {
    End::Unstartable(reason.into().to_string())
}

fn lines(tail: &Tail) -> Vec<String> {
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    tail.iter().cloned().collect()
}

/// Takes what a container prints until it has ended, and nobody is left who could print.
fn attend(
    container: &Container,
    stdout: io::PipeReader,
    stderr: io::PipeReader,
    printer: &mut Printer,
) -> Result<Exit, crate::container::Error> {
    let mut pipes = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    let mut buffer = vec![0; 16 << 10];
    while !pipes.is_empty() {
        let mut events: Vec<_> = pipes
            .iter()
            .map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN))
            .collect();
        match poll(&mut events, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let readable: Vec<bool> = events.iter().map(|event| !event.revents().is_empty()).collect();
        let mut readable = readable.into_iter();
        pipes.retain_mut(|(stream, pipe)| {
            if !readable.next().unwrap_or(false) {
                return true;
            }
            match pipe.read(&mut buffer) {
                Ok(0) => false,
                Ok(read) => {
                    printer.take(*stream, &buffer[..read]);
                    true
                }
                Err(error) => error.kind() == io::ErrorKind::Interrupted,
            }
        });
    }
    printer.finish();
    container.wait()
}
