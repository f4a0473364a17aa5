//! What a target keeps of rollouts: a record for each release, and a journal of the one under way. Plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::probe::Probed;
use super::target::Step;
use crate::release::{Release, ReleaseId, ReleasedImage};
use crate::stack::Stack;

/// A release on a target: all that is needed to make the target be it again, without the content of secrets.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What runs.
    pub release: Release,
    /// How: the stack file, with its variables filled in.
    pub stack: Stack,
    /// What runs before anything rolls.
    pub migrate: Option<Migrate>,
    /// What must answer at the end, by service.
    pub probes: BTreeMap<String, Vec<Probe>>,
    /// What is asked inside the target while services roll, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, Check>,
    /// Where probes find a service, such as `https://api.example`, if not where the target publishes it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, String>,
    /// Services of which never two run at the same time.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub singletons: BTreeSet<String>,
    /// What services were found to be, in the target's own words, where a release was adopted and has no stack.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, serde_json::Value>,
    /// What the probes saw at the end of its last rollout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probed: Vec<Probed>,
    /// Variables of services whose values are secrets.
    #[serde(default)]
    pub secret_env: BTreeSet<String>,
    /// When its rollout last began; the newest is what the target is, or is to be.
    pub began: DateTime<Utc>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Record {
    /// Is again as it was after it had run as it should, at `at`: older than what came after it.
    pub(super) fn ran_at(&mut self, at: DateTime<Utc>) {
        self.began = at;
        self.outcome = Outcome::Succeeded { at };
    }

    /// The image that a service runs, if it is one of the release's.
    pub fn image_of(&self, service: &str) -> Option<&ReleasedImage> {
        self.release.images.get(&self.stack.services.get(service)?.image)
    }
}

/// A command that must succeed before anything rolls.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// The service whose image and settings it has.
    pub service: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// The command that prints the schema's version; the last number in its output is.
    pub version: Option<Vec<String>>,
    /// Whether what ran before cannot do with the new schema.
    #[serde(default)]
    pub breaking: bool,
}

/// A command that is asked inside the target while services roll.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The service whose image and settings it has.
    pub service: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The last number that it prints is at most this.
    pub at_most: Option<u64>,
    /// Whether it is asked on each node that the service may come to.
    pub each_node: bool,
    /// From one time to the next; once if absent.
    pub every: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// A request that must be answered well.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Absolute path, with the query if there is one.
    pub path: String,
    /// The status that is expected.
    pub status: u16,
    /// Text that the body must hold, within its first 64 KiB.
    pub body: Option<String>,
    /// A header and the text that it must hold.
    pub headers: BTreeMap<String, String>,
    /// How many requests, one after the other.
    pub count: u32,
    /// How many of them must be answered well.
    pub need: u32,
    /// From the beginning of one to the beginning of the next.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// For how many more days the certificate must be valid, at least; `None` if it is not looked at.
    #[serde(default)]
    pub tls_days: Option<u16>,
}

/// What came of a release.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// Its rollout has not ended, or died.
    Pending,
    /// It runs, or ran.
    Succeeded {
        /// When its rollout ended.
        at: DateTime<Utc>,
    },
    /// It failed.
    Failed {
        /// When.
        at: DateTime<Utc>,
        /// Why, for a person.
        reason: String,
        /// Whether the release before it was brought back.
        rolled_back: bool,
    },
}

impl Outcome {
    /// Whether this release ran as it should.
    pub fn succeeded(&self) -> bool {
        matches!(self, Outcome::Succeeded { .. })
    }

    /// When it ran as it should, if that is what came of it.
    pub fn ran(&self) -> Option<DateTime<Utc>> {
        match self {
            Outcome::Succeeded { at } => Some(*at),
            Outcome::Pending | Outcome::Failed { .. } => None,
        }
    }

    /// Whether its rollout ended, and not well.
    pub fn failed(&self) -> bool {
        matches!(self, Outcome::Failed { .. })
    }
}

/// The rollout that is under way. Written before each step and after it, so that whoever finds it knows what may
/// have been done.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// What the target is to be.
    pub release: ReleaseId,
    /// What it was.
    pub previous: Option<ReleaseId>,
    /// Who, as in `user@host (process 7)`.
    pub owner: String,
    /// Since when.
    pub began: DateTime<Utc>,
    /// Steps that are done.
    pub done: Vec<Step>,
    /// The step that runs.
    pub current: Option<Step>,
    /// Whether it goes back to an earlier release.
    pub rollback: bool,
    /// When the release ran as it should before that, if it did: its record says so again if this is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran: Option<DateTime<Utc>>,
}
