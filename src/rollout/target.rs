//! What every target is to the model: a place that can be observed and changed one step at a time. Order, timing,
//! reporting and exit codes are the model's; a target decides none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::history::{Journal, Record};
use super::watch::Reason;
use crate::cancel::Cancel;
use crate::release::{ReleaseId, Version};

/// A place that releases run on. Every call blocks, for no longer than the target's own network timeout, and every
/// change is idempotent: asking for what is there already does nothing.
pub trait Target {
    /// What is there now. Touches nothing.
    fn observe(&self) -> Result<Observed, Error>;

    /// What keeps `record` from running here, all of it: images that are gone or lack the platform, ports that are
    /// taken, keys that the target cannot honour. Touches nothing.
    fn preflight(&self, record: &Record, observed: &Observed) -> Result<Vec<Problem>, Error>;

    /// What each service would be given, by its name; comparable, readable, and without the content of secrets.
    /// `observed` says what a service keeps that no stack file speaks of.
    fn specs(&self, record: &Record, observed: &Observed) -> Result<BTreeMap<String, Spec>, Error>;

    /// Networks that the target has to have before services come, by their names there.
    fn networks(&self, _: &Record) -> Vec<String> {
        Vec::new()
    }

    /// How often it makes sense to look at the target while something is waited for.
    fn pace(&self) -> Duration {
        Duration::from_millis(50)
    }

    /// What can be found out of a replica that did not end well, beyond what is seen of all.
    fn details(&self, replica: &Replica) -> Details {
        Details {
            why: None,
            lines: replica.lines.clone(),
        }
    }

    /// Whether the object `version` holds `content`; `None` if there is no such object.
    fn holds(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<Option<bool>, Error>;

    /// Makes the target go one step towards `record`. Returns before the orchestrator has followed.
    fn apply(&self, step: &Step, record: &Record) -> Result<(), Error>;

    /// Puts the object `version`; one that is there with the same content is left alone.
    fn put(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<(), Error>;

    /// Deletes the object `version`, if it is there.
    fn delete(&self, kind: Kind, version: &Version) -> Result<(), Error>;

    /// Starts `command` once, as a task of `service`'s image and settings; a task of this name that is there is
    /// adopted instead.
    fn start_task(&self, task: &Task, record: &Record) -> Result<(), Error>;

    /// Where replicas of `service` may come, if there is more than one place.
    fn places(&self, _: &str, _: &Record) -> Result<Vec<Place>, Error> {
        Ok(Vec::new())
    }

    /// Tells a task to end, and does not wait.
    fn end_task(&self, name: &str) -> Result<(), Error>;

    /// Ends a task, and waits until it is gone.
    fn stop_task(&self, name: &str) -> Result<(), Error>;

    /// Gives lines of a log to `each`, oldest first, until there are no more, or with `follow` until `cancel`.
    fn logs(&self, query: &LogQuery, cancel: &Cancel, each: &mut dyn FnMut(&str)) -> Result<(), Error>;

    /// Where probes of `service` connect, and under which host name; empty if nothing of it can be reached from here.
    fn endpoint(&self, service: &str, record: &Record) -> Result<Option<Endpoint>, Error>;

    /// The lock of whoever changes this target, until it is dropped. With `takeover`, that of an owner who died is
    /// taken, after as long a look as it needs to be sure; without, it is refused.
    fn lock(&self, owner: &str, takeover: bool) -> Result<Box<dyn Lock>, Error>;

    /// The rollout that is under way, or that died.
    fn journal(&self) -> Result<Option<Journal>, Error>;

    /// Replaces the journal; `None` where a rollout has ended.
    fn write_journal(&self, journal: Option<&Journal>) -> Result<(), Error>;

    /// Releases that were rolled out here, the newest first.
    fn history(&self) -> Result<Vec<Record>, Error>;

    /// Adds or replaces a release's record.
    fn record(&self, record: &Record) -> Result<(), Error>;

    /// Forgets a release.
    fn forget(&self, id: &ReleaseId) -> Result<(), Error>;

    /// What runs, in the target's own words, by service: for a release that somebody else made.
    fn found(&self) -> Result<BTreeMap<String, Found>, Error> {
        Ok(BTreeMap::new())
    }

    /// Whether somebody said that nothing is to change.
    fn frozen(&self) -> Result<Option<Freeze>, Error>;

    /// Says that nothing is to change, or with `None` that it may again.
    fn freeze(&self, freeze: Option<&Freeze>) -> Result<(), Error>;

    /// Marks a version of a secret as one that must not be used again.
    fn revoke(&self, version: &Version) -> Result<(), Error>;
}

/// A service that somebody else made.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What makes the target be it again.
    pub spec: serde_json::Value,
    /// Its image, by digest if that is known.
    pub image: String,
    /// Names of the secrets that it sees.
    pub secrets: Vec<String>,
}

/// Somebody's word that nothing is to change.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Who, as in `user@host`.
    pub by: String,
    /// Since when.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
}

