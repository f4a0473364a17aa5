//! What a release's services are to be on the Swarm, and how that is compared with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use bollard::models::{
    NetworkCreateRequest, ServiceSpec, ServiceSpecUpdateConfig,
    ServiceSpecUpdateConfigFailureActionEnum as Failing, Task,
};

use super::{Swarm, state};
use crate::docker::Inventory;
use crate::registry::Repository;
use crate::rollout::history::Record;
use crate::rollout::mask::stand_in;
use crate::rollout::target::{Error, Found, Spec};
use crate::stack::{self, Mode, MountSource};
use crate::swarm::{self, NAMESPACE, ObjectRef, PinnedImage, Surroundings};

/// On a service whose own way of updating is set aside: what that is.
const ASIDE: &str = "skep.update";
/// On a service that is a task which runs once: its name.
pub(super) const TASK: &str = "skep.task";
/// On a secret that must not be used again.
pub(super) const REVOKED: &str = "skep.revoked";
/// How long nothing but the canary is replaced: until it was judged. The longest that engines take is a day and more.
const HELD: i64 = 24 * 3600 * 1_000_000_000;

/// What a spec looks like from outside.
pub(super) struct Face {
    pub revision: String,
    pub task: String,
    pub shown: serde_json::Value,
}

impl Face {
    /// Of a spec, with networks by the names that `names` gives their ids, and without the values of `secret`.
    pub(super) fn of(
        spec: &ServiceSpec,
        names: &BTreeMap<String, String>,
        secret: &BTreeSet<String>,
    ) -> Face {
        let name_of = |id: &str| names.get(id).cloned();
        let template = spec.task_template.clone().unwrap_or_default();
        Face {
            revision: swarm::revision(&swarm::canonical(spec, &name_of)),
            task: format!(
                "{}/{}",
                swarm::revision(&swarm::task_template(&template, &name_of)),
                force(spec)
            ),
            shown: swarm::shown(spec, secret, &stand_in, &name_of),
        }
    }
}

/// What tells a task's spec from others.
pub(super) fn task_revision(task: &Task, names: &BTreeMap<String, String>) -> String {
    let template = task.spec.clone().unwrap_or_default();
    let force = template.force_update.unwrap_or_default();
    let name_of = |id: &str| names.get(id).cloned();
    format!(
        "{}/{force}",
        swarm::revision(&swarm::task_template(&template, &name_of))
    )
}

/// How often all replicas were asked to start again.
pub(super) fn force(spec: &ServiceSpec) -> u64 {
    spec.task_template
        .as_ref()
        .and_then(|template| template.force_update)
        .unwrap_or_default()
}

/// How many replicas are wanted; `None` where each node has one.
pub(super) fn replicas(spec: &ServiceSpec) -> Option<u32> {
    let mode = spec.mode.as_ref()?;
    if mode.global.is_some() || mode.global_job.is_some() {
        return None;
    }
    let replicas = mode
        .replicated
        .as_ref()
        .and_then(|replicated| replicated.replicas);
    Some(u32::try_from(replicas.unwrap_or(1)).unwrap_or(u32::MAX))
}

pub(super) fn has_health_check(spec: &ServiceSpec) -> bool {
    let container = spec
        .task_template
        .as_ref()
        .and_then(|template| template.container_spec.as_ref());
    let test = container.and_then(|container| container.health_check.as_ref()?.test.clone());
    test.is_some_and(|test| test.first().is_some_and(|kind| kind != "NONE"))
}

/// Where a service's image is.
pub(super) fn repository(spec: &ServiceSpec) -> Option<Repository> {
    let container = spec.task_template.as_ref()?.container_spec.as_ref()?;
    let (repository, _) = Repository::of_image(container.image.as_ref()?).ok()?;
    Some(repository)
}

fn label<'a>(spec: &'a ServiceSpec, name: &str) -> Option<&'a String> {
    spec.labels.as_ref()?.get(name)
}

/// The name of the task that a service is, if it is one.
pub(super) fn task_name(spec: &ServiceSpec) -> Option<String> {
    label(spec, TASK).cloned()
}

/// The name that the stack file has for a service of the stack.
pub(super) fn service_name(stack: &str, spec: &ServiceSpec) -> Option<String> {
    let scoped = spec.name.as_ref()?;
    let name = scoped.strip_prefix(stack)?.strip_prefix('_')?;
    Some(name.to_owned())
}

/// A spec with its own way of updating, and whether that is set aside.
pub(super) fn settled(spec: &ServiceSpec) -> (ServiceSpec, bool) {
    let mut own = spec.clone();
    let aside = own.labels.as_mut().and_then(|labels| labels.remove(ASIDE));
    let Some(aside) = aside else {
        return (own, false);
    };
    own.update_config = serde_json::from_str(&aside).unwrap_or_default();
    (own, true)
}

