//! `skep lock` for images: what each tag of the stack files is today.

use std::collections::BTreeSet;

use super::Error;
use super::images::platforms;
use super::place::settings;
use crate::build::{self, Setting};
use crate::project::{PINS, Pin, Pins};
use crate::registry::{self, Reference, Repository};
use crate::rollout;

/// A tag that means something else than before.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// The image, as stack files call it.
    pub image: String,
    /// The digest before, if it was known.
    pub before: Option<String>,
    /// The digest now; absent if no file names it any more.
    pub now: Option<String>,
}

/// Looks up every tag of an image that the environments' stack files name, and writes `images.lock`. What changed;
/// tags that no file names any more are dropped.
///
/// # Errors
///
/// If a stack file is wrong, or a registry does not have a tag or does not answer: then nothing is written.
pub fn lock_images(
    setting: &Setting,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Moved>, Error> {
    let project = &setting.project;
    let mut tags = BTreeSet::new();
    for environment in project.config.environments.values() {
        tags.extend(rollout::image_tags(project, environment, variable)?);
    }
    let before = Pins::read(&project.root)?;
    if tags.is_empty() && before.0.is_empty() {
        return Ok(Vec::new());
    }
    let client = registry::Client::new(settings(setting))?;
    let runtime = build::runtime()?;
    let mut now = Pins::default();
    for tag in tags {
        let pin = runtime.block_on(look_up(&client, setting, &tag))?;
        now.0.insert(tag, pin);
    }
    if now != before {
        build::replace_file(&project.root.join(PINS), &now.to_toml())?;
    }
    let names: BTreeSet<&String> = before.0.keys().chain(now.0.keys()).collect();
    let digest = |pins: &Pins, name: &String| pins.0.get(name).map(|pin| pin.digest.clone());
    let moved = names.into_iter().map(|name| Moved {
        image: name.clone(),
        before: digest(&before, name),
        now: digest(&now, name),
    });
    Ok(moved.filter(|moved| moved.before != moved.now).collect())
}

async fn look_up(client: &registry::Client, setting: &Setting, image: &str) -> Result<Pin, Error> {
    let malformed = |error: registry::AddressError| rollout::PrepareError::User(error.to_string());
    let (repository, tag) = Repository::of_image(image).map_err(malformed)?;
    let reference = Reference::Tag(tag.clone());
    let found = client
        .head_manifest(&repository, &reference, &setting.cancel)
        .await?;
    let digest = found.ok_or_else(|| Error::NoTag {
        repository: repository.to_string(),
        tag,
    })?;
    let platforms = platforms(client, &repository, &digest, &setting.cancel).await?;
    Ok(Pin { digest, platforms })
}
