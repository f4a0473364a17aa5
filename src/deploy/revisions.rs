//! Of which revision the images under a tag are. Images do not say: then each commit would make another image of the same
//! content. The tags that `skep push` gives each of them do.

use std::collections::{BTreeMap, BTreeSet};

use super::Deployment;
use super::Error;
use crate::registry::{Client, Reference, Repository, Tag};
use crate::release::{ReleasedImage, SourceRevision};

/// The most revisions of an image that are looked at.
const MAX_REVISIONS: usize = 2000;
/// Digits of a revision in a tag.
const DIGITS: usize = 12;

/// The revisions whose tags a repository has, or those of them that mean one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    revisions: BTreeSet<String>,
    /// Whether there are more than were looked at.
    cut: bool,
}

/// What the revisions of several images come to.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    One(String),
    /// Nothing says, or not all that would say it was looked at.
    Unknown,
    Mixture,
}

impl Deployment<'_> {
    /// The one revision that all `images` are of, which have `tag`. A mixture is an error; of images without a revision
    /// there is a warning, since others may have pushed them, who give no such tags.
    pub(super) async fn revision_of(
        &self,
        client: &Client,
        tag: &Tag,
        images: &BTreeMap<String, ReleasedImage>,
    ) -> Result<Vec<SourceRevision>, Error> {
        let source = |commit: String| SourceRevision {
            name: self.setting.project.config.project.name.clone(),
            dirty: false,
            commit: Some(commit),
        };
        if is_revision(tag) {
            return Ok(vec![source(tag.as_str().to_owned())]);
        }
        let mut known = BTreeMap::new();
        for (name, image) in images {
            known.insert(name.clone(), self.tagged(client, image).await?);
        }
        // Each image in turn leaves fewer that may be the one.
        let mut shared = in_all(known.values().map(|known| &known.revisions));
        for image in images.values() {
            shared = self.meaning(client, image, shared).await?;
        }
        if let Some(commit) = shared.into_iter().next() {
            return Ok(vec![source(commit)]);
        }
        for (name, image) in images {
            let of = known.entry(name.clone()).or_default();
            let all = std::mem::take(&mut of.revisions);
            of.revisions = self.meaning(client, image, all).await?;
        }
        self.warn_of_unknown(tag, &known);
        match judged(&known) {
            Judged::One(commit) => Ok(vec![source(commit)]),
            Judged::Unknown => Ok(Vec::new()),
            Judged::Mixture => Err(Error::Mixture {
                tag: tag.clone(),
                revisions: known
                    .into_iter()
                    .map(|(name, known)| (name, known.revisions))
                    .collect(),
            }),
        }
    }

    fn warn_of_unknown(&self, tag: &Tag, known: &BTreeMap<String, Known>) {
        let names = |is: &dyn Fn(&Known) -> bool| {
            let named = known.iter().filter(|(_, known)| is(known));
            let names: Vec<&str> = named.map(|(name, _)| name.as_str()).collect();
            (!names.is_empty()).then(|| names.join("`, `"))
        };
        let events = &self.setting.events;
        if let Some(names) = names(&|known| known.revisions.is_empty()) {
            let tag = tag.as_str();
            events.warn(format!(
                "nothing says of which revision `{names}` under `{tag}` is"
            ));
        }
        if let Some(names) = names(&|known| known.cut) {
            events.warn(format!(
                "the registry has more than {MAX_REVISIONS} revisions of `{names}`, and no more were looked at"
            ));
        }
    }

    /// The revisions whose tags the image's repository has.
    async fn tagged(&self, client: &Client, image: &ReleasedImage) -> Result<Known, Error> {
        let (repository, _) = Repository::of_image(&image.repository)?;
        let mut tags = client.tags(&repository, &self.setting.cancel).await?;
        tags.retain(is_revision);
        let cut = tags.len() > MAX_REVISIONS;
        let tags = tags.iter().take(MAX_REVISIONS);
        Ok(Known {
            revisions: tags.map(|tag| tag.as_str().to_owned()).collect(),
            cut,
        })
    }

    /// Those of `revisions` whose tag means this image.
    async fn meaning(
        &self,
        client: &Client,
        image: &ReleasedImage,
        revisions: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, Error> {
        let cancel = &self.setting.cancel;
        let (repository, _) = Repository::of_image(&image.repository)?;
        let tags: Vec<Tag> = revisions.iter().filter_map(|tag| tag.parse().ok()).collect();
        let references: Vec<Reference> = tags.iter().cloned().map(Reference::Tag).collect();
        let found = client.digests(&repository, &references, cancel).await?;
        let meaning = tags
            .iter()
            .zip(found)
            .filter(|(_, found)| found.as_ref() == Some(&image.digest));
        Ok(meaning.map(|(tag, _)| tag.as_str().to_owned()).collect())
    }
}

fn in_all<'a>(mut sets: impl Iterator<Item = &'a BTreeSet<String>>) -> BTreeSet<String> {
    let first = sets.next().cloned().unwrap_or_default();
    sets.fold(first, |common, set| &common & set)
}

/// Images of which nothing is known say nothing. What was not looked at might say anything.
fn judged(known: &BTreeMap<String, Known>) -> Judged {
    let said = known.values().filter(|known| !known.revisions.is_empty());
    let is_cut = known.values().any(|known| known.cut);
    let nothing_said = said.clone().next().is_none();
    let common = in_all(said.map(|known| &known.revisions));
    match common.into_iter().next() {
        _ if nothing_said || is_cut => Judged::Unknown,
        Some(commit) => Judged::One(commit),
        None => Judged::Mixture,
    }
}

/// Whether a tag is one that `skep push` gives by itself to what is committed.
fn is_revision(tag: &Tag) -> bool {
    let text = tag.as_str();
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == DIGITS && text.bytes().all(is_hex)
}

/// The tag that `skep push` gives by itself to images of a revision, if all of it was committed.
pub(super) fn tag_of(source: &SourceRevision) -> Option<Tag> {
    let commit = source.commit.as_ref().filter(|_| !source.dirty)?;
    commit.get(..DIGITS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(images: &[(&str, &str, bool)]) -> Judged {
        let known = images.iter().map(|(name, revisions, cut)| {
            let revisions = revisions.split_whitespace().map(str::to_owned).collect();
            (name.to_string(), Known { revisions, cut: *cut })
        });
        judged(&known.collect())
    }

    #[test]
    fn only_what_was_looked_at_to_the_end_is_a_mixture() {
        let one = |commit: &str| Judged::One(commit.to_owned());
        assert_eq!(of(&[("api", "b c", false), ("web", "a b", false)]), one("b"));
        assert_eq!(of(&[("api", "b", false), ("web", "a", false)]), Judged::Mixture);
        assert_eq!(of(&[("api", "b", false), ("web", "", false)]), one("b"));
        assert_eq!(of(&[("api", "", false), ("web", "", false)]), Judged::Unknown);
        // The revision of `api` may be one that `web` has too, further down.
        assert_eq!(of(&[("api", "", true), ("web", "a", true)]), Judged::Unknown);
        assert_eq!(of(&[("api", "b", true), ("web", "a", false)]), Judged::Unknown);
    }
}
