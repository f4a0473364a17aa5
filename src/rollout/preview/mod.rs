//! The preview: a release on this machine, without root and with nothing to install. A supervisor keeps it running;
//! here it is told what to run, and asked how it goes.

mod files;
mod preflight;
mod spec;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use files::Files;
use spec::Surroundings;

use super::history::{Journal, Record};
use super::mask::Mask;
use super::roots::Roots;
use super::target::{
    Endpoint, Error, Freeze, Kind, Lock, LogQuery, Observed, Problem, Replica, Service, Spec, State, Step,
    Target, Task, TaskState,
};
use super::watch::Reason;
use crate::cancel::Cancel;
use crate::release::{ReleaseId, Version};
use crate::store::Store;
use crate::supervisor::{self, Client, ReplicaState, ServiceSpec};

/// How often a followed log is read again.
const PACE: Duration = Duration::from_millis(100);

/// A preview on this machine.
pub struct Preview {
    files: Files,
    store: Arc<Store>,
    /// The directory of the stack file.
    directory: PathBuf,
    roots: Arc<Roots>,
    /// A program that can be a supervisor.
    program: PathBuf,
    cancel: Cancel,
    /// Whether this process is the one that changes the preview.
    changes: AtomicBool,
}

impl Preview {
    /// The preview whose state is in `state`, and whose images are `roots`; paths of the stack file begin at
    /// `directory`, and `program` is one that can be a supervisor.
    pub fn new(
        state: PathBuf,
        store: Arc<Store>,
        directory: PathBuf,
        roots: Arc<Roots>,
        program: PathBuf,
        cancel: Cancel,
    ) -> Preview {
        Preview {
            files: Files { directory: state },
            store,
            directory,
            roots,
            program,
            cancel,
            changes: AtomicBool::new(false),
        }
    }

    /// Stops everything, and leaves no process, mount or namespace. Volumes, secrets and the history stay, unless
    /// `volumes` says that they go. False if there was nothing.
    pub fn down(&self, owner: &str, volumes: bool) -> Result<bool, Error> {
        if !self.files.directory.exists() {
            return Ok(false);
        }
        let _lock = self.files.lock(owner)?;
        // One that died left files behind, which only another one knows to remove.
        let client = supervisor::start(&self.program, &self.files.directory, &self.store)?;
        client.stop(&self.store, volumes, &self.cancel)?;
        self.files.remove("journal.json")?;
        if volumes {
            let gone = std::fs::remove_dir_all(&self.files.directory);
            gone.map_err(|error| {
                let path = self.files.directory.display();
                Error::Environment(format!("cannot remove `{path}`: {error}"))
            })?;
        }
        Ok(true)
    }

    /// Secrets that must not be used again.
    fn revoked(&self) -> Result<BTreeSet<String>, Error> {
        Ok(self.files.read("revoked.json")?.unwrap_or_default())
    }

    /// The supervisor, started if it does not live.
    fn supervisor(&self) -> Result<Client, Error> {
        self.files.create()?;
        Ok(supervisor::start(
            &self.program,
            &self.files.directory,
            &self.store,
        )?)
    }

    /// The supervisor, if it lives.
    fn connect(&self) -> Result<Option<Client>, Error> {
        Ok(supervisor::connect(&self.files.directory)?)
    }

    /// Brings a supervisor that died back, with the ports that it published.
    fn recover(&self) -> Result<(), Error> {
        if !self.files.path("desired.json").exists() {
            return Ok(());
        }
        let mut client = self.supervisor()?;
        for (port, state) in client.observe()?.ports {
            if !state.listening {
                client.publish(port)?;
            }
        }
        Ok(())
    }

    /// What the supervisor says, if there is one. Whoever changes the preview brings one back that died half-way: else
    /// nothing would come of what it is waited for.
    fn seen(&self) -> Result<Option<supervisor::State>, Error> {
        let state = match self.connect()? {
            Some(mut client) => client.observe().map(Some),
            None => Ok(None),
        };
        match state {
            Ok(Some(state)) => Ok(Some(state)),
            Ok(None) | Err(supervisor::Error::Gone) if self.changes.load(Ordering::Relaxed) => {
                self.recover()?;
                let client = self.connect()?;
                Ok(client.map(|mut client| client.observe()).transpose()?)
            }
            other => Ok(other?),
        }
    }

