//! Docker Swarm as a target: its managers are asked over the engine's API, and everything that skep has to remember is
//! kept on the Swarm itself, so that another machine can go on. What a stack is there is in [`crate::swarm`].

mod apply;
mod details;
mod lock;
mod logs;
mod observe;
mod preflight;
mod reasons;
mod seal;
mod state;
mod task;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::history::{Journal, Record};
use super::target::{
    self, Details, Endpoint, Error, Found, Freeze, Kind, LogQuery, Observed, Place, Problem, Replica, Spec,
    Step, Target, Task,
};
use crate::cancel::Cancel;
use crate::docker::{self, Address, Engine, Inventory};
use crate::project::Pull;
use crate::registry::Settings;
use crate::release::{ReleaseId, Version};
use crate::swarm::{NAMESPACE, Node};

/// How often a change is tried again that somebody else was faster with, or whose answer was lost.
const ATTEMPTS: usize = 5;
/// How often a Swarm is looked at while something is waited for.
const PACE: Duration = Duration::from_millis(250);
/// Lines of the end of a log that a report shows.
const LINES: u64 = 20;

/// Which Swarm, and what is needed to use it.
#[derive(Clone)]
pub struct Whereabouts {
    /// What the stack is called there.
    pub name: String,
    /// Where managers are; the engine of this machine if empty.
    pub managers: Vec<String>,
    /// The id that the Swarm must have, if that is known.
    pub cluster: Option<String>,
    /// For how long whoever holds the lock may be silent before he is taken for dead.
    pub patience: Duration,
    /// Variables of services whose values are secrets.
    pub secret_env: BTreeSet<String>,
    /// Variables with their values, as the environment's files give them.
    pub given: BTreeMap<String, String>,
    /// A directory of this machine in which the Swarm's id is remembered.
    pub state: PathBuf,
    /// The directory of the stack file.
    pub directory: PathBuf,
    /// How registries are asked, and with which credentials nodes pull.
    pub registry: Settings,
    /// As whom nodes pull, by the host of the registry.
    pub pull: BTreeMap<String, Pull>,
    /// Raised to stop.
    pub cancel: Cancel,
}

/// A stack on a Docker Swarm.
pub struct Swarm {
    about: Whereabouts,
    managers: Vec<Address>,
    engine: OnceLock<Arc<Engine>>,
    holding: lock::Holding,
    /// Since when replicas were seen to run, by the engine's id.
    running: Mutex<HashMap<String, Instant>>,
    /// The networks that were seen last: specs name them by id.
    networks: Mutex<BTreeMap<String, String>>,
    /// What was seen last, which tells what services keep that no stack file speaks of.
    seen: Mutex<Option<Arc<Inventory>>>,
    /// Values that secret variables have, or had while this process looked.
    values: Mutex<seal::Values>,
    /// Variables whose values at the time of a release are kept nowhere.
    lost: Mutex<BTreeSet<String>>,
}

impl Swarm {
    /// The stack that `about` names. Nothing is asked yet.
    pub fn new(about: Whereabouts) -> Result<Swarm, Error> {
        let given = match about.managers.is_empty() {
            true => vec!["unix:///var/run/docker.sock".to_owned()],
            false => about.managers.clone(),
        };
        let managers = given.iter().map(|manager| manager.parse());
        let managers = managers
            .collect::<Result<Vec<Address>, _>>()
            .map_err(|error| Error::Refused(error.to_string()))?;
        let values = seal::Values::new(&about.given);
        Ok(Swarm {
            about,
            managers,
            engine: OnceLock::new(),
            holding: lock::Holding::default(),
            running: Mutex::default(),
            networks: Mutex::default(),
            seen: Mutex::default(),
            values: Mutex::new(values),
            lost: Mutex::default(),
        })
    }

    /// What the stack is called there.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// Where its managers are.
    pub fn managers(&self) -> &[Address] {
        &self.managers
    }

    /// The Swarm's nodes.
    pub fn nodes(&self) -> Result<Vec<Node>, Error> {
        let nodes = self.engine()?.nodes().map_err(error)?;
        Ok(nodes.iter().map(Node::from).collect())
    }

    /// What is worth a word to whoever asked, since the last time.
    pub fn notes(&self) -> Vec<String> {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        let note = |name: String| {
            format!("the value that `{name}` had then is kept nowhere; its present one is used")
        };
        lost.into_iter().map(note).collect()
    }

