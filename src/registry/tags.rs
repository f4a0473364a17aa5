//! The tags of a repository (OCI distribution specification 1.1, "Listing Tags").

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Method;

use super::client::{Access, Call, Client};
use super::error::{Error, Problem};
use super::{Reference, Repository, Tag};
use crate::cancel::Cancel;

/// Tags that are asked for at once.
const PAGE: usize = 1000;
/// The most pages that are read.
const MAX_PAGES: usize = 10;
/// The most manifests that are asked for at once.
const AT_ONCE: usize = 16;
/// The most bytes of a page: each of its tags may have 128.
const MAX_BYTES: u64 = 1 << 20;

#[derive(serde::Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Client {
    /// The tags of a repository, in the registry's order; the first 10,000, and none of a repository that is not there.
    /// What is no tag is left out.
    pub async fn tags(&self, repository: &Repository, cancel: &Cancel) -> Result<Vec<Tag>, Error> {
        let failed = |problem: Problem| problem.during(repository, "list the tags".to_owned());
        let mut tags: Vec<Tag> = Vec::new();
        for _ in 0..MAX_PAGES {
            let last = tags.last().map(|tag| format!("&last={}", tag.as_str()));
            let query = format!("tags/list?n={PAGE}{}", last.unwrap_or_default());
            let (listed, is_last) = self.page(repository, &query, cancel).await.map_err(failed)?;
            let news: Vec<Tag> = listed.iter().filter_map(|tag| tag.parse().ok()).collect();
            // A registry without pages begins again where it began.
            if news.first().is_none_or(|first| tags.contains(first)) {
                break;
            }
            tags.extend(news);
            if is_last {
                break;
            }
        }
        Ok(tags)
    }

    /// The digest of each of `references`, in their order; `None` for what is not there.
    pub async fn digests(
        &self,
        repository: &Repository,
        references: &[Reference],
        cancel: &Cancel,
    ) -> Result<Vec<Option<String>>, Error> {
        let asked = references
            .iter()
            .map(|reference| self.head_manifest(repository, reference, cancel));
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }

    /// One page, and whether it is the last.
    async fn page(
        &self,
        repository: &Repository,
        query: &str,
        cancel: &Cancel,
    ) -> Result<(Vec<String>, bool), Problem> {
        let host = self.host(repository, cancel).await?;
        let url = host.url(repository, query)?;
        let call = Call {
            max: MAX_BYTES,
            ..Call::new(repository, Access::Pull, Method::GET, url)
        };
        let answer = self.retried(&host, &call, cancel).await?;
        match answer.status {
            404 => Ok((Vec::new(), true)),
            _ if answer.is_success() => {
                let page: Page = serde_json::from_slice(&answer.body)
                    .map_err(|error| Problem::answer(format!("its list of tags is none: {error}")))?;
                let is_last = answer.header("link").is_none();
                Ok((page.tags.unwrap_or_default(), is_last))
            }
            _ => Err(answer.failure().into()),
        }
    }
}
