//! What a target was when somebody looked: a plan that was kept is about that, and about nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::history::Record;
use super::target::{Observed, Service};
use crate::release::ReleaseId;

/// What a plan saw of a target: any other value, and the plan is not about it any more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Services with their versions and specs.
    pub services: BTreeMap<String, (u64, String)>,
    /// The newest release of the history.
    pub release: Option<ReleaseId>,
}

impl Seen {
    pub(super) fn new(observed: &Observed, history: &[Record]) -> Seen {
        let service = |(name, service): (&String, &Service)| {
            (name.clone(), (service.version, service.revision.clone()))
        };
        Seen {
            services: observed.services.iter().map(service).collect(),
            release: history.first().map(|record| record.release.id.clone()),
        }
    }

    /// What is different in `now`, for a person.
    pub(super) fn difference(&self, now: &Seen) -> Option<String> {
        let names: BTreeSet<&String> = self.services.keys().chain(now.services.keys()).collect();
        let mut other = names
            .into_iter()
            .filter(|name| self.services.get(*name) != now.services.get(*name));
        match other.next() {
            Some(name) => Some(format!("the service `{name}` is another one")),
            None if self.release != now.release => Some("another release was rolled out".to_owned()),
            None => None,
        }
    }
}
