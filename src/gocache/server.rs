//! Answers one action's questions, from any number of its processes. Everything that it reads is hostile: it takes no path
//! from there, and bounds what it keeps.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::Scope;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::flights::Flight;
use super::policy::{Distributions, Policy};
use super::protocol::{self, Answer, Ask, Id};
use super::{GoCache, MOUNT, Upstream};
use crate::digest::{Digest, Fingerprint};
use crate::store::{Compiled, Error, Store};

/// Processes of one action that are answered at one time; more wait.
const MAX_PEERS: usize = 64;
/// Entries that one action may add.
const MAX_PUTS: usize = 200_000;
/// Bytes that one action may add.
const MAX_BYTES: u64 = 16 << 30;
/// Questions of one action that wait for what another one compiles; more are a miss.
const MAX_WAITING: usize = 64;
/// How often to look whether the action has ended.
const TICK: Duration = Duration::from_millis(50);

/// How often what was asked was there, and what was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub found: u64,
    pub missing: u64,
    pub stored: u64,
}

#[derive(Default)]
struct State {
    counts: Counts,
    trouble: Option<String>,
    /// What this action has put, of which an action that may only read has no other memory.
    own: HashMap<Id, Compiled>,
    bytes: u64,
    /// Who is connected, to hang up at the end.
    peers: BTreeMap<u64, UnixStream>,
}

/// One action's end of the cache.
pub(super) struct Server<'a> {
    store: &'a Store,
    upstream: Option<&'a dyn Upstream>,
    policy: &'a Policy,
    distributions: &'a Distributions,
    flight: Flight<'a>,
    /// Where links are made.
    directory: PathBuf,
    over: AtomicBool,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

