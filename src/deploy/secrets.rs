//! The versions of an environment's secrets: which there are, what needs them, and which must not be used again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Deployment, Error};
use crate::release::{ReleaseId, Version};
use crate::rollout::Record;

/// One version of a secret on the target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SecretVersion {
    /// The secret, as the stack file calls it; absent where no kept release names the version.
    pub secret: Option<String>,
    /// The version.
    pub version: Version,
    /// Kept releases that name it.
    pub releases: Vec<ReleaseId>,
    /// Whether what runs has it.
    pub current: bool,
    /// Whether it must not be used again.
    pub revoked: bool,
    /// Whether the target has it.
    pub there: bool,
}

impl Deployment<'_> {
    /// Every version that the target has, or that a kept release names.
    pub fn secrets(&self) -> Result<Vec<SecretVersion>, Error> {
        let observed = self.target().observe()?;
        let history = self.target().history()?;
        let current = history.iter().find(|record| record.outcome.succeeded());
        let mut all: BTreeSet<String> = observed.secrets.clone();
        let mut named: BTreeMap<String, (String, Vec<ReleaseId>)> = BTreeMap::new();
        for record in &history {
            for (name, version) in &record.release.secrets {
                all.insert(version.to_string());
                let entry = named
                    .entry(version.to_string())
                    .or_insert_with(|| (name.clone(), Vec::new()));
                entry.1.push(record.release.id.clone());
            }
        }
        let of = |version: String| {
            let (secret, releases) = named.remove(&version).unzip();
            let is_current = |record: &&Record| {
                record
                    .release
                    .secrets
                    .values()
                    .any(|held| held.as_str() == version)
            };
            SecretVersion {
                secret,
                releases: releases.unwrap_or_default(),
                current: current.filter(is_current).is_some(),
                revoked: observed.revoked.contains(&version),
                there: observed.secrets.contains(&version),
                version: Version::of(&version),
            }
        };
        let mut versions: Vec<SecretVersion> = all.into_iter().map(of).collect();
        // Of one secret, the oldest first: their names begin with a commit's digits.
        let made = |version: &SecretVersion| {
            version
                .releases
                .iter()
                .map(ReleaseId::time)
                .min()
                .map(str::to_owned)
        };
        versions.sort_by_cached_key(|version| (version.secret.clone(), made(version)));
        Ok(versions)
    }

    /// Marks a version as one that must not be used again: the next rollout wants another content, and a rollback uses
    /// the current one.
    pub fn revoke(&self, version: &str) -> Result<(), Error> {
        let known = self.secrets()?;
        let matching = |known: &&SecretVersion| {
            known.version.as_str() == version || known.secret.as_deref() == Some(version) && known.current
        };
        let found = known.iter().find(matching).filter(|known| known.there);
        let found = found.ok_or_else(|| Error::NoSecret {
            environment: self.name.clone(),
            version: version.to_owned(),
        })?;
        Ok(self.target().revoke(&found.version)?)
    }

    /// The record with the current version in the place of each revoked one.
    pub(super) fn without_revoked(&self, mut record: Record, history: &[Record]) -> Result<Record, Error> {
        let revoked = self.target().observe()?.revoked;
        let newest = history.iter().find(|record| record.outcome.succeeded());
        for (name, version) in &mut record.release.secrets {
            if !revoked.contains(version.as_str()) {
                continue;
            }
            let current = newest.and_then(|newest| newest.release.secrets.get(name));
            let current = current.filter(|current| !revoked.contains(current.as_str()));
            let current = current.ok_or_else(|| Error::Revoked {
                name: name.clone(),
                version: version.clone(),
            })?;
            self.setting
                .events
                .warn(format!("`{version}` was revoked; `{current}` takes its place"));
            *version = current.clone();
        }
        Ok(record)
    }
}