/// A lock that is held.
pub trait Lock {}

/// Why a target could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another rollout is under way.
    #[error("another rollout is under way: {owner}; wait for it, or end it")]
    Locked {
        /// Who, and since when.
        owner: String,
    },
    /// The target refuses what it was asked.
    #[error("{0}")]
    Refused(String),
    /// The target, its disk or the way to it.
    #[error("{0}")]
    Environment(String),
    /// It was no longer wanted.
    #[error("interrupted")]
    Cancelled,
}

/// Something that keeps a release from running on a target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Whose fault it is.
    pub fault: Fault,
    /// What, where, and the remedy.
    pub message: String,
}

impl Problem {
    /// A problem of the configuration.
    pub fn user(message: impl Into<String>) -> Problem {
        Problem {
            fault: Fault::User,
            message: message.into(),
        }
    }

    /// A problem of the surroundings.
    pub fn environment(message: impl Into<String>) -> Problem {
        Problem {
            fault: Fault::Environment,
            message: message.into(),
        }
    }
}

/// Whose fault a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The configuration's.
    User,
    /// The surroundings': a registry, a port, a node.
    Environment,
    /// It would change what must stay.
    Refused,
}

/// What can be put and deleted beside services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A secret: its content can be put, and compared, and never shown.
    Secret,
    /// A config.
    Config,
}

/// What a service is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Spec {
    /// What tells one spec from another.
    pub revision: String,
    /// What tells a replica of this spec from one of another: replicas of what differs are replaced.
    pub task: String,
    /// How many replicas are wanted.
    pub replicas: u32,
    /// Services that must run before it.
    pub needs: BTreeSet<String>,
    /// Whether all of the old must be gone before the new starts, which the target does not see to by itself.
    pub exclusive: bool,
    /// Whether the orchestrator's own way of updating is set aside while it rolls, and has to be given back.
    pub settles: bool,
    /// Whether it has files of its own on a node, which a replica elsewhere would not find.
    pub stateful: bool,
    /// For a person: what the target is given, with values of secrets masked.
    pub shown: serde_json::Value,
}

/// One step of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "step", rename_all = "lowercase", deny_unknown_fields)]
pub enum Step {
    /// A version of a secret or a config is put.
    Put {
        /// Which of the two.
        kind: Kind,
        /// Which version.
        version: Version,
    },
    /// The migration runs.
    Migrate {
        /// The attempt's name.
        task: String,
    },
    /// A network is made.
    Network {
        /// Its name on the target.
        name: String,
    },
    /// All replicas of a service go, and nothing of it is left.
    Stop {
        /// The service.
        service: String,
    },
    /// One replica of a service gets the new spec, and the others wait.
    Canary {
        /// The service.
        service: String,
    },
    /// All replicas of a service get the new spec, one at a time.
    Roll {
        /// The service.
        service: String,
    },
    /// All replicas of a service are replaced by what they are.
    Restart {
        /// The service.
        service: String,
    },
    /// A service updates as its file says again, now that it has come where it was sent.
    Settle {
        /// The service.
        service: String,
    },
    /// A service that the release does not have goes.
    Remove {
        /// The service.
        service: String,
    },
}

impl Step {
    /// Whether it makes replicas of a service be others.
    pub(super) fn replaces(&self) -> bool {
        matches!(self, Step::Stop { .. } | Step::Canary { .. } | Step::Roll { .. })
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Put {
                kind: Kind::Secret,
                version,
            } => write!(f, "secret {version}"),
            Step::Put {
                kind: Kind::Config,
                version,
            } => write!(f, "config {version}"),
            Step::Migrate { .. } => f.write_str("migrate"),
            Step::Network { name } => write!(f, "network {name}"),
            Step::Stop { service } => write!(f, "stop {service}"),
            Step::Restart { service } => write!(f, "restart {service}"),
            Step::Settle { service } => write!(f, "settle {service}"),
            Step::Canary { service } => write!(f, "canary of {service}"),
            Step::Roll { service } => write!(f, "roll {service}"),
            Step::Remove { service } => write!(f, "remove {service}"),
        }
    }
}

