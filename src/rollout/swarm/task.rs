//! Tasks that run once. A task is a service that nobody restarts, with a label of its own.

use std::time::{Duration, Instant};

use bollard::models::{
    self, HealthConfig, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum as Condition,
};

use super::wanted::{self, TASK};
use super::{Swarm, error, observe};
use crate::docker;
use crate::release::ReleaseId;
use crate::rollout::history::Record;
use crate::rollout::target::{Error, Place, Task};
use crate::swarm::{self, Node};

/// How long a task may take to end that was told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the Swarm may take to forget a task that has ended.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);

impl Swarm {
    /// Nodes that replicas of `service` may come to.
    pub(super) fn places_of(&self, service: &str, record: &Record) -> Result<Vec<Place>, Error> {
        let spec = self.spec_of(service, record)?;
        let placement = spec.task_template.and_then(|template| template.placement);
        let constraints = placement.and_then(|placement| placement.constraints);
        let constraints = constraints.unwrap_or_default();
        let mut nodes = self.nodes()?;
        nodes.retain(|node| node.takes(&constraints));
        let place = |node: Node| Place {
            id: node.id,
            name: node.name,
        };
        Ok(nodes.into_iter().map(place).collect())
    }

    fn spec_of(&self, service: &str, record: &Record) -> Result<ServiceSpec, Error> {
        let inventory = self.look()?;
        let spec = self.wanted(record, &inventory)?.remove(service);
        spec.ok_or_else(|| {
            Error::Refused(format!(
                "release {} has no service `{service}`",
                record.release.id
            ))
        })
    }

    pub(super) fn start_once(&self, task: &Task, record: &Record) -> Result<(), Error> {
        let spec = self.spec_of(&task.service, record)?;
        let spec = once(&self.about.name, task, spec);
        let auth = self.credentials(&spec)?;
        self.again(
            |engine| match engine.create_service(spec.clone(), auth.as_ref()) {
                Err(docker::Error::Conflict(_)) => Ok(()),
                other => other.map(drop),
            },
        )
    }

    /// Scales it to nothing.
    pub(super) fn end_once(&self, name: &str) -> Result<(), Error> {
        self.change(name, &|there| {
            let mut spec = there?.clone();
            let replicated = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut())?;
            (replicated.replicas != Some(0)).then(|| replicated.replicas = Some(0))?;
            Some(spec)
        })
    }

    /// One that has ended by itself is removed at once. Else it is scaled to nothing first, for only then the Swarm tells
    /// when its container is gone, and removed when no task of it is listed any more: an engine that removes a service while
    /// it forgets one of its tasks may die of that (swarmkit's `SetServiceTasksRemove`, seen with 20.10).
    pub(super) fn stop_once(&self, name: &str) -> Result<(), Error> {
        let scoped = swarm::scoped(&self.about.name, name);
        if !self.has_ended(&scoped)? {
            self.end_once(name)?;
            self.await_forgotten(&scoped)?;
        }
        self.again(|engine| engine.remove_service(&scoped))
    }

    /// Whether its task ended without being told to, so that the Swarm has no reason to forget it.
    fn has_ended(&self, scoped: &str) -> Result<bool, Error> {
        let engine = self.engine()?;
        let service = engine.service(scoped).map_err(error)?;
        let mode = service.and_then(|service| service.spec?.mode?.replicated);
        if mode.and_then(|replicated| replicated.replicas) == Some(0) {
            return Ok(false);
        }
        let tasks = self.tasks_of(scoped)?;
        Ok(!tasks.is_empty() && tasks.iter().all(observe::is_over))
    }

    fn await_forgotten(&self, scoped: &str) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let tasks = self.tasks_of(scoped)?;
            let lives = tasks.iter().any(|task| !observe::is_over(task));
            if tasks.is_empty() || (!lives && began.elapsed() > FORGET_TIMEOUT) {
                return Ok(());
            }
            if began.elapsed() > STOP_TIMEOUT {
                return Err(Error::Environment(format!(
                    "`{scoped}` was told to stop {} s ago, and still runs",
                    STOP_TIMEOUT.as_secs()
                )));
            }
            std::thread::sleep(super::PACE);
        }
    }

    /// None of a service that is not there.
    fn tasks_of(&self, scoped: &str) -> Result<Vec<models::Task>, Error> {
        match self.engine()?.tasks(&[("service", scoped)]) {
            Err(docker::Error::NotFound(_)) => Ok(Vec::new()),
            tasks => tasks.map_err(error),
        }
    }

    /// Removes the tasks of a release's migration.
    pub(super) fn forget_tasks(&self, id: &ReleaseId) -> Result<(), Error> {
        let prefix = format!("migrate-{id}-");
        for service in &self.look()?.services {
            let name = service.spec.as_ref().and_then(wanted::task_name);
            if let Some(name) = name.filter(|name| name.starts_with(&prefix)) {
                let scoped = swarm::scoped(&self.about.name, &name);
                self.again(|engine| engine.remove_service(&scoped))?;
            }
        }
        Ok(())
    }
}

/// The spec of a service that runs once.
fn once(stack: &str, task: &Task, mut spec: ServiceSpec) -> ServiceSpec {
    spec.name = Some(swarm::scoped(stack, &task.name));
    let labels = spec.labels.get_or_insert_default();
    labels.insert(TASK.to_owned(), task.name.clone());
    spec.mode = Some(ServiceSpecMode {
        replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
        ..ServiceSpecMode::default()
    });
    spec.endpoint_spec = None;
    spec.update_config = None;
    spec.rollback_config = None;
    let template = spec.task_template.get_or_insert_default();
    template.force_update = None;
    template.restart_policy = Some(TaskSpecRestartPolicy {
        condition: Some(Condition::NONE),
        ..TaskSpecRestartPolicy::default()
    });
    let container = template.container_spec.get_or_insert_default();
    container.command = Some(task.command.clone());
    container.args = None;
    container.health_check = Some(HealthConfig {
        test: Some(vec!["NONE".to_owned()]),
        ..HealthConfig::default()
    });
    if let Some(place) = &task.place {
        let placement = template.placement.get_or_insert_default();
        let constraints = placement.constraints.get_or_insert_default();
        constraints.push(format!("node.id=={place}"));
    }
    for network in template.networks.iter_mut().flatten() {
        // Nobody is to find it under the service's name.
        network.aliases = None;
    }
    spec
}
