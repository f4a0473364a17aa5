//! Decides what is started and ended, and when: a state machine over events and time that does nothing itself.
//!
//! Whoever drives it hands in an [`Event`] with the time, saves [`Reconciler::desired`], puts
//! [`Reconciler::routes`] in force, carries the [`Act`]s out in their order, and comes back with
//! [`Event::Tick`] when [`Reconciler::wake`] says so.
//!
//! | rule                                                                                              |
//! |---------------------------------------------------------------------------------------------------|
//! | A service has slots, each with the spec that it runs; an update moves one slot at a time to the current spec. |
//! | The next slot's turn comes when every slot that has the current spec is ready, and not while held.  |
//! | Stop-first: a slot starts nothing while anything is left in it. Start-first: the old one stays until the new one is ready. |
//! | A new replica that fails pauses the update. Nothing is ever put back: whoever wants that, puts the old spec. |
//! | A replica that fails otherwise starts again, by the restart policy, with growing pauses.            |
//! | Requests go to ready replicas only. An old one gets none for a while before it is asked to end.     |

mod desired;
mod observe;
mod run;
mod service;
mod slot;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::spec::{ServiceSpec, Test};
use super::state::{End, Stamp};
pub(super) use desired::Desired;
use run::Run;
use service::Service;
pub(super) use slot::container;
use task::Task;

/// How long a replica that works gets no new requests before it is asked to end.
pub(super) const DRAIN: Duration = Duration::from_millis(300);

/// More rounds than any event can take.
const MAX_ROUNDS: usize = 1_000;

/// A container, by a number that no other one of this supervisor has.
pub(super) type RunId = u64;

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// On a clock that only goes forward.
    pub(super) at: Duration,
    /// On the system's.
    pub(super) stamp: Stamp,
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Somebody wants a service to be so.
    Put {
        service: String,
        spec: Arc<ServiceSpec>,
        replicas: u32,
        hold: Option<u32>,
    },
    /// Somebody wants a service to be gone.
    Remove { service: String },
    /// Somebody wants a program to run once. One of that name that is there already is left as it is.
    RunTask {
        name: String,
        spec: Arc<ServiceSpec>,
        timeout: Duration,
    },
    /// Somebody wants a task to end.
    StopTask { name: String },
    /// Somebody wants everything to end, for good or until the next start.
    Stop { forget: bool },
    /// A container is up.
    Started {
        run: RunId,
        addresses: BTreeMap<String, Ipv4Addr>,
    },
    /// Nothing is left of a container, or it never came to be.
    Ended { run: RunId, end: End, tail: Vec<String> },
    /// A health check has a result.
    Probed {
        run: RunId,
        passed: bool,
        output: String,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Start a container. [`Event::Started`] or [`Event::Ended`] follows.
    Start {
        run: RunId,
        service: String,
        /// 0 for a task.
        slot: u32,
        spec: Arc<ServiceSpec>,
    },
    /// Send a signal to its main process.
    Signal { run: RunId, signal: i32 },
    /// End it at once. [`Event::Ended`] follows this as any other end.
    Kill { run: RunId },
    /// Run a health check in it. [`Event::Probed`] follows, unless it ends before.
    Probe {
        run: RunId,
        test: Test,
        timeout: Duration,
    },
    /// Nothing is left: end the supervisor.
    Exit,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// For each network, the addresses of each name. One of which no replica is ready has none.
    pub(super) names: BTreeMap<String, BTreeMap<String, BTreeSet<Ipv4Addr>>>,
    /// For each port of the host that a service publishes, where its replicas listen.
    pub(super) ports: BTreeMap<u16, BTreeSet<(Ipv4Addr, u16)>>,
}

/// All that is kept running.
#[derive(Debug, Default)]
pub(super) struct Reconciler {
    services: BTreeMap<String, Service>,
    tasks: BTreeMap<String, Task>,
    last_run: RunId,
    wake: Option<Duration>,
    stopping: bool,
    /// Whether the next supervisor has nothing to go on with.
    forget: bool,
    exited: bool,
}

/// One event's time, and what comes of it.
struct Turn {
    now: Now,
    acts: Vec<Act>,
    wake: Option<Duration>,
    last_run: RunId,
    stopping: bool,
    /// Whether something changed that other parts may have to react to.
    changed: bool,
}