    fn service_specs(&self, record: &Record) -> Result<BTreeMap<String, ServiceSpec>, Error> {
        let around = Surroundings {
            store: &self.store,
            release: &record.release,
            directory: &self.directory,
        };
        let mut specs = BTreeMap::new();
        for (name, service) in &record.stack.services {
            let image = record.image_of(name).ok_or_else(|| {
                Error::Environment(format!(
                    "release {} has no image `{}`",
                    record.release.id, service.image
                ))
            })?;
            let root = self.roots.root(image)?;
            specs.insert(
                name.clone(),
                spec::spec(&around, name, service, &root, &image.digest)?,
            );
        }
        Ok(specs)
    }

    fn service(&self, name: &str, seen: supervisor::Service) -> Result<Service, Error> {
        let shown = self.files.read(&format!("shown/{name}.json"))?;
        let paused = seen.paused.map(|why| match &seen.failure {
            Some(failure) => Reason::with_lines(
                format!("{}: {}", failure.container, failure.reason),
                ending(&failure.tail, failure.health.as_deref()),
            ),
            None => Reason::new(why),
        });
        Ok(Service {
            task: seen.spec.clone(),
            revision: seen.spec,
            shown: shown.unwrap_or_default(),
            replicas: seen.wanted,
            paused,
            tasks: seen
                .replicas
                .into_iter()
                .map(|replica| self::replica(name, replica))
                .collect(),
            ..Service::default()
        })
    }
}

fn ending(tail: &[String], health: Option<&str>) -> Vec<String> {
    let health = health
        .into_iter()
        .flat_map(str::lines)
        .map(|line| format!("health check: {line}"));
    tail.iter().cloned().chain(health).collect()
}

fn replica(service: &str, seen: supervisor::Replica) -> Replica {
    let state = match seen.state {
        ReplicaState::Running | ReplicaState::Healthy if seen.ready => State::Ready,
        ReplicaState::Running | ReplicaState::Healthy | ReplicaState::Starting | ReplicaState::Waiting => {
            State::Starting
        }
        ReplicaState::Unhealthy => State::Unhealthy,
        ReplicaState::Backoff => State::Backoff,
        ReplicaState::Stopped | ReplicaState::Failed => State::Failed,
        ReplicaState::Stopping => State::Stopping,
    };
    let lines = match state {
        State::Ready | State::Starting | State::Stopping => Vec::new(),
        _ => ending(&seen.tail, seen.health.as_deref()),
    };
    let reason = match state {
        // The state says so much already.
        State::Unhealthy => seen
            .reason
            .map(|reason| reason.trim_start_matches("unhealthy: ").to_owned()),
        _ => seen.reason,
    };
    Replica {
        name: format!("{service}.{}", seen.slot),
        id: None,
        revision: seen.spec,
        image: seen.image,
        state,
        restarts: seen.restarts,
        reason,
        lines,
    }
}

fn task(seen: &supervisor::Task) -> TaskState {
    use crate::supervisor::{End, TaskState as Seen};
    let exit_code = match (seen.state, seen.exit.as_ref().map(|exit| &exit.end)) {
        (Seen::Running | Seen::Stopping, _) => None,
        (_, Some(End::Code(code))) => Some(*code),
        (_, Some(End::Signal(signal))) => Some(128 + signal),
        (Seen::Done, _) => Some(0),
        (Seen::Failed, _) => Some(-1),
    };
    TaskState {
        exit_code,
        reason: seen.reason.clone(),
    }
}

/// A service for a person: as the stack file has it, with the image's digest and the versions of its files.
fn shown(record: &Record, name: &str, service: &crate::stack::Service) -> serde_json::Value {
    let mut value = serde_json::to_value(service).expect("plain data encodes");
    if let Some(image) = record.image_of(name) {
        value["image"] = image.reference().into();
    }
    let versions = |grants: &[crate::stack::Grant], versions: &BTreeMap<String, Version>| {
        let of = grants.iter().filter_map(|grant| versions.get(&grant.source));
        of.map(|version| serde_json::Value::from(version.as_str()))
            .collect::<Vec<_>>()
    };
    value["secrets"] = versions(&service.secrets, &record.release.secrets).into();
    value["configs"] = versions(&service.configs, &record.release.configs).into();
    without_nothing(&mut value);
    Mask::new(&record.secret_env, &record.stack).hide(&mut value);
    value
}

/// Removes what says nothing.
fn without_nothing(value: &mut serde_json::Value) {
    use serde_json::Value;
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(without_nothing);
        fields.retain(|_, value| says(value));
    }
}

