//! Blobs into registries: whole where the registry takes them whole, in chunks where it answers 413.
//!
//! After anything goes wrong, a new upload is begun: of one that was torn, some registries lose the state and
//! others lie about it (Gitea). A registry that keeps failing while several uploads run is given one at a
//! time (SQLite behind Gitea: "database is locked").

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::address::Repository;
use super::client::{Access, Call, Client, Host};
use super::error::{Error, Failure, Problem};
use super::http::{Answer, Content, Sent, follow, watch};
use super::pieces::Pieces;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::store::Store;

/// Uploads to one registry at once.
const LANES: u32 = 5;
/// After so many failures of a registry in a row, it gets one upload at a time.
const TROUBLE: u32 = 2;
/// Sizes of chunks that are tried one after the other, in bytes: what proxies allow by default is 100 MB
/// (Cloudflare) or 1 MiB (nginx).
const CHUNKS: [u64; 3] = [32 << 20, 8 << 20, 1 << 20];
/// A blob of at most so many bytes is sent with the request that begins its upload, even if it is not known
/// whether the registry takes that.
const SMALL: u64 = 64 << 10;

/// An upload that a registry has begun, and nothing was sent to yet.
#[derive(Debug)]
pub struct Pending {
    location: Url,
    /// The fewest bytes of a chunk (`OCI-Chunk-Min-Length`).
    least: u64,
}

impl Pending {
    pub(super) fn of(answer: &Answer) -> Result<Pending, Failure> {
        let least = answer.header("oci-chunk-min-length");
        Ok(Pending {
            location: follow(&answer.url, answer.header("location"))?,
            least: least.and_then(|least| least.trim().parse().ok()).unwrap_or(0),
        })
    }
}

/// How much a registry takes at once.
pub(super) struct Lanes {
    free: Semaphore,
    trouble: AtomicU32,
    pub(super) single: AtomicBool,
    /// The most bytes of one request; 0 is unlimited.
    pub(super) most: AtomicU64,
    /// Whether it takes a blob with the request that begins its upload: unknown, yes, no.
    one_request: AtomicU32,
}

const UNKNOWN: u32 = 0;
const YES: u32 = 1;
const NO: u32 = 2;

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes {
            free: Semaphore::new(LANES as usize),
            trouble: AtomicU32::new(0),
            single: AtomicBool::new(false),
            most: AtomicU64::new(0),
            one_request: AtomicU32::new(UNKNOWN),
        }
    }
}

impl Lanes {
    /// Waits for a lane, or for all of them where there shall be one upload at a time.
    pub(super) async fn enter(&self, cancel: &Cancel) -> Result<SemaphorePermit<'_>, Problem> {
        loop {
            let single = self.single.load(Ordering::Relaxed);
            let wanted = if single { LANES } else { 1 };
            let permit = watch(cancel, self.free.acquire_many(wanted)).await?;
            let permit = permit.expect("never closed");
            if single || !self.single.load(Ordering::Relaxed) {
                return Ok(permit);
            }
        }
    }

    pub(super) fn succeeded(&self) {
        self.trouble.store(0, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, problem: &Problem) {
        let is_trouble = matches!(problem, Problem::Failure(Failure::Status { status: 500.., .. }));
        if is_trouble && self.trouble.fetch_add(1, Ordering::Relaxed) + 1 >= TROUBLE {
            self.single.store(true, Ordering::Relaxed);
        }
    }

    /// Settles on smaller requests after one of `size` bytes was too large; `false` if there are none.
    fn shrink(&self, size: u64) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let sent = if most == 0 { size } else { most.min(size) };
        let smaller = CHUNKS.into_iter().find(|chunk| *chunk < sent);
        if let Some(smaller) = smaller {
            // Another upload may have found an even smaller one.
            let _ = self
                .most
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    (now == 0 || now > smaller).then_some(smaller)
                });
        }
        smaller.is_some()
    }
}

/// What is uploaded, and where to.
struct Upload<'a> {
    host: &'a Host,
    repository: &'a Repository,
    store: &'a Arc<Store>,
    digest: &'a Digest,
    sent: &'a Sent,
}