impl Turn {
    /// Whether it is `at` or later. If not, the reconciler asks to be woken then.
    fn reached(&mut self, at: Duration) -> bool {
        let reached = at <= self.now.at;
        if !reached {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        reached
    }

    fn act(&mut self, act: Act) {
        self.acts.push(act);
        self.changed = true;
    }

    fn start(&mut self, service: &str, slot: u32, spec: &Arc<ServiceSpec>) -> Run {
        self.last_run += 1;
        self.act(Act::Start {
            run: self.last_run,
            service: service.to_owned(),
            slot,
            spec: spec.clone(),
        });
        Run::new(self.last_run, spec.clone(), self.now)
    }
}

impl Reconciler {
    /// Takes an event in, and says what is to be done about it.
    #[must_use]
    pub(super) fn step(&mut self, now: Now, event: Event) -> Vec<Act> {
        let mut turn = Turn {
            now,
            acts: Vec::new(),
            wake: None,
            last_run: self.last_run,
            stopping: self.stopping,
            changed: false,
        };
        self.take(event, &mut turn);
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "the reconciler does not come to rest");
            turn.changed = false;
            turn.wake = None;
            self.advance(&mut turn);
            if !turn.changed {
                break;
            }
        }
        self.last_run = turn.last_run;
        self.wake = turn.wake;
        turn.acts
    }

    /// When to come back with [`Event::Tick`].
    pub(super) fn wake(&self) -> Option<Duration> {
        self.wake
    }

    /// Where requests are to go.
    pub(super) fn routes(&self) -> Routes {
        let mut routes = Routes::default();
        let mut neighbours = BTreeSet::new();
        for (name, service) in &self.services {
            service.routes(name, &mut routes);
            let specs = service.runs().map(|run| &run.spec);
            for spec in specs.chain([&service.current.spec]) {
                let networks = || spec.networks.keys().cloned();
                neighbours
                    .extend(networks().flat_map(|one| networks().map(move |other| (one.clone(), other))));
            }
        }
        // Whoever is on two networks asks one of them, and has to find the names of both.
        let own = routes.names.clone();
        for (network, other) in neighbours {
            for (name, addresses) in own.get(&other).into_iter().flatten() {
                let names = routes.names.entry(network.clone()).or_default();
                names.entry(name.clone()).or_insert_with(|| addresses.clone());
            }
        }
        routes
    }

    fn take(&mut self, event: Event, turn: &mut Turn) {
        match event {
            Event::Put {
                service,
                spec,
                replicas,
                hold,
            } => match self.services.get_mut(&service) {
                Some(known) => known.put(spec, replicas, hold, turn),
                None => {
                    self.services.insert(service, Service::new(spec, replicas, hold));
                }
            },
            Event::Remove { service } => {
                if let Some(known) = self.services.get_mut(&service) {
                    known.remove();
                }
            }
            Event::RunTask { name, spec, timeout } => self.run_task(name, spec, timeout, turn),
            Event::StopTask { name } => {
                if let Some(task) = self.tasks.get_mut(&name) {
                    task.stop("stopped on request", turn);
                }
            }
            Event::Stop { forget } => {
                self.stopping = true;
                self.forget |= forget;
                turn.stopping = true;
            }
            Event::Started { run, addresses } => self.with_run(run, |run| run.started(addresses, turn)),
            Event::Probed { run, passed, output } => {
                self.with_run(run, |run| run.probed(passed, output, turn));
            }
            Event::Ended { run, end, tail } => {
                let ended = run::Ended { run, end, tail };
                let taken = self
                    .services
                    .iter_mut()
                    .any(|(name, service)| service.ended(name, &ended, turn));
                if !taken {
                    self.tasks.values_mut().any(|task| task.ended(&ended, turn));
                }
            }
            Event::Tick => {}
        }
    }

    /// What a run's events mean is not known here. One that is gone has none.
    fn with_run(&mut self, id: RunId, take: impl FnOnce(&mut Run)) {
        let services = self.services.values_mut().flat_map(Service::runs_mut);
        let tasks = self.tasks.values_mut().filter_map(|task| task.run.as_mut());
        if let Some(run) = services.chain(tasks).find(|run| run.id == id) {
            take(run);
        }
    }

    fn advance(&mut self, turn: &mut Turn) {
        for (name, service) in &mut self.services {
            service.advance(name, turn);
        }
        self.services.retain(|_, service| !service.is_gone());
        for task in self.tasks.values_mut() {
            task.advance(turn);
        }
        let left = self.services.values().flat_map(Service::runs).next().is_some()
            || self.tasks.values().any(|task| task.run.is_some());
        if self.stopping && !left && !self.exited {
            self.exited = true;
            turn.act(Act::Exit);
        }
    }
}

#[cfg(test)]
mod roll_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
