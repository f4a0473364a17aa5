//! One replica's place in a service: which spec it should run, what runs there, and when it is started again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::run::{Ended, Phase, Run};
use super::{RunId, Turn};
use crate::digest::Fingerprint;
use crate::supervisor::spec::{Condition, Order, Restart, ServiceSpec};
use crate::supervisor::state::{Exit, Failure, Stamp};

/// A container that was ready for so long has not failed in a row with the one before it.
const LASTED: Duration = Duration::from_secs(10);

/// The shortest pause after the second failure in a row, and the longest that doubling leads to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A spec with its name.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) spec: Arc<ServiceSpec>,
    pub(super) fingerprint: Fingerprint,
}

impl Wanted {
    pub(super) fn new(spec: Arc<ServiceSpec>) -> Wanted {
        Wanted {
            fingerprint: spec.fingerprint(),
            spec,
        }
    }
}

/// A replica's place.
#[derive(Debug)]
pub(super) struct Slot {
    /// What it should run; `None` when it should be gone.
    pub(super) wanted: Option<Wanted>,
    /// What runs it.
    pub(super) main: Option<Run>,
    /// What is to take over when it is ready.
    pub(super) candidate: Option<Run>,
    /// What is on its way out.
    pub(super) leaving: Vec<Run>,
    /// Whether it got its spec in an update, and has not been ready since.
    pub(super) fresh: bool,
    /// Since when nothing runs.
    pub(super) since: Stamp,
    pub(super) restarts: u32,
    /// Why it is not started again.
    pub(super) over: Option<Over>,
    /// The failure that it starts again after.
    pub(super) failed: Option<Failure>,
    /// When it starts again.
    pub(super) not_before: Option<Duration>,
    /// Failures in a row.
    in_a_row: u32,
    /// When it was started again.
    attempts: VecDeque<Duration>,
}

/// Why a slot is not started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It has done its work.
    Done,
    /// The restart policy says so.
    Failed,
}

