//! From a project to what runs in one of its environments: builds what the stack file names, makes a release of it,
//! and hands it to a rollout. Prints nothing.

mod lints;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::build::{self, Request, Setting};
use crate::lint::{self, Finding};
use crate::platform::{Arch, Platform};
use crate::project::{self, Environment, TargetKind};
use crate::publish;
use crate::registry::{self, Reference, Settings, Tag};
use crate::release::{ReleaseId, ReleasedImage, SourceRevision};
use crate::rollout::{
    self, Contents, LogQuery, Options, PrepareError, Preview, Proposal, Record, Report, Rollout, Target,
    TargetError, Wish,
};
use crate::source;
use crate::stack::Reading;

use lints::Judge;

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
    /// Nothing was ever released there.
    #[error("nothing was released to `{environment}` yet; run `skep release {environment}`")]
    NoRelease {
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
    /// A release that is not kept.
    #[error("`{environment}` keeps no release `{id}`; `skep history {environment}` lists those that it does")]
    Unknown {
        /// The environment.
        environment: String,
        /// The release.
        id: ReleaseId,
    },
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
}

/// Which images are rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// Those that the project's recipes make now.
    Built,
    /// Those of the newest release of the environment.
    Newest,
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
    target: Preview,
    options: Options,
}

impl<'a> Deployment<'a> {
    /// The environment `name` of the setting's project.
    pub fn open(setting: &'a Setting, name: &str, asker: Asker<'a>) -> Result<Deployment<'a>, Error> {
        let project = &setting.project;
        let environment = project.environment(name)?;
        assert_eq!(environment.target, TargetKind::Preview, "the only one that is opened yet");
        let directory = environment
            .stack
            .parent()
            .map(|directory| project.root.join(directory));
        let plain_http = project.config.push.plain_http.iter().cloned().collect();
        let target = Preview::new(
            rollout::state_directory(&asker.state_home, &project.config.project.name, name),
            Arc::clone(&setting.store),
            directory.unwrap_or_else(|| project.root.clone()),
            Settings::current(plain_http),
            build::sandbox_program(),
            setting.cancel.clone(),
        );
        Ok(Deployment {
            options: Options {
                timeout: environment.timeout.map_or(TIMEOUT, |span| span.0),
                keep: environment.keep,
                skip_probes: asker.skip_probes,
                owner: format!("{} (process {})", asker.by, std::process::id()),
            },
            name: name.to_owned(),
            setting,
            asker,
            environment,
            target,
        })
    }

    /// Where it runs.
    pub fn target(&self) -> &dyn Target {
        &self.target
    }

    /// Makes the environment run `images`, with the configuration as it is now.
    pub fn rollout(&self, images: &Images) -> Result<Report, Error> {
        let (record, contents) = self.prepare(images)?;
        self.within(|setting| Ok(Rollout::run(setting, record, &contents)?))
    }

    /// What [`Deployment::rollout`] would change. Touches nothing.
    pub fn plan(&self, images: &Images) -> Result<Proposal, Error> {
        let (record, _) = self.prepare(images)?;
        self.within(|setting| Ok(Rollout::propose(setting, &record)?))
    }

    /// Makes the environment run an earlier release: `id`, or the one that was made before what runs. The schema stays
    /// where it is; if the earlier release ran on another one, that is refused unless `across` says that it is meant.
    pub fn rollback(&self, id: Option<&ReleaseId>, across: bool) -> Result<Report, Error> {
        let history = self.target.history()?;
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
        self.within(|setting| Ok(Rollout::back(setting, record)?))
    }

    /// Gives lines of logs to `each`, until there are no more, or with `follow` until interrupted.
    pub fn logs(&self, query: &LogQuery, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        if let Some(name) = &query.of {
            let mut known: Vec<String> = self.target.observe()?.tasks.into_keys().collect();
            let records = self.target.history()?;
            known.extend(
                records
                    .first()
                    .iter()
                    .flat_map(|record| record.stack.services.keys().cloned()),
            );
            if !known.contains(name) {
                return Err(Error::NoService {
                    environment: self.name.clone(),
                    name: name.clone(),
                    known,
                });
            }
        }
        Ok(self.target.logs(query, &self.setting.cancel, each)?)
    }

    /// Stops everything. False if there was nothing.
    pub fn down(&self, volumes: bool) -> Result<bool, Error> {
        Ok(self.target.down(&self.options.owner, volumes)?)
    }

    fn within<T>(&self, run: impl FnOnce(&rollout::Setting<'_>) -> Result<T, Error>) -> Result<T, Error> {
        run(&rollout::Setting {
            target: &self.target,
            options: &self.options,
            events: &self.setting.events,
            cancel: &self.setting.cancel,
        })
    }

    fn no_release(&self) -> Error {
        Error::NoRelease {
            environment: self.name.clone(),
        }
    }

    fn kept(&self, id: &ReleaseId) -> Result<Record, Error> {
        let mut history = self.target.history()?.into_iter();
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
        let (images, sources) = self.images(images, &source.reading)?;
        judge.with_images(&images)?;
        let wish = Wish {
            images,
            sources,
            by: &self.asker.by,
            variable: self.asker.variable,
        };
        Ok(rollout::prepare(
            &self.target,
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
            Images::Built => Ok((self.build(names)?, vec![self.revision()?])),
            Images::Tagged(tag) => Ok((self.resolve(&names, tag)?, Vec::new())),
            Images::Of(id) => {
                let release = self.kept(id)?.release;
                Ok((release.images, release.sources))
            }
            Images::Newest => {
                let newest = self
                    .target
                    .history()?
                    .into_iter()
                    .next()
                    .ok_or_else(|| self.no_release())?;
                Ok((newest.release.images, newest.release.sources))
            }
        }
    }

    /// Builds targets for this machine's platform, the only one that a preview runs.
    fn build(&self, names: Vec<String>) -> Result<BTreeMap<String, ReleasedImage>, Error> {
        let request = Request {
            names: names.clone(),
            platforms: vec![Platform { arch: Arch::HOST }],
            keep_going: false,
        };
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let built = build::build(self.setting, &request)?;
        let mut images = BTreeMap::new();
        for (name, image) in &built.images {
            let platforms: BTreeMap<_, _> = image
                .images
                .iter()
                .map(|(platform, image)| (*platform, image.manifest.oci()))
                .collect();
            let one = platforms.values().next().cloned();
            let digest = image.index.as_ref().map(|index| index.digest.oci()).or(one);
            let released = digest.map(|digest| ReleasedImage {
                repository: self.repository(name),
                digest,
                platforms,
            });
            images.extend(released.map(|released| (name.clone(), released)));
        }
        Ok(images)
    }

    /// Where an image is, or would be if it were pushed.
    fn repository(&self, name: &str) -> String {
        let about = &self.setting.project.config.project;
        match &about.images {
            Some(template) => template.replace("{name}", name),
            None => format!("localhost/{}/{name}", about.name),
        }
    }

    fn revision(&self) -> Result<SourceRevision, Error> {
        let revision = source::revision(&self.setting.project.root).map_err(build::Error::from)?;
        Ok(SourceRevision {
            name: self.setting.project.config.project.name.clone(),
            dirty: revision.as_ref().is_some_and(|revision| revision.dirty),
            commit: revision.map(|revision| revision.commit),
        })
    }

    /// The images that a registry has under `tag` now.
    fn resolve(&self, names: &[String], tag: &Tag) -> Result<BTreeMap<String, ReleasedImage>, Error> {
        let plain_http = self
            .setting
            .project
            .config
            .push
            .plain_http
            .iter()
            .cloned()
            .collect();
        let client = registry::Client::new(Settings::current(plain_http))?;
        let runtime = build::runtime()?;
        let mut images = BTreeMap::new();
        for name in names {
            let repository = publish::repository_of(self.setting, name)?;
            let reference = Reference::Tag(tag.clone());
            let found =
                runtime.block_on(client.head_manifest(&repository, &reference, &self.setting.cancel))?;
            let digest = found.ok_or_else(|| Error::NoTag {
                repository: repository.to_string(),
                tag: tag.clone(),
            })?;
            let released = ReleasedImage {
                repository: repository.to_string(),
                digest,
                platforms: BTreeMap::new(),
            };
            images.insert(name.clone(), released);
        }
        Ok(images)
    }
}