impl From<supervisor::Error> for Error {
    fn from(error: supervisor::Error) -> Error {
        match error {
            supervisor::Error::Cancelled => Error::Cancelled,
            supervisor::Error::Refused(_) => Error::Refused(error.to_string()),
            error => Error::Environment(error.to_string()),
        }
    }
}

impl Target for Preview {
    fn observe(&self) -> Result<Observed, Error> {
        let Some(seen) = self.seen()? else {
            return Ok(Observed {
                secrets: supervisor::versions(&self.files.directory, supervisor::Kind::Secret)?,
                configs: supervisor::versions(&self.files.directory, supervisor::Kind::Config)?,
                revoked: self.revoked()?,
                ..Observed::default()
            });
        };
        let mut services = BTreeMap::new();
        for (name, service) in seen.services {
            services.insert(name.clone(), self.service(&name, service)?);
        }
        Ok(Observed {
            services,
            tasks: seen
                .tasks
                .iter()
                .map(|(name, seen)| (name.clone(), task(seen)))
                .collect(),
            secrets: seen.secrets,
            configs: seen.configs,
            revoked: self.revoked()?,
            ..Observed::default()
        })
    }

    fn preflight(&self, record: &Record, _: &Observed) -> Result<Vec<Problem>, Error> {
        let ports = match self.connect()? {
            Some(mut client) => client.observe()?.ports,
            None => BTreeMap::new(),
        };
        Ok(preflight::problems(record, &ports))
    }

    fn specs(&self, record: &Record, _: &Observed) -> Result<BTreeMap<String, Spec>, Error> {
        let mut specs = BTreeMap::new();
        for (name, spec) in self.service_specs(record)? {
            let service = &record.stack.services[&name];
            let revision = spec.fingerprint().hex();
            let spec = Spec {
                task: revision.clone(),
                revision,
                replicas: spec::replicas(service),
                needs: service.depends_on.keys().cloned().collect(),
                shown: shown(record, &name, service),
                ..Spec::default()
            };
            specs.insert(name, spec);
        }
        Ok(specs)
    }

