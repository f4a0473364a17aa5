//! The images of a release: built here, and pushed where the target is elsewhere, or found in a registry.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::place::{Place, settings};
use super::{Deployment, Error};
use crate::build::{self, Built, Request};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::platform::{Arch, Platform};
use crate::publish::{self, Destination};
use crate::registry::{self, Reference, Repository, Tag};
use crate::release::{ReleasedImage, SourceRevision};
use crate::source;

impl Deployment<'_> {
    /// Builds targets: for a preview those of this machine's platform, which it runs out of the store; else all of
    /// them, which are pushed.
    pub(super) fn build(&self, names: &[String]) -> Result<BTreeMap<String, ReleasedImage>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let is_here = matches!(self.place, Place::Preview(_));
        let request = Request {
            names: names.to_vec(),
            platforms: match is_here {
                true => vec![Platform { arch: Arch::HOST }],
                false => Vec::new(),
            },
            keep_going: false,
        };
        self.setting.until_whole(|| {
            let built = build::build(self.setting, &request)?;
            let images = self.released(&built);
            if is_here {
                for image in images.values() {
                    self.roots.make_ready(image).map_err(Box::new)?;
                }
            } else {
                publish::publish(self.setting, &built.images, &Destination::default())?;
            }
            Ok(images)
        })
    }

    fn released(&self, built: &Built) -> BTreeMap<String, ReleasedImage> {
        let mut images = BTreeMap::new();
        for (name, image) in &built.images {
            let platforms: BTreeMap<_, _> = image
                .images
                .iter()
                .map(|(platform, image)| (*platform, image.manifest.oci()))
                .collect();
            let one = platforms.values().next().cloned();
            let digest = image.index.as_ref().map(|index| index.digest.oci()).or(one);
            let released = digest.map(|digest| ReleasedImage {
                repository: self.repository(name),
                digest,
                platforms,
            });
            images.extend(released.map(|released| (name.clone(), released)));
        }
        images
    }

    /// Where an image is, or would be if it were pushed.
    pub(super) fn repository(&self, name: &str) -> String {
        let about = &self.setting.project.config.project;
        match &about.images {
            Some(template) => template.replace("{name}", name),
            None => format!("localhost/{}/{name}", about.name),
        }
    }

    pub(super) fn revision(&self) -> Result<SourceRevision, Error> {
        let revision = source::revision(&self.setting.project.root).map_err(build::Error::from)?;
        Ok(SourceRevision {
            name: self.setting.project.config.project.name.clone(),
            dirty: revision.as_ref().is_some_and(|revision| revision.dirty),
            commit: revision.map(|revision| revision.commit),
        })
    }

    /// The images that a registry has under `tag` now, and of which revision they are.
    pub(super) fn resolve(
        &self,
        names: &[String],
        tag: &Tag,
    ) -> Result<(BTreeMap<String, ReleasedImage>, Vec<SourceRevision>), Error> {
        let client = registry::Client::new(settings(self.setting))?;
        let runtime = build::runtime()?;
        let mut images = BTreeMap::new();
        for name in names {
            let repository = publish::repository_of(self.setting, name)?;
            let reference = Reference::Tag(tag.clone());
            let found =
                runtime.block_on(client.head_manifest(&repository, &reference, &self.setting.cancel))?;
            let digest = found.ok_or_else(|| Error::NoTag {
                repository: repository.to_string(),
                tag: tag.clone(),
            })?;
            let released = ReleasedImage {
                repository: repository.to_string(),
                platforms: runtime.block_on(platforms(
                    &client,
                    &repository,
                    &digest,
                    &self.setting.cancel,
                ))?,
                digest,
            };
            images.insert(name.clone(), released);
        }
        let sources = runtime.block_on(self.revision_of(&client, tag, &images))?;
        Ok((images, sources))
    }
}

/// The platforms of an image, with their manifests: those that its index names, or that of the one manifest that it is.
/// What skep does not build for is left out.
pub(super) async fn platforms(
    client: &registry::Client,
    repository: &Repository,
    digest: &str,
    cancel: &Cancel,
) -> Result<BTreeMap<Platform, String>, Error> {
    let Ok(reference) = Digest::from_oci(digest, 0).map(Reference::Digest) else {
        return Ok(BTreeMap::new());
    };
    let manifest = client.get_manifest(repository, &reference, cancel).await?;
    let manifest = manifest.ok_or_else(|| Error::NoImage {
        repository: repository.to_string(),
        digest: digest.to_owned(),
    })?;
    let platform = |os: &str, arch: &str| format!("{os}/{arch}").parse::<Platform>().ok();
    if let Ok(index) = ImageIndex::from_reader(&manifest.bytes[..]) {
        let of = |child: &Descriptor| {
            let named = child.platform().as_ref()?;
            let named = platform(&named.os().to_string(), &named.architecture().to_string())?;
            Some((named, child.digest().to_string()))
        };
        return Ok(index.manifests().iter().filter_map(of).collect());
    }
    let config = ImageManifest::from_reader(&manifest.bytes[..])
        .ok()
        .and_then(|image| {
            let config = image.config();
            Digest::from_oci(config.digest().as_ref(), config.size()).ok()
        });
    let Some(config) = config else {
        return Ok(BTreeMap::new());
    };
    let config = client.get_blob(repository, &config, cancel).await?;
    let made_for: Option<MadeFor> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let named = made_for.and_then(|made_for| platform(&made_for.os, &made_for.architecture));
    Ok(named
        .into_iter()
        .map(|platform| (platform, digest.to_owned()))
        .collect())
}

/// What a config says of the platform of its image.
#[derive(serde::Deserialize)]
struct MadeFor {
    os: String,
    architecture: String,
}
