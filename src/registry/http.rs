//! One request to a registry and its answer: bounded in size and time, and interruptible. Knows no
//! operation and no credential; what is retried is decided above.
//!
//! Time is measured by progress, not as a whole: a layer may take an hour on a slow line, but a connection on
//! which nothing moves is given up on.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Url};

use super::address::is_loopback;
use super::download::Inflow;
use super::error::{Error, Failure, Problem, Reported};
use super::pieces::Pieces;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::retry;
use crate::store::{self, Store};

/// The most bytes of an error's body that are read.
const MAX_ERROR: u64 = 64 << 10;
/// A registry may digest what it was sent at this speed before it answers, in bytes per second.
const SLOWEST_DIGEST: u64 = 4 << 20;

/// How patient a client is.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// How often something is tried.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each.
    pub pause: Duration,
    /// The longest time in which nothing moves.
    pub idle: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            attempts: 5,
            pause: Duration::from_millis(500),
            idle: Duration::from_secs(30),
        }
    }
}

/// Hears how many bytes were sent since it last heard; called from any thread.
pub type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// What is sent.
pub(super) enum Content {
    Empty,
    Bytes(Bytes),
    /// A whole blob.
    Blob(Arc<Store>, Digest, Sent),
    /// The next bytes of a blob, so many. They cannot be sent twice.
    Chunk(Arc<tokio::sync::Mutex<Pieces>>, u64, Sent),
}

/// A request.
pub(super) struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub content: Content,
    /// The most bytes that a successful answer may have.
    pub max: u64,
    /// Where the body of a successful answer goes; into memory without it.
    pub into: Option<Arc<Mutex<Inflow>>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it came from.
    pub url: Url,
    pub status: u16,
    pub headers: HeaderMap,
    /// Cut where the answer is an error.
    pub body: Vec<u8>,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `sha256:…` of `Docker-Content-Digest`, if there is a well-formed one.
    pub(super) fn digest(&self) -> Option<String> {
        let digest = Digest::from_oci(self.header("docker-content-digest")?, 0);
        digest.ok().map(|digest| digest.oci())
    }

    pub(super) fn reported(&self) -> Reported {
        Reported::read(&self.body)
    }

    /// The failure that this answer is.
    pub(super) fn failure(&self) -> Failure {
        Failure::Status {
            status: self.status,
            reported: self.reported(),
            // Only the form in seconds; a date would mean to trust the registry's clock.
            retry_after: self
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok()),
        }
    }
}

/// What has been handed to the network of one request's content.
#[derive(Default)]
struct Track {
    moved: AtomicU64,
    /// Why the content ended early, if that was the store's doing.
    lost: Mutex<Option<store::Error>>,
}

pub(super) struct Http {
    client: reqwest::Client,
    /// For this machine: a proxy would look for it elsewhere.
    direct: reqwest::Client,
    pub policy: Policy,
}