impl<'a> Server<'a> {
    pub fn new(cache: &'a GoCache, policy: &'a Policy, directory: &Path) -> Server<'a> {
        Server {
            store: &cache.store,
            upstream: cache.upstream.as_deref(),
            policy,
            distributions: &cache.distributions,
            flight: cache.flights.join(),
            directory: directory.to_owned(),
            over: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            state: Mutex::default(),
        }
    }

    /// Serves who connects while `run` runs.
    pub fn during<T>(&self, listener: &UnixListener, run: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut peers = 0_u64;
                while let Some(peer) = self.next(listener) {
                    peers += 1;
                    let Ok(ours) = peer.try_clone() else { continue };
                    self.state().peers.insert(peers, ours);
                    scope.spawn(move || self.talk(scope, peers, peer));
                }
                for peer in self.state().peers.values() {
                    let _ = peer.shutdown(Shutdown::Both);
                }
            });
            let _over = Over(&self.over);
            run()
        })
    }

    /// What it did, and why it may have made the action fail.
    pub fn finish(self) -> (Counts, Option<String>) {
        let state = self.state.into_inner().expect("nothing panics while it is held");
        (state.counts, state.trouble)
    }

    /// The next who connects; `None` when the action has ended.
    fn next(&self, listener: &UnixListener) -> Option<UnixStream> {
        let tick = Timespec::try_from(TICK).expect("a short time");
        while !self.over.load(Ordering::SeqCst) {
            if self.state().peers.len() >= MAX_PEERS {
                std::thread::sleep(TICK);
                continue;
            }
            let mut events = [PollFd::new(listener, PollFlags::IN)];
            if poll(&mut events, Some(&tick)).is_ok_and(|ready| ready > 0)
                && let Ok((peer, _)) = listener.accept()
            {
                return Some(peer);
            }
        }
        None
    }

    fn talk<'s>(&'s self, scope: &'s Scope<'s, '_>, number: u64, peer: UnixStream) {
        let ended = self.converse(scope, peer);
        let mut state = self.state();
        if let Err(error) = ended
            && !self.over.load(Ordering::SeqCst)
        {
            state.trouble.get_or_insert(error.to_string());
        }
        // Last: it hangs up, and what the action does then may be its end.
        state.peers.remove(&number);
    }

    fn converse<'s>(&'s self, scope: &'s Scope<'s, '_>, peer: UnixStream) -> io::Result<()> {
        let mut from = BufReader::with_capacity(64 << 10, peer.try_clone()?);
        // Answers come in any order, each in one piece.
        let to = Arc::new(Mutex::new(peer));
        say(&to, 0, Answer::hello())?;
        while let Some(request) = protocol::read(&mut from)? {
            let answer = match request.ask {
                Ask::Get { action } => match self.get(&action) {
                    Some(answer) => answer,
                    None => {
                        let to = Arc::clone(&to);
                        scope.spawn(move || {
                            let answer = self.get_later(&action);
                            // One who has gone is noticed where requests are read.
                            let _ = say(&to, request.id, answer);
                        });
                        continue;
                    }
                },
                Ask::Put { action, output, size } => self.put(&mut from, &action, &output, size)?,
                Ask::Close => return say(&to, request.id, Answer::default()),
            };
            say(&to, request.id, answer)?;
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "its helper ended before it was asked to",
        ))
    }

    /// What stands under an id. What cannot be read is a miss: the action compiles it. `None` while another action
    /// compiles that, for [`Server::get_later`].
    fn get(&self, action: &Id) -> Option<Answer> {
        let own = self.state().own.get(action).copied();
        let key = self.policy.key(action);
        match own.or_else(|| self.find(&key)) {
            Some(compiled) => Some(self.hit(&compiled)),
            None if self.is_mine(key) => Some(self.miss()),
            None => {
                let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
                (waiting >= MAX_WAITING).then(|| {
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                    self.miss()
                })
            }
        }
    }

    /// The same, once no other action compiles it any more.
    fn get_later(&self, action: &Id) -> Answer {
        let key = self.policy.key(action);
        self.flight.wait(&key, &self.over);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        match self.find(&key) {
            Some(compiled) => self.hit(&compiled),
            None => {
                // Unless that took too long, this action now makes it, and others wait for it.
                self.is_mine(key);
                self.miss()
            }
        }
    }

    /// Whether what is missing under `key` is for this action to compile. No action waits for one that adds nothing.
    fn is_mine(&self, key: Fingerprint) -> bool {
        !self.policy.adds() || self.flight.begin(key)
    }

    fn hit(&self, compiled: &Compiled) -> Answer {
        self.state().counts.found += 1;
        Answer {
            output: Some(protocol::encode(&compiled.digest.bytes())),
            size: Some(compiled.digest.size()),
            disk_path: Some(inside(&compiled.digest)),
            ..Answer::default()
        }
    }

    fn miss(&self) -> Answer {
        self.state().counts.missing += 1;
        Answer {
            miss: true,
            ..Answer::default()
        }
    }

    /// What the store has, or else the other machine's cache, linked where the action sees it.
    fn find(&self, key: &Fingerprint) -> Option<Compiled> {
        if let Some(compiled) = self.store.compiled(key).ok()? {
            if self.link(&compiled) {
                return Some(compiled);
            }
            let _ = self.store.forget_compiled(key);
        }
        let compiled = self.upstream?.fetch(key, self.store)?;
        self.store.set_compiled(key, &compiled).ok()?;
        self.link(&compiled).then_some(compiled)
    }

    /// Keeps a body. An error is for a peer that speaks no sense; what cannot be kept is told to it, and it goes on.
    fn put(
        &self,
        from: &mut BufReader<UnixStream>,
        action: &Id,
        output: &Id,
        size: u64,
    ) -> io::Result<Answer> {
        let refused = |err| Answer {
            err: Some(err),
            ..Answer::default()
        };
        let fits = {
            let mut state = self.state();
            state.bytes = state.bytes.saturating_add(size);
            state.bytes <= MAX_BYTES && state.own.len() < MAX_PUTS
        };
        let mut writer = self.store.writer().ok().filter(|_| fits);
        let (mut check, mut start) = (Compiled::hasher(), Vec::new());
        protocol::read_body(from, size, |part| {
            check.update(part);
            let room = policy_prefix(start.len(), part);
            start.extend_from_slice(&part[..room]);
            if writer
                .as_mut()
                .is_some_and(|writer| writer.write_all(part).is_err())
            {
                writer = None;
            }
        })?;
        let Some(writer) = writer else {
            return Ok(refused("no room"));
        };
        let Ok(digest) = writer.finish() else {
            return Ok(refused("cannot be kept"));
        };
        if digest.bytes() != *output {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its helper gave bytes another name than their SHA-256",
            ));
        }
        let compiled = Compiled {
            digest,
            check: check.finish(),
        };
        if !self.link(&compiled) {
            return Ok(refused("was damaged"));
        }
        self.state().own.insert(*action, compiled);
        let key = self.policy.key(action);
        let policy = self.policy;
        if policy.may_store(action, &start, self.store, self.distributions)
            && self.store.set_compiled(&key, &compiled).is_ok()
        {
            self.state().counts.stored += 1;
            if let Some(upstream) = self.upstream {
                upstream.offer(&key, &compiled, self.store);
            }
        }
        self.flight.land(&key);
        Ok(Answer {
            disk_path: Some(inside(&digest)),
            ..Answer::default()
        })
    }

    /// Whether the action can now read it. What it sees is named by content, so that two who link at once agree.
    fn link(&self, compiled: &Compiled) -> bool {
        let at = self.directory.join(compiled.digest.hex());
        let linked: Result<bool, Error> = self.store.link_compiled(compiled, &at);
        linked.unwrap_or(false)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }
}

/// Says that the action has ended, even if it panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Answers the question `id`.
fn say(to: &Mutex<UnixStream>, id: i64, answer: Answer) -> io::Result<()> {
    let line = Answer { id, ..answer }.line();
    to.lock()
        .expect("nothing panics while it is held")
        .write_all(&line)
}

/// Where an action sees a blob.
fn inside(digest: &Digest) -> String {
    format!("{MOUNT}/{}", digest.hex())
}

/// How many more bytes of `part` are looked at, after so many of its body.
fn policy_prefix(seen: usize, part: &[u8]) -> usize {
    super::policy::PREFIX.saturating_sub(seen).min(part.len())
}