impl Slot {
    pub(super) fn new(wanted: Wanted, stamp: Stamp) -> Slot {
        Slot {
            wanted: Some(wanted),
            main: None,
            candidate: None,
            leaving: Vec::new(),
            fresh: false,
            since: stamp,
            restarts: 0,
            over: None,
            failed: None,
            not_before: None,
            in_a_row: 0,
            attempts: VecDeque::new(),
        }
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.main.iter().chain(&self.candidate).chain(&self.leaving)
    }

    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        let leaving = self.leaving.iter_mut();
        self.main.iter_mut().chain(&mut self.candidate).chain(leaving)
    }

    pub(super) fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.wanted
            .as_ref()
            .is_some_and(|wanted| wanted.fingerprint == *fingerprint)
    }

    /// Gives it another spec, as part of an update.
    pub(super) fn replace(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
        self.fresh = true;
        self.forget();
    }

    /// Lets it start over, as if it had never failed.
    pub(super) fn forget(&mut self) {
        self.restarts = 0;
        self.over = None;
        self.failed = None;
        self.not_before = None;
        self.in_a_row = 0;
        self.attempts.clear();
    }

    /// Whether it works, or has nothing to do.
    pub(super) fn is_settled(&self, monitor: Duration, turn: &mut Turn) -> bool {
        match &self.main {
            Some(run) => self.candidate.is_none() && run.is_settled(monitor, turn),
            None => self.over == Some(Over::Done),
        }
    }

    pub(super) fn drop_candidate(&mut self, turn: &mut Turn) {
        if let Some(mut candidate) = self.candidate.take() {
            candidate.leave(turn);
            self.leaving.push(candidate);
        }
    }

    /// The candidate takes over.
    pub(super) fn promote(&mut self, wanted: Wanted, turn: &mut Turn) {
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        self.replace(wanted);
        self.fresh = false;
        if let Some(mut old) = self.main.replace(candidate) {
            old.leave(turn);
            self.leaving.push(old);
        }
        turn.changed = true;
    }

    /// Makes what runs be what is wanted.
    pub(super) fn advance(&mut self, service: &str, number: u32, turn: &mut Turn) {
        for run in self.runs_mut() {
            run.advance(turn);
        }
        let wanted = self.wanted.clone().filter(|_| !turn.stopping);
        let Some(wanted) = wanted else {
            self.drop_candidate(turn);
            self.drop_main(turn);
            for run in &mut self.leaving {
                run.leave(turn);
            }
            return;
        };
        let main = self.main.as_mut();
        if let Some(run) = main {
            if run.fingerprint != wanted.fingerprint {
                self.drop_main(turn);
            } else if run.is_unhealthy() {
                run.stop(turn);
            } else if run.is_ready() && matches!(run.phase, Phase::Up(at) if turn.reached(at + LASTED)) {
                self.in_a_row = 0;
            }
        }
        let overlaps = wanted.spec.update.order == Order::StartFirst;
        let free = self.main.is_none() && (overlaps || self.leaving.is_empty());
        if free && self.over.is_none() && self.not_before.is_none_or(|at| turn.reached(at)) {
            if self.failed.is_some() {
                self.restarts += 1;
                self.attempts.push_back(turn.now.at);
            }
            self.not_before = None;
            self.main = Some(turn.start(service, number, &wanted.spec));
        }
    }

    fn drop_main(&mut self, turn: &mut Turn) {
        if let Some(mut run) = self.main.take() {
            run.leave(turn);
            self.leaving.push(run);
        }
    }

    /// Takes an end in, if it is one of this slot's. The failure, if it is one.
    pub(super) fn ended(
        &mut self,
        service: &str,
        number: u32,
        ended: &Ended,
        turn: &mut Turn,
    ) -> Option<Outcome> {
        let is = |run: &Run| run.id == ended.run;
        if let Some(at) = self.leaving.iter().position(is) {
            self.leaving.remove(at);
            return Some(Outcome::Left);
        }
        let name = container(service, number, ended.run);
        if let Some(run) = self.candidate.take_if(|run| is(run)) {
            return Some(Outcome::Candidate(failure(name, &run, ended, turn)));
        }
        let run = self.main.take_if(|run| is(run))?;
        self.since = turn.now.stamp;
        let failure = failure(name, &run, ended, turn);
        let good = ended.end.is_success() && !run.is_unhealthy();
        let wanted = self.wanted.as_ref().filter(|_| !turn.stopping);
        if let Some(policy) = wanted.map(|wanted| wanted.spec.restart.clone()) {
            self.restart(&policy, good, turn);
        }
        self.failed = Some(failure.clone());
        Some(match self.over {
            Some(Over::Done) => Outcome::Done,
            _ => Outcome::Main(failure),
        })
    }

    /// Decides whether and when it is started again.
    fn restart(&mut self, policy: &Restart, good: bool, turn: &Turn) {
        let now = turn.now.at;
        if !policy.window.is_zero() {
            self.attempts.retain(|at| *at + policy.window > now);
        }
        let spent = policy
            .max_attempts
            .is_some_and(|max| self.attempts.len() >= max as usize);
        self.over = match policy.condition {
            Condition::Any if !spent => None,
            Condition::OnFailure if !good && !spent => None,
            _ if good => Some(Over::Done),
            _ => Some(Over::Failed),
        };
        let (shortest, longest) = PAUSES;
        let pause = match self.in_a_row {
            0 => policy.delay,
            n => {
                let doubled = policy.delay.max(shortest) * 2_u32.pow(n.min(10) - 1);
                doubled.min(longest.max(policy.delay))
            }
        };
        self.in_a_row += 1;
        self.not_before = Some(now + pause);
    }
}

/// What the end of a container meant.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was asked to end.
    Left,
    /// It had done its work.
    Done,
    /// What was to take over failed.
    Candidate(Failure),
    /// It failed.
    Main(Failure),
}

/// A container's name, which is that of its directory as well.
pub(in crate::supervisor) fn container(service: &str, slot: u32, run: RunId) -> String {
    format!("{service}.{slot}.{run}")
}

fn failure(container: String, run: &Run, ended: &Ended, turn: &Turn) -> Failure {
    let health = run.output();
    let reason = match (&health, run.is_unhealthy()) {
        (Some(output), true) if !output.trim().is_empty() => format!("unhealthy: {}", output.trim()),
        (_, true) => "unhealthy".to_owned(),
        (_, false) => ended.end.to_string(),
    };
    Failure {
        container,
        spec: run.fingerprint.hex(),
        exit: Exit {
            end: ended.end.clone(),
            at: turn.now.stamp,
        },
        reason,
        tail: ended.tail.clone(),
        health,
    }
}
