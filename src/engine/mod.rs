//! A plan into results: bounded parallelism, the action cache, one run per key. Knows nothing of recipes,
//! sandboxes, registries or images; whoever runs actions stands behind [`Runner`].
//!
//! Inputs come first: a node starts when all of its inputs have values. Its action becomes exact then, so
//! that an input whose content did not change cuts the rest of the build off early.

mod exact;
mod gopackage;
mod schedule;
mod trees;

use std::collections::BTreeSet;
use std::time::Instant;

pub use exact::ENVIRONMENT;

use crate::action::{Action, ActionResult};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::event::{Event, Events, Outcome};
use crate::plan::{Node, NodeId, Plan};
use crate::platform::Arch;
use crate::source::{self, WorkTree};
use crate::store::{self, Store};
use crate::tree::{Tree, TreePath};

/// Whoever turns an exact action into a result: sandbox, fetch, builtins.
pub trait Runner: Send + Sync {
    /// Runs the action, and waits for it. A result with an exit code other than 0 is a failure of the
    /// action; an error means that there is none.
    fn run(&self, job: &Job<'_>) -> Result<ActionResult, RunError>;
}

/// An action that is to be run.
#[derive(Debug)]
pub struct Job<'a> {
    /// What people call it.
    pub label: &'a str,
    /// What the plan says of it, for what is in no key: where a fetch gets its bytes, where a secret is.
    pub node: &'a Node,
    /// The action.
    pub action: &'a Action,
    /// Trees among the inputs that came to be as a whole, and are best mounted as such.
    pub units: &'a BTreeSet<Digest>,
    /// Raised when the result is no longer wanted.
    pub cancel: &'a Cancel,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The action's: it ran, and failed.
    Action,
    /// The project's: a pattern that matches nothing, trees that do not fit together.
    Project,
    /// The environment's: kernel, disk, network.
    Environment,
    /// No one's: content was lost, and has to be made again.
    LostContent(Digest),
    /// The user's wish to stop.
    Cancelled,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened, in lower case, with the remedy if there is one.
    pub message: String,
    /// What the action printed until then.
    pub log: Option<Digest>,
}

/// A node that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What people call it; for a node that is no action, what it is, and which action needs it.
    pub label: String,
    /// Its key, if its inputs were known.
    pub key: Option<Digest>,
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened.
    pub message: String,
    /// What the action printed.
    pub log: Option<Digest>,
}

/// How to build.
#[derive(Debug)]
pub struct Options {
    /// Actions that compute at one time, at least 1.
    pub jobs: usize,
    /// Fetches at one time, at least 1.
    pub fetches: usize,
    /// Whether to go on with what does not depend on a failed node.
    pub keep_going: bool,
    /// The architecture of the machine that builds.
    pub host: Arch,
}

/// Everything that building needs.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    /// What to build.
    pub plan: &'a Plan,
    /// Where content and results are.
    pub store: &'a Store,
    /// The project's files.
    pub sources: &'a WorkTree,
    /// Who runs actions.
    pub runner: &'a dyn Runner,
    /// Who wants to know.
    pub events: &'a Events,
    /// Raised to stop.
    pub cancel: &'a Cancel,
    /// How to build.
    pub options: &'a Options,
}