/// How far a service's replicas may be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// One, and then nothing.
    Canary,
    /// All, as the file says.
    All,
}

/// The spec with its own way of updating set aside, so that a failure stops it, and skep decides.
pub(super) fn held(spec: &ServiceSpec, pace: Pace) -> ServiceSpec {
    let mut held = spec.clone();
    let own = spec.update_config.clone();
    let labels = held.labels.get_or_insert_default();
    labels.insert(ASIDE.to_owned(), state::json(&own));
    let mut update = own.unwrap_or_else(|| ServiceSpecUpdateConfig {
        parallelism: Some(1),
        ..ServiceSpecUpdateConfig::default()
    });
    update.failure_action = Some(Failing::PAUSE);
    if pace == Pace::Canary {
        update.parallelism = Some(1);
        update.delay = Some(HELD);
        update.max_failure_ratio = Some(0.0);
    }
    held.update_config = Some(update);
    held
}

/// The networks that a release's services need, and that the Swarm makes for them.
pub(super) fn networks(stack_name: &str, record: &Record) -> Vec<NetworkCreateRequest> {
    let stack = &record.stack;
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for service in stack.services.values() {
        match service.networks.is_empty() {
            true => used.extend(["default"]),
            false => used.extend(service.networks.keys().map(String::as_str)),
        }
    }
    let plain = stack::Network::default();
    used.into_iter()
        .filter_map(|name| swarm::network(stack_name, name, stack.networks.get(name).unwrap_or(&plain)))
        .collect()
}

impl Swarm {
    /// What each service is to be, by its name in the stack file.
    pub(super) fn wanted(
        &self,
        record: &Record,
        inventory: &Inventory,
    ) -> Result<BTreeMap<String, ServiceSpec>, Error> {
        let names = self.names_for(inventory)?;
        let record = &self.opened(record)?;
        let mut wanted = match record.found.is_empty() {
            true => self.converted(record, inventory)?,
            false => found(record)?,
        };
        for (name, spec) in &mut wanted {
            let scoped = swarm::scoped(&self.about.name, name);
            let there = inventory.services.iter().find_map(|service| {
                service
                    .spec
                    .as_ref()
                    .filter(|spec| spec.name.as_ref() == Some(&scoped))
            });
            let kept = there.map_or(0, |there| keep_force(there, spec, &names));
            if let Some(template) = spec.task_template.as_mut().filter(|_| kept > 0) {
                template.force_update = Some(kept);
            }
        }
        Ok(wanted)
    }

    /// Notes on a service as whom nodes pull its image, and until when.
    fn mark_pull(&self, spec: &mut ServiceSpec) {
        let Some(image) = repository(spec) else { return };
        let Some(pull) = self.about.pull.get(image.host()) else {
            return;
        };
        let until = pull.until.as_ref();
        let until = until.map_or(String::new(), |until| format!(" until {}", until.get_ref()));
        let mark = format!("{}@{}{until}", pull.user, image.host());
        spec.labels
            .get_or_insert_default()
            .insert(swarm::PULL.to_owned(), mark);
    }

    /// The record with the values of its secret variables.
    fn opened(&self, record: &Record) -> Result<Record, Error> {
        let mut opened = record.clone();
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        values.open(&mut opened, &mut lost).map_err(Error::Refused)?;
        Ok(opened)
    }

    fn converted(
        &self,
        record: &Record,
        inventory: &Inventory,
    ) -> Result<BTreeMap<String, ServiceSpec>, Error> {
        let release = &record.release;
        let pinned = |(name, image): (&String, &crate::release::ReleasedImage)| {
            let platform = |platform: &crate::platform::Platform| {
                let text = platform.to_string();
                text.split_once('/')
                    .map(|(os, arch)| (os.to_owned(), arch.to_owned()))
            };
            let pinned = PinnedImage {
                reference: image.reference(),
                platforms: image.platforms.keys().filter_map(platform).collect(),
            };
            (name.clone(), pinned)
        };
        let ids = |name: &str, all: &dyn Fn(&str) -> Option<String>| ObjectRef {
            // What is not there yet comes before the services do.
            id: all(name).unwrap_or_default(),
            name: name.to_owned(),
        };
        let secret = |name: &str| {
            let mut secrets = inventory.secrets.iter();
            secrets
                .find(|secret| secret.spec.as_ref().and_then(|spec| spec.name.as_deref()) == Some(name))?
                .id
                .clone()
        };
        let config = |name: &str| {
            let mut configs = inventory.configs.iter();
            configs
                .find(|config| config.spec.as_ref().and_then(|spec| spec.name.as_deref()) == Some(name))?
                .id
                .clone()
        };
        let around = Surroundings {
            stack_name: &self.about.name,
            images: &release.images.iter().map(pinned).collect(),
            secrets: &release
                .secrets
                .iter()
                .map(|(name, version)| (name.clone(), ids(version.as_str(), &secret)))
                .collect(),
            configs: &release
                .configs
                .iter()
                .map(|(name, version)| (name.clone(), ids(version.as_str(), &config)))
                .collect(),
            directory: &self.about.directory,
        };
        let convert = |(name, service): (&String, &stack::Service)| {
            let spec = swarm::service(&around, name, &record.stack, service);
            let mut spec = spec.map_err(|error| Error::Refused(error.to_string()))?;
            self.mark_pull(&mut spec);
            Ok((name.clone(), spec))
        };
        record.stack.services.iter().map(convert).collect()
    }

