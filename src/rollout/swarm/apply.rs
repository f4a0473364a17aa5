//! One step towards a release. Each is tried again where its answer was lost or somebody was faster: what is done is
//! seen, and not done twice.

use bollard::models::{ConfigSpec, Service, ServiceSpec};

use super::wanted::{self, Pace};
use super::{ATTEMPTS, Swarm, error};
use crate::docker::{self, Engine, RegistryAuth, SecretSpec};
use crate::registry;
use crate::release::Version;
use crate::rollout::history::Record;
use crate::rollout::target::{Error, Kind, Step};
use crate::swarm;

/// On a service: who took over, which makes updates of whoever had the lock before fail.
const FENCE: &str = "skep.fence";

impl Swarm {
    pub(super) fn take_step(&self, step: &Step, record: &Record) -> Result<(), Error> {
        match step {
            Step::Put { .. } | Step::Migrate { .. } => Ok(()),
            Step::Network { name } => self.add_network(name, record),
            Step::Stop { service } => self.change(service, &|there| {
                let mut spec = there?.clone();
                let replicated = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut())?;
                (replicated.replicas != Some(0)).then(|| replicated.replicas = Some(0))?;
                Some(spec)
            }),
            Step::Canary { service } => self.give(service, record, Some(Pace::Canary)),
            Step::Roll { service } => self.give(service, record, Some(Pace::All)),
            Step::Restart { service } => self.change(service, &|there| {
                let (own, _) = wanted::settled(there?);
                let mut spec = wanted::held(&own, Pace::All);
                let template = spec.task_template.get_or_insert_default();
                template.force_update = Some(wanted::force(&own) + 1);
                Some(spec)
            }),
            Step::Settle { service } => self.give(service, record, None),
            Step::Remove { service } => {
                let scoped = swarm::scoped(&self.about.name, service);
                self.again(|engine| engine.remove_service(&scoped))
            }
        }
    }

    /// Gives a service what the release says, with its own way of updating or with `pace`.
    fn give(&self, name: &str, record: &Record, pace: Option<Pace>) -> Result<(), Error> {
        let inventory = self.look()?;
        let mut all = self.wanted(record, &inventory)?;
        let wanted = all.remove(name).ok_or_else(|| {
            Error::Refused(format!("release {} has no service `{name}`", record.release.id))
        })?;
        let auth = self.credentials(&wanted)?;
        let names = self.names_for(&inventory)?;
        let scoped = swarm::scoped(&self.about.name, name);
        let mut attempt = 1;
        loop {
            let engine = self.engine()?;
            let there = engine.service(&scoped).map_err(error)?;
            let spec = match (&there, pace) {
                (Some(_), Some(pace)) => wanted::held(&wanted, pace),
                _ => wanted.clone(),
            };
            let there = there.as_ref().map(|there| known(there, &scoped)).transpose()?;
            if there.is_some_and(|(_, _, there)| same(there, &spec, &names)) {
                return Ok(());
            }
            // After the service was read: whoever takes over in between changes its version.
            self.guard()?;
            let done = match there {
                Some((id, version, _)) => engine.update_service(id, version, spec, auth.as_ref()),
                None => engine.create_service(spec, auth.as_ref()).map(drop),
            };
            match done {
                Ok(()) => return Ok(()),
                Err(problem) if may_be_tried_again(&problem) && attempt < ATTEMPTS => attempt += 1,
                Err(problem) => return Err(error(problem)),
            }
        }
    }

    /// Changes a service that is there; `edit` says how, or that there is nothing to change.
    pub(super) fn change(
        &self,
        name: &str,
        edit: &dyn Fn(Option<&ServiceSpec>) -> Option<ServiceSpec>,
    ) -> Result<(), Error> {
        let scoped = swarm::scoped(&self.about.name, name);
        let mut attempt = 1;
        loop {
            let engine = self.engine()?;
            let there = engine.service(&scoped).map_err(error)?;
            let there = there.as_ref().map(|there| known(there, &scoped)).transpose()?;
            let (Some((id, version, _)), Some(spec)) = (there, edit(there.map(|(_, _, spec)| spec))) else {
                return Ok(());
            };
            self.guard()?;
            match engine.update_service(id, version, spec, None) {
                Ok(()) => return Ok(()),
                Err(problem) if may_be_tried_again(&problem) && attempt < ATTEMPTS => attempt += 1,
                Err(problem) => return Err(error(problem)),
            }
        }
    }

    /// Makes every pending update of whoever had the lock before fail; no replica is touched.
    pub(super) fn fence(&self) -> Result<(), Error> {
        let mark = format!("{}", chrono::Utc::now().timestamp_micros());
        for service in &self.look()?.services {
            let Some(spec) = &service.spec else { continue };
            let Some(name) = wanted::service_name(&self.about.name, spec) else {
                continue;
            };
            self.change(&name, &|there| {
                let mut spec = there?.clone();
                let labels = spec.labels.get_or_insert_default();
                (labels.get(FENCE) != Some(&mark)).then(|| labels.insert(FENCE.to_owned(), mark.clone()))?;
                Some(spec)
            })?;
        }
        Ok(())
    }

    fn add_network(&self, name: &str, record: &Record) -> Result<(), Error> {
        let mut networks = wanted::networks(&self.about.name, record).into_iter();
        let Some(network) = networks.find(|network| network.name == name) else {
            return Ok(());
        };
        self.again(|engine| match engine.create_network(network.clone()) {
            Err(docker::Error::Conflict(_)) => Ok(()),
            Err(docker::Error::Refused(why)) if why.contains("already exists") => Ok(()),
            other => other.map(drop),
        })
    }

    /// A change that can be asked for twice.
    pub(super) fn again(&self, ask: impl Fn(&Engine) -> Result<(), docker::Error>) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            match ask(self.guard()?) {
                Ok(()) => return Ok(()),
                Err(problem) if may_be_tried_again(&problem) && attempt < ATTEMPTS => attempt += 1,
                Err(problem) => return Err(error(problem)),
            }
        }
    }

    /// What nodes pull a service's image with.
    pub(super) fn credentials(&self, spec: &ServiceSpec) -> Result<Option<RegistryAuth>, Error> {
        let Some(repository) = wanted::repository(spec) else {
            return Ok(None);
        };
        let credential = registry::credential(&self.about.registry, repository.host());
        let credential = credential.map_err(Error::Environment)?;
        Ok(credential.map(|(username, password)| RegistryAuth {
            server: repository.host().to_owned(),
            username,
            password,
        }))
    }

    pub(super) fn object_holds(
        &self,
        kind: Kind,
        version: &Version,
        content: &[u8],
    ) -> Result<Option<bool>, Error> {
        let engine = self.engine()?;
        let name = version.as_str();
        match kind {
            Kind::Config => {
                let config = engine.config(name).map_err(error)?;
                let held = config
                    .map(|config| docker::config_content(&config))
                    .transpose()
                    .map_err(error)?;
                Ok(held.map(|held| held == content))
            }
            Kind::Secret => {
                let Some(id) = self.secret_id(name)? else {
                    return Ok(None);
                };
                if content.is_empty() {
                    return Ok(Some(false));
                }
                let spec = SecretSpec {
                    name: name.to_owned(),
                    labels: wanted::labels(&self.about.name),
                    content: content.to_vec(),
                };
                Ok(Some(engine.secret_holds(&id, &spec).map_err(error)?))
            }
        }
    }

    fn secret_id(&self, name: &str) -> Result<Option<String>, Error> {
        let secrets = self.engine()?.secrets(&[("name", name)]).map_err(error)?;
        let mut secrets = secrets.into_iter();
        let found =
            secrets.find(|secret| secret.spec.as_ref().and_then(|spec| spec.name.as_deref()) == Some(name));
        Ok(found.and_then(|secret| secret.id))
    }

    pub(super) fn put_object(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<(), Error> {
        let labels = wanted::labels(&self.about.name);
        let name = version.as_str().to_owned();
        self.again(|engine| {
            let put = match kind {
                Kind::Secret => engine.create_secret(&SecretSpec {
                    name: name.clone(),
                    labels: labels.clone(),
                    content: content.to_vec(),
                }),
                Kind::Config => engine.create_config(ConfigSpec {
                    name: Some(name.clone()),
                    labels: Some(labels.clone()),
                    data: Some(docker::data(content)),
                    templating: None,
                }),
            };
            match put {
                Err(docker::Error::Conflict(_)) => Ok(()),
                other => other.map(drop),
            }
        })?;
        match self.object_holds(kind, version, content)? {
            Some(true) => Ok(()),
            _ => Err(Error::Refused(format!(
                "`{version}` is there, and is something else"
            ))),
        }
    }

    pub(super) fn delete_object(&self, kind: Kind, version: &Version) -> Result<(), Error> {
        let name = version.as_str();
        match kind {
            Kind::Secret => match self.secret_id(name)? {
                Some(id) => self.again(|engine| engine.remove_secret(&id)),
                None => Ok(()),
            },
            Kind::Config => match self
                .engine()?
                .config(name)
                .map_err(error)?
                .and_then(|config| config.id)
            {
                Some(id) => self.again(|engine| engine.remove_config(&id)),
                None => Ok(()),
            },
        }
    }

    pub(super) fn revoke_secret(&self, version: &Version) -> Result<(), Error> {
        let name = version.as_str();
        let secrets = self.engine()?.secrets(&[("name", name)]).map_err(error)?;
        let secret = secrets
            .into_iter()
            .find(|secret| secret.spec.as_ref().and_then(|spec| spec.name.as_deref()) == Some(name))
            .ok_or_else(|| Error::Refused(format!("there is no secret `{name}`")))?;
        let index = secret
            .version
            .and_then(|version| version.index)
            .unwrap_or_default();
        let mut labels = secret.spec.and_then(|spec| spec.labels).unwrap_or_default();
        labels.insert(wanted::REVOKED.to_owned(), chrono::Utc::now().to_rfc3339());
        let spec = SecretSpec {
            name: name.to_owned(),
            labels,
            content: Vec::new(),
        };
        let engine = self.guard()?;
        engine
            .update_secret(&secret.id.unwrap_or_default(), index, &spec)
            .map_err(error)
    }
}

/// A service's id, version and spec.
fn known<'a>(service: &'a Service, name: &str) -> Result<(&'a str, u64, &'a ServiceSpec), Error> {
    let known = || {
        let version = service.version.as_ref()?.index?;
        Some((service.id.as_deref()?, version, service.spec.as_ref()?))
    };
    known()
        .ok_or_else(|| Error::Environment(format!("the engine describes the service `{name}` without an id")))
}

/// Whether a service is all that it would be given, its way of updating among it.
fn same(there: &ServiceSpec, spec: &ServiceSpec, names: &std::collections::BTreeMap<String, String>) -> bool {
    let name_of = |id: &str| names.get(id).cloned();
    wanted::settled(there).1 == wanted::settled(spec).1
        && wanted::force(there) == wanted::force(spec)
        && swarm::canonical(there, &name_of) == swarm::canonical(spec, &name_of)
}

fn may_be_tried_again(error: &docker::Error) -> bool {
    matches!(
        error,
        docker::Error::OutOfSequence | docker::Error::Unreachable { .. } | docker::Error::Conflict(_)
    )
}
