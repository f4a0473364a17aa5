//! What is seen from outside: services, replicas and tasks, with their reasons.

use std::collections::BTreeMap;

use super::run::{Phase, Run};
use super::service::Service;
use super::slot::{Over, Slot, container};
use super::{Reconciler, RunId};
use crate::supervisor::state::{self, Replica, ReplicaState};

/// Services and tasks, as [`state::State`] shows them.
pub(in crate::supervisor) struct Views {
    pub(in crate::supervisor) services: BTreeMap<String, state::Service>,
    pub(in crate::supervisor) tasks: BTreeMap<String, state::Task>,
}

impl Reconciler {
    /// How everything is. `tail` knows the last lines of containers that run.
    pub(in crate::supervisor) fn observe(&self, tail: &dyn Fn(RunId) -> Vec<String>) -> Views {
        let services = self.services.iter();
        let services = services.map(|(name, service)| (name.clone(), service.view(name, tail)));
        let tasks = self.tasks.iter().map(|(name, task)| {
            let tail = task.run.as_ref().map(|run| tail(run.id)).unwrap_or_default();
            (name.clone(), task.view(&tail))
        });
        Views {
            services: services.collect(),
            tasks: tasks.collect(),
        }
    }

    /// Whether everything is on its way out.
    pub(in crate::supervisor) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether it is so for good.
    pub(in crate::supervisor) fn forgets(&self) -> bool {
        self.forget
    }

    /// The service that publishes each port, by its current spec or by what still runs.
    pub(in crate::supervisor) fn ports(&self) -> BTreeMap<u16, String> {
        let mut ports = BTreeMap::new();
        for (name, service) in &self.services {
            let current = (!service.removing).then_some(&service.current.spec);
            let specs = service.runs().map(|run| &run.spec).chain(current);
            for port in specs.flat_map(|spec| spec.ports.keys()) {
                ports.insert(*port, name.clone());
            }
        }
        ports
    }

    /// The fingerprint of a task's spec, if it is known.
    pub(in crate::supervisor) fn task_spec(&self, name: &str) -> Option<&str> {
        self.tasks.get(name).map(|task| task.fingerprint.as_str())
    }

    /// Names of the secrets and configs that some container has, or may have when it is started again.
    pub(in crate::supervisor) fn versions(&self) -> Vec<(&'static str, &str)> {
        let services = self.services.values().flat_map(|service| {
            let slots = service.slots.values();
            let wanted = slots.filter_map(|slot| slot.wanted.as_ref()).map(|it| &it.spec);
            wanted.chain([&service.current.spec])
        });
        let tasks = self.tasks.values().filter_map(|task| task.run.as_ref());
        let specs = services.chain(tasks.map(|run| &run.spec));
        specs
            .flat_map(|spec| {
                let secrets = spec.secrets.iter().map(|file| ("secret", file.version.as_str()));
                secrets.chain(spec.configs.iter().map(|file| ("config", file.version.as_str())))
            })
            .collect()
    }
}

impl Service {
    fn view(&self, name: &str, tail: &dyn Fn(RunId) -> Vec<String>) -> state::Service {
        let mut replicas = Vec::new();
        for (number, slot) in &self.slots {
            slot.views(name, *number, tail, &mut replicas);
        }
        for number in 1..=self.replicas {
            if !self.slots.contains_key(&number) {
                replicas.push(Replica {
                    state: ReplicaState::Waiting,
                    reason: Some("the update is held".to_owned()),
                    ..empty(number)
                });
            }
        }
        replicas.sort_by_key(|replica| replica.slot);
        state::Service {
            wanted: self.replicas,
            hold: self.hold,
            spec: self.current.fingerprint.hex(),
            previous: self.previous.as_ref().map(|wanted| wanted.fingerprint.hex()),
            updating: self.is_updating(),
            paused: self.paused.clone(),
            removing: self.removing,
            failure: self.failure.clone(),
            replicas,
        }
    }
}

impl Slot {
    fn views(
        &self,
        service: &str,
        number: u32,
        tail: &dyn Fn(RunId) -> Vec<String>,
        into: &mut Vec<Replica>,
    ) {
        let mut runs: Vec<_> = self.main.iter().chain(&self.candidate).collect();
        runs.extend(&self.leaving);
        for run in &runs {
            let is_main = self.main.as_ref().is_some_and(|main| main.id == run.id);
            let mut lines = tail(run.id);
            if let (true, true, Some(failed)) = (lines.is_empty(), is_main, &self.failed) {
                lines.clone_from(&failed.tail);
            }
            into.push(Replica {
                container: Some(container(service, number, run.id)),
                spec: run.fingerprint.hex(),
                image: run.spec.image.clone(),
                state: state_of(run),
                ready: is_main && run.is_ready(),
                since: run.since,
                addresses: run.addresses.clone(),
                restarts: if is_main { self.restarts } else { 0 },
                last_exit: self.failed.as_ref().map(|failed| failed.exit.clone()),
                tail: lines,
                health: run.output(),
                reason: self.reason(run, is_main),
                ..empty(number)
            });
        }
        if let (None, Some(wanted)) = (&self.main, &self.wanted) {
            let failed = self.failed.as_ref();
            let (state, reason) = match (self.over, self.leaving.is_empty(), failed) {
                (Some(Over::Done), _, _) => (ReplicaState::Stopped, None),
                (Some(Over::Failed), _, _) => (
                    ReplicaState::Failed,
                    failed.map(|it| format!("{}; it is not started again", it.reason)),
                ),
                (None, true, Some(failed)) => (ReplicaState::Backoff, Some(failed.reason.clone())),
                _ => (
                    ReplicaState::Waiting,
                    Some("waits for the replica before it to end".to_owned()),
                ),
            };
            into.push(Replica {
                spec: wanted.fingerprint.hex(),
                image: wanted.spec.image.clone(),
                state,
                since: self.since,
                restarts: self.restarts,
                last_exit: failed.map(|failed| failed.exit.clone()),
                tail: failed.map(|failed| failed.tail.clone()).unwrap_or_default(),
                health: failed.and_then(|failed| failed.health.clone()),
                reason,
                ..empty(number)
            });
        }
    }

    fn reason(&self, run: &Run, is_main: bool) -> Option<String> {
        let printed = |what: &str| match run.output() {
            Some(output) if !output.trim().is_empty() => format!("{what}: {}", output.trim()),
            _ => what.to_owned(),
        };
        match state_of(run) {
            ReplicaState::Unhealthy => Some(printed("unhealthy")),
            ReplicaState::Starting if run.output().is_some() => Some(printed("not healthy yet")),
            ReplicaState::Starting if is_main => self.failed.as_ref().map(|it| it.reason.clone()),
            _ => None,
        }
    }
}

fn state_of(run: &Run) -> ReplicaState {
    match run.phase {
        Phase::Starting => ReplicaState::Starting,
        _ if run.is_unhealthy() => ReplicaState::Unhealthy,
        Phase::Up(_) if run.health.is_none() => ReplicaState::Running,
        Phase::Up(_) if run.is_ready() => ReplicaState::Healthy,
        Phase::Up(_) => ReplicaState::Starting,
        _ => ReplicaState::Stopping,
    }
}

fn empty(slot: u32) -> Replica {
    Replica {
        slot,
        container: None,
        spec: String::new(),
        image: String::new(),
        state: ReplicaState::Waiting,
        ready: false,
        since: state::Stamp::default(),
        addresses: BTreeMap::new(),
        restarts: 0,
        last_exit: None,
        tail: Vec::new(),
        health: None,
        reason: None,
    }
}
