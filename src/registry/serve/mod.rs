//! The embedded registry: pull, push, tags and referrers of the OCI distribution specification 1.1, out of
//! the store.
//!
//! It has no access control, and so listens on this machine alone and answers no web page ([`caller`]). Content
//! is named by SHA-256 alone. Blobs are served only from repositories that they were pushed or mounted to;
//! [`catalog`] keeps the record of that. It builds nothing and asks no other registry.

mod answer;
mod blobs;
mod body;
mod caller;
mod catalog;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod manifests;
mod patience;
mod room;
mod route;
mod uploads;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderMap, LOCATION};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub use catalog::{ServeError, collect};

use answer::{Answer, Refusal, empty, header};
use body::{Answered, Sent};
use catalog::Catalog;
use patience::Patient;
use room::{Room, Seat};
use route::{Query, Route, route};
use uploads::Uploads;

use super::address::Name;
use super::client::MAX_MANIFEST;
use crate::digest::Digest;
use crate::store::Store;

/// The most bytes of a blob.
const MAX_BLOB: u64 = 64 << 30;
/// The longest time without a byte of a request.
const STALL: Duration = Duration::from_secs(30);
/// Between two attempts to take a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// The most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// The most bytes that are read of a request which was refused for its address.
const MAX_DISCARDED: u64 = 4 << 20;

/// How much clients may take up.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// The longest time without a byte that a client takes of an answer.
    stall: Duration,
    /// Connections at once.
    connections: usize,
    /// Uploads at once.
    uploads: usize,
    /// How long a request may wait for its client before it makes room for another client.
    patience: Duration,
}

const BOUNDS: Bounds = Bounds {
    stall: STALL,
    connections: 256,
    uploads: 64,
    patience: Duration::from_secs(1),
};

/// A registry that listens, until this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the store at a loopback address; port 0 takes a free one. Runs on the current runtime.
pub async fn serve(store: Arc<Store>, address: SocketAddr) -> Result<Server, ServeError> {
    listen(store, address, BOUNDS).await
}

/// [`serve`], with other bounds.
async fn listen(store: Arc<Store>, address: SocketAddr, bounds: Bounds) -> Result<Server, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let registry = Arc::new(Registry {
        uploads: Uploads::new(Arc::clone(&store), &bounds),
        catalog: Catalog::new(Arc::clone(&store)),
        store,
    });
    let task = tokio::spawn(accept(listener, registry, bounds));
    Ok(Server { address, task })
}

async fn accept(listener: TcpListener, registry: Arc<Registry>, bounds: Bounds) {
    let room = Room::new(bounds.connections, bounds.patience);
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // For want of file descriptors, for example; that passes.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let seat = loop {
            match room.enter() {
                Some(seat) => break seat,
                // All are being answered.
                None => tokio::time::sleep(PAUSE).await,
            }
        };
        let registry = Arc::clone(&registry);
        connections.spawn(connection(stream, seat, registry, bounds.stall));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, seat: Seat, registry: Arc<Registry>, stall: Duration) {
    let place = seat.place();
    let service = service_fn(|request: Request<Incoming>| {
        let (registry, place) = (Arc::clone(&registry), Arc::clone(place));
        async move {
            place.start();
            let is_head = request.method() == Method::HEAD;
            let (head, body) = request.into_parts();
            let body = Sent::new(body, Arc::clone(&place));
            let answer = registry.answer(head, body).await.unwrap_or_else(Refusal::answer);
            let answer = if is_head { without_body(answer) } else { answer };
            Ok::<_, Infallible>(Response::map(answer, |body| Answered::new(body, place)))
        }
    });
    let stream = Patient::new(stream, stall, Arc::clone(place));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(STALL)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A malformed request, or a client that left, gets no answer beyond hyper's own.
        _ = served => {}
        () = place.lost() => {}
    }
}

fn without_body(answer: Answer) -> Answer {
    let (head, _) = answer.into_parts();
    let (_, body) = empty(StatusCode::OK, &[]).into_parts();
    Answer::from_parts(head, body)
}

struct Registry {
    store: Arc<Store>,
    catalog: Catalog,
    uploads: Uploads,
}