    /// A record as it is kept: without the values of its secret variables.
    pub fn sealed(&self, record: &Record) -> Record {
        seal::sealed(record)
    }

    /// The Swarm, connected to when it is first needed; another one than before is refused.
    fn engine(&self) -> Result<&Arc<Engine>, Error> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::connect(self.managers.clone(), self.about.cancel.clone()).map_err(error)?;
        let there = engine.swarm_id().map_err(error)?;
        let file = self.identity_file();
        let remembered = std::fs::read_to_string(&file).ok().map(|id| id.trim().to_owned());
        let (expected, source) = match (&self.about.cluster, remembered) {
            (Some(id), _) => (Some(id.clone()), "`cluster` of skep.toml".to_owned()),
            (None, id) => (id, format!("`{}`", file.display())),
        };
        if let Some(expected) = expected.filter(|expected| *expected != there) {
            return Err(Error::Refused(format!(
                "the Swarm at {} is `{there}`, and {source} says `{expected}`; if this is the right one, change that",
                engine.address()
            )));
        }
        Ok(self.engine.get_or_init(|| Arc::new(engine)))
    }

    fn identity_file(&self) -> PathBuf {
        self.about.state.join("cluster")
    }

    /// From the first change on, no other Swarm is taken for this one.
    fn remember_identity(&self) -> Result<(), Error> {
        let file = self.identity_file();
        if file.exists() {
            return Ok(());
        }
        let id = self.engine()?.swarm_id().map_err(error)?;
        let written = std::fs::create_dir_all(&self.about.state)
            .and_then(|()| std::fs::write(&file, format!("{id}\n")));
        written.map_err(|error| Error::Environment(format!("cannot write `{}`: {error}", file.display())))
    }

    /// Everything of the stack.
    fn look(&self) -> Result<Arc<Inventory>, Error> {
        let label = format!("{NAMESPACE}={}", self.about.name);
        let inventory = self.engine()?.all(&[("label", &label)]).map_err(error)?;
        let inventory = Arc::new(inventory);
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.see(&inventory, &self.about.secret_env);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&inventory));
        Ok(inventory)
    }

    /// What was seen last.
    fn seen(&self) -> Result<Arc<Inventory>, Error> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.map_or_else(|| self.look(), Ok)
    }

    /// Names of networks by their ids, those of others too.
    fn network_names(
        &self,
        wanted: &dyn Fn(&BTreeMap<String, String>) -> bool,
    ) -> Result<BTreeMap<String, String>, Error> {
        let mut names = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if names.is_empty() || !wanted(&names) {
            let all = self.engine()?.networks(&[]).map_err(error)?;
            *names = all
                .into_iter()
                .filter_map(|network| Some((network.id?, network.name?)))
                .collect();
        }
        Ok(names.clone())
    }

    /// Refuses what is about to be changed if somebody took the lock over.
    fn guard(&self) -> Result<&Arc<Engine>, Error> {
        let engine = self.engine()?;
        self.holding.check(engine, &self.about.name)?;
        Ok(engine)
    }

    fn state(&self) -> Result<state::Labels, Error> {
        let state = state::read(self.engine()?, &self.about.name)?;
        Ok(state.map(|state| state.labels).unwrap_or_default())
    }

    /// Sets or removes a label of the state.
    fn set(&self, label: &str, value: Option<String>) -> Result<(), Error> {
        let engine = self.guard()?;
        state::change(engine, &self.about.name, &mut |labels| {
            self.holding.check_labels(labels)?;
            match &value {
                Some(value) => labels.insert(label.to_owned(), value.clone()),
                None => labels.remove(label),
            };
            Ok(())
        })
    }
}

/// The label of the state that holds the journal, and the one that says that all is frozen.
const JOURNAL: &str = "skep.journal";
const FROZEN: &str = "skep.frozen";

fn parsed<T: serde::de::DeserializeOwned>(labels: &state::Labels, label: &str) -> Result<Option<T>, Error> {
    let text = labels.get(label);
    text.map(|text| serde_json::from_str(text))
        .transpose()
        .map_err(|error| {
            Error::Environment(format!(
                "the label `{label}` of the stack's state is damaged: {error}"
            ))
        })
}

impl Target for Swarm {
    fn observe(&self) -> Result<Observed, Error> {
        self.observed(&*self.look()?)
    }

    fn preflight(&self, record: &Record, observed: &Observed) -> Result<Vec<Problem>, Error> {
        self.problems(record, observed)
    }