impl Client {
    /// Sends a blob of the store to a repository, with the upload `pending` if the registry has begun one.
    /// The bytes are verified on the way. `sent` hears of every byte, and of those that are sent again.
    pub async fn upload(
        &self,
        repository: &Repository,
        store: &Arc<Store>,
        digest: &Digest,
        pending: Option<Pending>,
        sent: &Sent,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let failed = |problem: Problem| {
            let what = format!("upload the blob `{}`", digest.oci());
            problem.during(repository, what)
        };
        let host = self.host(repository, cancel).await.map_err(failed)?;
        let upload = Upload {
            host: &host,
            repository,
            store,
            digest,
            sent,
        };
        let (mut pending, mut attempt) = (pending, 1);
        loop {
            let lane = host.lanes.enter(cancel).await.map_err(failed)?;
            let result = self.upload_once(&upload, pending.take(), cancel).await;
            drop(lane);
            let problem = match result {
                Ok(()) => {
                    host.lanes.succeeded();
                    return Ok(());
                }
                Err(problem) => problem,
            };
            let is_too_large = matches!(problem, Problem::Failure(Failure::Status { status: 413, .. }));
            if is_too_large && host.lanes.shrink(digest.size()) {
                continue;
            }
            host.lanes.failed(&problem);
            self.http
                .pause(&mut attempt, problem, cancel)
                .await
                .map_err(failed)?;
            // The answer may be all that was lost.
            if self.has_blob(repository, digest, cancel).await? {
                return Ok(());
            }
        }
    }

    async fn upload_once(
        &self,
        upload: &Upload<'_>,
        pending: Option<Pending>,
        cancel: &Cancel,
    ) -> Result<(), Problem> {
        let lanes = &upload.host.lanes;
        let most = lanes.most.load(Ordering::Relaxed);
        let is_whole = most == 0 || upload.digest.size() <= most;
        let one_request = lanes.one_request.load(Ordering::Relaxed);
        let may_try = one_request == YES || one_request == UNKNOWN && upload.digest.size() <= SMALL;
        let pending = match pending {
            Some(pending) => pending,
            None if is_whole && may_try => match self.one_request(upload, cancel).await? {
                None => return Ok(()),
                Some(pending) => pending,
            },
            None => self.begin(upload, cancel).await?,
        };
        match is_whole {
            true => self.put_whole(upload, pending, cancel).await,
            false => self.put_chunks(upload, pending, most, cancel).await,
        }
    }

