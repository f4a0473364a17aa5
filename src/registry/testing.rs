//! For tests: a store, the embedded registry, and a registry in front of it that fails as a test says.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderMap};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::http::Policy;
use super::{Client, Error, Repository, Sent, Server, Settings, serve};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::store::Store;

/// Patience for tests: little between attempts, and much with a busy machine.
pub(super) const HASTY: Policy = Policy {
    attempts: 5,
    pause: Duration::from_millis(1),
    idle: Duration::from_secs(20),
};

/// A store of its own.
pub(crate) fn store() -> (tempfile::TempDir, Arc<Store>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
    (directory, store)
}

/// The embedded registry over a store of its own.
pub(crate) async fn embedded() -> (tempfile::TempDir, Arc<Store>, Server) {
    let (directory, store) = store();
    let server = serve(Arc::clone(&store), "127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    (directory, store, server)
}

/// A client without credentials.
pub(crate) fn client() -> Client {
    Client::with(Settings::default(), HASTY).unwrap()
}

/// A client with the credentials of a docker configuration.
pub(crate) fn client_with(config: &str) -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    let settings = Settings {
        docker_config: Some(directory.path().to_owned()),
        ..Settings::default()
    };
    (directory, Client::with(settings, HASTY).unwrap())
}

/// What a faulty registry does with a request.
pub(crate) enum Act {
    /// What a sound one does.
    Pass,
    /// An answer of its own, after the body has come. Headers as `name: value`.
    Answer(u16, Vec<String>, String),
    /// The same, without a look at the body.
    AnswerEarly(u16),
    /// It closes the connection, with the body on its way.
    Tear,
    /// It does what a sound one does, and closes the connection instead of answering.
    Swallow,
    /// It does what a sound one does, and changes a header of the answer.
    Change(&'static str, Option<String>),
    /// It says nothing for long.
    Hang,
}

/// An answer of the status, with a code.
pub(crate) fn error(status: u16, code: &str) -> Act {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as the test says"}}]}}"#);
    Act::Answer(status, Vec::new(), body)
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Whom it was sent to.
    pub host: String,
    /// Method, path and query.
    pub line: String,
    pub authorization: Option<String>,
    pub length: u64,
    pub range: Option<String>,
    /// How many came before it.
    pub before: usize,
}

/// A registry that fails as a test says, with the embedded one behind it.
pub(crate) struct Faulty {
    pub host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
    _behind: (tempfile::TempDir, Arc<Store>, Server),
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Faulty {
    pub(crate) async fn start(act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Faulty {
        let behind = embedded().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let base = format!("http://{}", behind.2.address());
        // Fails only if the process has a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        let shared = Arc::new((act, Arc::clone(&seen), Behind { client, base }));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let shared = Arc::clone(&shared);
                        async move {
                            let (act, seen, behind) = &*shared;
                            let now = see(&request, seen);
                            perform(act(&now), request, behind).await
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Faulty {
            host,
            seen,
            task,
            _behind: behind,
        }
    }

    pub(crate) fn repository(&self) -> Repository {
        format!("{}/owner/api", self.host).parse().unwrap()
    }

    /// The requests so far, without the first one, which asks how to ask.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap().clone();
        seen.into_iter().filter(|seen| seen.line != "GET /v2/").collect()
    }

    /// How many requests hold a text in their line.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.seen().iter().filter(|seen| seen.line.contains(text)).count()
    }
}

fn see(request: &Request<Incoming>, seen: &Mutex<Vec<Seen>>) -> Seen {
    let header = |name| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let mut seen = seen.lock().unwrap();
    let now = Seen {
        host: header(hyper::header::HOST).unwrap_or_default(),
        line: format!("{} {}", request.method(), request.uri()),
        authorization: header(AUTHORIZATION),
        length: header(hyper::header::CONTENT_LENGTH).map_or(0, |length| length.parse().unwrap()),
        range: header(CONTENT_RANGE),
        before: seen.len(),
    };
    seen.push(now.clone());
    now
}

type Answered = Result<Response<Full<Bytes>>, io::Error>;

async fn perform(act: Act, request: Request<Incoming>, behind: &Behind) -> Answered {
    let torn = || Err(io::ErrorKind::ConnectionReset.into());
    match act {
        Act::Pass => behind.forward(request).await,
        Act::Answer(status, headers, body) => {
            let _ = request.into_body().collect().await;
            let mut response = Response::builder().status(status);
            for header in headers {
                let (name, value) = header.split_once(": ").unwrap();
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body.into())).unwrap())
        }
        Act::AnswerEarly(status) => {
            let response = Response::builder().status(status).header("connection", "close");
            Ok(response.body(Full::default()).unwrap())
        }
        Act::Tear => {
            let _ = request.into_body().frame().await;
            torn()
        }
        Act::Swallow => {
            behind.forward(request).await?;
            torn()
        }
        Act::Change(name, value) => {
            let mut response = behind.forward(request).await?;
            response.headers_mut().remove(name);
            if let Some(value) = value {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            Ok(response)
        }
        Act::Hang => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            torn()
        }
    }
}

/// The sound registry.
struct Behind {
    client: reqwest::Client,
    base: String,
}

impl Behind {
    async fn forward(&self, request: Request<Incoming>) -> Answered {
        let (head, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
            bytes.extend(frame.into_data().unwrap_or_default());
        }
        let mut headers: HeaderMap = head.headers;
        headers.remove("host");
        headers.remove("content-length");
        let response = self
            .client
            .request(head.method, format!("{}{}", self.base, head.uri))
            .headers(headers)
            .body(bytes)
            .send()
            .await
            .unwrap();
        let mut forwarded = Response::builder().status(response.status());
        *forwarded.headers_mut().unwrap() = response.headers().clone();
        let bytes = response.bytes().await.unwrap();
        Ok(forwarded.body(Full::new(bytes)).unwrap())
    }
}

/// A server that answers every connection with the same bytes, whatever it is asked.
pub(crate) async fn babbler(bytes: Vec<u8>) -> Repository {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
    format!("{host}/owner/api").parse().unwrap()
}

/// Hears nothing.
pub(crate) fn silent() -> Sent {
    Arc::new(|_| {})
}

/// A run that goes on.
pub(crate) fn never() -> Cancel {
    Cancel::default()
}

/// Bytes that nothing else has.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends a blob; the error as [`shown`].
pub(crate) async fn upload(
    client: &Client,
    to: &Repository,
    store: &Arc<Store>,
    digest: &Digest,
) -> Result<(), String> {
    let uploaded = client.upload(to, store, digest, None, &silent(), &never()).await;
    uploaded.map_err(|error| shown(to, &error))
}

/// An error without the random port.
pub(crate) fn shown(to: &Repository, error: &Error) -> String {
    error.to_string().replace(to.host(), "HOST")
}
