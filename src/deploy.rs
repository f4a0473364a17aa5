//! From a project to what runs in one of its environments: builds what the stack file names, makes a release of it,
//! and hands it to a rollout. Prints nothing.

mod images;
mod lints;
mod operations;
mod outside;
mod pins;
mod place;
mod plan;
mod revisions;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;

use crate::build::{self, Setting};
use crate::lint::{self, Finding};
use crate::project::{self, Environment};
use crate::publish;
use crate::registry::{self, Tag};
use crate::release::{ReleaseId, ReleasedImage, SourceRevision};
use crate::rollout::{
    self, Contents, LogQuery, Options, PrepareError, Record, Report, Rollout, Roots, Target, TargetError,
    Wish,
};
use crate::stack::Reading;

pub use pins::{Moved, lock_images};
pub use plan::{Offline, SavedPlan};
pub use secrets::SecretVersion;

use lints::Judge;
use place::Place;

/// How long a stage of a rollout may take, if the environment does not say.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Why nothing was deployed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Project(#[from] project::Error),
    /// The build.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// Repositories and tags.
    #[error(transparent)]
    Publish(Box<publish::Error>),
    /// The stack file, its variables, secrets and configs.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// What skep.toml says of lints.
    #[error(transparent)]
    Lint(#[from] lint::Error),
    /// Lints that block; at least one.
    #[error("`{environment}` is left as it is: {} it; `skep lint {environment}` says why", lint::blocking(.findings.len()))]
    Blocked {
        /// The environment.
        environment: String,
        /// What they found.
        findings: Vec<Finding>,
    },
    /// The rollout.
    #[error(transparent)]
    Rollout(Box<rollout::Error>),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The registry that a tag is looked up in.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// A tag that names no image.
    #[error("`{repository}` has no tag `{tag}`; push it first")]
    NoTag {
        /// Where it was looked for.
        repository: String,
        /// The tag.
        tag: Tag,
    },
    /// Images under one tag that are of several revisions.
    #[error(
        "the images under `{}` are of no one revision: {}; push all of one under that tag, or give another", .tag.as_str(), mixture(.revisions)
    )]
    Mixture {
        /// The tag.
        tag: Tag,
        /// Revisions of each image, by its target.
        revisions: BTreeMap<String, BTreeSet<String>>,
    },
    /// Where an image is does not make sense.
    #[error(transparent)]
    Address(#[from] registry::AddressError),
    /// Nothing was ever released there.
    #[error("nothing was released to `{environment}` yet; run `skep release {environment}`")]
    NoRelease {
        /// The environment.
        environment: String,
    },
    /// Changes that no revision has.
    #[error(
        "the work tree has changes that are not committed; commit them, or give `--dirty` to release them to `{environment}` as they are"
    )]
    Dirty {
        /// The environment.
        environment: String,
    },
    /// There is no release to go back to.
    #[error(
        "`{environment}` keeps no earlier release that ran; `skep history {environment}` lists what it keeps"
    )]
    NoEarlier {
        /// The environment.
        environment: String,
    },
    /// The schema would be another one than a release ran on.
    #[error(
        "release {id} ran on schema {ran}, and the database is at {stands}, where it stays; if the release can do with that, give `--across-migrations`"
    )]
    AcrossMigration {
        /// The release.
        id: ReleaseId,
        /// Where the schema stands.
        stands: u64,
        /// Where it stood for the release.
        ran: u64,
    },
    /// A service or task that was never there.
    #[error("`{environment}` has no service or task `{name}`; it has `{}`", known.join("`, `"))]
    NoService {
        /// The environment.
        environment: String,
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Something is recorded already.
    #[error("`{environment}` has release {release} already; there is nothing to adopt")]
    Adopted {
        /// The environment.
        environment: String,
        /// Its newest release.
        release: ReleaseId,
    },
    /// Nothing runs.
    #[error("nothing runs at `{environment}` that could be adopted")]
    NothingFound {
        /// The environment.
        environment: String,
    },
    /// A secret's version that there is not.
    #[error(
        "`{environment}` has no secret `{version}`; `skep secret ls {environment}` lists those that it has"
    )]
    NoSecret {
        /// The environment.
        environment: String,
        /// What was asked for.
        version: String,
    },
    /// A release needs a secret that must not be used, and nothing takes its place.
    #[error(
        "the release needs `{version}`, which was revoked, and no other version of `{name}` takes its place"
    )]
    Revoked {
        /// The secret.
        name: String,
        /// The version.
        version: crate::release::Version,
    },
    /// A plan of something else.
    #[error("the plan is for `{environment}` of `{project}`")]
    ForeignPlan {
        /// Its project.
        project: String,
        /// Its environment.
        environment: String,
    },
    /// A plan's file cannot be read or written.
    #[error("{what}")]
    PlanFile {
        /// What is wrong.
        what: String,
    },
    /// A release that is not kept.
    #[error("`{environment}` keeps no release `{id}`; `skep history {environment}` lists those that it does")]
    Unknown {
        /// The environment.
        environment: String,
        /// The release.
        id: ReleaseId,
    },
}