impl Engine<'_> {
    /// The values of `roots`, or all failures that were met, in the order of the plan. Never both.
    pub fn build(&self, roots: &[NodeId]) -> Result<Vec<Tree>, Vec<Failure>> {
        schedule::run(self, roots)
    }

    /// The value of one node whose inputs have the values that `value_of` gives.
    fn evaluate(
        &self,
        id: NodeId,
        value_of: &dyn Fn(NodeId) -> Tree,
        stop: &Cancel,
    ) -> Result<Tree, Box<Failure>> {
        let node = self.plan.node(id);
        let named = |what: String| match self.plan.first_user(id) {
            Some(label) => format!("{what} for {label}"),
            None => what,
        };
        match node {
            Node::Source(source) => {
                let root = self.sources.ingest(source, self.store);
                let what = || named(format!("source({})", source.include.join(", ")));
                let root = root.map_err(|error| source_failure(&what(), &error))?;
                Ok(Tree { root, metadata: None })
            }
            Node::ByHost(branches) => match branches.get(&self.options.host) {
                Some(branch) => Ok(value_of(*branch)),
                None => Err(Failure::of(
                    &named("by_host".to_owned()),
                    Fault::Project,
                    format!(
                        "nothing is declared for a host of the architecture {}",
                        self.options.host
                    ),
                )),
            },
            Node::Tree(expr) => {
                let value = trees::evaluate(self.store, expr, value_of);
                value.map_err(|error| tree_failure(&named("tree".to_owned()), &error))
            }
            _ => self.act(id, value_of, stop),
        }
    }

    /// The value of a node that is an action: looked up, or run by one process at a time.
    fn act(
        &self,
        id: NodeId,
        value_of: &dyn Fn(NodeId) -> Tree,
        stop: &Cancel,
    ) -> Result<Tree, Box<Failure>> {
        let label = self.plan.label(id).unwrap_or("action");
        let action = exact::action(self.store, self.plan.node(id), value_of);
        let action = action.map_err(|error| tree_failure(label, &error))?;
        let key = action.key();
        let failed = |fault, message: String, log| {
            let place = self.plan.place(id).filter(|_| fault == Fault::Project);
            Box::new(Failure {
                label: label.to_owned(),
                key: Some(key),
                fault,
                message: place.map_or(message.clone(), |place| format!("{place}: {message}")),
                log,
            })
        };
        let store_failed = |error: store::Error| failed(Fault::of_store(&error), error.to_string(), None);
        let finished = |outcome, wall| {
            self.events.emit(Event::Finished {
                label: label.to_owned(),
                key: Some(key),
                outcome,
                wall,
            });
        };
        let hit = self.store.result(&key).map_err(store_failed)?;
        if let Some(result) = hit {
            finished(Outcome::Cached, std::time::Duration::ZERO);
            return self.value(&action, &result, label);
        }
        let _one = self.store.lock_key(&key, stop).map_err(store_failed)?;
        if let Some(result) = self.store.result(&key).map_err(store_failed)? {
            finished(Outcome::Cached, std::time::Duration::ZERO);
            return self.value(&action, &result, label);
        }
        self.events.emit(Event::Started {
            label: label.to_owned(),
        });
        let began = Instant::now();
        let ran = self.runner.run(&Job {
            label,
            node: self.plan.node(id),
            action: &action,
            units: &exact::units(self.plan, id, self.options.host, value_of),
            cancel: stop,
        });
        let result = match ran {
            Ok(result) if result.exit_code == 0 => result,
            other => {
                let stopped = matches!(&other, Err(error) if error.fault == Fault::Cancelled);
                let outcome = if stopped {
                    Outcome::Stopped
                } else {
                    Outcome::Failed
                };
                finished(outcome, began.elapsed());
                return Err(match other {
                    Ok(result) => failed(Fault::Action, exit_message(result.exit_code), result.log),
                    Err(error) => failed(error.fault, error.message, error.log),
                });
            }
        };
        self.store.publish(&key, &result).map_err(store_failed)?;
        finished(Outcome::Ran, began.elapsed());
        self.value(&action, &result, label)
    }

    /// The tree that a result stands for: each output at its path.
    fn value(&self, action: &Action, result: &ActionResult, label: &str) -> Result<Tree, Box<Failure>> {
        let outputs = result.outputs.iter().map(|(path, root)| {
            let output = Tree {
                root: *root,
                metadata: result.metadata.filter(|_| action.builtin_name().is_some()),
            };
            trees::select(self.store, output, &TreePath::root(), path)
        });
        let tree = outputs
            .collect::<Result<Vec<_>, _>>()
            .and_then(|trees| match trees[..] {
                [tree] => Ok(tree),
                _ => trees::merge(self.store, trees.into_iter()),
            });
        tree.map_err(|error| tree_failure(label, &error))
    }
}

fn exit_message(exit_code: i32) -> String {
    match exit_code {
        129..=192 => format!("was killed by signal {}", exit_code - 128),
        code => format!("exited with code {code}"),
    }
}

impl Fault {
    /// Whose fault it is that the store could not do what was asked.
    pub fn of_store(error: &store::Error) -> Fault {
        match error {
            store::Error::Cancelled => Fault::Cancelled,
            store::Error::Missing(digest) | store::Error::Corrupt(digest) => Fault::LostContent(*digest),
            _ => Fault::Environment,
        }
    }
}

impl Failure {
    /// The content whose loss it is.
    pub fn lost(&self) -> Option<Digest> {
        match self.fault {
            Fault::LostContent(digest) => Some(digest),
            _ => None,
        }
    }

    /// A failure before there was a key.
    fn of(label: &str, fault: Fault, message: String) -> Box<Failure> {
        Box::new(Failure {
            label: label.to_owned(),
            key: None,
            fault,
            message,
            log: None,
        })
    }
}

fn tree_failure(label: &str, error: &trees::Error) -> Box<Failure> {
    let fault = match error {
        trees::Error::Store(error) => Fault::of_store(error),
        _ => Fault::Project,
    };
    Failure::of(label, fault, error.to_string())
}

fn source_failure(label: &str, error: &source::Error) -> Box<Failure> {
    let fault = match error {
        source::Error::Store(error) => Fault::of_store(error),
        source::Error::NoGit { .. } | source::Error::Git { .. } | source::Error::Io { .. } => {
            Fault::Environment
        }
        _ => Fault::Project,
    };
    Failure::of(label, fault, error.to_string())
}

#[cfg(test)]
mod tests;
