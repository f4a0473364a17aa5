//! Values of variables that are secret, in what is kept of a release: a hash stands for each. The value itself is found
//! again where it still is: in the services that run, or in the environment's files.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::ServiceSpec;

use crate::docker::Inventory;
use crate::rollout::history::Record;

/// What a sealed value begins with.
const SEAL: &str = "skep-sealed:";

/// The record without the values of its secret variables.
pub(super) fn sealed(record: &Record) -> Record {
    let mut sealed = record.clone();
    let id = record.release.id.as_str();
    for service in sealed.stack.services.values_mut() {
        for (name, value) in &mut service.environment {
            if record.secret_env.contains(name) && !value.starts_with(SEAL) {
                *value = seal(id, name, value);
            }
        }
    }
    for spec in sealed.found.values_mut() {
        let variables = spec["TaskTemplate"]["ContainerSpec"]["Env"].as_array_mut();
        for variable in variables.into_iter().flatten() {
            let Some((name, value)) = variable.as_str().and_then(|text| text.split_once('=')) else {
                continue;
            };
            if record.secret_env.contains(name) && !value.starts_with(SEAL) {
                *variable = format!("{name}={}", seal(id, name, value)).into();
            }
        }
    }
    sealed
}

/// The release is a part of it: equal values of two releases, or of two variables, are not seen to be equal.
fn seal(release: &str, name: &str, value: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("skep 2026 value of a secret variable in a release");
    for part in [release, name, value] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("{SEAL}{}", &hasher.finalize().to_hex()[..32])
}

/// Values that something may have been sealed from, with the names that they have.
pub(super) struct Values(BTreeSet<(String, String)>);

impl Values {
    /// Those of the environment's files.
    pub(super) fn new(given: &BTreeMap<String, String>) -> Values {
        Values(given.clone().into_iter().collect())
    }

    /// Adds what variables of `names` are in the services that run.
    pub(super) fn see(&mut self, inventory: &Inventory, names: &BTreeSet<String>) {
        for spec in inventory
            .services
            .iter()
            .filter_map(|service| service.spec.as_ref())
        {
            let variables = variables(spec).filter_map(|variable| variable.split_once('='));
            let secret = variables.filter(|(name, _)| names.contains(*name));
            self.0
                .extend(secret.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
    }

    /// Puts the values back. What is kept nowhere is replaced by what the variable is now, and named in `lost`; a
    /// variable that is nothing now is an error.
    pub(super) fn open(&self, record: &mut Record, lost: &mut BTreeSet<String>) -> Result<(), String> {
        let id = record.release.id.clone();
        let open = |name: &str, value: &mut String, lost: &mut BTreeSet<String>| {
            if !value.starts_with(SEAL) {
                return Ok(());
            }
            let was = |(_, candidate): &&(String, String)| seal(id.as_str(), name, candidate) == *value;
            let is = |(known, candidate): &&(String, String)| known == name && !candidate.starts_with(SEAL);
            let found = self.0.iter().find(was);
            if found.is_none() {
                lost.insert(name.to_owned());
            }
            let found = found.or_else(|| self.0.iter().find(is)).ok_or_else(|| {
                format!("the value that `{name}` had in release {id} is kept nowhere, and it has none now")
            })?;
            value.clone_from(&found.1);
            Ok::<_, String>(())
        };
        for service in record.stack.services.values_mut() {
            for (name, value) in &mut service.environment {
                open(name, value, lost)?;
            }
        }
        for spec in record.found.values_mut() {
            let variables = spec["TaskTemplate"]["ContainerSpec"]["Env"].as_array_mut();
            for variable in variables.into_iter().flatten() {
                let Some((name, value)) = variable.as_str().and_then(|text| text.split_once('=')) else {
                    continue;
                };
                let (name, mut value) = (name.to_owned(), value.to_owned());
                open(&name, &mut value, lost)?;
                *variable = format!("{name}={value}").into();
            }
        }
        Ok(())
    }
}

fn variables(spec: &ServiceSpec) -> impl Iterator<Item = &String> {
    let container = spec
        .task_template
        .as_ref()
        .and_then(|template| template.container_spec.as_ref());
    container
        .into_iter()
        .flat_map(|container| container.env.iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Outcome;
    use crate::stack::{Service, Stack};

    fn record(value: &str) -> Record {
        let at = chrono::DateTime::from_timestamp(1_795_561_200, 0).unwrap();
        let environment =
            [("KEY", value), ("PORT", "8000")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let service = Service {
            environment: environment.into(),
            ..Service::default()
        };
        Record {
            release: crate::release::Release {
                id: crate::release::ReleaseId::new(None, at),
                images: Default::default(),
                sources: Vec::new(),
                secrets: Default::default(),
                configs: Default::default(),
                migration: None,
                by: String::new(),
                at,
            },
            stack: Stack {
                services: [("api".to_owned(), service)].into(),
                ..Stack::default()
            },
            migrate: None,
            probes: Default::default(),
            checks: Default::default(),
            addresses: Default::default(),
            singletons: Default::default(),
            found: Default::default(),
            probed: Vec::new(),
            secret_env: ["KEY".to_owned()].into(),
            began: at,
            outcome: Outcome::Pending,
        }
    }

    fn open(record: &mut Record, given: &[(&str, &str)]) -> (Result<(), String>, Vec<String>) {
        let given = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let values = Values::new(&given.collect());
        let mut lost = BTreeSet::new();
        let opened = values.open(record, &mut lost);
        (opened, lost.into_iter().collect())
    }

    #[test]
    fn a_sealed_value_is_nowhere_and_is_found_again() {
        let before = record("sesame");
        let mut kept = sealed(&before);
        let json = serde_json::to_string(&kept).unwrap();
        assert!(!json.contains("sesame") && json.contains("8000"), "{json}");
        assert_eq!(sealed(&kept), kept);
        // Under whatever name it is given now.
        let (opened, lost) = open(&mut kept, &[("KEY", "other"), ("OLD_KEY", "sesame")]);
        assert_eq!((opened, lost), (Ok(()), Vec::new()));
        assert_eq!(kept, before);
    }

    #[test]
    fn a_value_that_is_kept_nowhere_is_what_it_is_now() {
        let mut kept = sealed(&record("sesame"));
        let (opened, lost) = open(&mut kept, &[("KEY", "rotated")]);
        assert_eq!((opened, lost), (Ok(()), vec!["KEY".to_owned()]));
        assert_eq!(kept.stack.services["api"].environment["KEY"], "rotated");
        let (opened, _) = open(&mut sealed(&record("sesame")), &[]);
        assert!(opened.unwrap_err().contains("`KEY`"));
    }
}
