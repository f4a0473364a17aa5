//! One service: how many slots it has, and which of them gets the current spec next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::run::{Ended, Run};
use super::slot::{Outcome, Slot, Wanted};
use super::{Routes, Turn};
use crate::supervisor::spec::{Order, ServiceSpec};
use crate::supervisor::state::Failure;

/// A service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) current: Wanted,
    pub(super) previous: Option<Wanted>,
    pub(super) replicas: u32,
    pub(super) hold: Option<u32>,
    pub(super) removing: bool,
    pub(super) paused: Option<String>,
    pub(super) failure: Option<Failure>,
    pub(super) slots: BTreeMap<u32, Slot>,
    /// When a slot last settled after it got another spec.
    settled: Option<Duration>,
}

impl Service {
    pub(super) fn new(spec: Arc<ServiceSpec>, replicas: u32, hold: Option<u32>) -> Service {
        Service {
            current: Wanted::new(spec),
            previous: None,
            replicas,
            hold,
            removing: false,
            paused: None,
            failure: None,
            slots: BTreeMap::new(),
            settled: None,
        }
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.slots.values().flat_map(Slot::runs)
    }

    pub(super) fn runs_mut(&mut self) -> impl Iterator<Item = &mut Run> {
        self.slots.values_mut().flat_map(Slot::runs_mut)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.removing && self.slots.is_empty()
    }

    /// What is wanted from now on. Asking for what is wanted already changes nothing, but lets what failed
    /// for good try again.
    pub(super) fn put(&mut self, spec: Arc<ServiceSpec>, replicas: u32, hold: Option<u32>, turn: &mut Turn) {
        let new = Wanted::new(spec);
        if new.fingerprint == self.current.fingerprint {
            // Only the way of updating can differ.
            for slot in self.slots.values_mut() {
                if slot.has(&new.fingerprint) {
                    slot.wanted = Some(new.clone());
                    if slot.over == Some(super::slot::Over::Failed) {
                        slot.forget();
                    }
                }
            }
            self.current = new;
        } else {
            self.previous = Some(std::mem::replace(&mut self.current, new));
            self.failure = None;
        }
        self.replicas = replicas;
        self.hold = hold;
        self.removing = false;
        self.paused = None;
        turn.changed = true;
    }

    pub(super) fn remove(&mut self) {
        self.removing = true;
        self.replicas = 0;
    }

    /// Takes an end in, if it is one of this service's.
    pub(super) fn ended(&mut self, name: &str, ended: &Ended, turn: &mut Turn) -> bool {
        let mut slots = self.slots.iter_mut();
        let found = slots.find_map(|(number, slot)| {
            let outcome = slot.ended(name, *number, ended, turn)?;
            Some((*number, outcome, slot.wanted.clone(), slot.fresh))
        });
        let Some((number, outcome, wanted, fresh)) = found else {
            return false;
        };
        match outcome {
            Outcome::Left | Outcome::Done => {}
            Outcome::Candidate(failure) => self.pause(number, failure),
            Outcome::Main(failure) => {
                let current = wanted.is_some_and(|it| it.fingerprint == self.current.fingerprint);
                match current && (fresh || self.is_mixed()) {
                    true => self.pause(number, failure),
                    false => self.failure = Some(failure),
                }
            }
        }
        true
    }

    fn pause(&mut self, slot: u32, failure: Failure) {
        self.paused = Some(format!("the new replica {slot} failed: {}", failure.reason));
        self.failure = Some(failure);
    }

    /// Whether a slot has another spec than the current one.
    pub(super) fn is_mixed(&self) -> bool {
        let others = |slot: &Slot| slot.wanted.is_some() && !slot.has(&self.current.fingerprint);
        self.slots.values().any(others)
    }

    pub(super) fn advance(&mut self, name: &str, turn: &mut Turn) {
        self.scale(turn);
        self.settle(turn);
        self.roll(name, turn);
        for (number, slot) in &mut self.slots {
            slot.advance(name, *number, turn);
        }
        self.slots
            .retain(|_, slot| slot.wanted.is_some() || slot.runs().next().is_some());
    }

    /// As many slots as there should be.
    fn scale(&mut self, turn: &mut Turn) {
        for (number, slot) in &mut self.slots {
            if *number > self.replicas && slot.wanted.take().is_some() {
                turn.changed = true;
            }
        }
        for number in 1..=self.replicas {
            if self.slots.get(&number).is_some_and(|slot| slot.wanted.is_some()) {
                continue;
            }
            let Some(wanted) = self.spec_of_a_new_slot() else {
                return;
            };
            // What is on its way out there has to be gone first, if it must not run beside the new one.
            match self.slots.get_mut(&number) {
                Some(slot) => {
                    slot.forget();
                    slot.wanted = Some(wanted);
                }
                None => {
                    self.slots.insert(number, Slot::new(wanted, turn.now.stamp));
                }
            }
            turn.changed = true;
        }
    }

