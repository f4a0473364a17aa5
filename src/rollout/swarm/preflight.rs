//! What keeps a release from running on the Swarm, found before anything is touched.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{
    EndpointPortConfigPublishModeEnum as PublishMode, NodeSpecAvailabilityEnum, NodeState, ServiceSpec,
};

use super::{Swarm, error, wanted};
use crate::digest::Digest;
use crate::docker::Inventory;
use crate::registry::{self, Reference, Repository};
use crate::release::ReleasedImage;
use crate::rollout::history::Record;
use crate::rollout::target::{Error, Fault, Observed, Problem};
use crate::swarm::{self, NAMESPACE};

/// The longest name of a secret, config or service (swarmkit's checks; RFC 1035 for services).
const MAX_NAME: usize = 63;

impl Swarm {
    pub(super) fn problems(&self, record: &Record, observed: &Observed) -> Result<Vec<Problem>, Error> {
        let inventory = self.look()?;
        let wanted = match self.wanted(record, &inventory) {
            Ok(wanted) => wanted,
            Err(Error::Refused(message)) => return Ok(vec![Problem::user(message)]),
            Err(other) => return Err(other),
        };
        let mut problems = Vec::new();
        self.changes(&wanted, &inventory, &mut problems);
        self.names(record, &mut problems);
        self.pulls(&wanted, &mut problems)?;
        self.networks_there(record, &mut problems)?;
        self.ports(&wanted, &mut problems)?;
        nodes(&inventory, &mut problems);
        self.images(record, observed, &mut problems)?;
        Ok(problems)
    }

    /// What the engine refuses, and what would wait for itself for ever.
    fn changes(&self, wanted: &BTreeMap<String, ServiceSpec>, inventory: &Inventory, to: &mut Vec<Problem>) {
        for (name, spec) in wanted {
            let scoped = swarm::scoped(&self.about.name, name);
            let there = inventory.services.iter().find_map(|service| {
                service
                    .spec
                    .as_ref()
                    .filter(|spec| spec.name.as_ref() == Some(&scoped))
            });
            for message in swarm::impossible(name, there, spec) {
                to.push(Problem::user(message));
            }
        }
    }

    fn names(&self, record: &Record, to: &mut Vec<Problem>) {
        let services = record
            .stack
            .services
            .keys()
            .map(|name| swarm::scoped(&self.about.name, name));
        let migration = format!("{}_migrate-{}-1-before", self.about.name, record.release.id);
        let versions = record
            .release
            .secrets
            .values()
            .chain(record.release.configs.values());
        let names = services
            .chain([migration])
            .chain(versions.map(ToString::to_string));
        for name in names.filter(|name| name.len() > MAX_NAME) {
            to.push(Problem::user(format!(
                "`{name}` is longer than the {MAX_NAME} characters that a name on a Swarm has; give the environment a shorter `name`"
            )));
        }
    }

    /// Credentials of somebody else than skep.toml says that nodes pull as: they may not last.
    fn pulls(&self, wanted: &BTreeMap<String, ServiceSpec>, to: &mut Vec<Problem>) -> Result<(), Error> {
        for (host, pull) in &self.about.pull {
            let pulls = |spec| wanted::repository(spec).is_some_and(|image| image.host() == host.as_str());
            if !wanted.values().any(pulls) {
                continue;
            }
            let login = format!("`docker login --username {} {host}` changes that", pull.user);
            match registry::credential(&self.about.registry, host).map_err(Error::Environment)? {
                Some((user, _)) if user == pull.user => {}
                Some((user, _)) => to.push(Problem::user(format!(
                    "nodes are to pull from `{host}` as `{}`, and docker's configuration has `{user}`; {login}",
                    pull.user
                ))),
                None => to.push(Problem::user(format!(
                    "nodes are to pull from `{host}` as `{}`, and docker's configuration has nobody; {login}",
                    pull.user
                ))),
            }
        }
        Ok(())
    }

