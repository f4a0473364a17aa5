//! What a rollout would change, computed from what is observed. Touches nothing.

use std::collections::BTreeMap;

use super::history::Record;
use super::order::{self, Inputs, Stage};
use super::seen::Seen;
use super::target::{Error, Kind, Observed, Problem, Spec, Target};
use crate::release::{ReleaseId, Version};

/// What a rollout would do.
#[derive(Debug, serde::Serialize)]
pub struct Proposal {
    /// The release that the target is to be.
    pub release: ReleaseId,
    /// The one that it was last.
    pub previous: Option<ReleaseId>,
    /// What differs, by service.
    pub changes: Vec<Change>,
    /// Steps in order; those of one stage are taken at the same time.
    pub stages: Vec<Stage>,
    /// What the target was.
    pub seen: Seen,
    /// What keeps the release from running there.
    pub problems: Vec<Problem>,
    /// What each service is to be given.
    #[serde(skip)]
    pub(super) specs: BTreeMap<String, Spec>,
}

/// A service that is to change.
#[derive(Debug, serde::Serialize)]
pub struct Change {
    /// Its name.
    pub service: String,
    /// How.
    pub effect: Effect,
    /// Whether replicas are replaced that keep files of their own on a node.
    pub stateful: bool,
    /// Which image it has and gets, if that is another one.
    pub image: Option<ImageChange>,
    /// A unified diff of what it is given, values of secrets masked.
    pub diff: String,
}

/// Another image of a service.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct ImageChange {
    /// Its name, without registry and digest.
    pub name: String,
    /// What the service has.
    pub before: Option<ImageOf>,
    /// What it gets.
    pub after: Option<ImageOf>,
}

/// An image, and what it was built of.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct ImageOf {
    /// `sha256:…`.
    pub digest: String,
    /// The first digits of the revision, if a release says so.
    pub revision: Option<String>,
}

/// How a service changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It is new.
    Create,
    /// Its replicas are replaced, one at a time.
    Replace,
    /// It changes, and its replicas stay.
    InPlace,
    /// Replicas are added or taken away; those that stay are not touched.
    Scale,
    /// It has the spec already, and not every replica follows it, or is ready.
    Converge,
    /// It goes.
    Remove,
}

impl Proposal {
    /// Whether the target is what the record says.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Compares `record` with what `observed` shows. `attempt` is the name of the migration's task; there is none
    /// where the release does not migrate.
    pub(super) fn new(
        target: &dyn Target,
        record: &Record,
        observed: &Observed,
        history: &[Record],
        attempt: Option<&str>,
    ) -> Result<Proposal, Error> {
        let specs = target.specs(record, observed)?;
        let lacking = lacking(record, observed);
        let mut networks = target.networks(record);
        networks.retain(|name| !observed.networks.contains(name));
        let migrate = record.migrate.as_ref().map(|migrate| migrate.service.as_str());
        let stages = order::stages(&Inputs {
            specs: &specs,
            observed,
            lacking: &lacking,
            networks: &networks,
            migrate: migrate.zip(attempt),
        });
        let names: std::collections::BTreeSet<&String> =
            specs.keys().chain(observed.services.keys()).collect();
        let changes = names
            .into_iter()
            .filter_map(|name| {
                change(name, &specs, observed, &|digest| {
                    revision(digest, record, history)
                })
            })
            .collect();
        Ok(Proposal {
            release: record.release.id.clone(),
            previous: super::run::succeeded(history).map(|record| record.release.id.clone()),
            changes,
            stages,
            problems: Vec::new(),
            seen: Seen::new(observed, history),
            specs,
        })
    }
}

/// Versions that a release names and the target does not have.
fn lacking(record: &Record, observed: &Observed) -> Vec<(Kind, Version)> {
    let release = &record.release;
    let of = |kind, versions: &BTreeMap<String, Version>, there: &std::collections::BTreeSet<String>| {
        let missing = versions
            .values()
            .filter(|version| !there.contains(version.as_str()));
        missing.map(|version| (kind, version.clone())).collect::<Vec<_>>()
    };
    let mut lacking = of(Kind::Secret, &release.secrets, &observed.secrets);
    lacking.extend(of(Kind::Config, &release.configs, &observed.configs));
    lacking
}

/// The first digits of the revision that an image was built of, as the newest release says that has it.
fn revision(digest: &str, record: &Record, history: &[Record]) -> Option<String> {
    let has = |record: &&Record| {
        let mut images = record.release.images.iter();
        images.any(|(name, image)| image.digest == digest && !name.contains('@'))
    };
    let record = history.iter().chain([record]).find(has)?;
    let commit = record.release.sources.first()?.commit.as_ref()?;
    commit.get(..12).map(str::to_owned)
}

fn image_change(
    service: &str,
    before: &serde_json::Value,
    after: &serde_json::Value,
    revision: &dyn Fn(&str) -> Option<String>,
) -> Option<ImageChange> {
    let (before, after) = (before["image"].as_str(), after["image"].as_str());
    if before == after {
        return None;
    }
    let one = |image: &str| {
        let (_, digest) = image.split_once('@')?;
        Some(ImageOf {
            digest: digest.to_owned(),
            revision: revision(digest),
        })
    };
    let name = after.or(before)?.split('@').next()?.rsplit('/').next();
    Some(ImageChange {
        name: name.unwrap_or(service).to_owned(),
        before: before.and_then(one),
        after: after.and_then(one),
    })
}

fn change(
    name: &str,
    specs: &BTreeMap<String, Spec>,
    observed: &Observed,
    revision: &dyn Fn(&str) -> Option<String>,
) -> Option<Change> {
    let (spec, service) = (specs.get(name), observed.services.get(name));
    let effect = match (spec, service) {
        (Some(_), None) => Effect::Create,
        (None, Some(_)) => Effect::Remove,
        (Some(spec), Some(service)) if spec.task != service.task => Effect::Replace,
        (Some(spec), Some(service)) if spec.revision != service.revision => Effect::InPlace,
        (Some(spec), Some(service)) if spec.replicas != service.replicas => Effect::Scale,
        (Some(spec), Some(service)) if !service.is(spec) => Effect::Converge,
        _ => return None,
    };
    let stateful = spec.is_some_and(|spec| spec.stateful) && effect == Effect::Replace;
    let nothing = serde_json::Value::Null;
    let before = service.map_or(&nothing, |service| &service.shown);
    let after = spec.map_or(&nothing, |spec| &spec.shown);
    let image = image_change(name, before, after, revision);
    let (before, after) = (text(before), text(after));
    let diff = similar::TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(2)
        .to_string();
    Some(Change {
        service: name.to_owned(),
        effect,
        stateful,
        image,
        diff,
    })
}

/// A spec as lines, one value on each.
fn text(shown: &serde_json::Value) -> String {
    fn add(value: &serde_json::Value, path: &str, to: &mut String) {
        use serde_json::Value;
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                add(value, &path, to);
            }),
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(n, item)| add(item, &format!("{path}[{n}]"), to));
            }
            Value::Null => {}
            value => *to += &format!("{path}: {value}\n"),
        }
    }
    let mut lines = String::new();
    add(shown, "", &mut lines);
    lines
}
