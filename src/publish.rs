//! Built images into a registry: where each goes, and under which tag. Builds nothing, and prints nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::assemble;
use crate::build::{self, BuiltImage, Setting};
use crate::digest::Digest;
use crate::image::Layer;
use crate::push::{Error as PushError, Kind, LayerError, MakeLayer, Pusher, Report, Subject, Target};
use crate::registry::{Address, AddressError, Settings, Tag};
use crate::source::{self, WorkTree};
use crate::store::Lost;

/// Images that are pushed at one time; their layers share the line.
const PARALLEL: usize = 2;

/// Digits of a revision in a tag.
const REVISION_DIGITS: usize = 12;
/// Digits of a tree's digest in a tag.
const STATE_DIGITS: usize = 8;

/// Where images go.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// The repositories, with `{name}` for the target, or the part before `/<target>`; `project.images` of
    /// skep.toml if absent.
    pub to: Option<String>,
    /// The tag; the revision if absent, see [`revision_tag`].
    pub tag: Option<String>,
}

/// Why images were not pushed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where images go.
    #[error(
        "nothing says where images are pushed: give `--to REGISTRY/OWNER`, or write in skep.toml\n\n    [project]\n    images = \"git.example/owner/app-{{name}}\"\n"
    )]
    NoDestination,
    /// There is no revision.
    #[error(
        "the project is no git repository, or has no commit, so there is no revision to tag with; give `--tag TAG`"
    )]
    NoRevision,
    /// An image that was built for some of its platforms only.
    #[error("`{0}` was built for some of its platforms only; name it without a platform to push it")]
    Partial(String),
    /// A repository or tag that no registry takes.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A name with a tag where only a repository may stand.
    #[error("`{0}` names a tag; give it as `--tag`")]
    TagInAddress(String),
    /// The project's state cannot be read.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// A push did not end.
    #[error(transparent)]
    Push(#[from] PushError),
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Build(error) => error.lost(),
            Error::Push(error) => error.lost(),
            _ => Vec::new(),
        }
    }
}

impl From<source::Error> for Error {
    fn from(error: source::Error) -> Error {
        Error::Build(error.into())
    }
}

/// The tag of a push that names none: the revision's first 12 digits, and `-dirty-` with 8 of the digest of
/// all files where the work tree differs from it.
pub fn revision_tag(setting: &Setting) -> Result<String, Error> {
    let root = &setting.project.root;
    let revision = source::revision(root)?.ok_or(Error::NoRevision)?;
    let mut tag = revision.commit[..REVISION_DIGITS.min(revision.commit.len())].to_owned();
    if revision.dirty {
        let secrets = build::plan(setting)?.secrets();
        let files = WorkTree::list(root, &setting.store)?.with_secrets(secrets);
        let state = files.state(&setting.store)?;
        tag = format!("{tag}-dirty-{}", &state.hex()[..STATE_DIGITS]);
    }
    Ok(tag)
}

/// Pushes images, and says of each what was done. The first failure ends it; what was pushed stays.
pub fn publish(
    setting: &Setting,
    images: &BTreeMap<String, BuiltImage>,
    destination: &Destination,
) -> Result<BTreeMap<String, Report>, Error> {
    let template = destination
        .to
        .as_ref()
        .or(setting.project.config.project.images.as_ref());
    let template = template.ok_or(Error::NoDestination)?;
    let tag: Tag = match &destination.tag {
        Some(tag) => tag.parse()?,
        None => revision_tag(setting)?.parse()?,
    };
    let mut pushes = Vec::new();
    for (name, image) in images {
        let index = image.index.as_ref().ok_or_else(|| Error::Partial(name.clone()))?;
        let target = Target {
            repository: repository(template, name)?,
            tags: vec![tag.clone()],
            moving: Vec::new(),
        };
        pushes.push((name.clone(), index, target));
    }
    let pusher = pusher(setting)?;
    let runtime = build::runtime()?;
    runtime.block_on(async {
        let pushed = pushes.iter().map(|(name, index, target)| {
            let pushed = pusher.push(Subject::Index(index), target, &setting.cancel);
            async move { Ok::<_, Error>((name.clone(), pushed.await?)) }
        });
        stream::iter(pushed)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    })
}

/// The repository of a target, as skep.toml names it.
pub fn repository_of(setting: &Setting, name: &str) -> Result<crate::registry::Repository, Error> {
    let template = setting.project.config.project.images.as_ref();
    repository(template.ok_or(Error::NoDestination)?, name)
}

fn repository(template: &str, name: &str) -> Result<crate::registry::Repository, Error> {
    let text = match template.contains("{name}") {
        true => template.replace("{name}", name),
        false => format!("{}/{name}", template.trim_end_matches('/')),
    };
    let address: Address = text.parse()?;
    match address.tag {
        None => Ok(address.repository),
        Some(_) => Err(Error::TagInAddress(text)),
    }
}

fn pusher(setting: &Setting) -> Result<Pusher, Error> {
    let plain_http: BTreeSet<String> = setting.project.config.push.plain_http.iter().cloned().collect();
    let store = Arc::clone(&setting.store);
    let make: MakeLayer =
        Arc::new(move |layer: &Layer| assemble::layer_bytes(&store, layer).map_err(layer_error));
    let store = Arc::clone(&setting.store);
    Ok(Pusher::new(
        store,
        Settings::current(plain_http),
        make,
        setting.events.clone(),
    )?)
}

fn layer_error(error: assemble::Error) -> LayerError {
    let kind = match &error {
        assemble::Error::Unreproducible { .. } => Kind::Internal,
        _ => Kind::Environment,
    };
    match error {
        assemble::Error::Store(error) => LayerError::Store(error),
        error => LayerError::Other {
            kind,
            source: Box::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_come_from_templates_and_prefixes() {
        let of = |template: &str| repository(template, "api").unwrap().to_string();
        assert_eq!(of("git.example/team/app-{name}"), "git.example/team/app-api");
        assert_eq!(of("127.0.0.1:5000/team/"), "127.0.0.1:5000/team/api");
        assert!(repository("git.example/team/{name}:v1", "api").is_err());
        assert!(repository("git.example/Team/{name}", "api").is_err());
    }
}
