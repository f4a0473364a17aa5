//! Makes a target be a release: in order, step by step, watched, and undone if it fails. Written once for every
//! target; sees releases, and never a plan of a build.
//!
//! observe → changes → lock → preflight → secrets, configs → migrate → canary → rest → probes → record → prune
//!
//! Everything that can refuse refuses before the migration. A step is idempotent, and named in the journal before it
//! is taken: after a death at any instant, the next rollout observes, and takes the steps that are left.

mod begin;
mod check;
mod content;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod history;
mod mask;
mod migrate;
mod notify;
mod order;
mod prepare;
mod preview;
mod probe;
mod proposal;
mod prune;
mod reading;
mod roots;
mod run;
mod seen;
mod swarm;
mod target;
mod variables;
mod watch;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use check::Checked;
pub use error::Error;
pub use history::{Check, Journal, Migrate, Outcome, Probe, Record};
pub use mask::{Mask, stand_in};
pub use notify::{About, Ending, Notice, notify};
pub use prepare::{Error as PrepareError, Missing, Wish, lacking, pinned, prepare, targets};
pub use preview::{Preview, state_directory};
pub use probe::Probed;
pub use proposal::{Change, Effect, ImageChange, ImageOf, Proposal};
pub use reading::{Source, fill, foreign_images, given, mask_of, read_stack, stack_name};
pub use roots::Roots;
pub use run::{Contents, Options, Report, Rollout, Setting};
pub use seen::Seen;
pub use swarm::{Swarm, Whereabouts};
pub use target::{
    Endpoint, Error as TargetError, Fault, Found, Freeze, Kind, Lock, LogQuery, Observed, Place, Problem,
    Replica, Service, Spec, State, Step, Target, Task, TaskState,
};
pub use watch::{Reason, counted, listed, together};
