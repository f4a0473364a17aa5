//! What is kept on disk: enough to go on after the supervisor was killed, and nothing that can be observed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::service::Service;
use super::slot::{Slot, Wanted};
use super::task::Task;
use super::{Now, Reconciler};
use crate::supervisor::spec::ServiceSpec;
use crate::supervisor::state;
use crate::tree::Tree;

/// Services with the specs of their slots, and what became of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::supervisor) struct Desired {
    services: BTreeMap<String, DesiredService>,
    /// The specs, by fingerprint.
    specs: BTreeMap<String, Arc<ServiceSpec>>,
    /// The trees of tasks that run.
    task_trees: Vec<Tree>,
    tasks: BTreeMap<String, state::Task>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DesiredService {
    current: Arc<ServiceSpec>,
    previous: Option<Arc<ServiceSpec>>,
    replicas: u32,
    hold: Option<u32>,
    paused: Option<String>,
    failure: Option<state::Failure>,
    /// The fingerprint of each slot's spec.
    slots: BTreeMap<u32, String>,
}

impl Desired {
    /// The trees that containers are made of now, or may be any time.
    pub(in crate::supervisor) fn trees(&self) -> Vec<Tree> {
        let services = self.services.values();
        let services = services.flat_map(|service| service.previous.iter().chain([&service.current]));
        let specs = services.chain(self.specs.values()).map(|spec| spec.root);
        let mut trees: Vec<Tree> = specs.chain(self.task_trees.iter().copied()).collect();
        trees.sort_by_key(|tree| (tree.root, tree.metadata));
        trees.dedup();
        trees
    }
}

impl Reconciler {
    /// What is to be kept.
    pub(in crate::supervisor) fn desired(&self) -> Desired {
        let mut desired = Desired::default();
        let services = self.services.iter().filter(|(_, service)| !service.removing);
        for (name, service) in services.filter(|_| !self.forget) {
            let mut slots = BTreeMap::new();
            for (number, slot) in &service.slots {
                if let Some(wanted) = &slot.wanted {
                    let fingerprint = wanted.fingerprint.hex();
                    slots.insert(*number, fingerprint.clone());
                    desired.specs.insert(fingerprint, wanted.spec.clone());
                }
            }
            let record = DesiredService {
                current: service.current.spec.clone(),
                previous: service.previous.as_ref().map(|wanted| wanted.spec.clone()),
                replicas: service.replicas,
                hold: service.hold,
                paused: service.paused.clone(),
                failure: service.failure.clone(),
                slots,
            };
            desired.services.insert(name.clone(), record);
        }
        for (name, task) in &self.tasks {
            desired.tasks.insert(name.clone(), task.view(&[]));
            desired
                .task_trees
                .extend(task.run.as_ref().map(|run| run.spec.root));
        }
        desired
    }

    /// Goes on with what was kept: every slot starts with the spec that it had.
    pub(in crate::supervisor) fn restore(desired: Desired, now: Now) -> Reconciler {
        let mut reconciler = Reconciler::default();
        for (name, record) in desired.services {
            let mut service = Service::new(record.current, record.replicas, record.hold);
            service.previous = record.previous.map(Wanted::new);
            service.paused = record.paused;
            service.failure = record.failure;
            for (number, fingerprint) in record.slots {
                let spec = desired.specs.get(&fingerprint);
                let wanted = spec.map_or_else(|| service.current.clone(), |spec| Wanted::new(spec.clone()));
                service.slots.insert(number, Slot::new(wanted, now.stamp));
            }
            reconciler.services.insert(name, service);
        }
        for (name, task) in desired.tasks {
            reconciler.tasks.insert(name, Task::known(task, now.stamp));
        }
        reconciler
    }
}
