//! Forwards connections from a published port to the replicas that are ready. Understands nothing of what
//! passes through, and decides about no replica: who is ready is told from outside.
//!
//! A connection is made to a replica before a byte is taken from the client. So a replica that does not take
//! connections costs no request: the next one is tried, and if none takes it, the client waits for one.

use std::io;
use std::net::{SocketAddrV4, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// What is read at once, each way. Together with [`Limits::connections`] it bounds the memory.
const BUFFER: usize = 8 << 10;

/// How long nothing is accepted after the kernel refused, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How soon replicas that took no connection are tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Bounds of a forwarder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections there are at a time, each of two descriptors. Further ones wait to be accepted.
    pub connections: usize,
    /// How many of them may wait for a replica. Further ones are closed.
    pub waiting: usize,
    /// How long a replica may take to accept.
    pub connect: Duration,
    /// How long a connection waits for a replica before it is closed.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 400,
            waiting: 200,
            connect: Duration::from_secs(1),
            wait: Duration::from_secs(5),
        }
    }
}

/// What a forwarder did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Those that were taken to a replica.
    pub forwarded: u64,
    /// Those that were closed because no replica took them.
    pub unserved: u64,
    /// Connections that are open to replicas.
    pub open: usize,
}

/// Forwards until it is dropped; then every connection is cut.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    #[expect(dead_code, reason = "its tasks end when it is dropped")]
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    state: Mutex<State>,
    waiting: Semaphore,
    /// Told of every backend that is added.
    added: watch::Sender<()>,
    /// Told of every connection that ended.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    backends: Vec<Backend>,
    /// Where the next connection goes, counted on.
    turn: usize,
    counts: Counts,
}

#[derive(Debug)]
struct Backend {
    address: SocketAddrV4,
    /// One that is not ready stays until its last connection has ended.
    ready: bool,
    connections: usize,
}

/// A connection that is counted for a backend.
struct Taken {
    shared: Arc<Shared>,
    address: SocketAddrV4,
}

impl Forwarder {
    /// Accepts on `listener`, of whichever network namespace. To be called within a tokio runtime whose threads
    /// stand in the hub.
    pub fn start(listener: StdListener, limits: Limits) -> io::Result<Forwarder> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let shared = Arc::new(Shared {
            limits,
            state: Mutex::default(),
            waiting: Semaphore::new(limits.waiting),
            added: watch::Sender::new(()),
            ended: watch::Sender::new(()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Forwarder { shared, tasks })
    }

    /// Takes a backend into rotation, also one that is being drained.
    pub fn add(&self, address: SocketAddrV4) {
        let mut state = self.shared.lock();
        match state.find(address) {
            Some(backend) => backend.ready = true,
            None => state.backends.push(Backend {
                address,
                ready: true,
                connections: 0,
            }),
        }
        drop(state);
        self.shared.added.send_replace(());
    }

    /// Takes a backend out of rotation: no new connection goes there. Those that there are go on.
    pub fn withdraw(&self, address: SocketAddrV4) {
        let mut state = self.shared.lock();
        if let Some(backend) = state.find(address) {
            backend.ready = false;
        }
        state.forget_unused();
    }

    /// Takes a backend out of rotation, and waits until its last connection has ended, or for `limit`. Gives how
    /// many are left. An HTTP client keeps a connection open after its last request: what is left then is ended
    /// by the replica, which knows where a request ends.
    pub async fn drain(&self, address: SocketAddrV4, limit: Duration) -> usize {
        self.withdraw(address);
        let mut ends = self.shared.ended.subscribe();
        let left = || {
            let mut state = self.shared.lock();
            state.find(address).map_or(0, |backend| backend.connections)
        };
        let ended = async {
            // The sender is ours, and lives.
            while left() > 0 && ends.changed().await.is_ok() {}
        };
        let _ = timeout(limit, ended).await;
        left()
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let state = self.shared.lock();
        Counts {
            open: state.backends.iter().map(|backend| backend.connections).sum(),
            ..state.counts
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection for a backend before it is made, unless that was withdrawn.
    fn take(self: &Arc<Self>, address: SocketAddrV4) -> Option<Taken> {
        let mut state = self.lock();
        let backend = state.find(address).filter(|backend| backend.ready)?;
        backend.connections += 1;
        Some(Taken {
            shared: Arc::clone(self),
            address,
        })
    }
}

impl State {
    fn find(&mut self, address: SocketAddrV4) -> Option<&mut Backend> {
        let mut backends = self.backends.iter_mut();
        backends.find(|backend| backend.address == address)
    }

    fn forget_unused(&mut self) {
        self.backends
            .retain(|backend| backend.ready || backend.connections > 0);
    }

    /// The backends that are ready, beginning with the one whose turn it is.
    fn in_turn(&mut self) -> Vec<SocketAddrV4> {
        let ready = self.backends.iter().filter(|backend| backend.ready);
        let mut ready: Vec<_> = ready.map(|backend| backend.address).collect();
        if !ready.is_empty() {
            let first = self.turn % ready.len();
            ready.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        ready
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(backend) = state.find(self.address) {
            backend.connections -= 1;
        }
        state.forget_unused();
        drop(state);
        self.shared.ended.send_replace(());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((client, _)) => {
                shared.lock().counts.accepted += 1;
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    forward(client, &shared).await;
                    drop(place);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => sleep(PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection to its end.
async fn forward(mut client: TcpStream, shared: &Arc<Shared>) {
    let Some((mut server, taken)) = reach(shared).await else {
        shared.lock().counts.unserved += 1;
        // Nothing was read: what the client sent is answered with a reset, by which it knows that nobody saw it.
        return;
    };
    shared.lock().counts.forwarded += 1;
    // A small answer must not wait for the acknowledgement of the one before.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Each side's end is passed on as it comes; the other direction goes on.
    let copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
    if copied.is_err() {
        // An answer that broke off must not look as if it had ended.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
    drop((client, server));
    drop(taken);
}

/// A connection to a backend; `None` if none took it in time, or too many wait already.
async fn reach(shared: &Arc<Shared>) -> Option<(TcpStream, Taken)> {
    let deadline = Instant::now() + shared.limits.wait;
    let mut additions = shared.added.subscribe();
    let mut place = None;
    loop {
        additions.borrow_and_update();
        let round = shared.lock().in_turn();
        for address in round {
            // It may have been withdrawn while another one was tried.
            let Some(taken) = shared.take(address) else {
                continue;
            };
            let connecting = timeout(shared.limits.connect, TcpStream::connect(address));
            if let Ok(Ok(server)) = connecting.await {
                return Some((server, taken));
            }
        }
        if place.is_none() {
            place = Some(shared.waiting.try_acquire().ok()?);
        }
        // A backend that is ready and took nothing does not say when it will.
        let again = deadline.min(Instant::now() + RETRY);
        let _ = timeout_at(again, additions.changed()).await;
        if Instant::now() >= deadline {
            return None;
        }
    }
}