impl Http {
    /// A client that uses the system's proxies and certificates.
    pub(super) fn new(policy: Policy) -> Result<Http, Error> {
        // Fails only if the process has a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let build = |builder: reqwest::ClientBuilder| {
            builder
                .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(Duration::from_secs(15).min(policy.idle))
                // Many servers give a whole HTTP/2 connection a window of 1 MiB.
                .http1_only()
                .build()
                .map_err(|error| Error::Client(describe(&error)))
        };
        Ok(Http {
            client: build(reqwest::Client::builder())?,
            direct: build(reqwest::Client::builder().no_proxy())?,
            policy,
        })
    }

    /// Sends once.
    pub(super) async fn send(
        &self,
        outgoing: Outgoing,
        authorization: Option<HeaderValue>,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let Outgoing {
            method,
            url,
            headers,
            content,
            max,
            into,
        } = outgoing;
        let client = match is_loopback(&authority(&url)) {
            true => &self.direct,
            false => &self.client,
        };
        let track = Arc::new(Track::default());
        let mut request = client.request(method, url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let (length, body) = body(content, &track);
        request = request.header(CONTENT_LENGTH, length).body(body);
        let response = match self.watch(cancel, &track, request.send()).await? {
            Ok(response) => response,
            Err(error) => {
                let lost = track.lost.lock().expect("never poisoned").take();
                return Err(match lost {
                    Some(error) => Problem::Store(error),
                    None => network(&url, &error).into(),
                });
            }
        };
        self.receive(response, url, max, into.as_deref(), cancel).await
    }

    async fn receive(
        &self,
        mut response: reqwest::Response,
        url: Url,
        max: u64,
        into: Option<&Mutex<Inflow>>,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_success = response.status().is_success();
        let into = into.filter(|_| is_success);
        let mut body = Vec::new();
        let mut length = 0;
        if let Some(into) = into {
            into.lock().expect("never poisoned").begin()?;
        }
        while let Some(chunk) = self
            .watch(cancel, &Track::default(), response.chunk())
            .await?
            .map_err(|error| network(&url, &error))?
        {
            let most = if is_success { max } else { MAX_ERROR };
            length += chunk.len() as u64;
            if length <= most {
                match into {
                    Some(into) => into.lock().expect("never poisoned").take(&chunk)?,
                    None => body.extend_from_slice(&chunk),
                }
            } else if is_success {
                return Err(Problem::answer(format!("it is larger than {max} bytes")));
            } else {
                break;
            }
        }
        Ok(Answer {
            url,
            status,
            headers,
            body,
        })
    }

    /// Waits for `future` while something moves, and looks at `cancel` at least every 100 ms.
    async fn watch<T>(
        &self,
        cancel: &Cancel,
        track: &Track,
        future: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        let mut future = std::pin::pin!(future);
        let (mut moved, mut since) = (0, Instant::now());
        loop {
            if cancel.is_raised() {
                return Err(Problem::Cancelled);
            }
            if let Ok(value) = tokio::time::timeout(Duration::from_millis(100), &mut future).await {
                return Ok(value);
            }
            let now = track.moved.load(Ordering::Relaxed);
            let patience = self.policy.idle + Duration::from_secs(now / SLOWEST_DIGEST);
            if now != moved {
                (moved, since) = (now, Instant::now());
            } else if since.elapsed() >= patience {
                return Err(Problem::Failure(Failure::Network {
                    reason: format!("nothing moved for {} s", since.elapsed().as_secs()),
                    remedy: String::new(),
                }));
            }
        }
    }

    /// Waits before the next attempt, if `problem` may pass and this was not the last one.
    pub(super) async fn pause(
        &self,
        attempt: &mut u32,
        problem: Problem,
        cancel: &Cancel,
    ) -> Result<(), Problem> {
        match &problem {
            Problem::Failure(failure) if failure.is_transient() && *attempt < self.policy.attempts => {
                let pause = retry::pause(self.policy.pause, *attempt, failure.retry_after());
                *attempt += 1;
                watch(cancel, tokio::time::sleep(pause)).await
            }
            _ => Err(problem),
        }
    }
}

/// Waits for `future`, unless `cancel` is raised.
pub(super) async fn watch<T>(cancel: &Cancel, future: impl Future<Output = T>) -> Result<T, Problem> {
    cancel.unless_raised(future).await.ok_or(Problem::Cancelled)
}

/// The length of a content, and its stream.
fn body(content: Content, track: &Arc<Track>) -> (u64, reqwest::Body) {
    match content {
        Content::Empty => (0, reqwest::Body::from(Vec::new())),
        Content::Bytes(bytes) => (bytes.len() as u64, reqwest::Body::from(bytes)),
        // Without a length of its own, an empty stream would be sent in chunks.
        Content::Blob(_, digest, _) if digest.size() == 0 => (0, reqwest::Body::from(Vec::new())),
        Content::Blob(store, digest, sent) => {
            let pieces = Arc::new(tokio::sync::Mutex::new(Pieces::of(&store, &digest)));
            (digest.size(), stream(pieces, digest.size(), sent, track))
        }
        Content::Chunk(pieces, length, sent) => (length, stream(pieces, length, sent, track)),
    }
}

