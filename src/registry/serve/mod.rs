//! The embedded registry: pull, push, tags and referrers of the OCI distribution specification 1.1, out of
//! the store.
//!
//! It has no access control, and so listens on this machine alone and answers to loopback names alone (a web
//! page must not reach it under a name of its own). Blobs are served only from repositories that they were
//! pushed or mounted to; [`catalog`] keeps the record of that. It builds nothing and asks no other registry.

mod answer;
mod blobs;
mod catalog;
mod manifests;
mod patience;
mod route;
mod uploads;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

pub use catalog::{ServeError, collect};

use answer::{Answer, Refusal, empty, header};
use catalog::Catalog;
use patience::Patient;
use route::{Query, Route, hex, route};
use uploads::Uploads;

use super::address::{Name, is_loopback};
use super::client::MAX_MANIFEST;
use crate::digest::Digest;
use crate::store::Store;

/// The most bytes of a blob.
const MAX_BLOB: u64 = 64 << 30;
/// The longest time without a byte of a request, and without a byte that a client takes of an answer.
const STALL: Duration = Duration::from_secs(30);
/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 256;
/// The most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

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
    listen(store, address, STALL).await
}

/// [`serve`], for clients that take something of an answer at least every `stall`.
async fn listen(store: Arc<Store>, address: SocketAddr, stall: Duration) -> Result<Server, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let registry = Arc::new(Registry {
        uploads: Uploads::new(Arc::clone(&store)),
        catalog: Catalog::new(Arc::clone(&store)),
        store,
    });
    let task = tokio::spawn(accept(listener, registry, stall));
    Ok(Server { address, task })
}