    /// `POST ?digest=` with the blob. Gives an upload that was begun instead, if the registry does not take
    /// blobs so.
    async fn one_request(&self, upload: &Upload<'_>, cancel: &Cancel) -> Result<Option<Pending>, Problem> {
        let lanes = &upload.host.lanes;
        let mut url = upload.host.url(upload.repository, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("digest", &upload.digest.oci());
        let call = upload.call(Method::POST, url);
        let answer = self.once(upload.host, &call, || upload.whole(), cancel).await?;
        match answer.status {
            201 => {
                lanes.one_request.store(YES, Ordering::Relaxed);
                upload.check(&answer).map(|()| None)
            }
            202 => {
                lanes.one_request.store(NO, Ordering::Relaxed);
                Ok(Some(Pending::of(&answer)?))
            }
            // Several may find that out at once.
            400 | 404 | 405 | 411 | 415 if lanes.one_request.load(Ordering::Relaxed) != YES => {
                lanes.one_request.store(NO, Ordering::Relaxed);
                self.begin(upload, cancel).await.map(Some)
            }
            _ => Err(answer.failure().into()),
        }
    }

    async fn begin(&self, upload: &Upload<'_>, cancel: &Cancel) -> Result<Pending, Problem> {
        let url = upload.host.url(upload.repository, "blobs/uploads/")?;
        let call = Call::new(upload.repository, Access::Push, Method::POST, url);
        let answer = self.once(upload.host, &call, || Content::Empty, cancel).await?;
        match answer.status {
            202 => Ok(Pending::of(&answer)?),
            _ => Err(answer.failure().into()),
        }
    }

    async fn put_whole(&self, upload: &Upload<'_>, pending: Pending, cancel: &Cancel) -> Result<(), Problem> {
        let call = upload.call(Method::PUT, upload.closing(pending.location));
        let answer = self.once(upload.host, &call, || upload.whole(), cancel).await?;
        upload.finished(&answer)
    }

    /// `PATCH` after `PATCH`, each where the last one's `Location` says, then an empty `PUT`.
    async fn put_chunks(
        &self,
        upload: &Upload<'_>,
        pending: Pending,
        most: u64,
        cancel: &Cancel,
    ) -> Result<(), Problem> {
        let size = upload.digest.size();
        let chunk = most.max(pending.least);
        let pieces = Arc::new(tokio::sync::Mutex::new(Pieces::of(upload.store, upload.digest)));
        let (mut location, mut start) = (pending.location, 0);
        while start < size {
            let length = chunk.min(size - start);
            let mut call = upload.call(Method::PATCH, location);
            // Without a unit (specification 1.1, "Pushing a blob in chunks").
            let range = HeaderValue::from_str(&format!("{start}-{}", start + length - 1));
            let range = range.expect("digits and a dash");
            call.headers.push((CONTENT_RANGE, range));
            let content = || Content::Chunk(Arc::clone(&pieces), length, Arc::clone(upload.sent));
            let answer = self.once(upload.host, &call, content, cancel).await?;
            if !answer.is_success() {
                return Err(upload.lost(&answer));
            }
            location = follow(&answer.url, answer.header("location"))?;
            start += length;
        }
        let mut call = upload.call(Method::PUT, upload.closing(location));
        call.headers.clear();
        let answer = self.once(upload.host, &call, || Content::Empty, cancel).await?;
        upload.finished(&answer)
    }
}

impl Upload<'_> {
    fn call(&self, method: Method, url: Url) -> Call<'_> {
        let octets = HeaderValue::from_static("application/octet-stream");
        Call {
            headers: vec![(CONTENT_TYPE, octets)],
            ..Call::new(self.repository, Access::Push, method, url)
        }
    }

    fn whole(&self) -> Content {
        Content::Blob(Arc::clone(self.store), *self.digest, Arc::clone(self.sent))
    }

    /// The address that ends an upload. What is in a `Location` stays as it is.
    fn closing(&self, mut location: Url) -> Url {
        location
            .query_pairs_mut()
            .append_pair("digest", &self.digest.oci());
        location
    }

    fn finished(&self, answer: &Answer) -> Result<(), Problem> {
        match answer.is_success() {
            true => self.check(answer),
            false => Err(self.lost(answer)),
        }
    }

    fn check(&self, answer: &Answer) -> Result<(), Problem> {
        let expected = self.digest.oci();
        match answer.digest() {
            Some(got) if got != expected => Err(Failure::Digest { expected, got }.into()),
            _ => Ok(()),
        }
    }

    /// The failure of a request to an upload that was begun.
    fn lost(&self, answer: &Answer) -> Problem {
        let reported = answer.reported();
        let is_lost = matches!(answer.status, 404 | 416) || reported.code == "DIGEST_INVALID";
        match is_lost {
            true => Failure::Torn {
                status: answer.status,
                reported,
            }
            .into(),
            false => answer.failure().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_shrink_until_they_cannot() {
        let lanes = Lanes::default();
        let most = || lanes.most.load(Ordering::Relaxed);
        assert!(!lanes.shrink(1 << 20), "there is nothing smaller");
        for expected in [32 << 20, 8 << 20, 1 << 20] {
            assert!(lanes.shrink(100 << 20));
            assert_eq!(most(), expected);
        }
        assert!(!lanes.shrink(100 << 20));
    }

    #[tokio::test]
    async fn trouble_leaves_one_lane() {
        let (lanes, cancel) = (Lanes::default(), Cancel::default());
        let busy = || {
            Problem::Failure(Failure::Status {
                status: 500,
                reported: Default::default(),
                retry_after: None,
            })
        };
        lanes.failed(&busy());
        lanes.succeeded();
        lanes.failed(&busy());
        let first = lanes.enter(&cancel).await.unwrap();
        let second = lanes.enter(&cancel).await.unwrap();
        lanes.failed(&busy());
        let alone = std::pin::pin!(lanes.enter(&cancel));
        drop((first, second));
        let alone = alone.await.unwrap();
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, lanes.enter(&cancel)).await.is_err());
        drop(alone);
        drop(lanes.enter(&cancel).await.unwrap());
    }
}
