//! What registries still have of the releases that a rollback may go to, for lints.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::place::settings;
use super::revisions::tag_of;
use super::{Deployment, Error};
use crate::build;
use crate::digest::Digest;
use crate::lint::{Fate, Kept};
use crate::registry::{self, Client, Reference, Repository, Tag};
use crate::release::ReleasedImage;
use crate::rollout::Record;

/// The most tags of a repository that are looked at.
const MAX_TAGS: usize = 500;

/// One image, with what the releases that run it have in common.
struct Image<'a> {
    name: &'a str,
    image: &'a ReleasedImage,
    releases: Vec<&'a Record>,
}

impl Deployment<'_> {
    /// Images of the releases of `history` that ran, as far as their registry has lost them, or may: the project's own
    /// that no tag means. Of a registry that cannot be asked there is a warning.
    pub(super) fn doubtful(&self, history: &[Record]) -> Result<Vec<Kept>, Error> {
        let mut repositories: BTreeMap<&str, Vec<Image<'_>>> = BTreeMap::new();
        for record in history.iter().filter(|record| record.outcome.succeeded()) {
            for (name, image) in &record.release.images {
                let images = repositories.entry(&image.repository).or_default();
                match images.iter_mut().find(|known| known.image.digest == image.digest) {
                    Some(known) => known.releases.push(record),
                    None => images.push(Image {
                        name,
                        image,
                        releases: vec![record],
                    }),
                }
            }
        }
        let client = Client::new(settings(self.setting))?;
        let asked = repositories.iter().map(|(repository, images)| {
            let fates = self.fates(&client, repository, images);
            async move { (*repository, images, fates.await) }
        });
        let mut kept = Vec::new();
        for (repository, images, fates) in build::runtime()?.block_on(join_all(asked)) {
            match fates {
                Ok(fates) => {
                    let told = images.iter().zip(fates);
                    kept.extend(told.filter_map(|(image, fate)| Some(image.kept(fate?))));
                }
                Err(Error::Registry(registry::Error::Cancelled)) => {
                    return Err(registry::Error::Cancelled.into());
                }
                Err(error) => self.setting.events.warn(format!(
                    "what the registry keeps of `{repository}` is not judged: {error}"
                )),
            }
        }
        Ok(kept)
    }

    /// What becomes of images of one repository, in their order.
    async fn fates(
        &self,
        client: &Client,
        repository: &str,
        images: &[Image<'_>],
    ) -> Result<Vec<Option<Fate>>, Error> {
        let cancel = &self.setting.cancel;
        let (address, _) = Repository::of_image(repository)?;
        let mut fates = Vec::new();
        for Image { image, .. } in images {
            let manifests = image.platforms.values().chain([&image.digest]);
            let manifests: Vec<Reference> = manifests
                .filter_map(|digest| Digest::from_oci(digest, 0).ok().map(Reference::Digest))
                .collect();
            let found = client.digests(&address, &manifests, cancel).await?;
            fates.push(found.contains(&None).then_some(Fate::Lost));
        }
        let is_ours = |image: &Image<'_>| self.repository(image.name) == repository;
        let still: BTreeSet<&str> = images
            .iter()
            .zip(&fates)
            .filter(|(image, fate)| fate.is_none() && is_ours(image))
            .map(|(image, _)| image.image.digest.as_str())
            .collect();
        let loose = self.untagged(client, &address, images, still).await?;
        for (image, fate) in images.iter().zip(&mut fates) {
            if loose.contains(image.image.digest.as_str()) {
                *fate = Some(Fate::Untagged);
            }
        }
        Ok(fates)
    }

    /// Those of `digests` that no tag of the repository means. The tags of the releases' revisions are tried first; of a
    /// repository with more tags than are looked at, nothing is said.
    async fn untagged<'a>(
        &self,
        client: &Client,
        repository: &Repository,
        images: &[Image<'_>],
        mut digests: BTreeSet<&'a str>,
    ) -> Result<BTreeSet<&'a str>, Error> {
        let cancel = &self.setting.cancel;
        let records = images.iter().flat_map(|image| &image.releases);
        let sources = records.flat_map(|record| &record.release.sources);
        let mut tags: Vec<Tag> = sources.filter_map(tag_of).collect();
        tags.sort();
        tags.dedup();
        for every in [false, true] {
            if digests.is_empty() {
                break;
            }
            if every {
                tags = client.tags(repository, cancel).await?;
            }
            if tags.len() > MAX_TAGS {
                return Ok(BTreeSet::new());
            }
            let tags: Vec<Reference> = tags.iter().cloned().map(Reference::Tag).collect();
            for meant in client.digests(repository, &tags, cancel).await?.iter().flatten() {
                digests.remove(meant.as_str());
            }
        }
        Ok(digests)
    }
}

impl Image<'_> {
    fn kept(&self, fate: Fate) -> Kept {
        let id = |record: &&Record| record.release.id.to_string();
        Kept {
            name: self.name.to_owned(),
            image: self.image.reference(),
            releases: self.releases.iter().map(id).collect(),
            fate,
        }
    }
}
