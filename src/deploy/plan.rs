//! Plans: what a rollout would change, kept in a file for later, or told without asking anybody.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::lints::Judge;
use super::place::Place;
use super::{Deployment, Error, Images};
use crate::lint::Finding;
use crate::rollout::{self, Proposal, Record, Report, Rollout, Seen};

/// The format of a plan in a file.
const FORMAT: u32 = 1;
/// The most bytes of a plan that is read.
const MAX_PLAN: u64 = 16 << 20;

/// A plan in a file: a release that was prepared, and what the target was. It holds no content of secrets.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    format: u32,
    project: String,
    environment: String,
    seen: Seen,
    record: Record,
    /// Images that it cannot be carried out without.
    #[serde(skip)]
    not_built: Vec<String>,
}

/// What the files of an environment say, and nobody else was asked.
#[derive(Debug, serde::Serialize)]
pub struct Offline {
    /// Services by name.
    pub services: BTreeMap<String, OfflineService>,
    /// Names of secrets, with where their content is.
    pub secrets: BTreeMap<String, String>,
    /// Names of configs.
    pub configs: Vec<String>,
    /// The command that migrates.
    pub migrate: Option<Vec<String>>,
    /// What lints found.
    pub findings: Vec<Finding>,
}

/// A service in the files.
#[derive(Debug, serde::Serialize)]
pub struct OfflineService {
    /// Where its image is, or will be.
    pub image: String,
    /// How many replicas; absent where each node has one.
    pub replicas: Option<u64>,
    /// Secrets that it sees.
    pub secrets: Vec<String>,
}

impl Deployment<'_> {
    /// What [`Deployment::rollout`] would change. Touches nothing.
    pub fn plan(&self, images: &Images) -> Result<(Proposal, SavedPlan), Error> {
        let (record, _) = self.prepare(images)?;
        let images = record.release.images.iter();
        let not_built = images
            .filter(|(_, image)| !image.is_built())
            .map(|(name, _)| name.clone());
        let not_built = not_built.collect();
        let proposal = self.within(|setting| Ok(Rollout::propose(setting, &record)?))?;
        let saved = SavedPlan {
            format: FORMAT,
            project: self.setting.project.config.project.name.clone(),
            environment: self.name.clone(),
            seen: proposal.seen.clone(),
            not_built,
            record: match &self.place {
                Place::Swarm(swarm) => swarm.sealed(&record),
                Place::Preview(_) => record,
            },
        };
        Ok((proposal, saved))
    }

    /// Rolls out what was planned, if the target is still what it was.
    pub fn rollout_plan(&mut self, plan: SavedPlan) -> Result<Report, Error> {
        let id = plan.record.release.id.clone();
        self.options.seen = Some(plan.seen.clone());
        let contents = self.or_tell(Some(&id), || {
            let name = &self.setting.project.config.project.name;
            if plan.format != FORMAT || plan.project != *name || plan.environment != self.name {
                return Err(Error::ForeignPlan {
                    project: plan.project.clone(),
                    environment: plan.environment.clone(),
                });
            }
            self.lacking(&plan.record)
        })?;
        self.told(Some(&id), |setting| {
            Ok(Rollout::run(setting, plan.record, &contents)?)
        })
    }

    /// What the files say. Builds nothing, and asks neither the target nor a registry.
    pub fn offline(&self) -> Result<Offline, Error> {
        let source = rollout::read_stack(&self.setting.project, self.environment, self.asker.variable)?;
        let findings = Judge::new(self, &source)?.files()?.findings;
        let stack = &source.reading.stack;
        let image = |name: &String| match name.contains('@') {
            true => name.clone(),
            false => self.repository(name),
        };
        let services = stack.services.iter().map(|(name, service)| {
            let replicated = service.deploy.mode == crate::stack::Mode::Replicated;
            let offline = OfflineService {
                image: image(&service.image),
                replicas: replicated.then(|| service.deploy.replicas.unwrap_or(1)),
                secrets: service.secrets.iter().map(|grant| grant.source.clone()).collect(),
            };
            (name.clone(), offline)
        });
        let secrets = stack.secrets.iter().map(|(name, object)| {
            let declared = object.name.as_deref().unwrap_or(name);
            let place = match (self.environment.secrets.get(declared), &object.content) {
                (Some(source), _) => source.to_string(),
                (None, crate::stack::Content::File(path)) => format!("file {path}"),
                (None, _) => "nowhere".to_owned(),
            };
            (name.clone(), place)
        });
        Ok(Offline {
            services: services.collect(),
            secrets: secrets.collect(),
            configs: stack.configs.keys().cloned().collect(),
            migrate: self
                .environment
                .migrate
                .as_ref()
                .map(|migrate| migrate.command.clone()),
            findings,
        })
    }
}

impl SavedPlan {
    /// Writes it for nobody else to read: a stack's environment is in it.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        if !self.not_built.is_empty() {
            return Err(Error::PlanFile {
                what: format!(
                    "the plan cannot be kept: no release has `{}` yet; `skep release {}` builds it",
                    self.not_built.join("`, `"),
                    self.environment
                ),
            });
        }
        let failed = |error: std::io::Error| Error::PlanFile {
            what: format!("cannot write `{}`: {error}", path.display()),
        };
        let new = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed)?;
        let json = serde_json::to_vec_pretty(self).expect("plain data encodes");
        file.write_all(&json)
            .and_then(|()| fs::rename(&new, path))
            .map_err(failed)
    }

    /// Reads what [`SavedPlan::write`] wrote.
    pub fn read(path: &Path) -> Result<SavedPlan, Error> {
        let failed = |why: String| Error::PlanFile {
            what: format!("`{}` is no plan: {why}", path.display()),
        };
        let size = fs::metadata(path)
            .map_err(|error| failed(error.to_string()))?
            .len();
        if size > MAX_PLAN {
            return Err(failed(format!("it is larger than {MAX_PLAN} bytes")));
        }
        let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
    }
}
