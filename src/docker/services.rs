//! Requests about what runs: services, tasks, nodes and networks; and all that there is, at once.

use std::collections::HashMap;
use std::fmt;

use bollard::auth::DockerCredentials;
use bollard::models::{Config, Network, NetworkCreateRequest, Node, Secret, Service, ServiceSpec, Task};
use bollard::query_parameters as query;

use super::list::get;
use super::{Engine, Error, Filters};

/// What an engine needs to pull from a registry. Its `Debug` shows no password.
#[derive(Clone)]
pub struct RegistryAuth {
    /// The registry's host, with a port where it has one.
    pub server: String,
    /// Who pulls.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("RegistryAuth")
            .field("server", &self.server)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl RegistryAuth {
    fn credentials(&self) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.clone()),
            serveraddress: Some(self.server.clone()),
            ..DockerCredentials::default()
        }
    }
}

/// What a Swarm holds, as one look found it.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Services, without the counts of their tasks.
    pub services: Vec<Service>,
    /// Tasks, those that ended too as far as the swarm remembers them.
    pub tasks: Vec<Task>,
    /// Secrets, without their contents, which no engine tells.
    pub secrets: Vec<Secret>,
    /// Configs, with their contents.
    pub configs: Vec<Config>,
    /// Networks, those of the swarm and those of the manager alone.
    pub networks: Vec<Network>,
    /// Every node, whatever the filters say.
    pub nodes: Vec<Node>,
}

/// Requests about what runs.
impl Engine {
    /// Lists services, without the counts of their tasks.
    ///
    /// # Errors
    ///
    /// If no manager answers in time, or the filters are refused.
    pub fn services(&self, filters: Filters<'_>) -> Result<Vec<Service>, Error> {
        self.read_through(|link| async move { get(&link, "services", filters).await })
    }

    /// The service of that name or id, as it was written: without defaults. There may be none.
    ///
    /// # Errors
    ///
    /// If no manager answers in time.
    pub fn service(&self, name: &str) -> Result<Option<Service>, Error> {
        let name = part(name)?;
        let path = format!("services/{name}");
        let path = path.as_str();
        found(self.read_through(|link| async move { get(&link, path, &[]).await }))
    }

    /// Creates a service, and returns its id. `auth` is what its nodes pull the image with.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken; [`Error::Unreachable`] if it is not known whether it is created.
    pub fn create_service(&self, spec: ServiceSpec, auth: Option<&RegistryAuth>) -> Result<String, Error> {
        let auth = auth.map(RegistryAuth::credentials);
        let answer = self.write(|docker| async move { docker.create_service(spec, auth).await })?;
        answer
            .id
            .ok_or_else(|| Error::Garbled("a service without an id".to_owned()))
    }

    /// Makes `spec` what a service should be. `version` is that of the service which the spec is based on.
    /// Without `auth`, nodes go on pulling with what they were given before.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfSequence`] if the service has another version now; [`Error::NotFound`];
    /// [`Error::Unreachable`] if it is not known whether it is updated.
    pub fn update_service(
        &self,
        id: &str,
        version: u64,
        spec: ServiceSpec,
        auth: Option<&RegistryAuth>,
    ) -> Result<(), Error> {
        let id = part(id)?;
        let auth = auth.map(RegistryAuth::credentials);
        // The crate's type is narrower than the engine's, which counts every change of a swarm.
        let version = i32::try_from(version)
            .map_err(|_| Error::Refused(format!("version {version} of a service is beyond 2³¹")))?;
        let options = query::UpdateServiceOptions {
            version,
            registry_auth_from: "spec".to_owned(),
            rollback: None,
        };
        self.write(|docker| async move { docker.update_service(id, spec, options, auth).await })?;
        Ok(())
    }

    /// Removes a service and asks its tasks to end. One that is not there is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] if it is not known whether it is removed.
    pub fn remove_service(&self, id: &str) -> Result<(), Error> {
        let id = part(id)?;
        gone(self.write(|docker| async move { docker.delete_service(id).await }))
    }

    /// Lists tasks, those that ended too as far as the swarm remembers them.
    ///
    /// # Errors
    ///
    /// If no manager answers in time, or the filters are refused.
    pub fn tasks(&self, filters: Filters<'_>) -> Result<Vec<Task>, Error> {
        self.read_through(|link| async move { get(&link, "tasks", filters).await })
    }

