//! What an operator does with what runs, beside rolling out: finish or undo what somebody left half-way, take over what
//! a script deployed, restart, run once, forbid changes, and see what was changed by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;

use super::{Deployment, Error};
use crate::release::{Release, ReleaseId, ReleasedImage, Version};
use crate::rollout::{Freeze, Outcome, Proposal, Record, Report, Rollout};
use crate::stack::{self, Stack};

impl Deployment<'_> {
    /// Finishes the rollout that somebody left half-way.
    pub fn resume(&self) -> Result<Report, Error> {
        self.told(None, |setting| {
            Rollout::resume(setting, |record| self.lacking(record))
        })
    }

    /// Undoes the rollout that somebody left half-way.
    pub fn abort(&self) -> Result<Report, Error> {
        self.told(None, |setting| Rollout::abort(setting))
    }

    /// What was changed on the target since its release was rolled out.
    pub fn drift(&self) -> Result<Proposal, Error> {
        let record = self.current()?;
        self.within(|setting| Ok(Rollout::drift(setting, &record)?))
    }

    /// Replaces every replica of a service, and changes nothing else.
    pub fn restart(&self, service: &str) -> Result<(), Error> {
        let record = self.current()?;
        self.knows(&record, service)?;
        self.within(|setting| Ok(Rollout::restart(setting, &record, service)?))
    }

    /// Runs a command once, in the image and with the settings of a service. Its exit code.
    pub fn run(&self, service: &str, command: &[String], timeout: Duration) -> Result<i32, Error> {
        let record = self.current()?;
        self.knows(&record, service)?;
        self.within(|setting| Ok(Rollout::once(setting, &record, service, command, timeout)?))
    }

    /// Forbids changes for a reason, or with `None` allows them again.
    pub fn freeze(&self, reason: Option<&str>) -> Result<(), Error> {
        let freeze = reason.map(|reason| Freeze {
            by: self.asker.by.clone(),
            at: Utc::now(),
            reason: reason.to_owned(),
        });
        Ok(self.target().freeze(freeze.as_ref())?)
    }

    /// Records what runs as a release, so that the first rollout has something to go back to. Changes nothing that
    /// runs.
    pub fn adopt(&self) -> Result<Record, Error> {
        let target = self.target();
        if let Some(record) = target.history()?.first() {
            return Err(Error::Adopted {
                environment: self.name.clone(),
                release: record.release.id.clone(),
            });
        }
        let found = target.found()?;
        if found.is_empty() {
            return Err(Error::NothingFound {
                environment: self.name.clone(),
            });
        }
        let at = Utc::now();
        let mut stack = Stack::default();
        let mut images = BTreeMap::new();
        let mut secrets = BTreeMap::new();
        let mut specs = BTreeMap::new();
        for (name, found) in found {
            let (repository, digest) = found.image.split_once('@').unwrap_or((&found.image, ""));
            let image = ReleasedImage {
                repository: repository.to_owned(),
                digest: digest.to_owned(),
                platforms: BTreeMap::new(),
            };
            images.insert(found.image.clone(), image);
            let service = stack::Service {
                image: found.image.clone(),
                ..stack::Service::default()
            };
            stack.services.insert(name.clone(), service);
            for version in &found.secrets {
                let of = |name: &&String| version.starts_with(&format!("{}_{name}_", self.stack_name()));
                let declared = self.environment.secrets.keys().find(of);
                secrets.extend(declared.map(|name| (name.clone(), Version::of(version))));
            }
            specs.insert(name, found.spec);
        }
        let record = Record {
            release: Release {
                id: ReleaseId::new(None, at),
                images,
                sources: Vec::new(),
                secrets,
                configs: BTreeMap::new(),
                migration: None,
                by: self.asker.by.clone(),
                at,
            },
            stack,
            migrate: None,
            probes: BTreeMap::new(),
            checks: BTreeMap::new(),
            addresses: BTreeMap::new(),
            singletons: self.environment.rules.singletons.iter().cloned().collect(),
            found: specs,
            probed: Vec::new(),
            secret_env: self.environment.secret_env.iter().cloned().collect(),
            began: at,
            outcome: Outcome::Succeeded { at },
        };
        let _lock = target.lock(&self.options.owner, false)?;
        target.record(&record)?;
        Ok(record)
    }

    /// The release that ran last as it should.
    fn current(&self) -> Result<Record, Error> {
        let mut history = self.target().history()?.into_iter();
        history
            .find(|record| record.outcome.succeeded())
            .ok_or_else(|| self.no_release())
    }

    fn knows(&self, record: &Record, service: &str) -> Result<(), Error> {
        match record.stack.services.contains_key(service) {
            true => Ok(()),
            false => Err(Error::NoService {
                environment: self.name.clone(),
                name: service.to_owned(),
                known: record.stack.services.keys().cloned().collect(),
            }),
        }
    }
}
