//! `skep lock` for images that others build: what each tag of the stack files is today, and for which platforms.

use std::collections::BTreeSet;

use super::Error;
use super::images::platforms;
use super::place::settings;
use crate::build::{self, Setting};
use crate::fetch;
use crate::project::{PINS, Pin, Pins};
use crate::registry::{self, Reference, Repository};
use crate::rollout;

/// An image of which something else is known than before.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// The image, as stack files call it.
    pub image: String,
    /// The digest before, if it was known.
    pub before: Option<String>,
    /// The digest now, which is the same where only platforms differ; absent if no file names it any more.
    pub now: Option<String>,
}

/// Looks up every image that the environments' stack files name and no recipe builds, and writes `images.lock`. What
/// changed; images that no file names any more are dropped.
///
/// # Errors
///
/// If a stack file is wrong, a registry does not have an image or does not answer, or the network may not be used: then
/// nothing is written.
pub fn lock_images(
    setting: &Setting,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Moved>, Error> {
    let project = &setting.project;
    let mut images = BTreeSet::new();
    for environment in project.config.environments.values() {
        images.extend(rollout::foreign_images(project, environment, variable)?);
    }
    let before = Pins::read(&project.root)?;
    if images.is_empty() && before.0.is_empty() {
        return Ok(Vec::new());
    }
    if setting.offline && !images.is_empty() {
        let sources = images.into_iter().collect();
        return Err(build::Error::from(fetch::Error::Offline { sources }).into());
    }
    let client = registry::Client::new(settings(setting))?;
    let runtime = build::runtime()?;
    let mut now = Pins::default();
    for image in images {
        let pin = runtime.block_on(look_up(&client, setting, &image))?;
        now.0.insert(image, pin);
    }
    if now != before {
        build::replace_file(&project.root.join(PINS), &now.to_toml())?;
    }
    let names: BTreeSet<&String> = before.0.keys().chain(now.0.keys()).collect();
    let digest = |pins: &Pins, name: &String| pins.0.get(name).map(|pin| pin.digest.clone());
    let moved = names
        .into_iter()
        .filter(|name| before.0.get(*name) != now.0.get(*name))
        .map(|name| Moved {
            image: name.clone(),
            before: digest(&before, name),
            now: digest(&now, name),
        });
    Ok(moved.collect())
}

async fn look_up(client: &registry::Client, setting: &Setting, image: &str) -> Result<Pin, Error> {
    let (repository, tag) = Repository::of_image(image)?;
    let digest = match image.split_once('@') {
        Some((_, digest)) => digest.to_owned(),
        None => {
            let reference = Reference::Tag(tag.clone());
            let found = client
                .head_manifest(&repository, &reference, &setting.cancel)
                .await?;
            found.ok_or_else(|| Error::NoTag {
                repository: repository.to_string(),
                tag,
            })?
        }
    };
    let platforms = platforms(client, &repository, &digest, &setting.cancel).await?;
    Ok(Pin { digest, platforms })
}
