//! One service of a stack as the engine's API has it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use bollard::models::{ServiceSpec, TaskSpec};

use super::{IMAGE, NAMESPACE, container, deploy, endpoint, networks};
use crate::stack::{self, Stack};

/// What a conversion needs beside the stack file.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The stack's name on the engine: what names there begin with.
    pub stack_name: &'a str,
    /// By what the stack file calls an image: what runs instead.
    pub images: &'a BTreeMap<String, PinnedImage>,
    /// By the name in the stack file: the secrets on the engine.
    pub secrets: &'a BTreeMap<String, ObjectRef>,
    /// By the name in the stack file: the configs on the engine.
    pub configs: &'a BTreeMap<String, ObjectRef>,
    /// The stack file's directory, absolute: relative binds are below it.
    pub directory: &'a Path,
}

/// An image that stays the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedImage {
    /// `repository@sha256:…`
    pub reference: String,
    /// Operating systems and architectures that it has, such as `("linux", "amd64")`, for the scheduler; empty leaves
    /// the choice of nodes to it.
    pub platforms: Vec<(String, String)>,
}

/// A secret or config on the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// The engine's.
    pub id: String,
    /// At most 64 characters.
    pub name: String,
}

/// Something that an engine cannot be told. Shows as ``` `path` what; remedy```.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` {what}; {remedy}")]
pub struct Error {
    /// Of the key in the stack file, as [`crate::stack::Reading::place`] takes it.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
    /// What may be done.
    pub remedy: &'static str,
}

impl Error {
    pub(super) fn new(path: impl Into<String>, what: impl Into<String>, remedy: &'static str) -> Error {
        Error {
            path: path.into(),
            what: what.into(),
            remedy,
        }
    }
}

/// A service that is being converted.
pub(super) struct Source<'a> {
    pub around: &'a Surroundings<'a>,
    pub name: &'a str,
    pub stack: &'a Stack,
    pub service: &'a stack::Service,
}

impl Source<'_> {
    /// The path of one of its keys.
    pub fn at(&self, key: impl Display) -> String {
        format!("services.{}.{key}", self.name)
    }

    /// What the image is replaced by.
    pub fn image(&self) -> Result<&PinnedImage, Error> {
        let image = &self.service.image;
        self.around.images.get(image).ok_or_else(|| {
            Error::new(
                self.at("image"),
                format!("is `{image}`, for which there is no digest"),
                "build it, or record it with `skep lock`",
            )
        })
    }

    /// A word in the API's type.
    pub fn word<T: FromStr>(&self, key: &str, word: impl Display) -> Result<T, Error> {
        word.to_string().parse().map_err(|_| {
            Error::new(
                self.at(key),
                format!("is `{word}`, which the engine does not know"),
                "remove it",
            )
        })
    }
}

/// What `service` of `stack`, called `name` there, is on the engine. Every key is honoured, or the error names it;
/// `depends_on`, `expose` and `env_file` say nothing to an engine.
pub fn service(
    around: &Surroundings,
    name: &str,
    stack: &Stack,
    service: &stack::Service,
) -> Result<ServiceSpec, Error> {
    let source = &Source {
        around,
        name,
        stack,
        service,
    };
    let image = source.image()?;
    let mut labels = stack_labels(around.stack_name, &service.deploy.labels);
    labels.insert(IMAGE.to_owned(), image.reference.clone());
    Ok(ServiceSpec {
        name: Some(scoped(around.stack_name, name)),
        labels: Some(labels),
        task_template: Some(TaskSpec {
            container_spec: Some(container::container(source, image)?),
            resources: deploy::resources(&service.deploy.resources),
            restart_policy: deploy::restart_policy(source)?,
            placement: Some(deploy::placement(&service.deploy.placement, image)),
            networks: Some(networks::attachments(source)),
            log_driver: container::log_driver(service),
            ..TaskSpec::default()
        }),
        mode: Some(deploy::mode(&service.deploy)),
        update_config: deploy::update(source)?,
        rollback_config: deploy::rollback(source)?,
        endpoint_spec: Some(endpoint::endpoint(source)?),
        networks: None,
    })
}

/// How something of a stack is called on the engine.
pub fn scoped(stack_name: &str, name: &str) -> String {
    format!("{stack_name}_{name}")
}

/// Labels with that of the stack.
pub(super) fn stack_labels(stack_name: &str, labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    let mut labels = map(labels);
    labels.insert(NAMESPACE.to_owned(), stack_name.to_owned());
    labels
}

pub(super) fn map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.clone().into_iter().collect()
}

/// Nothing where there is nothing, as in docker's conversion.
pub(super) fn list<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Nanoseconds. A [`stack::Span`] is at most a year.
pub(super) fn nanos(span: stack::Span) -> i64 {
    span.0.as_nanos() as i64
}

/// The stack's numbers fit, or are more than any engine has.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
