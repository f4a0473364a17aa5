//! One container, from its start to its end, and how healthy it is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::{Act, DRAIN, Now, RunId, Turn};
use crate::digest::Fingerprint;
use crate::supervisor::spec::{Healthcheck, ServiceSpec};
use crate::supervisor::state::{End, Stamp};

/// The pause after the first health check of a container that is starting. It doubles up to the interval.
const EAGER: Duration = Duration::from_millis(100);

/// The most of a health check's output that is kept, in bytes.
const MAX_OUTPUT: usize = 4 << 10;

/// How a container ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) run: RunId,
    pub(super) end: End,
    pub(super) tail: Vec<String>,
}

/// A container.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) spec: Arc<ServiceSpec>,
    pub(super) fingerprint: Fingerprint,
    pub(super) phase: Phase,
    /// Since when it is in that phase, or healthy, or unhealthy.
    pub(super) since: Stamp,
    pub(super) addresses: BTreeMap<String, Ipv4Addr>,
    pub(super) health: Option<Health>,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being made.
    Starting,
    /// It was no longer wanted while it was being made.
    Unwanted,
    /// It runs, since then.
    Up(Duration),
    /// It runs and gets no more requests; at this time it is asked to end.
    Draining(Duration),
    /// It was asked to end, and is killed at this time.
    Ending(Duration),
    /// It was killed.
    Killed,
}

impl Run {
    pub(super) fn new(id: RunId, spec: Arc<ServiceSpec>, now: Now) -> Run {
        Run {
            id,
            fingerprint: spec.fingerprint(),
            health: None,
            phase: Phase::Starting,
            since: now.stamp,
            addresses: BTreeMap::new(),
            spec,
        }
    }

    /// Whether it gets requests.
    pub(super) fn is_ready(&self) -> bool {
        let healthy = |health: &Health| health.status == Status::Healthy;
        matches!(self.phase, Phase::Up(_)) && self.health.as_ref().is_none_or(healthy)
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.health
            .as_ref()
            .is_some_and(|health| health.status == Status::Unhealthy)
    }

    /// Whether it was asked to end, or soon is.
    pub(super) fn is_leaving(&self) -> bool {
        !matches!(self.phase, Phase::Starting | Phase::Up(_))
    }

    /// Whether it is ready, and has been up for `monitor` if nothing else tells that it works.
    pub(super) fn is_settled(&self, monitor: Duration, turn: &mut Turn) -> bool {
        match self.phase {
            Phase::Up(since) => self.is_ready() && (self.health.is_some() || turn.reached(since + monitor)),
            _ => false,
        }
    }

    /// What its last health check printed.
    pub(super) fn output(&self) -> Option<String> {
        self.health.as_ref().and_then(|health| health.output.clone())
    }

    pub(super) fn started(&mut self, addresses: BTreeMap<String, Ipv4Addr>, turn: &mut Turn) {
        self.addresses = addresses;
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Up(turn.now.at);
                self.since = turn.now.stamp;
                let healthcheck = self.spec.healthcheck.as_ref();
                self.health = healthcheck.map(|check| Health::new(check, turn.now.at));
            }
            Phase::Unwanted => self.ask_to_end(turn),
            _ => {}
        }
    }

    pub(super) fn probed(&mut self, passed: bool, output: String, turn: &Turn) {
        if let (Some(health), Some(check)) = (&mut self.health, &self.spec.healthcheck) {
            let before = health.status;
            health.probed(check, passed, output, turn.now.at);
            if health.status != before {
                self.since = turn.now.stamp;
            }
        }
    }

    /// Ends it, once: after a pause in which it gets no new requests, if it gets any now.
    pub(super) fn leave(&mut self, turn: &mut Turn) {
        let drains = self.is_ready() && !self.addresses.is_empty() && !turn.stopping;
        match self.phase {
            Phase::Up(_) if drains => {
                self.phase = Phase::Draining(turn.now.at + DRAIN);
                self.since = turn.now.stamp;
                turn.changed = true;
            }
            Phase::Draining(_) if !turn.stopping => {}
            _ => self.stop(turn),
        }
    }

    /// Ends it, once: by its signal, then by force.
    pub(super) fn stop(&mut self, turn: &mut Turn) {
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Unwanted;
                turn.changed = true;
            }
            Phase::Up(_) | Phase::Draining(_) => self.ask_to_end(turn),
            _ => {}
        }
    }

    fn ask_to_end(&mut self, turn: &mut Turn) {
        self.phase = Phase::Ending(turn.now.at + self.spec.stop_grace);
        self.since = turn.now.stamp;
        turn.act(Act::Signal {
            run: self.id,
            signal: self.spec.stop_signal,
        });
    }

    /// What time brings about.
    pub(super) fn advance(&mut self, turn: &mut Turn) {
        match self.phase {
            Phase::Draining(until) if turn.reached(until) => self.ask_to_end(turn),
            Phase::Ending(until) if turn.reached(until) => {
                self.phase = Phase::Killed;
                turn.act(Act::Kill { run: self.id });
            }
            Phase::Up(_) => {
                if let (Some(health), Some(check)) = (&mut self.health, &self.spec.healthcheck)
                    && health.is_due(turn)
                {
                    turn.act(Act::Probe {
                        run: self.id,
                        test: check.test.clone(),
                        timeout: check.timeout,
                    });
                }
            }
            _ => {}
        }
    }
}

/// What is known of a container's health.
#[derive(Debug)]
pub(super) struct Health {
    status: Status,
    began: Duration,
    /// When the next check starts; `None` while one runs.
    next: Option<Duration>,
    /// The pause until the next check while it is starting.
    eager: Duration,
    /// When a check last counted.
    counted: Duration,
    /// Failures in a row.
    failures: u32,
    output: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Starting,
    Healthy,
    Unhealthy,
}

impl Health {
    fn new(check: &Healthcheck, now: Duration) -> Health {
        Health {
            status: Status::Starting,
            began: now,
            next: Some(now + EAGER.min(check.interval)),
            eager: EAGER,
            counted: now,
            failures: 0,
            output: None,
        }
    }

    fn is_due(&mut self, turn: &mut Turn) -> bool {
        let due = self.next.is_some_and(|next| turn.reached(next));
        if due {
            self.next = None;
        }
        due
    }

    fn probed(&mut self, check: &Healthcheck, passed: bool, mut output: String, now: Duration) {
        while output.len() > MAX_OUTPUT {
            output.pop();
        }
        self.output = Some(output);
        let in_start_period = now < self.began + check.start_period;
        if passed {
            self.status = Status::Healthy;
            self.failures = 0;
            self.counted = now;
        } else if self.status == Status::Healthy || !in_start_period {
            // While it is starting, it is asked more often than the interval says: those do not count.
            if self.status != Status::Starting || now >= self.counted + check.interval {
                self.failures += 1;
                self.counted = now;
            }
            if self.failures >= check.retries.max(1) {
                self.status = Status::Unhealthy;
            }
        }
        let pause = match (self.status, in_start_period) {
            (Status::Starting, true) => check.start_interval,
            _ => check.interval,
        };
        let pause = match self.status {
            Status::Starting => {
                self.eager *= 2;
                pause.min(self.eager)
            }
            _ => pause,
        };
        self.next = Some(now + pause);
    }
}