impl Registry {
    async fn answer(&self, head: Parts, body: Sent) -> Result<Answer, Refusal> {
        caller::admit(&head)?;
        let query = Query::parse(head.uri.query());
        let route =
            route(head.uri.path()).and_then(|route| may_be_kept(&head.method, &query).map(|()| route));
        match route {
            Ok(route) => self.answer_at(route, &query, head, body).await,
            Err(refusal) => {
                // A client that asks first has sent nothing yet.
                if !head.headers.contains_key(EXPECT) {
                    body.discard(MAX_DISCARDED).await;
                }
                Err(refusal)
            }
        }
    }

    async fn answer_at(
        &self,
        route: Route,
        query: &Query,
        head: Parts,
        body: Sent,
    ) -> Result<Answer, Refusal> {
        let is_head = head.method == Method::HEAD;
        match (head.method.clone(), route) {
            (Method::GET | Method::HEAD, Route::Base) => {
                let version = [(
                    header("docker-distribution-api-version"),
                    "registry/2.0".to_owned(),
                )];
                Ok(empty(StatusCode::OK, &version))
            }
            (Method::GET | Method::HEAD, Route::Blob { name, digest }) => {
                let find = match is_head {
                    true => Catalog::promise_blob,
                    false => Catalog::blob,
                };
                let found = self.disk(move |catalog| match digest.hex() {
                    Some(hex) => find(catalog, &name, hex),
                    None => Ok(None),
                });
                let digest = found.await?.ok_or_else(blob_unknown)?;
                match is_head {
                    true => Ok(blobs::head(&digest)),
                    false => blobs::get(&self.store, &digest, &head.headers),
                }
            }
            (Method::DELETE, Route::Blob { name, digest }) => {
                let removed = self.disk(move |catalog| match digest.hex() {
                    Some(hex) => catalog.remove_blob(&name, hex),
                    None => Ok(false),
                });
                match removed.await? {
                    true => Ok(empty(StatusCode::ACCEPTED, &[])),
                    false => Err(blob_unknown()),
                }
            }
            (Method::POST, Route::Uploads { name }) => self.begin(name, query, body).await,
            (_, Route::Upload { name, id }) => self.upload(&name, &id, query, head, body).await,
            (Method::GET | Method::HEAD, Route::Manifest { name, reference }) => {
                let store = Arc::clone(&self.store);
                self.disk(move |catalog| manifests::get(catalog, &store, &name, &reference, !is_head))
                    .await
            }
            (Method::PUT, Route::Manifest { name, reference }) => {
                let content_type = head.headers.get(CONTENT_TYPE);
                let content_type = content_type.and_then(|value| value.to_str().ok());
                let content_type = content_type.unwrap_or_default().to_owned();
                let bytes = read_manifest(body).await?;
                self.disk(move |catalog| manifests::put(catalog, &name, &reference, &content_type, &bytes))
                    .await
            }
            (Method::DELETE, Route::Manifest { name, reference }) => {
                self.disk(move |catalog| manifests::delete(catalog, &name, &reference))
                    .await
            }
            (Method::GET, route) => self.list(route, query).await,
            (method, _) => Err(unsupported(&method)),
        }
    }

    /// `GET` of what lists something.
    async fn list(&self, route: Route, query: &Query) -> Result<Answer, Refusal> {
        let query = query.clone();
        match route {
            Route::Tags { name } => {
                self.disk(move |catalog| manifests::tags(catalog, &name, &query))
                    .await
            }
            Route::Referrers { name, subject } => {
                self.disk(move |catalog| manifests::referrers(catalog, &name, &subject, &query))
                    .await
            }
            _ => Err(unsupported(&Method::GET)),
        }
    }