/// Revisions that are said of each image.
const SAID: usize = 3;

fn mixture(revisions: &BTreeMap<String, BTreeSet<String>>) -> String {
    let one = |(name, of): (&String, &BTreeSet<String>)| {
        let mut said: Vec<&str> = of.iter().take(SAID).map(String::as_str).collect();
        match of.len() {
            0 => said.push("unknown"),
            all if all > SAID => said.push("…"),
            _ => {}
        }
        format!("`{name}` is of {}", said.join(", "))
    };
    revisions.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl From<rollout::Error> for Error {
    fn from(error: rollout::Error) -> Error {
        Error::Rollout(Box::new(error))
    }
}

impl From<publish::Error> for Error {
    fn from(error: publish::Error) -> Error {
        Error::Publish(Box::new(error))
    }
}

/// Who asks, and from where.
#[derive(Clone)]
pub struct Asker<'a> {
    /// `user@host`.
    pub by: String,
    /// The user's directory of state, such as `~/.local/state`.
    pub state_home: PathBuf,
    /// The process's environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Whether probes are left out.
    pub skip_probes: bool,
    /// Whether replicas may be replaced that keep files of their own on a node.
    pub stateful: bool,
    /// Whether what was built of a work tree with changes may be released to others than a preview.
    pub dirty: bool,
}

/// Which images are rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// Those that the project's recipes make now.
    Built,
    /// Those of the newest release of the environment.
    Newest,
    /// The same for a plan: what that release has not is taken for built when it is needed.
    Expected,
    /// Those of a release of the environment.
    Of(ReleaseId),
    /// Those that a registry has under a tag.
    Tagged(Tag),
}

/// One environment of a project.
pub struct Deployment<'a> {
    setting: &'a Setting,
    asker: Asker<'a>,
    name: String,
    environment: &'a Environment,
    place: Place,
    roots: Arc<Roots>,
    options: Options,
}