    /// Lists the nodes of the swarm.
    ///
    /// # Errors
    ///
    /// If no manager answers in time.
    pub fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.read(|docker| async move { docker.list_nodes(None).await })
    }

    /// Lists networks: those of the swarm, and those of the manager alone.
    ///
    /// # Errors
    ///
    /// If no manager answers in time, or the filters are refused.
    pub fn networks(&self, filters: Filters<'_>) -> Result<Vec<Network>, Error> {
        self.read(|docker| async move { docker.list_networks(Some(networks(filters))).await })
    }

    /// Creates a network, and returns its id.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken; [`Error::Unreachable`] if it is not known whether it is created.
    pub fn create_network(&self, network: NetworkCreateRequest) -> Result<String, Error> {
        let answer = self.write(|docker| async move { docker.create_network(network).await })?;
        Ok(answer.id)
    }

    /// Removes a network. One that is not there is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if something uses it; [`Error::Unreachable`] if it is not known whether it is removed.
    pub fn remove_network(&self, id: &str) -> Result<(), Error> {
        let id = part(id)?;
        gone(self.write(|docker| async move { docker.remove_network(id).await }))
    }

    /// Lists all that there is, with requests at the same time: not one moment, but close. The filters narrow
    /// everything but nodes, and so may only be of a kind that all know: `label`.
    ///
    /// # Errors
    ///
    /// If no manager answers in time, or the filters are refused.
    pub fn all(&self, filters: Filters<'_>) -> Result<Inventory, Error> {
        self.read_through(|link| async move {
            let docker = &link.docker;
            let (services, tasks, secrets, configs, networks, nodes) = tokio::try_join!(
                get(&link, "services", filters),
                get(&link, "tasks", filters),
                docker.list_secrets(Some(secrets(filters))),
                docker.list_configs(Some(configs(filters))),
                docker.list_networks(Some(networks(filters))),
                docker.list_nodes(None),
            )?;
            Ok(Inventory {
                services,
                tasks,
                secrets,
                configs,
                networks,
                nodes,
            })
        })
    }
}

/// A name or an id as a part of a path.
pub(super) fn part(name: &str) -> Result<&str, Error> {
    let plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
        true => Ok(name),
        false => Err(Error::Refused(format!(
            "`{name}` is no name that an engine knows"
        ))),
    }
}

/// What is not there is no error.
pub(super) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is not there needs no removal.
pub(super) fn gone(result: Result<(), Error>) -> Result<(), Error> {
    found(result).map(|_| ())
}

pub(super) fn filter(filters: Filters<'_>) -> Option<HashMap<String, Vec<String>>> {
    let mut map = HashMap::<_, Vec<_>>::new();
    for (name, value) in filters {
        map.entry((*name).to_owned())
            .or_default()
            .push((*value).to_owned());
    }
    Some(map)
}

fn networks(filters: Filters<'_>) -> query::ListNetworksOptions {
    query::ListNetworksOptions {
        filters: filter(filters),
    }
}

pub(super) fn secrets(filters: Filters<'_>) -> query::ListSecretsOptions {
    query::ListSecretsOptions {
        filters: filter(filters),
    }
}

pub(super) fn configs(filters: Filters<'_>) -> query::ListConfigsOptions {
    query::ListConfigsOptions {
        filters: filter(filters),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path() {
        for name in ["web", "shop_web.1", "k3a9-x"] {
            assert_eq!(part(name).unwrap(), name);
        }
        for name in ["", "..", "a/b", "a?b", "a b", "a%2fb", ".hidden"] {
            assert!(matches!(part(name), Err(Error::Refused(_))), "{name}");
        }
    }

    #[test]
    fn filters_of_one_name_are_alternatives() {
        let map = filter(&[("label", "a=b"), ("label", "c"), ("name", "web")]).unwrap();
        assert_eq!(map["label"], ["a=b", "c"]);
        assert_eq!(map["name"], ["web"]);
    }

    #[test]
    fn passwords_are_not_shown() {
        let auth = RegistryAuth {
            server: "git.example".to_owned(),
            username: "robot".to_owned(),
            password: "hunter2".to_owned(),
        };
        let text = format!("{auth:?}");
        assert!(text.contains("robot") && !text.contains("hunter2"), "{text}");
    }
}
