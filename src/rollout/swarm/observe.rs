//! From what a Swarm lists to what the model sees: a service with a replica for each slot, and why it is not well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bollard::models::{self, ServiceUpdateStatusStateEnum as Update, TaskState as At};
use std::sync::PoisonError;

use super::reasons::{exit_code, give_time, is_for_good, node_name, note_lost, placing, why, why_of};
use super::wanted::{self, Face};
use super::{Swarm, time};
use crate::docker::Inventory;
use crate::rollout::target::{Error, Observed, Replica, Service, State, TaskState};
use crate::rollout::watch::Reason;

/// How long a replica without a health check has to run, unless the service says so (`docker service create
/// --update-monitor`).
const MONITOR: Duration = Duration::from_secs(5);

impl Swarm {
    /// What `inventory` shows.
    pub(super) fn observed(&self, inventory: &Inventory) -> Result<Observed, Error> {
        let names = self.names_for(inventory)?;
        self.note_running(inventory);
        let mut observed = Observed {
            secrets: inventory
                .secrets
                .iter()
                .filter_map(|secret| secret.spec.as_ref()?.name.clone())
                .collect(),
            configs: inventory
                .configs
                .iter()
                .filter_map(|config| config.spec.as_ref()?.name.clone())
                .collect(),
            networks: inventory
                .networks
                .iter()
                .filter_map(|network| network.name.clone())
                .collect(),
            revoked: inventory.secrets.iter().filter_map(revoked).collect(),
            ..Observed::default()
        };
        for service in &inventory.services {
            let Some(spec) = &service.spec else { continue };
            let tasks: Vec<&models::Task> = inventory
                .tasks
                .iter()
                .filter(|task| task.service_id.is_some() && task.service_id == service.id)
                .collect();
            if let Some(name) = wanted::task_name(spec) {
                observed.tasks.insert(name, once(&tasks));
            } else if let Some(name) = wanted::service_name(&self.about.name, spec) {
                let seen = self.service(&name, service, spec, &tasks, inventory, &names);
                observed.services.insert(name, seen);
            }
        }
        Ok(observed)
    }

    /// Names of the networks that the stack's services are on.
    pub(super) fn names_for(&self, inventory: &Inventory) -> Result<BTreeMap<String, String>, Error> {
        let specs = inventory
            .services
            .iter()
            .filter_map(|service| service.spec.as_ref()?.task_template.as_ref());
        let networks = specs.flat_map(|template| template.networks.iter().flatten());
        let ids: BTreeSet<&String> = networks.filter_map(|network| network.target.as_ref()).collect();
        self.network_names(&|names| {
            ids.iter()
                .all(|id| names.contains_key(*id) || names.values().any(|name| name == *id))
        })
    }

