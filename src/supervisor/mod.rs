//! Keeps the replicas of a preview's services running, and replaces them one at a time.
//!
//! Knows containers, networks and files; nothing of releases, stack files or the order of a rollout.

#[allow(dead_code)]
mod reconcile;
mod spec;
mod state;

pub use spec::*;
pub use state::*;

#[cfg(test)]
mod testing;