    fn specs(&self, record: &Record, _: &Observed) -> Result<BTreeMap<String, Spec>, Error> {
        self.wanted_specs(record)
    }

    fn networks(&self, record: &Record) -> Vec<String> {
        wanted::networks(&self.about.name, record)
            .into_iter()
            .map(|network| network.name)
            .collect()
    }

    fn pace(&self) -> Duration {
        PACE
    }

    fn details(&self, replica: &Replica) -> Details {
        self.details_of(replica)
    }

    fn holds(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<Option<bool>, Error> {
        self.object_holds(kind, version, content)
    }

    fn apply(&self, step: &Step, record: &Record) -> Result<(), Error> {
        self.take_step(step, record)
    }

    fn put(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<(), Error> {
        self.put_object(kind, version, content)
    }

    fn delete(&self, kind: Kind, version: &Version) -> Result<(), Error> {
        self.delete_object(kind, version)
    }

    fn start_task(&self, task: &Task, record: &Record) -> Result<(), Error> {
        self.start_once(task, record)
    }

    fn places(&self, service: &str, record: &Record) -> Result<Vec<Place>, Error> {
        self.places_of(service, record)
    }

    fn end_task(&self, name: &str) -> Result<(), Error> {
        self.end_once(name)
    }

    fn stop_task(&self, name: &str) -> Result<(), Error> {
        self.stop_once(name)
    }

    fn logs(&self, query: &LogQuery, cancel: &Cancel, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        self.read_logs(query, cancel, each)
    }

    fn endpoint(&self, service: &str, record: &Record) -> Result<Option<Endpoint>, Error> {
        let service = record.stack.services.get(service);
        let port = service.and_then(|service| service.ports.iter().find_map(|port| port.published));
        let Some(port) = port else { return Ok(None) };
        let address = self.engine()?.address();
        let host = address.host().unwrap_or("127.0.0.1").to_owned();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        Ok(Some(Endpoint {
            base: format!("http://{host}:{port}"),
            connect: None,
        }))
    }

    fn lock(&self, owner: &str, takeover: bool) -> Result<Box<dyn target::Lock>, Error> {
        self.remember_identity()?;
        let engine = self.engine()?;
        let (lock, was_somebodys) = lock::take(
            &lock::Wanted {
                engine,
                stack: &self.about.name,
                owner,
                patience: self.about.patience,
                holding: &self.holding,
                cancel: &self.about.cancel,
            },
            takeover,
        )?;
        if was_somebodys {
            self.fence()?;
        }
        Ok(Box::new(lock))
    }

    fn journal(&self) -> Result<Option<Journal>, Error> {
        parsed(&self.state()?, JOURNAL)
    }

    fn write_journal(&self, journal: Option<&Journal>) -> Result<(), Error> {
        self.set(JOURNAL, journal.map(state::json))
    }

    fn history(&self) -> Result<Vec<Record>, Error> {
        state::history(self.engine()?, &self.about.name)
    }

    fn record(&self, record: &Record) -> Result<(), Error> {
        state::record(self.guard()?, &self.about.name, &seal::sealed(record))
    }

    fn forget(&self, id: &ReleaseId) -> Result<(), Error> {
        self.forget_tasks(id)?;
        state::forget(self.guard()?, &self.about.name, id)
    }

    fn found(&self) -> Result<BTreeMap<String, Found>, Error> {
        Ok(wanted::found_services(&self.about.name, &*self.look()?))
    }

    fn frozen(&self) -> Result<Option<Freeze>, Error> {
        parsed(&self.state()?, FROZEN)
    }

    fn freeze(&self, freeze: Option<&Freeze>) -> Result<(), Error> {
        self.set(FROZEN, freeze.map(state::json))
    }

    fn revoke(&self, version: &Version) -> Result<(), Error> {
        self.revoke_secret(version)
    }
}

/// What an engine's error means to the model.
fn error(error: docker::Error) -> Error {
    match error {
        docker::Error::Cancelled => Error::Cancelled,
        docker::Error::Refused(_) | docker::Error::Conflict(_) | docker::Error::NotFound(_) => {
            Error::Refused(error.to_string())
        }
        error => Error::Environment(error.to_string()),
    }
}

/// A time as an engine writes it (RFC 3339).
fn time(text: &Option<String>) -> Option<DateTime<Utc>> {
    text.as_ref()?.parse().ok()
}
