//! Tasks that run once, and what everything prints. A task is a service that nobody restarts, with a label of its own.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bollard::models::{
    self, HealthConfig, Service, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated,
    TaskSpecRestartPolicy, TaskSpecRestartPolicyConditionEnum as Condition,
};

use super::wanted::{self, TASK};
use super::{Swarm, error, observe};
use crate::cancel::Cancel;
use crate::docker::{self, Engine, LogLine, LogOptions};
use crate::release::ReleaseId;
use crate::rollout::history::Record;
use crate::rollout::target::{Error, LogQuery, Place, Task};
use crate::swarm::{self, Node};

/// How long a log that is not followed may take: a node that does not answer is not waited for.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);
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

    pub(super) fn read_logs(
        &self,
        query: &LogQuery,
        cancel: &Cancel,
        each: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let inventory = self.look()?;
        let mut sources: Vec<(String, String, bool)> = Vec::new();
        for service in &inventory.services {
            let Some((id, spec)) = service.id.clone().zip(service.spec.as_ref()) else {
                continue;
            };
            let task = wanted::task_name(spec);
            let name = task
                .clone()
                .or_else(|| wanted::service_name(&self.about.name, spec));
            let Some(name) = name else { continue };
            match &query.of {
                Some(of) if *of == name => sources.push((name, id, false)),
                Some(of) => sources.extend(self.replica_log(service, &name, of, &inventory)),
                None if task.is_none() => sources.push((name, id, false)),
                None => {}
            }
        }
        let options = LogOptions {
            tail: query.tail.map(|lines| lines as u64),
            follow: query.follow,
            since: None,
            timestamps: true,
        };
        let engine = self.engine()?;
        let names = slots(&inventory);
        let show = |name: &str, line: &LogLine| match query.plain {
            true => line.line.clone(),
            false => {
                let of = line.task.as_ref().and_then(|task| names.get(task));
                let of = of.map_or(name.to_owned(), |slot| format!("{name}.{slot}"));
                format!("{} {of} {}", line.time.as_deref().unwrap_or_default(), line.line)
            }
        };
        let (lines, read) = channel();
        std::thread::scope(|scope| {
            for (name, id, is_task) in &sources {
                let (lines, options, show) = (lines.clone(), &options, &show);
                scope.spawn(move || {
                    let mut send = |line: LogLine| drop(lines.send(Ok((show(name, &line), line.time))));
                    let done = read_one(engine, id, *is_task, options, cancel, &mut send);
                    if let Err(problem) = done {
                        let _ = lines.send(Err(problem));
                    }
                });
            }
            drop(lines);
            let mut all = Vec::new();
            for line in read {
                match (line, query.follow) {
                    (Ok((line, _)), true) => each(&line),
                    (Ok(line), false) => all.push(line),
                    (Err(problem), _) => return Err(problem),
                }
            }
            all.sort_by(|(_, one), (_, other)| one.cmp(other));
            all.iter().for_each(|(line, _)| each(line));
            Ok(())
        })
    }

    /// The log of the newest task in a slot, if `of` names one of the service's.
    fn replica_log(
        &self,
        service: &Service,
        name: &str,
        of: &str,
        inventory: &docker::Inventory,
    ) -> Option<(String, String, bool)> {
        let slot: i64 = of.strip_prefix(name)?.strip_prefix('.')?.parse().ok()?;
        let tasks = inventory
            .tasks
            .iter()
            .filter(|task| task.service_id == service.id && task.slot == Some(slot));
        let newest = tasks.max_by_key(|task| task.created_at.clone())?;
        Some((name.to_owned(), newest.id.clone()?, true))
    }
}

/// Slots by the ids of their tasks.
fn slots(inventory: &docker::Inventory) -> std::collections::BTreeMap<String, i64> {
    let tasks = inventory.tasks.iter();
    tasks
        .filter_map(|task| Some((task.id.clone()?, task.slot?)))
        .collect()
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

fn read_one(
    engine: &Engine,
    id: &str,
    is_task: bool,
    options: &LogOptions,
    cancel: &Cancel,
    each: &mut dyn FnMut(LogLine),
) -> Result<(), Error> {
    let read = |cancel: &Cancel, each: &mut dyn FnMut(LogLine)| match is_task {
        true => engine.task_logs(id, options, cancel, each),
        false => engine.service_logs(id, options, cancel, each),
    };
    let done = match options.follow {
        true => read(cancel, each),
        false => within(LOG_TIMEOUT, cancel, &mut |cancel| read(cancel, each)),
    };
    match done {
        Err(docker::Error::Cancelled | docker::Error::NotFound(_)) => Ok(()),
        other => other.map_err(error),
    }
}

/// The end of one task's log, in the order in which it was written: an engine sends what goes to one stream before
/// what goes to the other.
pub(super) fn read_log(
    engine: &Engine,
    id: &str,
    tail: Option<u64>,
    cancel: &Cancel,
) -> Result<Vec<String>, Error> {
    let options = LogOptions {
        tail,
        timestamps: true,
        ..LogOptions::default()
    };
    let mut lines = Vec::new();
    read_one(engine, id, true, &options, cancel, &mut |line| lines.push(line))?;
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    Ok(lines.into_iter().map(|line| line.line).collect())
}

/// Runs `ask` with a flag that is raised after `limit`, or with `cancel`.
fn within<T>(limit: Duration, cancel: &Cancel, ask: &mut dyn FnMut(&Cancel) -> T) -> T {
    let bounded = Cancel::default();
    let (done, is_done) = channel::<()>();
    std::thread::scope(|scope| {
        let raised = bounded.clone();
        scope.spawn(move || {
            let began = Instant::now();
            while began.elapsed() < limit && !cancel.is_raised() {
                match is_done.recv_timeout(Duration::from_millis(50)) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
            raised.raise();
        });
        let value = ask(&bounded);
        drop(done);
        value
    })
}