    fn note_running(&self, inventory: &Inventory) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<&String> = inventory
            .tasks
            .iter()
            .filter(|task| state_of(task) == Some(At::RUNNING))
            .filter_map(|task| task.id.as_ref())
            .collect();
        running.retain(|id, _| now.contains(id));
        for id in now {
            running.entry(id.clone()).or_insert_with(Instant::now);
        }
    }

    /// Whether a task has run for so long.
    fn has_run_for(&self, task: &models::Task, monitor: Duration) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = task.id.as_ref().and_then(|id| running.get(id));
        let began = task.status.as_ref().and_then(|status| time(&status.timestamp));
        let by_its_clock = began.and_then(|began| (chrono::Utc::now() - began).to_std().ok());
        seen.is_some_and(|since| since.elapsed() >= monitor) || by_its_clock.is_some_and(|ran| ran >= monitor)
    }

    fn service(
        &self,
        name: &str,
        service: &models::Service,
        spec: &models::ServiceSpec,
        tasks: &[&models::Task],
        inventory: &Inventory,
        names: &BTreeMap<String, String>,
    ) -> Service {
        let (own, unsettled) = wanted::settled(spec);
        let face = Face::of(&own, names, &self.about.secret_env);
        let status = service.update_status.as_ref();
        let paused =
            status.filter(|status| matches!(status.state, Some(Update::PAUSED | Update::ROLLBACK_PAUSED)));
        let mut replicas = Vec::new();
        let mut slots: BTreeMap<(i64, String), Vec<&models::Task>> = BTreeMap::new();
        for task in tasks {
            let node = match task.slot {
                Some(_) => String::new(),
                None => node_name(inventory, task),
            };
            slots
                .entry((task.slot.unwrap_or_default(), node))
                .or_default()
                .push(task);
        }
        let mut ended = Vec::new();
        for ((slot, node), mut tasks) in slots {
            tasks.sort_by_key(|task| std::cmp::Reverse(task.created_at.clone()));
            let of = match node.is_empty() {
                true => format!("{name}.{slot}"),
                false => format!("{name}.{node}"),
            };
            self.slot(&of, &own, &tasks, names, &mut replicas, &mut ended);
        }
        if replicas.iter().any(|replica| replica.state == State::Stopping) {
            replicas.iter_mut().for_each(give_time);
            replicas
                .iter_mut()
                .for_each(|replica| note_lost(replica, tasks, inventory));
        }
        let count = wanted::replicas(spec).unwrap_or_else(|| replicas.len().max(1) as u32);
        let alive = replicas
            .iter()
            .filter(|replica: &&Replica| replica.state != State::Stopping)
            .count();
        ended.truncate((count as usize).saturating_sub(alive));
        replicas.extend(ended);
        replicas.sort_by(|a, b| a.name.cmp(&b.name));
        Service {
            revision: face.revision,
            task: face.task,
            version: service
                .version
                .as_ref()
                .and_then(|version| version.index)
                .unwrap_or_default(),
            force: wanted::force(spec),
            unsettled,
            shown: face.shown,
            replicas: count,
            paused: paused.map(|status| {
                let message = status.message.clone().unwrap_or_default();
                let culprit = culprit(name, &message, tasks, &own, names);
                culprit.unwrap_or_else(|| Reason::new(message))
            }),
            tasks: replicas,
        }
    }

    /// One slot: what runs there or should, what is on its way out, and in `ended` what nothing follows.
    fn slot(
        &self,
        name: &str,
        spec: &models::ServiceSpec,
        newest_first: &[&models::Task],
        names: &BTreeMap<String, String>,
        replicas: &mut Vec<Replica>,
        ended: &mut Vec<Replica>,
    ) {
        let mut current = None;
        for task in newest_first {
            let wanted = matches!(task.desired_state, Some(At::RUNNING | At::READY | At::ACCEPTED));
            if wanted && current.is_none() {
                current = Some(*task);
            } else if !is_over(task) {
                // One that is to be replaced, and serves until the new one does, is told to run as before.
                let state = match (wanted, state_of(task)) {
                    (true, Some(At::RUNNING)) => State::Ready,
                    (true, _) => State::Starting,
                    (false, _) => State::Stopping,
                };
                replicas.push(replica(name, task, state, names));
            }
        }
        match current {
            Some(task) => {
                let mut seen = replica(name, task, State::Starting, names);
                let failures: Vec<&&models::Task> = newest_first
                    .iter()
                    .filter(|other| has_failed(other) && wanted::task_revision(other, names) == seen.revision)
                    .collect();
                seen.restarts = failures.len() as u32;
                self.judge(&mut seen, task, spec, failures.first().map(|task| **task));
                replicas.push(seen);
            }
            None => {
                if let Some(last) = newest_first
                    .first()
                    .filter(|task| is_over(task) && !was_shut_down(task))
                {
                    let mut seen = replica(name, last, State::Failed, names);
                    seen.reason = Some(why(last));
                    ended.push(seen);
                }
            }
        }
    }

    fn judge(
        &self,
        seen: &mut Replica,
        task: &models::Task,
        spec: &models::ServiceSpec,
        last_failure: Option<&models::Task>,
    ) {
        let at = state_of(task);
        if at == Some(At::RUNNING) {
            let monitor = spec.update_config.as_ref().and_then(|update| update.monitor);
            let monitor = monitor
                .filter(|nanos| *nanos > 0)
                .map_or(MONITOR, |nanos| Duration::from_nanos(nanos as u64));
            if wanted::has_health_check(spec) || self.has_run_for(task, monitor) {
                seen.state = State::Ready;
            }
            return;
        }
        let err = task
            .status
            .as_ref()
            .and_then(|status| status.err.clone())
            .filter(|err| !err.is_empty());
        if let (Some(At::NEW | At::PENDING | At::ALLOCATED), Some(err)) = (at, &err) {
            seen.state = State::Unplaced;
            // It runs nowhere, and has printed nothing.
            seen.id = None;
            seen.reason = Some(placing(err, spec));
            return;
        }
        let failure = match has_failed(task) {
            true => Some(task),
            false => last_failure,
        };
        if let Some(failure) = failure {
            seen.state = match state_of(failure) {
                Some(At::REJECTED) if is_for_good(&why(failure)) => State::Failed,
                _ => State::Backoff,
            };
            seen.reason = Some(why_of(failure, spec));
            seen.id.clone_from(&failure.id);
        }
    }
}

