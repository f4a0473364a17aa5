//! From a project to what runs in one of its environments: builds what the stack file names, makes a release of it,
//! and hands it to a rollout. Prints nothing.

mod error;
mod images;
mod kept;
mod lints;
mod operations;
mod outside;
mod pins;
mod place;
mod plan;
mod revisions;
mod secrets;
mod tell;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::build::Setting;
use crate::project::Environment;
use crate::registry::Tag;
use crate::release::{ReleaseId, ReleasedImage, SourceRevision};
use crate::rollout::{
    self, Contents, LogQuery, Options, PrepareError, Record, Report, Rollout, Roots, Target, TargetError,
    Wish,
};
use crate::stack::Reading;

pub use error::Error;
pub use pins::{Moved, lock_images};
pub use plan::{Offline, SavedPlan};
pub use secrets::SecretVersion;

use lints::Judge;
use place::Place;

/// How long a stage of a rollout may take, if the environment does not say.
const TIMEOUT: Duration = Duration::from_secs(300);

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
    /// Those of the newest release of the environment that did not fail: it ran, or was interrupted and is finished.
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
        self.told(Some(&id), |setting| Ok(Rollout::run(setting, record, &contents)?))
    }

    /// Makes the environment run an earlier release: `id`, or the one that was made before what runs. The schema stays
    /// where it is; if the earlier release ran on another one, that is refused unless `across` says that it is meant.
    pub fn rollback(&self, id: Option<&ReleaseId>, across: bool) -> Result<Report, Error> {
        let record = self.or_tell(id, || self.earlier(id, across))?;
        let id = record.release.id.clone();
        self.told(Some(&id), |setting| Ok(Rollout::back(setting, record)?))
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
        let mask = self.mask();
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
                let newest = self.newest()?;
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
                let newest = self.newest()?.ok_or_else(|| self.no_release())?;
                Ok((newest.release.images, newest.release.sources))
            }
        }
    }

    /// The newest release that did not fail. There is a warning of one that did and is newer, and an error if all did;
    /// `None` if there is none at all.
    fn newest(&self) -> Result<Option<Record>, Error> {
        let mut failed = None;
        for record in self.target().history()? {
            if !record.outcome.failed() {
                if let Some(failed) = failed {
                    let (environment, id) = (&self.name, &record.release.id);
                    self.setting.events.warn(format!(
                        "release {failed} failed, and the images of {id} are taken; `skep rollout {environment} --release {failed}` tries it again"
                    ));
                }
                return Ok(Some(record));
            }
            failed.get_or_insert(record.release.id);
        }
        match failed {
            None => Ok(None),
            Some(newest) => Err(Error::AllFailed {
                environment: self.name.clone(),
                newest,
            }),
        }
    }
}
