//! Everything a person or a program may want to know of a run, as data.
//!
//! One stream; the terminal, plain lines and `--json` are renderers of it. Nothing below the edge prints.

use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;

/// How a node came to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was in the action cache.
    Cached,
    /// It ran.
    Ran,
    /// It ran and failed, or could not run.
    Failed,
    /// It was stopped before it had a result, because of a failure elsewhere or because the user said so.
    Stopped,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// So many actions may be needed in this run.
    Planned {
        /// How many.
        actions: usize,
    },
    /// An action starts to run.
    Started {
        /// Its label.
        label: String,
    },
    /// An action has a result, or failed.
    Finished {
        /// Its label.
        label: String,
        /// Its key; `None` if it failed before its inputs were known.
        key: Option<Digest>,
        /// How it came about.
        outcome: Outcome,
        /// How long the run took; zero for a cached result.
        #[serde(serialize_with = "seconds")]
        wall: Duration,
    },
    /// What a compiler's cache was to an action.
    Compiled {
        /// The action's label.
        label: String,
        /// How often it had what was asked for.
        found: u64,
        /// How often it had not.
        missing: u64,
        /// How many entries the action added for others.
        stored: u64,
    },
    /// Bytes came in from a source or went out to a registry.
    Transferred {
        /// What moved: a label or a blob.
        what: String,
        /// Which way.
        direction: Direction,
        /// How many bytes since the last event for `what`.
        bytes: u64,
    },
    /// A blob is in the registry.
    Pushed {
        /// The blob's `sha256:…`.
        blob: String,
        /// How it got there.
        how: Pushed,
    },
    /// A step of a rollout.
    Step {
        /// Which, in a few words, such as `roll api`.
        step: String,
        /// Where it stands.
        state: StepState,
        /// More about it, for a person.
        note: Option<String>,
    },
    /// A service that a rollout waits for is in another state than before.
    Watched {
        /// Which.
        what: String,
        /// How many of its replicas are in which state.
        state: String,
        /// What ails some of them.
        trouble: Option<String>,
    },
    /// A line that something printed which a rollout waits for.
    Line {
        /// What printed it.
        of: String,
        /// The line.
        line: String,
    },
    /// Something that a person should know; the run goes on.
    Warning {
        /// One lower-case sentence fragment.
        message: String,
    },
}

/// Where a step of a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// It has begun.
    Began,
    /// It is done.
    Done,
    /// It failed.
    Failed,
}

/// Which way bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a source to the store.
    In,
    /// From the store to a registry.
    Out,
}

/// How a blob got into a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pushed {
    /// It was there.
    Present,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was sent.
    Uploaded,
}

fn seconds<S: serde::Serializer>(wall: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(wall.as_secs_f64())
}

/// Where events go. Cheap to clone; called from any thread, never blocks for long.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Events go to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Events {
        Events(Arc::new(sink))
    }

    /// Events go nowhere.
    pub fn none() -> Events {
        Events::new(|_| {})
    }

    /// Says that something happened.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }

    /// Says something that a person should know.
    pub fn warn(&self, message: impl Into<String>) {
        self.emit(Event::Warning {
            message: message.into(),
        });
    }
}
