//! What lints are given to judge: the stack file, what git tracks, and the configs of images as soon as they are known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{Datelike as _, Utc};
use toml::value::Date;

use super::place::Place;
use super::{Deployment, Error};
use crate::build;
use crate::lint::{self, Inputs, Level, Report};
use crate::release::ReleasedImage;
use crate::rollout::{self, Source, TargetError};
use crate::rootfs::Config;
use crate::source;
use crate::stack::Stack;
use crate::swarm::Node;

/// Judges one reading of an environment's files.
pub(super) struct Judge<'a> {
    deployment: &'a Deployment<'a>,
    source: &'a Source,
    tracked: Option<BTreeSet<PathBuf>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(deployment: &'a Deployment<'a>, source: &'a Source) -> Result<Judge<'a>, Error> {
        let root = &deployment.setting.project.root;
        Ok(Judge {
            deployment,
            source,
            tracked: source::tracked(root).map_err(build::Error::from)?,
        })
    }

    /// Refuses what is wrong whatever the images are, before any is built.
    pub(super) fn before_images(&self) -> Result<(), Error> {
        self.refuse(&self.files()?)
    }

    /// What is wrong whatever the images are, and whatever a target says.
    pub(super) fn files(&self) -> Result<Report, Error> {
        let (images, configs) = (BTreeMap::new(), BTreeMap::new());
        self.report(&images, &configs, self.target(), &Seen::default())
    }

    /// Refuses what blocks, and warns of the rest.
    pub(super) fn with_images(&self, images: &BTreeMap<String, ReleasedImage>) -> Result<(), Error> {
        let (pull, nodes) = match &self.deployment.place {
            Place::Preview(_) => (true, None),
            Place::Swarm(swarm) => (false, Some(swarm.nodes()?)),
        };
        let seen = Seen {
            nodes,
            ..Seen::default()
        };
        let configs = self.deployment.configs(&self.source.reading.stack, images, pull);
        let report = self.report(images, &configs, self.target(), &seen)?;
        for finding in report.of(Level::Warn) {
            self.deployment.setting.events.warn(finding.to_string());
        }
        self.refuse(&report)
    }

    fn target(&self) -> lint::Target {
        self.deployment.environment.target.into()
    }

    fn report(
        &self,
        released: &BTreeMap<String, ReleasedImage>,
        images: &BTreeMap<String, Config>,
        target: lint::Target,
        seen: &Seen,
    ) -> Result<Report, Error> {
        let today = Utc::now().date_naive();
        let known = released.iter().filter(|(_, image)| !image.platforms.is_empty());
        let platforms = known.map(|(name, image)| {
            let platforms = image.platforms.keys().map(ToString::to_string);
            (name.clone(), platforms.collect())
        });
        Ok(lint::check(&Inputs {
            project: &self.deployment.setting.project,
            environment: self.deployment.environment,
            reading: &self.source.reading,
            given: &self.source.given,
            images,
            platforms: &platforms.collect(),
            nodes: seen.nodes.as_deref(),
            outside: seen.outside.as_ref(),
            kept: seen.kept.as_deref(),
            tracked: self.tracked.as_ref(),
            target,
            // Each fits until the year 65536.
            today: Date {
                year: today.year() as u16,
                month: today.month() as u8,
                day: today.day() as u8,
            },
        })?)
    }

    fn refuse(&self, report: &Report) -> Result<(), Error> {
        let findings: Vec<_> = report.of(Level::Block).cloned().collect();
        match findings.is_empty() {
            true => Ok(()),
            false => Err(Error::Blocked {
                environment: self.deployment.name.clone(),
                findings,
            }),
        }
    }
}

/// What was asked of a Swarm and of registries, as far as somebody asked.
#[derive(Default)]
struct Seen {
    nodes: Option<Vec<Node>>,
    outside: Option<lint::Outside>,
    kept: Option<Vec<lint::Kept>>,
}

impl Deployment<'_> {
    /// What lints find in the environment's files, and in the images of its newest release that did not fail, as far as
    /// the store has them; for `target`, or for what the environment is. Builds nothing; for a Swarm it does look at how
    /// the machines answer to strangers, which takes seconds, and asks registries for what a rollback may need.
    pub fn lint(&self, target: Option<lint::Target>) -> Result<Report, Error> {
        let project = &self.setting.project;
        let source = rollout::read_stack(project, self.environment, self.asker.variable)?;
        let (mut images, seen) = match self.asked(target) {
            Ok(known) => known,
            // Whoever has no way to a manager, such as a check of every change, has the files.
            Err(Error::Target(error @ TargetError::Environment(_))) => {
                let warning = format!("what the target has is not judged: {error}");
                self.setting.events.warn(warning);
                (BTreeMap::new(), Seen::default())
            }
            Err(error) => return Err(error),
        };
        images.extend(source.pinned.clone());
        let configs = self.configs(&source.reading.stack, &images, false);
        let judge = Judge::new(self, &source)?;
        judge.report(&images, &configs, target.unwrap_or(judge.target()), &seen)
    }

    /// The images of the newest release that did not fail, and what a Swarm says of itself; nothing of a Swarm that the
    /// files are not judged for.
    fn asked(&self, target: Option<lint::Target>) -> Result<(BTreeMap<String, ReleasedImage>, Seen), Error> {
        if target.is_some() && matches!(self.place, Place::Swarm(_)) {
            return Ok((BTreeMap::new(), Seen::default()));
        }
        let history = self.target().history()?;
        let mut seen = Seen::default();
        if let Place::Swarm(swarm) = &self.place {
            let nodes = swarm.nodes()?;
            seen = Seen {
                outside: Some(self.outside(swarm, &nodes)?),
                kept: Some(self.doubtful(&history)?),
                nodes: Some(nodes),
            };
        }
        // What a plain rollout would take, too.
        let newest = history.into_iter().find(|record| !record.outcome.failed());
        let images = newest.map(|record| record.release.images).unwrap_or_default();
        Ok((images, seen))
    }

    /// The configs of a stack's images, by what it calls them, as far as they can be had.
    fn configs(
        &self,
        stack: &Stack,
        images: &BTreeMap<String, ReleasedImage>,
        pull: bool,
    ) -> BTreeMap<String, Config> {
        let mut configs = BTreeMap::new();
        for name in stack.services.values().map(|service| &service.image) {
            let image = images.get(name).cloned().or_else(|| rollout::pinned(name).ok());
            let config = image.and_then(|image| self.roots.config_of(&image, pull));
            configs.extend(config.map(|config| (name.clone(), config)));
        }
        configs
    }
}
