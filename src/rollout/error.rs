//! Why a rollout ends that does not succeed: for whoever asked for it, and for the model itself.

use super::target::{self, Problem};
use super::watch::Reason;
use crate::release::ReleaseId;

/// Why a release does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot run there; nothing was touched.
    #[error("release {release} cannot run here: {}", first(problems))]
    Problems {
        /// The release.
        release: ReleaseId,
        /// Everything that was found, at least one.
        problems: Vec<Problem>,
    },
    /// It failed, and the release before it runs again.
    #[error("release {release} failed at {step}: {}; {to} runs again", reason.message)]
    RolledBack {
        /// The release that failed.
        release: ReleaseId,
        /// What was done last.
        step: String,
        /// Why.
        reason: Box<Reason>,
        /// The release that runs.
        to: ReleaseId,
        /// Where the schema stands now, if the failed release migrated it.
        schema: Option<u64>,
    },
    /// It failed, and stands where it stopped.
    #[error("release {release} failed at {step}: {}; {stands}", reason.message)]
    Stands {
        /// The release that failed.
        release: ReleaseId,
        /// What was done last.
        step: String,
        /// Why.
        reason: Box<Reason>,
        /// What stands now, for a person.
        stands: String,
    },
    /// There is no rollout to go on with.
    #[error("no rollout is under way, and none died half-way")]
    NothingBegun,
    /// A rollout died half-way.
    #[error("a rollout of {release} is half-way; `skep resume` finishes it, `skep abort` undoes it")]
    HalfWay {
        /// The release.
        release: ReleaseId,
    },
    /// There is nothing to go back to.
    #[error("release {release} is the first one, and there is nothing to go back to; `resume` finishes it")]
    NoPrevious {
        /// The release.
        release: ReleaseId,
    },
    /// The target is not what the plan was made for.
    #[error("the target changed since the plan was made: {what}; make another plan")]
    Changed {
        /// What is different, for a person.
        what: String,
    },
    /// Somebody said that nothing is to change.
    #[error("frozen by {by}: {reason}; `skep freeze ENV --off` ends that")]
    Frozen {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// A command that runs once did not end by itself.
    #[error("{message}")]
    Endless {
        /// What, and what was done about it.
        message: String,
    },
    /// It was interrupted, and stands where it stopped.
    #[error("interrupted at {step}; roll out again to finish, or roll back to undo")]
    Interrupted {
        /// What was done last.
        step: String,
    },
    /// The target refused before anything was touched.
    #[error(transparent)]
    Target(#[from] target::Error),
}

fn first(problems: &[Problem]) -> &str {
    problems.first().map_or("", |problem| &problem.message)
}

/// How a step ends that does not succeed.
pub(super) enum Stop {
    Failed(Reason),
    Target(target::Error),
}

impl From<target::Error> for Stop {
    fn from(error: target::Error) -> Stop {
        Stop::Target(error)
    }
}

impl Stop {
    pub(super) fn failed(message: impl Into<String>) -> Stop {
        Stop::Failed(Reason::new(message))
    }

    /// For a person.
    pub(super) fn message(self) -> String {
        match self {
            Stop::Failed(reason) => reason.message,
            Stop::Target(error) => error.to_string(),
        }
    }
}