async fn accept(listener: TcpListener, registry: Arc<Registry>, stall: Duration) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // For want of file descriptors, for example; that passes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let registry = Arc::clone(&registry);
        connections.spawn(async move {
            connection(Patient::new(stream, stall), registry).await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: Patient<TcpStream>, registry: Arc<Registry>) {
    let service = service_fn(move |request| {
        let registry = Arc::clone(&registry);
        async move {
            let is_head = request.method() == Method::HEAD;
            let answer = registry.answer(request).await.unwrap_or_else(Refusal::answer);
            Ok::<_, Infallible>(if is_head { without_body(answer) } else { answer })
        }
    });
    // Whoever sent garbage, or went away, is not told more than hyper tells.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(STALL)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
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
    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        let host = request.headers().get(HOST);
        if !host.is_some_and(|host| host.to_str().is_ok_and(is_loopback)) {
            let denied = "this registry is for its own machine";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "DENIED", denied));
        }
        let route = route(request.uri().path())?;
        let query = Query::parse(request.uri().query());
        let is_head = request.method() == Method::HEAD;
        match (request.method().clone(), route) {
            (Method::GET | Method::HEAD, Route::Base) => {
                let version = [(
                    header("docker-distribution-api-version"),
                    "registry/2.0".to_owned(),
                )];
                Ok(empty(StatusCode::OK, &version))
            }
            (Method::GET | Method::HEAD, Route::Blob { name, hex }) => {
                let find = match is_head {
                    true => Catalog::promise_blob,
                    false => Catalog::blob,
                };
                let digest = self.disk(move |catalog| find(catalog, &name, &hex)).await?;
                let digest = digest.ok_or_else(|| blob_unknown("there is no such blob here"))?;
                match is_head {
                    true => Ok(blobs::head(&digest)),
                    false => blobs::get(&self.store, &digest, request.headers()),
                }
            }
            (Method::DELETE, Route::Blob { name, hex }) => {
                match self.disk(move |catalog| catalog.remove_blob(&name, &hex)).await? {
                    true => Ok(empty(StatusCode::ACCEPTED, &[])),
                    false => Err(blob_unknown("there is no such blob here")),
                }
            }
            (Method::POST, Route::Uploads { name }) => self.begin(name, &query, request).await,
            (_, Route::Upload { name, id }) => self.upload(&name, &id, &query, request).await,
            (Method::GET | Method::HEAD, Route::Manifest { name, reference }) => {
                let store = Arc::clone(&self.store);
                self.disk(move |catalog| manifests::get(catalog, &store, &name, &reference, !is_head))
                    .await
            }
            (Method::PUT, Route::Manifest { name, reference }) => {
                let content_type = request.headers().get(CONTENT_TYPE);
                let content_type = content_type.and_then(|value| value.to_str().ok());
                let content_type = content_type.unwrap_or_default().to_owned();
                let bytes = read_manifest(request.into_body()).await?;
                self.disk(move |catalog| manifests::put(catalog, &name, &reference, &content_type, &bytes))
                    .await
            }
            (Method::DELETE, Route::Manifest { name, reference }) => {
                self.disk(move |catalog| manifests::delete(catalog, &name, &reference))
                    .await
            }
            (Method::GET, Route::Tags { name }) => {
                self.disk(move |catalog| manifests::tags(catalog, &name, &query))
                    .await
            }
            (Method::GET, Route::Referrers { name, hex }) => {
                self.disk(move |catalog| manifests::referrers(catalog, &name, &hex, &query))
                    .await
            }
            (method, _) => Err(unsupported(&method)),
        }
    }

    /// `POST` to the uploads: a mount, a whole blob, or the beginning of an upload.
    async fn begin(&self, name: Name, query: &Query, request: Request<Incoming>) -> Result<Answer, Refusal> {
        if let Some(wanted) = query.get("mount") {
            let hex = hex(wanted)?;
            let from = query.get("from").map(str::parse::<Name>);
            let to = name.clone();
            let mounted = self.disk(move |catalog| {
                let found = match from {
                    Some(Ok(from)) => catalog.blob(&from, &hex)?,
                    Some(Err(_)) => None,
                    None => catalog.find_blob(&hex)?,
                };
                let Some(digest) = found else { return Ok(None) };
                let is_here = catalog.add_blob(&to, &digest)?;
                Ok::<_, ServeError>(is_here.then_some(digest))
            });
            if let Some(digest) = mounted.await? {
                return Ok(created(&name, &digest));
            }
        } else if let Some(wanted) = query.get("digest") {
            let hex = hex(wanted)?;
            let mut writer = self.uploads.writer()?;
            let counted = AtomicU64::new(0);
            writer.take(request.into_body(), MAX_BLOB, &counted).await?;
            let digest = writer.finish(&hex).await?;
            return self.keep(name, digest).await;
        }
        let upload = self.uploads.begin(name)?;
        Ok(empty(StatusCode::ACCEPTED, &upload.headers()))
    }

    /// Any request to an upload that was begun.
    async fn upload(
        &self,
        name: &Name,
        id: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let upload = self.uploads.find(name, id)?;
        let method = request.method().clone();
        let (head, body) = request.into_parts();
        match method {
            Method::GET => Ok(empty(StatusCode::NO_CONTENT, &upload.headers())),
            Method::PATCH => {
                upload.take(&head.headers, body).await?;
                Ok(empty(StatusCode::ACCEPTED, &upload.headers()))
            }
            Method::PUT => {
                let wanted = query.get("digest");
                let hex = hex(wanted.ok_or_else(|| Refusal::bad("DIGEST_INVALID", "there is no digest"))?)?;
                if !body.is_end_stream() {
                    upload.take(&head.headers, body).await?;
                }
                self.uploads.close(&upload)?;
                let digest = upload.finish(&hex).await?;
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
            false => Err(blob_unknown("the store has lost it again")),
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

async fn read_manifest(mut body: Incoming) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = uploads::next_frame(&mut body).await? {
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

fn blob_unknown(message: &str) -> Refusal {
    Refusal::unknown("BLOB_UNKNOWN", message)
}

fn unsupported(method: &Method) -> Refusal {
    let message = format!("`{method}` is not supported there");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
}

#[cfg(test)]
mod tests;