impl<'a> Deployment<'a> {
    /// The environment `name` of the setting's project.
    pub fn open(setting: &'a Setting, name: &str, asker: Asker<'a>) -> Result<Deployment<'a>, Error> {
        let project = &setting.project;
        let environment = project.environment(name)?;
        let roots = Roots::new(
            Arc::clone(&setting.store),
            place::settings(setting),
            setting.cancel.clone(),
        );
        let roots = Arc::new(roots);
        let place = Place::open(setting, name, environment, &asker, &roots)?;
        Ok(Deployment {
            options: Options {
                timeout: environment.timeout.map_or(TIMEOUT, |span| span.0),
                keep: environment.keep,
                skip_probes: asker.skip_probes,
                stateful: asker.stateful,
                seen: None,
                owner: format!("{} (process {})", asker.by, std::process::id()),
            },
            name: name.to_owned(),
            setting,
            asker,
            environment,
            place,
            roots,
        })
    }

    /// Where it runs.
    pub fn target(&self) -> &dyn Target {
        self.place.target()
    }

    /// Makes the environment run `images`, with the configuration as it is now.
    pub fn rollout(&self, images: &Images) -> Result<Report, Error> {
        let (record, contents) = self.or_tell(None, || self.prepare(images))?;
        let id = record.release.id.clone();
        self.told(Some(&id), |setting| Rollout::run(setting, record, &contents))
    }

    /// Makes the environment run an earlier release: `id`, or the one that was made before what runs. The schema stays
    /// where it is; if the earlier release ran on another one, that is refused unless `across` says that it is meant.
    pub fn rollback(&self, id: Option<&ReleaseId>, across: bool) -> Result<Report, Error> {
        let record = self.or_tell(id, || self.earlier(id, across))?;
        let id = record.release.id.clone();
        self.told(Some(&id), |setting| Rollout::back(setting, record))
    }

    fn earlier(&self, id: Option<&ReleaseId>, across: bool) -> Result<Record, Error> {
        let history = self.target().history()?;
        let record = match id {
            Some(id) => self.kept(id)?,
            None => {
                // By when they were made: a second rollback goes further back, and not forward again.
                let made = |record: &Record| record.release.at;
                let newest = history.first().map(made);
                let older = history.iter().filter(|record| {
                    record.outcome.succeeded() && newest.is_some_and(|newest| made(record) < newest)
                });
                older
                    .max_by_key(|record| made(record))
                    .cloned()
                    .ok_or_else(|| Error::NoEarlier {
                        environment: self.name.clone(),
                    })?
            }
        };
        let schema = |record: &Record| record.release.migration.and_then(|migration| migration.after);
        let stands = history.iter().find_map(schema);
        if let (Some(stands), Some(ran)) = (stands, schema(&record))
            && stands != ran
            && !across
        {
            return Err(Error::AcrossMigration {
                id: record.release.id,
                stands,
                ran,
            });
        }
        self.without_revoked(record, &history)
    }

    /// Gives lines of logs to `each`, until there are no more, or with `follow` until interrupted.
    pub fn logs(&self, query: &LogQuery, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        if let Some(name) = &query.of {
            let records = self.target().history()?;
            let services = records
                .first()
                .map(|record| record.stack.services.keys().cloned());
            let known: Vec<String> = services.into_iter().flatten().collect();
            // `api.1` is a replica of `api`.
            let service = name
                .rsplit_once('.')
                .map_or(name.as_str(), |(service, _)| service);
            let is_known = known.iter().any(|known| known == name || known == service);
            if !is_known && !self.target().observe()?.tasks.contains_key(name) {
                return Err(Error::NoService {
                    environment: self.name.clone(),
                    name: name.clone(),
                    known,
                });
            }
        }
        // What the files say now; a line may hold what they said before.
        let source = rollout::read_stack(&self.setting.project, self.environment, self.asker.variable).ok();
        let names = self.environment.secret_env.iter().cloned().collect();
        let mask = source.map(|source| rollout::Mask::new(&names, &source.reading.stack));
        let mask = mask.unwrap_or_default();
        let mut masked = |line: &str| each(&mask.apply(line));
        Ok(self.target().logs(query, &self.setting.cancel, &mut masked)?)
    }

    /// Stops everything. False if there was nothing.
    pub fn down(&self, volumes: bool) -> Result<bool, Error> {
        match &self.place {
            Place::Preview(preview) => Ok(preview.down(&self.options.owner, volumes)?),
            Place::Swarm(swarm) => Err(TargetError::Refused(format!(
                "`{}` is no preview; `docker stack rm {}` stops it, if that is what you want",
                self.name,
                swarm.name()
            ))
            .into()),
        }
    }

    /// Rolls out, and tells whoever is to know what came of it.
    fn told(
        &self,
        release: Option<&ReleaseId>,
        run: impl FnOnce(&rollout::Setting<'_>) -> Result<Report, rollout::Error>,
    ) -> Result<Report, Error> {
        let began = Instant::now();
        self.within(|setting| {
            let result = run(setting);
            self.tell(&rollout::Notice::new(&self.about(release, began), &result));
            Ok(result?)
        })
    }

    /// What comes before a rollout; whoever is to know is told if there will be none.
    fn or_tell<T>(
        &self,
        release: Option<&ReleaseId>,
        before: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        before().inspect_err(|error| {
            let about = self.about(release, began);
            self.tell(&rollout::Notice::refused(&about, error.to_string()));
        })
    }

    fn about<'b>(&'b self, release: Option<&'b ReleaseId>, began: Instant) -> rollout::About<'b> {
        rollout::About {
            project: &self.setting.project.config.project.name,
            environment: &self.name,
            release,
            by: &self.asker.by,
            at: Utc::now(),
            took: began.elapsed(),
        }
    }

    fn tell(&self, notice: &rollout::Notice) {
        let (root, cancel) = (&self.setting.project.root, &self.setting.cancel);
        let warnings = rollout::notify(
            &self.environment.notify,
            root,
            self.asker.variable,
            notice,
            cancel,
        );
        let warn = |warning| self.setting.events.warn(warning);
        warnings.into_iter().for_each(warn);
    }

    fn within<T>(&self, run: impl FnOnce(&rollout::Setting<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let done = run(&rollout::Setting {
            target: self.target(),
            options: &self.options,
            events: &self.setting.events,
            cancel: &self.setting.cancel,
        });
        if let Place::Swarm(swarm) = &self.place {
            swarm
                .notes()
                .into_iter()
                .for_each(|note| self.setting.events.warn(note));
        }
        done
    }

    /// Content that the target lacks of `record`, as far as this machine has it.
    fn lacking(&self, record: &Record) -> Result<Contents, Error> {
        let project = &self.setting.project;
        let variable = self.asker.variable;
        Ok(rollout::lacking(
            self.target(),
            project,
            self.environment,
            record,
            variable,
        )?)
    }

    /// What the stack is called on its target.
    fn stack_name(&self) -> &str {
        rollout::stack_name(&self.setting.project, self.environment)
    }

    fn no_release(&self) -> Error {
        Error::NoRelease {
            environment: self.name.clone(),
        }
    }

    fn kept(&self, id: &ReleaseId) -> Result<Record, Error> {
        let mut history = self.target().history()?.into_iter();
        history
            .find(|record| record.release.id == *id)
            .ok_or_else(|| Error::Unknown {
                environment: self.name.clone(),
                id: id.clone(),
            })
    }

    fn prepare(&self, images: &Images) -> Result<(Record, Contents), Error> {
        let project = &self.setting.project;
        let source = rollout::read_stack(project, self.environment, self.asker.variable)?;
        for note in &source.reading.notes {
            self.setting
                .events
                .warn(format!("{}: `{}` {}", note.place, note.key, note.why));
        }
        let judge = Judge::new(self, &source)?;
        judge.before_images()?;
        let (mut images, sources) = self.images(images, &source.reading)?;
        images.extend(source.pinned.clone());
        judge.with_images(&images)?;
        let address = |(service, address): (&String, &String)| {
            let filled = rollout::fill(project, self.environment, self.asker.variable, address)?;
            Ok::<_, PrepareError>((service.clone(), filled))
        };
        let wish = Wish {
            images,
            sources,
            addresses: self
                .environment
                .addresses
                .iter()
                .map(address)
                .collect::<Result<_, _>>()?,
            by: &self.asker.by,
            variable: self.asker.variable,
        };
        Ok(rollout::prepare(
            self.target(),
            project,
            self.environment,
            source.reading,
            wish,
        )?)
    }

    fn images(
        &self,
        images: &Images,
        reading: &Reading,
    ) -> Result<(BTreeMap<String, ReleasedImage>, Vec<SourceRevision>), Error> {
        let names = rollout::targets(&reading.stack);
        match images {
            // Nothing of the project's own runs there.
            _ if names.is_empty() => Ok((BTreeMap::new(), vec![self.revision()?])),
            Images::Built => {
                let revision = self.revision()?;
                if revision.dirty && !self.asker.dirty && !matches!(self.place, Place::Preview(_)) {
                    return Err(Error::Dirty {
                        environment: self.name.clone(),
                    });
                }
                Ok((self.build(&names)?, vec![revision]))
            }
            Images::Tagged(tag) => self.resolve(&names, tag),
            Images::Of(id) => {
                let release = self.kept(id)?.release;
                Ok((release.images, release.sources))
            }
            Images::Expected if matches!(self.place, Place::Swarm(_)) => {
                let newest = self.target().history()?.into_iter().next();
                let (known, sources) = newest
                    .map(|record| (record.release.images, record.release.sources))
                    .unwrap_or_default();
                let image = |name: &String| {
                    let image = known.get(name).cloned();
                    image.unwrap_or_else(|| ReleasedImage::not_built(self.repository(name)))
                };
                let images = names.iter().map(|name| (name.clone(), image(name)));
                Ok((images.collect(), sources))
            }
            Images::Newest | Images::Expected => {
                let newest = self
                    .target()
                    .history()?
                    .into_iter()
                    .next()
                    .ok_or_else(|| self.no_release())?;
                Ok((newest.release.images, newest.release.sources))
            }
        }
    }
}