    fn holds(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<Option<bool>, Error> {
        let held = supervisor::content(&self.files.directory, object(kind), version.as_str())?;
        Ok(held.map(|held| held == content))
    }

    fn apply(&self, step: &Step, record: &Record) -> Result<(), Error> {
        let mut client = self.supervisor()?;
        let (service, hold) = match step {
            Step::Canary { service } => (service, Some(1)),
            Step::Roll { service } => (service, None),
            Step::Remove { service } => {
                client.remove(service)?;
                return self.files.remove(&format!("shown/{service}.json"));
            }
            Step::Restart { service } => {
                return Err(Error::Refused(format!(
                    "a preview restarts nothing by itself; `skep down` and `skep preview` start `{service}` again"
                )));
            }
            // The supervisor stops what must not meet itself, and knows one way of updating.
            Step::Put { .. }
            | Step::Migrate { .. }
            | Step::Network { .. }
            | Step::Stop { .. }
            | Step::Settle { .. } => return Ok(()),
        };
        let specs = self.service_specs(record)?;
        let (spec, wanted) = (&specs[service], &record.stack.services[service]);
        for port in spec.ports.keys() {
            client.publish(*port)?;
        }
        self.files
            .write(&format!("shown/{service}.json"), &shown(record, service, wanted))?;
        Ok(client.put(&self.store, service, spec, spec::replicas(wanted), hold)?)
    }

    fn put(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<(), Error> {
        let mut client = self.supervisor()?;
        let put = match kind {
            Kind::Secret => client.put_secret(version.as_str(), content),
            Kind::Config => client.put_config(version.as_str(), content),
        };
        Ok(put?)
    }

    fn delete(&self, kind: Kind, version: &Version) -> Result<(), Error> {
        let mut client = self.supervisor()?;
        let deleted = match kind {
            Kind::Secret => client.delete_secret(version.as_str()),
            Kind::Config => client.delete_config(version.as_str()),
        };
        Ok(deleted?)
    }

    fn start_task(&self, task: &Task, record: &Record) -> Result<(), Error> {
        let mut spec = self.service_specs(record)?.remove(&task.service).ok_or_else(|| {
            Error::Refused(format!(
                "release {} has no service `{}`",
                record.release.id, task.service
            ))
        })?;
        spec.argv.clone_from(&task.command);
        spec.ports.clear();
        spec.healthcheck = None;
        spec.restart.condition = supervisor::Condition::None;
        Ok(self
            .supervisor()?
            .run_task(&self.store, &task.name, &spec, task.timeout)?)
    }

    fn end_task(&self, name: &str) -> Result<(), Error> {
        Ok(self.supervisor()?.stop_task(name)?)
    }

    fn stop_task(&self, name: &str) -> Result<(), Error> {
        self.end_task(name)?;
        let mut client = self.supervisor()?;
        while client
            .task(name)?
            .is_some_and(|seen| task(&seen).exit_code.is_none())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn logs(&self, query: &LogQuery, cancel: &Cancel, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        // `api.1` is a replica of `api`; a task's name has no such end.
        let slot = |name: &str| {
            name.rsplit_once('.')
                .filter(|(_, slot)| slot.parse::<u32>().is_ok())
                .is_some()
        };
        let replica = query.of.as_deref().filter(|name| slot(name));
        let service = query.of.as_deref().map(|name| match replica {
            Some(_) => name.rsplit_once('.').map_or(name, |(service, _)| service),
            None => name,
        });
        let services: Vec<String> = service.map(str::to_owned).into_iter().collect();
        let mut reader = supervisor::logs(&self.files.directory, &services, query.tail);
        let failed = |error| Error::Environment(format!("cannot read the logs: {error}"));
        loop {
            for line in reader.read().map_err(failed)? {
                if replica.is_some_and(|replica| replica != line.of) {
                    continue;
                }
                match query.plain {
                    true => each(&line.text),
                    false => each(&format!("{} {} {}", line.at, line.of, line.text)),
                }
            }
            if !query.follow || cancel.is_raised() {
                return Ok(());
            }
            std::thread::sleep(PACE);
        }
    }

    fn endpoint(&self, service: &str, record: &Record) -> Result<Option<Endpoint>, Error> {
        let service = record.stack.services.get(service);
        let port = service.and_then(|service| service.ports.first());
        Ok(port.map(|port| Endpoint {
            base: format!("http://127.0.0.1:{}", port.published.unwrap_or(port.target)),
            connect: None,
        }))
    }

    fn lock(&self, owner: &str, _: bool) -> Result<Box<dyn Lock>, Error> {
        let lock = self.files.lock(owner)?;
        self.recover()?;
        self.changes.store(true, Ordering::Relaxed);
        Ok(lock)
    }

    fn journal(&self) -> Result<Option<Journal>, Error> {
        self.files.read("journal.json")
    }

    fn write_journal(&self, journal: Option<&Journal>) -> Result<(), Error> {
        match journal {
            Some(journal) => self.files.write("journal.json", journal),
            None => self.files.remove("journal.json"),
        }
    }

    fn history(&self) -> Result<Vec<Record>, Error> {
        let mut history: Vec<Record> = Vec::new();
        for name in self.files.list("history")? {
            history.extend(self.files.read(&name)?);
        }
        history.sort_by_key(|record| std::cmp::Reverse(record.began));
        Ok(history)
    }

    fn record(&self, record: &Record) -> Result<(), Error> {
        self.files.write(&history_file(&record.release.id), record)
    }

    fn forget(&self, id: &ReleaseId) -> Result<(), Error> {
        self.files.remove(&history_file(id))
    }

    fn frozen(&self) -> Result<Option<Freeze>, Error> {
        self.files.read("frozen.json")
    }

    fn freeze(&self, freeze: Option<&Freeze>) -> Result<(), Error> {
        match freeze {
            Some(freeze) => self.files.write("frozen.json", freeze),
            None => self.files.remove("frozen.json"),
        }
    }

    fn revoke(&self, version: &Version) -> Result<(), Error> {
        let mut revoked = self.revoked()?;
        revoked.insert(version.to_string());
        self.files.write("revoked.json", &revoked)
    }
}

fn history_file(id: &ReleaseId) -> String {
    format!("history/{id}.json")
}

fn object(kind: Kind) -> supervisor::Kind {
    match kind {
        Kind::Secret => supervisor::Kind::Secret,
        Kind::Config => supervisor::Kind::Config,
    }
}

/// The state directory of an environment: `<project>/<environment>` below `skep` in the user's state directory.
pub fn state_directory(state_home: &Path, project: &str, environment: &str) -> PathBuf {
    state_home.join("skep").join(project).join(environment)
}