fn stream(
    pieces: Arc<tokio::sync::Mutex<Pieces>>,
    length: u64,
    sent: Sent,
    track: &Arc<Track>,
) -> reqwest::Body {
    let state = (pieces, length, sent, Arc::clone(track));
    let next = |(pieces, left, sent, track): (Arc<tokio::sync::Mutex<Pieces>>, u64, Sent, Arc<Track>)| async move {
        if left == 0 {
            return Ok(None);
        }
        let piece = match pieces.lock().await.next(left).await {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                let message = io::Error::other(error.to_string());
                *track.lost.lock().expect("never poisoned") = Some(error);
                return Err(message);
            }
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let moved = piece.len() as u64;
        track.moved.fetch_add(moved, Ordering::Relaxed);
        sent(moved);
        Ok(Some((piece, (pieces, left - moved, sent, track))))
    };
    reqwest::Body::wrap_stream(futures_util::stream::try_unfold(state, next))
}

/// Where a `Location` leads. Never from `https` to plain `http`, and never from elsewhere to this machine.
pub(super) fn follow(from: &Url, location: Option<&str>) -> Result<Url, Failure> {
    let refused = |reason: String| Err(Failure::Answer(reason));
    let Some(location) = location else {
        return refused("it has no `Location`".to_owned());
    };
    let Ok(mut to) = from.join(location) else {
        return refused("its `Location` is malformed".to_owned());
    };
    // A registry behind a proxy that ends TLS may not know that it is reached by https.
    if from.scheme() == "https" && to.scheme() == "http" && to.host() == from.host() && to.port().is_none() {
        // Fails only for addresses without a host.
        let _ = to.set_scheme("https");
        let _ = to.set_port(from.port());
    }
    match to.scheme() {
        "https" => Ok(to),
        "http" if from.scheme() == "https" => refused(format!(
            "it leads from https to plain http, to `{}`",
            authority(&to)
        )),
        "http" if is_loopback(&authority(&to)) && !is_loopback(&authority(from)) => {
            refused("it leads to this machine".to_owned())
        }
        "http" => Ok(to),
        other => refused(format!("it leads to an address of the scheme `{other}`")),
    }
}

/// `host[:port]` of an address.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn network(url: &Url, error: &reqwest::Error) -> Failure {
    let (reason, host) = (describe(error), authority(url));
    let speaks_plain = reason.contains("InvalidContentType") || reason.contains("corrupt message");
    let remedy = if speaks_plain {
        format!("; if `{host}` speaks plain http, list it under `plain_http` in skep.toml")
    } else if reason.contains("certificate") {
        format!(
            "; this machine does not trust the certificate of `{host}`: add its authority to the system's"
        )
    } else if error.is_connect() {
        format!("; check that `{host}` is right, and that this machine reaches it")
    } else {
        String::new()
    };
    Failure::Network { reason, remedy }
}

/// An error of the client with its causes, and without the address, which may hold a secret.
fn describe(error: &reqwest::Error) -> String {
    let mut text = match error.is_connect() {
        true => "cannot connect".to_owned(),
        false if error.is_body() || error.is_request() => "the connection broke".to_owned(),
        false => "the answer broke off".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
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
mod tests {
    use super::*;

    #[test]
    fn locations_lead_where_it_is_safe() {
        let from: Url = "https://a.example/v2/x/blobs/uploads/".parse().unwrap();
        let to = |location| follow(&from, Some(location)).map(String::from);
        assert_eq!(
            to("/v2/x/1?_state=a%2Bb").unwrap(),
            "https://a.example/v2/x/1?_state=a%2Bb"
        );
        assert_eq!(to("1").unwrap(), "https://a.example/v2/x/blobs/uploads/1");
        assert_eq!(to("https://b.example/1").unwrap(), "https://b.example/1");
        assert_eq!(to("http://a.example/1").unwrap(), "https://a.example/1");
        for hostile in [
            "http://b.example/1",
            "http://127.0.0.1/",
            "http://a.example:8080/",
            "file:///etc/passwd",
            "http://[",
        ] {
            assert!(to(hostile).is_err(), "{hostile}");
        }
        assert!(follow(&from, None).is_err());
        let plain: Url = "http://a.example/".parse().unwrap();
        assert!(follow(&plain, Some("http://localhost/1")).is_err());
        assert!(follow(&plain, Some("http://b.example/1")).is_ok());
        let loopback: Url = "http://127.0.0.1:1/".parse().unwrap();
        assert!(follow(&loopback, Some("http://localhost:2/1")).is_ok());
    }
}
