//! What is known to go wrong with a release before it does: a table of lints, each with what it is against and why,
//! held against a stack file, its environment and its images. It runs nothing, asks nobody, and judges only what it
//! was given: a lint that would have to guess says so.

mod allow;
mod found;
mod kept;
mod outside;
mod rows;
mod table;

#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod row_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use toml::value::Date;

use crate::project::{Environment, Project, TargetKind};
use crate::rootfs::Config;
use crate::stack::{Place, Reading, nearest};
use crate::swarm::Node;

use found::Found;
pub use kept::{Fate, Kept};
pub use outside::{BETWEEN_NODES, Login, Outside, WEB};
pub use table::LINTS;

/// What a release is to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One machine, with a network without a way out.
    Preview,
    /// Several nodes, with Docker Swarm.
    Swarm,
}

/// A target that has no lints.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no target that there are lints for: expected `preview` or `swarm`")]
pub struct ParseTargetError(String);

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Target, ParseTargetError> {
        match text {
            "preview" => Ok(Target::Preview),
            "swarm" => Ok(Target::Swarm),
            other => Err(ParseTargetError(other.to_owned())),
        }
    }
}

impl From<TargetKind> for Target {
    fn from(kind: TargetKind) -> Target {
        match kind {
            TargetKind::Preview => Target::Preview,
            TargetKind::Swarm => Target::Swarm,
        }
    }
}

/// What a finding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is released.
    Block,
    /// It is said, and goes on.
    Warn,
}

/// One thing that is known to go wrong.
#[derive(Debug)]
pub struct Lint {
    /// In words with `-` between them; what `allow` of skep.toml calls it.
    pub name: &'static str,
    /// What happened to somebody without it, in one sentence.
    pub reason: &'static str,
    /// What it leads to in a preview; `None` where it makes no sense on one machine.
    pub preview: Option<Level>,
    /// What it leads to on Swarm.
    pub swarm: Option<Level>,
    check: fn(&Inputs<'_>, &mut Found<'_>),
}

impl Lint {
    /// What it leads to on a target; `None` where it does not apply.
    pub fn level(&self, target: Target) -> Option<Level> {
        match target {
            Target::Preview => self.preview,
            Target::Swarm => self.swarm,
        }
    }
}

/// What is judged, and by what.
pub struct Inputs<'a> {
    /// The project, for what skep.toml says and where.
    pub project: &'a Project,
    /// One of its environments.
    pub environment: &'a Environment,
    /// The environment's stack file.
    pub reading: &'a Reading,
    /// The variables that the environment's files give, and where.
    pub given: &'a BTreeMap<String, Place>,
    /// The images that are known, by what the stack file calls them.
    pub images: &'a BTreeMap<String, Config>,
    /// The platforms of the images that are known, such as `linux/amd64`, by what the stack file calls them.
    pub platforms: &'a BTreeMap<String, BTreeSet<String>>,
    /// The nodes of the swarm; `None` where it was not asked.
    pub nodes: Option<&'a [Node]>,
    /// How the swarm's machines look from outside; `None` where nobody looked.
    pub outside: Option<&'a Outside>,
    /// Images of kept releases that are lost, or may be; `None` where no registry was asked.
    pub kept: Option<&'a [Kept]>,
    /// The files that git tracks, from the project's root; `None` where git is not used.
    pub tracked: Option<&'a BTreeSet<PathBuf>>,
    /// Where the release is to run.
    pub target: Target,
    /// The day by which `allow` is judged.
    pub today: Date,
}

/// One thing that is wrong. Shows as `place: lint: what; remedy`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The lint's name.
    pub lint: &'static str,
    /// What it leads to.
    pub level: Level,
    /// Where, as `file:line:column`.
    #[serde(serialize_with = "shown")]
    pub place: Place,
    /// The service that it is about, if it is about one.
    pub service: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What may be done.
    pub remedy: String,
    /// Why that matters.
    pub reason: &'static str,
}