/// What is on a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Observed {
    /// Services by name; empty where nothing runs.
    pub services: BTreeMap<String, Service>,
    /// Tasks that were started once, by name.
    pub tasks: BTreeMap<String, TaskState>,
    /// Names of the secrets that are there.
    pub secrets: BTreeSet<String>,
    /// Names of the configs that are there.
    pub configs: BTreeSet<String>,
    /// Names of the networks that are there.
    pub networks: BTreeSet<String>,
    /// Secrets that must not be used again.
    pub revoked: BTreeSet<String>,
}

/// What became of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Why it is not well, if that is known better than before.
    pub why: Option<String>,
    /// The end of what it printed, and then what its health check did.
    pub lines: Vec<String>,
}

/// A service as it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Service {
    /// The spec that it was given last.
    pub revision: String,
    /// What tells a replica of that spec from others.
    pub task: String,
    /// How often it was changed, as the target counts; 0 where it does not.
    pub version: u64,
    /// How often all replicas were asked to start again, as the target counts.
    pub force: u64,
    /// Whether the orchestrator's own way of updating is set aside.
    pub unsettled: bool,
    /// That spec for a person, if the target keeps it.
    pub shown: serde_json::Value,
    /// How many replicas are wanted.
    pub replicas: u32,
    /// Why the orchestrator stopped an update half-way, if it did.
    pub paused: Option<Reason>,
    /// What runs, or should.
    pub tasks: Vec<Replica>,
}

impl Service {
    /// Whether it is all that `spec` says: nothing else is left of it, and every replica is ready.
    pub(super) fn is(&self, spec: &Spec) -> bool {
        let follows = |task: &Replica| task.revision == spec.task && task.state == State::Ready;
        self.revision == spec.revision
            && !self.unsettled
            && self.replicas == spec.replicas
            && self.paused.is_none()
            && self.tasks.len() == spec.replicas as usize
            && self.tasks.iter().all(follows)
    }
}

/// One replica, as the orchestrator sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Replica {
    /// Its name, such as `api.1`.
    pub name: String,
    /// What the target calls it, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What tells its spec from others.
    pub revision: String,
    /// `sha256:…` of the image that it runs.
    pub image: String,
    /// Where it stands.
    pub state: State,
    /// How often it was started again after it had ended by itself.
    pub restarts: u32,
    /// Why it is in that state, for a person: an exit code, a failing check's output.
    pub reason: Option<String>,
    /// The end of what it printed, if it did not end well.
    pub lines: Vec<String>,
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has not started, or its health is not known yet.
    Starting,
    /// It runs, and its checks pass if there are any.
    Ready,
    /// It runs, and its checks fail.
    Unhealthy,
    /// It ended by itself, and is waited with before it is started again.
    Backoff,
    /// No node can take it, and none will when others have left; believed after a moment.
    Unplaced,
    /// It ended or could not start, and is not started again.
    Failed,
    /// It is on its way out.
    Stopping,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Unhealthy => "unhealthy",
            State::Backoff => "backoff",
            State::Unplaced => "unplaced",
            State::Failed => "failed",
            State::Stopping => "stopping",
        }
    }
}

/// A command that runs once, in a service's image and with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name on the target.
    pub name: String,
    /// The service whose image, environment, secrets and networks it has.
    pub service: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// The one place where it may run, by what the target calls it.
    pub place: Option<String>,
}

/// A place of the target's where replicas can run, such as a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What the target calls it.
    pub id: String,
    /// Its name, for a person.
    pub name: String,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TaskState {
    /// `None` while it runs; then its exit code, or 128 and the signal.
    pub exit_code: Option<i32>,
    /// Why it did not end well, for a person.
    pub reason: Option<String>,
}

/// Which lines of which log.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// The name of a service, of a replica such as `api.1`, or of a task; all services if absent.
    pub of: Option<String>,
    /// Only the last so many lines of each.
    pub tail: Option<usize>,
    /// Whether to wait for more.
    pub follow: bool,
    /// Whether lines come without time and name.
    pub plain: bool,
}

/// Where a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http` or `https`, host and port, such as `http://127.0.0.1:8000`.
    pub base: String,
    /// Where to connect instead of asking for the host's address, if not there.
    pub connect: Option<SocketAddr>,
}

/// Now, to the millisecond.
pub(super) fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}
