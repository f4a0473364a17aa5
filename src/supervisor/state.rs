//! What a supervisor says about what it keeps: the answer to `observe`, plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch. Shown as RFC 3339, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Now, by the system's clock.
    pub fn now() -> Stamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Stamp(u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.0)
            .ok()
            .and_then(DateTime::from_timestamp_millis);
        f.write_str(
            &time
                .unwrap_or_default()
                .to_rfc3339_opts(SecondsFormat::Millis, true),
        )
    }
}

/// Everything that a supervisor knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Who answers.
    pub supervisor: Supervisor,
    /// The services, by name.
    pub services: BTreeMap<String, Service>,
    /// The tasks, by name: those that run, and the last ones that ended.
    pub tasks: BTreeMap<String, Task>,
    /// Names of the secrets that are there.
    pub secrets: BTreeSet<String>,
    /// Names of the configs that are there.
    pub configs: BTreeSet<String>,
    /// The ports of the host that services publish, or that were handed over.
    pub ports: BTreeMap<u16, Port>,
}

/// The process itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervisor {
    /// Its process id, as the host sees it.
    pub pid: u32,
    /// When it started.
    pub started: Stamp,
    /// The version of skep that it runs.
    pub version: String,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// Why it cannot keep what should run, if it cannot.
    pub trouble: Option<String>,
}

/// A port of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Whether its listener was handed over. A supervisor that was started anew has none.
    pub listening: bool,
    /// The service that publishes it.
    pub service: Option<String>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// How many replicas it should have.
    pub wanted: u32,
    /// How many of them may have the current spec, if not all.
    pub hold: Option<u32>,
    /// The fingerprint of the spec that was put last.
    pub spec: String,
    /// The fingerprint of the one before.
    pub previous: Option<String>,
    /// Whether replicas are being replaced, or wait for their turn. Not while the update is paused or held.
    pub updating: bool,
    /// Why the update stopped, if it did. It goes on after the next `put`.
    pub paused: Option<String>,
    /// Whether it is on its way out.
    pub removing: bool,
    /// What became of the replica that failed last, whichever spec it had.
    pub failure: Option<Failure>,
    /// Its replicas by slot. A slot has two of them while one takes over from the other.
    pub replicas: Vec<Replica>,
}

impl Service {
    /// Whether every replica that should be there has the current spec and is ready, and no other is left.
    pub fn is_converged(&self) -> bool {
        let good = |replica: &Replica| replica.ready && replica.spec == self.spec;
        !self.removing && self.replicas.len() == self.wanted as usize && self.replicas.iter().all(good)
    }
}

/// A replica: a container, or the slot that waits for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Which of the service's replicas, from 1.
    pub slot: u32,
    /// The container's name, `<service>.<slot>.<n>`, if there is one.
    pub container: Option<String>,
    /// The fingerprint of its spec; empty if it waits for one.
    pub spec: String,
    /// The image's digest.
    pub image: String,
    /// How it is.
    pub state: ReplicaState,
    /// Whether it gets requests.
    pub ready: bool,
    /// Since when it is so.
    pub since: Stamp,
    /// Its address on each network.
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// How often the slot was started again since it got its spec.
    pub restarts: u32,
    /// How the slot's last container ended, unless it was asked to.
    pub last_exit: Option<Exit>,
    /// The last lines that it printed, or that the one before it did.
    pub tail: Vec<String>,
    /// What the last health check printed.
    pub health: Option<String>,
    /// Why it is not ready, for a person.
    pub reason: Option<String>,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Being started, or not known to be healthy yet.
    Starting,
    /// Up, and has no health check.
    Running,
    /// Up and healthy.
    Healthy,
    /// Failed its health check too often.
    Unhealthy,
    /// Was asked to end.
    Stopping,
    /// Ended with exit code 0, and is not started again.
    Stopped,
    /// Failed, and is not started again.
    Failed,
    /// Failed, and will be started again.
    Backoff,
    /// Has to wait: for its turn, or for the container before it to be gone.
    Waiting,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub end: End,
    /// When.
    pub at: Stamp,
}

/// What ended a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Its main process, with this exit code.
    Code(i32),
    /// This signal.
    Signal(i32),
    /// It never started, for this reason.
    Unstartable(String),
    /// Nobody saw it: the supervisor ended while it ran.
    Unseen,
}

impl End {
    /// Whether it ended as a program that has done its work does.
    pub fn is_success(&self) -> bool {
        *self == End::Code(0)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Code(code) => write!(f, "exit code {code}"),
            End::Signal(signal) => write!(f, "signal {signal}"),
            End::Unstartable(reason) => write!(f, "cannot be started: {reason}"),
            End::Unseen => f.write_str("ended together with the supervisor"),
        }
    }
}

/// A replica that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its container's name.
    pub container: String,
    /// The fingerprint of its spec.
    pub spec: String,
    /// How it ended.
    pub exit: Exit,
    /// Why, for a person.
    pub reason: String,
    /// The last lines that it printed.
    pub tail: Vec<String>,
    /// What its last health check printed.
    pub health: Option<String>,
}

/// A program that runs once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The fingerprint of its spec.
    pub spec: String,
    /// How it is.
    pub state: TaskState,
    /// When it was asked for.
    pub began: Stamp,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// The last lines that it printed.
    pub tail: Vec<String>,
    /// Why it failed, for a person.
    pub reason: Option<String>,
}

/// How a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It runs.
    Running,
    /// It is being ended: its time is over, or somebody asked.
    Stopping,
    /// It ended with exit code 0.
    Done,
    /// It ended otherwise.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    #[test]
    fn stamps_are_shown_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Stamp(millis).to_string(), text);
        }
    }
}
