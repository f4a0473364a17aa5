//! Requests about secrets and configs: what a Swarm keeps and hands to tasks.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::models::{self, Config, ConfigSpec, Secret};
use bollard::query_parameters as query;

use super::services::{configs, found, gone, part, secrets};
use super::{Engine, Error, Filters};

/// The version that nothing on a Swarm has.
const STALE: i64 = 0;

/// A secret as it should be. Its `Debug` shows no content.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretSpec {
    /// Its name, which is taken once on a Swarm.
    pub name: String,
    /// Labels, which alone may change later.
    pub labels: HashMap<String, String>,
    /// 1 byte to 500 KiB. In an update, none at all stands for what it is.
    pub content: Vec<u8>,
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("SecretSpec")
            .field("name", &self.name)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

impl SecretSpec {
    fn model(&self) -> models::SecretSpec {
        models::SecretSpec {
            name: Some(self.name.clone()),
            labels: Some(self.labels.clone()),
            data: (!self.content.is_empty()).then(|| data(&self.content)),
            ..models::SecretSpec::default()
        }
    }
}

/// Content as [`ConfigSpec`] holds it.
pub fn data(content: &[u8]) -> String {
    STANDARD.encode(content)
}

/// The content of a config that an engine returned.
///
/// # Errors
///
/// [`Error::Garbled`] if it has none, or none that can be decoded.
pub fn config_content(config: &Config) -> Result<Vec<u8>, Error> {
    let data = config.spec.as_ref().and_then(|spec| spec.data.as_deref());
    let garbled = || Error::Garbled("a config without content".to_owned());
    STANDARD.decode(data.ok_or_else(garbled)?).map_err(|_| garbled())
}

/// Requests about secrets.
impl Engine {
    /// Lists secrets, without their contents, which no engine tells.
    ///
    /// # Errors
    ///
    /// If no manager answers in time, or the filters are refused.
    pub fn secrets(&self, filters: Filters<'_>) -> Result<Vec<Secret>, Error> {
        self.read(|docker| async move { docker.list_secrets(Some(secrets(filters))).await })
    }

    /// Creates a secret, and returns its id.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken; [`Error::Unreachable`] if it is not known whether it is created.
    pub fn create_secret(&self, spec: &SecretSpec) -> Result<String, Error> {
        let spec = spec.model();
        let answer = self.write(|docker| async move { docker.create_secret(spec).await })?;
        Ok(answer.id)
    }

    /// Replaces the labels of a secret; name and content are as before, or the content is left out.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfSequence`] if the secret has another version now; [`Error::NotFound`];
    /// [`Error::Unreachable`] if it is not known whether it is updated.
    pub fn update_secret(&self, id: &str, version: u64, spec: &SecretSpec) -> Result<(), Error> {
        let (id, spec) = (part(id)?, spec.model());
        let options = query::UpdateSecretOptions {
            version: index(version)?,
        };
        self.write(|docker| async move { docker.update_secret(id, spec, options).await })
    }

    /// Whether the secret of that id holds the content of `spec`, whose name must be the secret's. Changes nothing:
    /// an engine that is asked to update a version which is not, first says whether the content would change.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Refused`] if there is no content to compare; or if no manager answers in time.
    pub fn secret_holds(&self, id: &str, spec: &SecretSpec) -> Result<bool, Error> {
        let id = part(id)?;
        if spec.content.is_empty() {
            return Err(Error::Refused(format!("secret `{}` cannot be empty", spec.name)));
        }
        let options = query::UpdateSecretOptions { version: STALE };
        let asked = self.read(|docker| {
            let (spec, options) = (spec.model(), options.clone());
            async move { docker.update_secret(id, spec, options).await }
        });
        match asked {
            Err(Error::OutOfSequence) => Ok(true),
            Err(Error::Refused(reason)) if reason.contains("only updates to Labels are allowed") => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Err(Error::Garbled(
                "a secret was updated whose version is another".to_owned(),
            )),
        }
    }

    /// Removes a secret. One that is not there is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if a service uses it; [`Error::Unreachable`] if it is not known whether it is removed.
    pub fn remove_secret(&self, id: &str) -> Result<(), Error> {
        let id = part(id)?;
        gone(self.write(|docker| async move { docker.delete_secret(id).await }))
    }
}

/// Requests about configs.
impl Engine {
    /// Lists configs, with their contents.
    ///
    /// # Errors
    ///
    /// If no manager answers in time, or the filters are refused.
    pub fn configs(&self, filters: Filters<'_>) -> Result<Vec<Config>, Error> {
        self.read(|docker| async move { docker.list_configs(Some(configs(filters))).await })
    }

    /// The config of that name or id, with its content. There may be none.
    ///
    /// # Errors
    ///
    /// If no manager answers in time.
    pub fn config(&self, name: &str) -> Result<Option<Config>, Error> {
        let name = part(name)?;
        found(self.read(|docker| async move { docker.inspect_config(name).await }))
    }

    /// Creates a config, and returns its id. Its content is at most 500 KiB.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name is taken; [`Error::Unreachable`] if it is not known whether it is created.
    pub fn create_config(&self, spec: ConfigSpec) -> Result<String, Error> {
        let answer = self.write(|docker| async move { docker.create_config(spec).await })?;
        Ok(answer.id)
    }

    /// Replaces the labels of a config; name and content are as before, or the content is left out.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfSequence`] if the config has another version now; [`Error::NotFound`];
    /// [`Error::Unreachable`] if it is not known whether it is updated.
    pub fn update_config(&self, id: &str, version: u64, spec: ConfigSpec) -> Result<(), Error> {
        let id = part(id)?;
        let options = query::UpdateConfigOptions {
            version: index(version)?,
        };
        self.write(|docker| async move { docker.update_config(id, spec, options).await })
    }

    /// Removes a config. One that is not there is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if a service uses it; [`Error::Unreachable`] if it is not known whether it is removed.
    pub fn remove_config(&self, id: &str) -> Result<(), Error> {
        let id = part(id)?;
        gone(self.write(|docker| async move { docker.delete_config(id).await }))
    }
}

fn index(version: u64) -> Result<i64, Error> {
    i64::try_from(version).map_err(|_| Error::Refused(format!("version {version} is beyond 2⁶³")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_secrets_are_not_shown() {
        let spec = SecretSpec {
            name: "token".to_owned(),
            labels: HashMap::new(),
            content: b"hunter2".to_vec(),
        };
        let text = format!("{spec:?}");
        assert!(text.contains("token"), "{text}");
        for shown in ["hunter2", &data(b"hunter2"), "104"] {
            assert!(!text.contains(shown), "{text}");
        }
    }

    #[test]
    fn the_content_of_a_config_comes_back() {
        let content: Vec<u8> = (0..=255).collect();
        let spec = ConfigSpec {
            data: Some(data(&content)),
            ..ConfigSpec::default()
        };
        let config = Config {
            spec: Some(spec),
            ..Config::default()
        };
        assert_eq!(config_content(&config).unwrap(), content);
        assert!(matches!(
            config_content(&Config::default()),
            Err(Error::Garbled(_))
        ));
    }
}