    /// `POST` to the uploads: a mount, a whole blob, or the beginning of an upload.
    async fn begin(&self, name: Name, query: &Query, body: Sent) -> Result<Answer, Refusal> {
        if let Some(wanted) = query.digest("mount")? {
            let from = query.get("from").map(str::parse::<Name>);
            let to = name.clone();
            let mounted = self.disk(move |catalog| {
                let found = match (wanted.hex(), from) {
                    (Some(hex), Some(Ok(from))) => catalog.blob(&from, hex)?,
                    (Some(hex), None) => catalog.find_blob(hex)?,
                    (None, _) | (_, Some(Err(_))) => None,
                };
                let Some(digest) = found else { return Ok(None) };
                let is_here = catalog.add_blob(&to, &digest)?;
                Ok::<_, ServeError>(is_here.then_some(digest))
            });
            if let Some(digest) = mounted.await? {
                return Ok(created(&name, &digest));
            }
        } else if let Some(wanted) = query.digest("digest")? {
            let upload = self.uploads.begin(name.clone())?;
            upload.take(&HeaderMap::new(), body).await?;
            let digest = upload.finish(wanted.to_keep()?).await?;
            return self.keep(name, digest).await;
        }
        let upload = self.uploads.open(name)?;
        Ok(empty(StatusCode::ACCEPTED, &upload.headers()))
    }

    /// Any request to an upload that was begun.
    async fn upload(
        &self,
        name: &Name,
        id: &str,
        query: &Query,
        head: Parts,
        body: Sent,
    ) -> Result<Answer, Refusal> {
        let upload = self.uploads.find(name, id)?;
        match head.method {
            Method::GET => Ok(empty(StatusCode::NO_CONTENT, &upload.headers())),
            Method::PATCH => {
                upload.take(&head.headers, body).await?;
                Ok(empty(StatusCode::ACCEPTED, &upload.headers()))
            }
            Method::PUT => {
                let wanted = query.digest("digest")?;
                let wanted = wanted.ok_or_else(|| Refusal::bad("DIGEST_INVALID", "there is no digest"))?;
                let hex = wanted.to_keep()?;
                if !body.is_over() {
                    upload.take(&head.headers, body).await?;
                }
                self.uploads.close(&upload)?;
                let digest = upload.finish(hex).await?;
                self.keep(name.clone(), digest).await
            }
            Method::DELETE => {
                self.uploads.close(&upload)?;
                Ok(empty(StatusCode::NO_CONTENT, &[]))
            }
            method => Err(unsupported(&method)),
        }
    }

    /// Records a blob that has come.
    async fn keep(&self, name: Name, digest: Digest) -> Result<Answer, Refusal> {
        let to = name.clone();
        match self.disk(move |catalog| catalog.add_blob(&to, &digest)).await? {
            true => Ok(created(&name, &digest)),
            false => Err(Refusal::unknown("BLOB_UNKNOWN", "the store has lost it again")),
        }
    }

    /// Does something with the records on a thread that may block.
    async fn disk<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
        &self,
        work: impl FnOnce(&Catalog) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Refusal> {
        let catalog = self.catalog.clone();
        match tokio::task::spawn_blocking(move || work(&catalog)).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "UNKNOWN",
                "reading the records failed",
            )),
        }
    }
}

async fn read_manifest(mut body: Sent) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.next().await? {
        if (bytes.len() + frame.len()) as u64 > MAX_MANIFEST {
            let large = format!("a manifest has at most {MAX_MANIFEST} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", large));
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

fn created(name: &Name, digest: &Digest) -> Answer {
    let headers = [
        (LOCATION, format!("/v2/{name}/blobs/{}", digest.oci())),
        (header("docker-content-digest"), digest.oci()),
    ];
    empty(StatusCode::CREATED, &headers)
}

fn blob_unknown() -> Refusal {
    Refusal::unknown("BLOB_UNKNOWN", "there is no such blob here")
}

/// Refuses a request that names, by its query, what is not kept here.
fn may_be_kept(method: &Method, query: &Query) -> Result<(), Refusal> {
    if !matches!(*method, Method::POST | Method::PUT) {
        return Ok(());
    }
    if let Some(named) = query.digest("digest")? {
        named.to_keep()?;
    }
    match query.get("digest-algorithm") {
        None | Some("sha256") => Ok(()),
        Some(other) => {
            let message = format!("`{other}` is not `sha256`, the one algorithm of this registry's digests");
            Err(Refusal::bad("DIGEST_INVALID", message))
        }
    }
}

fn unsupported(method: &Method) -> Refusal {
    let message = format!("`{method}` is not supported there");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
}

#[cfg(test)]
mod tests;