    /// What the model compares.
    pub(super) fn wanted_specs(&self, record: &Record) -> Result<BTreeMap<String, Spec>, Error> {
        let inventory = self.seen()?;
        let names = self.names_for(&inventory)?;
        let observed = self.observed(&inventory)?;
        let mut specs = BTreeMap::new();
        for (name, spec) in self.wanted(record, &inventory)? {
            let face = Face::of(&spec, &names, &self.about.secret_env);
            let service = record.stack.services.get(&name);
            let there = observed.services.get(&name).map(|service| service.replicas);
            let seen = Spec {
                revision: face.revision,
                task: face.task,
                // Where each node has one, there are as many as there are.
                replicas: replicas(&spec).or(there).unwrap_or(1),
                needs: service
                    .map(|service| service.depends_on.keys().cloned().collect())
                    .unwrap_or_default(),
                exclusive: record.singletons.contains(&name),
                settles: true,
                stateful: service.is_some_and(|service| is_stateful(&record.stack, service)),
                shown: face.shown,
            };
            specs.insert(name, seen);
        }
        Ok(specs)
    }
}

/// The count of restarts that a service has to have: as it is, and one more where it changes at its outside, which
/// replaces all replicas although their own spec stays the same.
fn keep_force(there: &ServiceSpec, spec: &ServiceSpec, names: &BTreeMap<String, String>) -> u64 {
    let (there, _) = settled(there);
    let name_of = |id: &str| names.get(id).cloned();
    let outside = |spec: &ServiceSpec| {
        let only = ServiceSpec {
            endpoint_spec: spec.endpoint_spec.clone(),
            ..ServiceSpec::default()
        };
        swarm::revision(&swarm::canonical(&only, &name_of))
    };
    let inside = |spec: &ServiceSpec| {
        let template = spec.task_template.clone().unwrap_or_default();
        swarm::revision(&swarm::task_template(&template, &name_of))
    };
    let moved = outside(&there) != outside(spec) && inside(&there) == inside(spec);
    force(&there) + u64::from(moved)
}

/// What runs, for whoever adopts it.
pub(super) fn found_services(stack: &str, inventory: &Inventory) -> BTreeMap<String, Found> {
    let mut services = BTreeMap::new();
    for spec in inventory
        .services
        .iter()
        .filter_map(|service| service.spec.as_ref())
    {
        let Some(name) = service_name(stack, spec).filter(|_| task_name(spec).is_none()) else {
            continue;
        };
        let container = spec
            .task_template
            .as_ref()
            .and_then(|template| template.container_spec.as_ref());
        let secrets = container
            .iter()
            .flat_map(|container| container.secrets.iter().flatten());
        let found = Found {
            image: container
                .and_then(|container| container.image.clone())
                .unwrap_or_default(),
            secrets: secrets.filter_map(|secret| secret.secret_name.clone()).collect(),
            spec: serde_json::to_value(settled(spec).0).unwrap_or_default(),
        };
        services.insert(name, found);
    }
    services
}

/// The specs of an adopted release, as they were found.
fn found(record: &Record) -> Result<BTreeMap<String, ServiceSpec>, Error> {
    let spec = |(name, spec): (&String, &serde_json::Value)| {
        let spec = serde_json::from_value(spec.clone());
        let spec =
            spec.map_err(|error| Error::Environment(format!("the record of `{name}` is damaged: {error}")))?;
        Ok((name.clone(), spec))
    };
    record.found.iter().map(spec).collect()
}

/// Whether a service keeps files that only one node has.
fn is_stateful(stack: &stack::Stack, service: &stack::Service) -> bool {
    service.deploy.mode == Mode::Replicated
        && service.volumes.iter().any(|mount| match &mount.source {
            MountSource::Volume { name: Some(name), .. } => {
                let volume = stack.volumes.get(name);
                volume.is_none_or(|volume| {
                    volume.driver.as_deref().is_none_or(|driver| driver == "local")
                        && volume.driver_opts.is_empty()
                })
            }
            _ => false,
        })
}

/// The labels that everything of the stack has.
pub(super) fn labels(stack: &str) -> std::collections::HashMap<String, String> {
    [(NAMESPACE.to_owned(), stack.to_owned())].into()
}