    /// The current spec, or that of the other slots while the current one is held. `None`: it has to wait.
    fn spec_of_a_new_slot(&self) -> Option<Wanted> {
        if self.paused.is_none() && self.current_slots() < self.allowed() {
            return Some(self.current.clone());
        }
        let mut others = self.slots.values().filter_map(|slot| slot.wanted.as_ref());
        let other = others.find(|wanted| wanted.fingerprint != self.current.fingerprint);
        match (other, &self.paused) {
            (Some(other), _) => Some(other.clone()),
            (None, Some(_)) => Some(self.current.clone()),
            (None, None) => None,
        }
    }

    fn allowed(&self) -> u32 {
        self.hold.unwrap_or(self.replicas).min(self.replicas)
    }

    fn current_slots(&self) -> u32 {
        let current = self.slots.values();
        let current = current.filter(|slot| slot.has(&self.current.fingerprint));
        u32::try_from(current.count()).expect("slots are few")
    }

    /// Whether a slot has its turn, or will have it when the ones before it are done.
    pub(super) fn is_updating(&self) -> bool {
        let candidates = self.slots.values().any(|slot| slot.candidate.is_some());
        let fresh = self.slots.values().any(|slot| slot.fresh);
        let waiting = self.is_mixed() && self.current_slots() < self.allowed();
        self.paused.is_none() && (candidates || fresh || waiting)
    }

    /// Takes note of what has become ready, and lets candidates take over.
    fn settle(&mut self, turn: &mut Turn) {
        let (current, update) = (self.current.clone(), self.current.spec.update.clone());
        for slot in self.slots.values_mut() {
            match &mut slot.candidate {
                Some(run) if run.fingerprint != current.fingerprint => {
                    slot.drop_candidate(turn);
                    continue;
                }
                // It stays until it has ended, and is then one that failed.
                Some(run) if run.is_unhealthy() => {
                    run.stop(turn);
                    continue;
                }
                _ => {}
            }
            let ready = slot.candidate.as_ref();
            if ready.is_some_and(|run| run.is_settled(update.monitor, turn)) {
                slot.promote(current.clone(), turn);
                self.settled = Some(turn.now.at);
            } else if slot.fresh && slot.is_settled(update.monitor, turn) {
                slot.fresh = false;
                self.settled = Some(turn.now.at);
                turn.changed = true;
            }
        }
    }

    /// Moves one slot at a time to the current spec.
    fn roll(&mut self, name: &str, turn: &mut Turn) {
        let (current, update) = (self.current.clone(), self.current.spec.update.clone());
        if self.paused.is_some() || turn.stopping || self.current_slots() >= self.allowed() {
            return;
        }
        let in_turn = |slot: &Slot| slot.candidate.is_some();
        if self.slots.values().any(in_turn) {
            return;
        }
        for slot in self.slots.values().filter(|slot| slot.has(&current.fingerprint)) {
            if !slot.is_settled(update.monitor, turn) {
                return;
            }
        }
        let Some(number) = self.next_slot() else { return };
        if let Some(at) = self.settled
            && !turn.reached(at + update.delay)
        {
            return;
        }
        let slot = self.slots.get_mut(&number).expect("it was just found");
        let works = slot.main.as_ref().is_some_and(|run| !run.is_leaving());
        if works && update.order == Order::StartFirst {
            slot.candidate = Some(turn.start(name, number, &current.spec));
        } else {
            slot.replace(current);
            turn.changed = true;
        }
    }

    /// The slot that is replaced next: one that does not work anyway, or the lowest.
    fn next_slot(&self) -> Option<u32> {
        let others = self.slots.iter().filter(|(number, slot)| {
            **number <= self.replicas && slot.wanted.is_some() && !slot.has(&self.current.fingerprint)
        });
        let works = |slot: &Slot| slot.main.as_ref().is_some_and(Run::is_ready);
        let next = others.min_by_key(|(number, slot)| (works(slot), **number));
        next.map(|(number, _)| *number)
    }

    /// Adds where requests to this service go.
    pub(super) fn routes(&self, name: &str, routes: &mut Routes) {
        let current = (!self.removing).then_some(&self.current.spec);
        for (network, aliases) in current.iter().flat_map(|spec| &spec.networks) {
            let names = routes.names.entry(network.clone()).or_default();
            for name in [name].into_iter().chain(aliases.iter().map(String::as_str)) {
                names.entry(name.to_owned()).or_default();
            }
        }
        for (number, slot) in &self.slots {
            let Some(run) = slot.main.as_ref().filter(|run| run.is_ready()) else {
                continue;
            };
            let own = [
                name.to_owned(),
                format!("tasks.{name}"),
                format!("{name}.{number}"),
            ];
            for (network, aliases) in &run.spec.networks {
                let Some(address) = run.addresses.get(network) else {
                    continue;
                };
                let names = routes.names.entry(network.clone()).or_default();
                for name in own.iter().chain(aliases) {
                    names.entry(name.clone()).or_default().insert(*address);
                }
            }
            for (port, inside) in &run.spec.ports {
                let replicas = routes.ports.entry(*port).or_default();
                let address = run.addresses.values().next();
                replicas.extend(address.map(|address| (*address, *inside)));
            }
        }
    }
}