pub(super) fn replica(
    name: &str,
    task: &models::Task,
    state: State,
    names: &BTreeMap<String, String>,
) -> Replica {
    let image = task
        .spec
        .as_ref()
        .and_then(|spec| spec.container_spec.as_ref()?.image.clone());
    let image = image.unwrap_or_default();
    Replica {
        name: name.to_owned(),
        id: task.id.clone(),
        revision: wanted::task_revision(task, names),
        image: image
            .split_once('@')
            .map_or(image.clone(), |(_, digest)| digest.to_owned()),
        state,
        restarts: 0,
        reason: None,
        lines: Vec::new(),
    }
}

/// Why the engine stopped an update, which says of that no more than the id of the task that failed first.
fn culprit(
    service: &str,
    message: &str,
    tasks: &[&models::Task],
    spec: &models::ServiceSpec,
    names: &BTreeMap<String, String>,
) -> Option<Reason> {
    let is_named = |task: &&&models::Task| task.id.as_ref().is_some_and(|id| message.contains(id));
    let task = tasks.iter().find(is_named)?;
    let name = task
        .slot
        .map_or_else(|| service.to_owned(), |slot| format!("{service}.{slot}"));
    let why = why_of(task, spec);
    let message = format!("{name} failed: {why}");
    let mut seen = replica(&name, task, State::Failed, names);
    seen.reason = Some(why);
    Some(Reason {
        message,
        lines: Vec::new(),
        replica: Some(Box::new(seen)),
    })
}

fn revoked(secret: &models::Secret) -> Option<String> {
    let spec = secret.spec.as_ref()?;
    spec.labels.as_ref()?.get(super::wanted::REVOKED)?;
    spec.name.clone()
}

pub(super) fn state_of(task: &models::Task) -> Option<At> {
    task.status.as_ref()?.state
}

pub(super) fn is_over(task: &models::Task) -> bool {
    matches!(
        state_of(task),
        Some(At::COMPLETE | At::SHUTDOWN | At::FAILED | At::REJECTED | At::ORPHANED) | None
    )
}

fn has_failed(task: &models::Task) -> bool {
    matches!(state_of(task), Some(At::FAILED | At::REJECTED))
}

/// Whether somebody wanted it to end.
fn was_shut_down(task: &models::Task) -> bool {
    matches!(state_of(task), Some(At::SHUTDOWN | At::ORPHANED))
}

/// A task that runs once.
fn once(tasks: &[&models::Task]) -> TaskState {
    let newest = tasks.iter().max_by_key(|task| task.created_at.clone());
    let Some(task) = newest else {
        return TaskState {
            exit_code: None,
            reason: None,
        };
    };
    match is_over(task) {
        false => TaskState {
            exit_code: None,
            reason: task
                .status
                .as_ref()
                .and_then(|status| status.err.clone())
                .filter(|err| !err.is_empty()),
        },
        true => {
            let code = match state_of(task) {
                Some(At::COMPLETE) => 0,
                _ => exit_code(task).filter(|code| *code != 0).unwrap_or(-1),
            };
            TaskState {
                exit_code: Some(code),
                reason: (code != 0).then(|| why(task)),
            }
        }
    }
}
