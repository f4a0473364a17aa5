//! Downloads: retried, bounded in size and time, a bounded number at once. Knows nothing of packages.
//!
//! Redirects are followed here and not by the client, so that credentials stay with the host they are for
//! and `https` never turns into `http`.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::credentials::Credential;
use super::error::Error;
use super::source::is_loopback;
use crate::cancel::Cancel;
use crate::retry;

const MAX_REDIRECTS: usize = 10;
const MAX_CONNECTIONS: usize = 16;
const MAX_CONNECTIONS_PER_HOST: usize = 8;

/// How patient a download is.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// How often an address is tried.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each.
    pub pause: Duration,
    /// The longest time without a byte.
    pub idle: Duration,
    /// The longest time for one attempt.
    pub total: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            attempts: 4,
            pause: Duration::from_millis(500),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(30 * 60),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The address, without credentials.
    pub url: Url,
    /// Sent to this host only, and never in the clear over a network.
    pub credential: Option<Credential>,
    /// The media types that are wanted.
    pub accept: &'static str,
    /// The most bytes that are taken.
    pub max: u64,
}

/// Why an address did not answer with bytes.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// 404 or 410.
    #[error("not found")]
    NotFound,
    /// 401 or 403.
    #[error(
        "access is refused ({0}); credentials are read from `~/.netrc` and the ecosystem's own configuration"
    )]
    Denied(u16),
    /// Any other status; the pause that the server asks for.
    #[error("the server answers {status}")]
    Status {
        /// The status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// The connection failed, or broke.
    #[error("{0}")]
    Network(String),
    /// Fewer or more bytes came than the server said.
    #[error("{got} bytes came, and the server said {expected}")]
    Truncated {
        /// `Content-Length`.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// More bytes than anything of this kind may have.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// A redirect that is not followed.
    #[error("it redirects to `{to}`, {reason}")]
    Redirect {
        /// Where to, without credentials.
        to: String,
        /// Why not.
        reason: &'static str,
    },
    /// The bytes cannot be kept.
    #[error("cannot keep what came: {0}")]
    Sink(#[from] io::Error),
}

impl Failure {
    fn is_transient(&self) -> bool {
        match self {
            Failure::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            Failure::Network(_) | Failure::Truncated { .. } => true,
            _ => false,
        }
    }

    /// The pause that the server asks for, in seconds.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Where the bytes of a download go. Each attempt starts over.
pub(super) trait Sink: Send {
    /// Forgets what came.
    fn restart(&mut self) -> io::Result<()>;
    /// Takes more.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Sink for Vec<u8> {
    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// What is known of an answer besides its bytes.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it came from in the end.
    pub url: Url,
    /// Its media type, lower case, or nothing.
    pub media_type: String,
}

/// A client with its bounds.
pub(super) struct Http {
    client: reqwest::Client,
    policy: Policy,
    total: Semaphore,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Http {
    /// A client that uses the system's proxies and certificates.
    pub(super) fn new(policy: Policy) -> Result<Http, Error> {
        // Fails only if the process has a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15).min(policy.total))
            .read_timeout(policy.idle)
            .timeout(policy.total)
            .build()
            .map_err(|error| Error::Config {
                name: "the http client".to_owned(),
                reason: describe(error),
            })?;
        Ok(Http {
            client,
            policy,
            total: Semaphore::new(MAX_CONNECTIONS),
            hosts: Mutex::default(),
        })
    }

    /// Downloads into `sink`.
    pub(super) async fn get(
        &self,
        request: &Request,
        sink: &mut dyn Sink,
        cancel: &Cancel,
    ) -> Result<Answer, Error> {
        let _permits = watch(cancel, self.permits(&request.url)).await?;
        let mut attempt = 1;
        loop {
            let result = match sink.restart() {
                Ok(()) => watch(cancel, self.attempt(request, sink)).await?,
                Err(error) => Err(Failure::Sink(error)),
            };
            match result {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.is_transient() && attempt < self.policy.attempts => {
                    let pause = retry::pause(self.policy.pause, attempt, failure.retry_after());
                    watch(cancel, tokio::time::sleep(pause)).await?;
                    attempt += 1;
                }
                Err(failure) => {
                    return Err(Error::Transfer {
                        url: redact(&request.url),
                        failure,
                    });
                }
            }
        }
    }

    /// Downloads into memory.
    pub(super) async fn get_bytes(
        &self,
        request: &Request,
        cancel: &Cancel,
    ) -> Result<(Answer, Vec<u8>), Error> {
        let mut bytes = Vec::new();
        let answer = self.get(request, &mut bytes, cancel).await?;
        Ok((answer, bytes))
    }

    async fn permits(&self, url: &Url) -> (OwnedSemaphorePermit, SemaphorePermit<'_>) {
        let host = url.host_str().unwrap_or_default().to_owned();
        let semaphore = {
            let mut hosts = self.hosts.lock().expect("never poisoned");
            let fresh = || Arc::new(Semaphore::new(MAX_CONNECTIONS_PER_HOST));
            Arc::clone(hosts.entry(host).or_insert_with(fresh))
        };
        // The host's first: who waits for a busy host must not hold a place that another host could use.
        let of_host = semaphore.acquire_owned().await.expect("never closed");
        let of_all = self.total.acquire().await.expect("never closed");
        (of_host, of_all)
    }

    async fn attempt(&self, request: &Request, sink: &mut dyn Sink) -> Result<Answer, Failure> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(request, &url).await?;
            let status = response.status();
            if let Some(location) = redirect(&response) {
                url = follow(&url, location)?;
                continue;
            }
            return match status {
                StatusCode::OK => {
                    let media_type = media_type(&response);
                    receive(response, request.max, sink).await?;
                    Ok(Answer { url, media_type })
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => Err(Failure::NotFound),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Denied(status.as_u16())),
                _ => Err(Failure::Status {
                    status: status.as_u16(),
                    retry_after: retry_after(&response),
                }),
            };
        }
        Err(Failure::Redirect {
            to: redact(&url),
            reason: "and that was one redirect too many",
        })
    }

    async fn send(&self, request: &Request, url: &Url) -> Result<Response, Failure> {
        let mut builder = self.client.get(url.clone()).header(ACCEPT, request.accept);
        let private = url.scheme() == "https" || is_loopback(url);
        if let Some(credential) = &request.credential
            && private
            && url.origin() == request.url.origin()
        {
            builder = builder.header(AUTHORIZATION, credential.header());
        }
        let sent = builder.send().await;
        sent.map_err(|error| Failure::Network(describe(error)))
    }
}

/// Waits for `future`, unless `cancel` is raised.
pub(super) async fn watch<T>(cancel: &Cancel, future: impl Future<Output = T>) -> Result<T, Error> {
    cancel.unless_raised(future).await.ok_or(Error::Cancelled)
}

async fn receive(mut response: Response, max: u64, sink: &mut dyn Sink) -> Result<(), Failure> {
    let expected = response.content_length();
    if expected.is_some_and(|expected| expected > max) {
        return Err(Failure::TooLarge(max));
    }
    let mut got = 0u64;
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Failure::Network(describe(error)))?
    {
        got += chunk.len() as u64;
        if got > max {
            return Err(Failure::TooLarge(max));
        }
        sink.take(&chunk)?;
    }
    match expected {
        Some(expected) if expected != got => Err(Failure::Truncated { expected, got }),
        _ => Ok(()),
    }
}

fn redirect(response: &Response) -> Option<&HeaderValue> {
    let followed = [301, 302, 303, 307, 308].contains(&response.status().as_u16());
    response.headers().get(LOCATION).filter(|_| followed)
}

fn follow(from: &Url, location: &HeaderValue) -> Result<Url, Failure> {
    let to = location.to_str().ok().and_then(|to| from.join(to).ok());
    let refused = |to: &Url, reason| {
        Err(Failure::Redirect {
            to: redact(to),
            reason,
        })
    };
    match to {
        None => refused(from, "which is malformed"),
        Some(to) if to.scheme() == "https" => Ok(to),
        Some(to) if to.scheme() != "http" => refused(&to, "which is neither http nor https"),
        Some(to) if from.scheme() == "https" => refused(&to, "from https to plain http"),
        // A public mirror in the clear shall not send us to a service of this machine.
        Some(to) if is_loopback(&to) && !is_loopback(from) => refused(&to, "which is on this machine"),
        Some(to) => Ok(to),
    }
}

fn media_type(response: &Response) -> String {
    let value = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Only the form in seconds; a date would mean to trust the server's clock.
fn retry_after(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// An address for people: without user, password and query, which may all be secrets.
pub(super) fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for addresses that cannot have credentials.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if shown.query().is_some() {
        shown.set_query(Some("…"));
        return shown.as_str().replace("%E2%80%A6", "…");
    }
    shown.into()
}

/// An error of the client with its causes, and without the address, which may hold a secret.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