fn shown<S: serde::Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(place)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.place, self.lint, self.what, self.remedy)
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// What blocks first, then by place.
    pub findings: Vec<Finding>,
    /// Services about which something could not be said, because their image is not known.
    pub unjudged: BTreeSet<String>,
}

impl Report {
    /// The findings of a level.
    pub fn of(&self, level: Level) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.level == level)
    }
}

/// `1 finding blocks`, or `2 findings block`.
pub fn blocking(count: usize) -> String {
    match count {
        1 => "1 finding blocks".to_owned(),
        _ => format!("{count} findings block"),
    }
}

/// What skep.toml says of lints, and cannot mean.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An `allow` of a lint that there is not.
    #[error("{place}: `{lint}` is no lint; {remedy}")]
    NoLint {
        /// Where.
        place: Place,
        /// What it says.
        lint: String,
        /// What may be done.
        remedy: String,
    },
    /// A service that there is not.
    #[error("skep.toml names the service `{service}` in `{key}`, and `{}` has `{}`", stack.display(), known.join("`, `"))]
    NoService {
        /// The key below the environment.
        key: &'static str,
        /// What it says.
        service: String,
        /// The stack file.
        stack: PathBuf,
        /// The services that there are.
        known: Vec<String>,
    },
    /// A variable that there is not.
    #[error("skep.toml names the variable `{name}` in `secret_env`, and no service of `{}` has it; {remedy}", stack.display())]
    NoVariable {
        /// What it says.
        name: String,
        /// The stack file.
        stack: PathBuf,
        /// What may be done.
        remedy: String,
    },
}

/// The variable of `secret_env` that no service has, and that was to be hidden.
fn check_secret_env(inputs: &Inputs<'_>) -> Result<(), Error> {
    let services = inputs.reading.stack.services.values();
    let variables: BTreeSet<&String> = services.flat_map(|service| service.environment.keys()).collect();
    let mut named = inputs.environment.secret_env.iter();
    match named.find(|name| !variables.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::NoVariable {
            name: name.clone(),
            stack: inputs.environment.stack.clone(),
            remedy: match nearest(variables.into_iter().map(String::as_str), name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "remove it".to_owned(),
            },
        }),
    }
}

/// Holds every lint of the target against `inputs`.
pub fn check(inputs: &Inputs<'_>) -> Result<Report, Error> {
    check_services(inputs)?;
    check_secret_env(inputs)?;
    let mut report = Report::default();
    for lint in LINTS {
        let Some(level) = lint.level(inputs.target) else {
            continue;
        };
        let mut found = Found::new(inputs.reading, lint, level);
        (lint.check)(inputs, &mut found);
        report.findings.extend(found.findings);
        report.unjudged.extend(found.unjudged);
    }
    allow::apply(inputs, &mut report)?;
    report
        .findings
        .sort_by(|a, b| (a.level, &a.place, a.lint).cmp(&(b.level, &b.place, b.lint)));
    Ok(report)
}

/// What skep.toml says of services is about services that there are.
fn check_services(inputs: &Inputs<'_>) -> Result<(), Error> {
    let rules = &inputs.environment.rules;
    let services = &inputs.reading.stack.services;
    let singletons = rules.singletons.iter().map(|name| ("rules.singletons", name));
    let boots = rules.boot.keys().map(|name| ("rules.boot", name));
    let allowed = inputs.environment.allow.iter();
    let allowed = allowed.filter_map(|allow| Some(("allow", allow.service.as_ref()?)));
    let mut named = singletons.chain(boots).chain(allowed);
    match named.find(|(_, name)| !services.contains_key(*name)) {
        None => Ok(()),
        Some((key, name)) => Err(Error::NoService {
            key,
            service: name.clone(),
            stack: inputs.environment.stack.clone(),
            known: services.keys().cloned().collect(),
        }),
    }
}