    fn networks_there(&self, record: &Record, to: &mut Vec<Problem>) -> Result<(), Error> {
        let all = self.engine()?.networks(&[]).map_err(error)?;
        let find = |name: &str| all.iter().find(|network| network.name.as_deref() == Some(name));
        for (name, network) in &record.stack.networks {
            let there = swarm::network_name(&self.about.name, name, &record.stack);
            if network.external && find(&there).is_none() {
                to.push(Problem::user(format!(
                    "the network `{there}` is external, and the Swarm does not have it; `docker network create --driver overlay {there}` makes it"
                )));
            }
        }
        for wanted in wanted::networks(&self.about.name, record) {
            let Some(there) = find(&wanted.name) else { continue };
            let there = serde_json::to_value(there).unwrap_or_default();
            for difference in swarm::differences(&there, &wanted) {
                to.push(Problem {
                    fault: Fault::Refused,
                    message: format!(
                        "the network `{}` cannot be changed: {difference}; give it another name in the stack file, or remove it first",
                        wanted.name
                    ),
                });
            }
        }
        Ok(())
    }

    /// Ports that another stack publishes.
    fn ports(&self, wanted: &BTreeMap<String, ServiceSpec>, to: &mut Vec<Problem>) -> Result<(), Error> {
        let mut taken: BTreeMap<(i64, String), String> = BTreeMap::new();
        for service in self.engine()?.services(&[]).map_err(error)? {
            let Some(spec) = service.spec else { continue };
            let stack = spec.labels.as_ref().and_then(|labels| labels.get(NAMESPACE));
            if stack != Some(&self.about.name) {
                for port in published(&spec) {
                    taken.insert(port, spec.name.clone().unwrap_or_default());
                }
            }
        }
        for (name, spec) in wanted {
            for port in published(spec) {
                if let Some(other) = taken.get(&port) {
                    to.push(Problem::environment(format!(
                        "port {} of `{name}` is published by the service `{other}`",
                        port.0
                    )));
                }
            }
        }
        Ok(())
    }

    /// Images that no registry has, of services that are to run another one than now.
    fn images(&self, record: &Record, observed: &Observed, to: &mut Vec<Problem>) -> Result<(), Error> {
        let mut runs: BTreeSet<&str> = BTreeSet::new();
        for replica in observed.services.values().flat_map(|service| &service.tasks) {
            runs.insert(&replica.image);
        }
        let images: BTreeMap<&str, &ReleasedImage> = record
            .release
            .images
            .values()
            .filter(|image| image.is_built() && !runs.contains(image.digest.as_str()))
            .map(|image| (image.digest.as_str(), image))
            .collect();
        if images.is_empty() {
            return Ok(());
        }
        let failed = |why: String| Error::Environment(why);
        let client =
            registry::Client::new(self.about.registry.clone()).map_err(|error| failed(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(format!("no thread for the network: {error}")))?;
        for image in images.values() {
            let (Ok((repository, _)), Ok(digest)) = (
                Repository::of_image(&image.repository),
                Digest::from_oci(&image.digest, 0),
            ) else {
                to.push(Problem::user(format!(
                    "`{}` is no image of a registry",
                    image.reference()
                )));
                continue;
            };
            let reference = Reference::Digest(digest);
            match runtime.block_on(client.head_manifest(&repository, &reference, &self.about.cancel)) {
                Ok(Some(_)) => {}
                Ok(None) => to.push(Problem::environment(format!(
                    "the registry has no `{}`; push it again, or release another",
                    image.reference()
                ))),
                Err(registry::Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => to.push(Problem::environment(error.to_string())),
            }
        }
        Ok(())
    }
}

fn published(spec: &ServiceSpec) -> Vec<(i64, String)> {
    let ports = spec
        .endpoint_spec
        .iter()
        .flat_map(|endpoint| endpoint.ports.iter().flatten());
    ports
        .filter(|port| port.publish_mode != Some(PublishMode::HOST))
        .filter_map(|port| {
            let protocol = port.protocol.map(|protocol| protocol.to_string());
            Some((port.published_port?, protocol.unwrap_or_else(|| "tcp".to_owned())))
        })
        .collect()
}

fn nodes(inventory: &Inventory, to: &mut Vec<Problem>) {
    let takes_tasks = |node: &&bollard::models::Node| {
        let ready = node.status.as_ref().and_then(|status| status.state) == Some(NodeState::READY);
        let active =
            node.spec.as_ref().and_then(|spec| spec.availability) == Some(NodeSpecAvailabilityEnum::ACTIVE);
        ready && active
    };
    if !inventory.nodes.iter().any(|node| takes_tasks(&node)) {
        to.push(Problem::environment(
            "no node of the Swarm is ready and takes tasks; see `docker node ls`",
        ));
    }
}
