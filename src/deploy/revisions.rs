//! Of which revision the images under a tag are. Images do not say: then each commit would make another image of the same
//! content. The tags that `skep push` gives each of them do.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::Deployment;
use super::Error;
use crate::registry::{Client, Reference, Repository, Tag};
use crate::release::{ReleasedImage, SourceRevision};

/// The most revisions of an image that are looked at.
const MAX_REVISIONS: usize = 200;
/// The most of them that are asked for at once.
const AT_ONCE: usize = 16;
/// Digits of a revision in a tag.
const DIGITS: usize = 12;

impl Deployment<'_> {
    /// The one revision that all `images` are of, which have `tag`. A mixture is an error; of images without a revision
    /// there is a warning.
    pub(super) async fn revision_of(
        &self,
        client: &Client,
        tag: &Tag,
        images: &BTreeMap<String, ReleasedImage>,
    ) -> Result<Vec<SourceRevision>, Error> {
        let source = |commit: Option<String>| SourceRevision {
            name: self.setting.project.config.project.name.clone(),
            dirty: false,
            commit,
        };
        if is_revision(tag) {
            return Ok(vec![source(Some(tag.as_str().to_owned()))]);
        }
        let mut revisions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, image) in images {
            revisions.insert(name.clone(), self.revisions(client, image).await?);
        }
        let unknown: Vec<&str> = revisions
            .iter()
            .filter(|(_, of)| of.is_empty())
            .map(|(name, _)| name.as_str())
            .collect();
        if !unknown.is_empty() {
            self.setting.events.warn(format!(
                "nothing says of which revision `{}` under `{tag}` is",
                unknown.join("`, `"),
                tag = tag.as_str()
            ));
        }
        let mut known = revisions.values().filter(|of| !of.is_empty()).cloned();
        let Some(first) = known.next() else {
            return Ok(Vec::new());
        };
        let common = known.fold(first, |common, of| &common & &of);
        match common.into_iter().next() {
            Some(commit) => Ok(vec![source(Some(commit))]),
            None => Err(Error::Mixture {
                tag: tag.clone(),
                revisions,
            }),
        }
    }

    /// Revisions whose tag means this image.
    async fn revisions(&self, client: &Client, image: &ReleasedImage) -> Result<BTreeSet<String>, Error> {
        let cancel = &self.setting.cancel;
        let (repository, _) = Repository::of_image(&image.repository)?;
        let mut tags = client.tags(&repository, cancel).await?;
        tags.retain(is_revision);
        tags.truncate(MAX_REVISIONS);
        let mut revisions = BTreeSet::new();
        for some in tags.chunks(AT_ONCE) {
            let references: Vec<Reference> = some.iter().cloned().map(Reference::Tag).collect();
            let asked = references
                .iter()
                .map(|tag| client.head_manifest(&repository, tag, cancel));
            for (tag, found) in some.iter().zip(join_all(asked).await) {
                if found?.as_ref() == Some(&image.digest) {
                    revisions.insert(tag.as_str().to_owned());
                }
            }
        }
        Ok(revisions)
    }
}

/// Whether a tag is one that `skep push` gives by itself to what is committed.
fn is_revision(tag: &Tag) -> bool {
    let text = tag.as_str();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == DIGITS && text.bytes().all(is_hex)
}
