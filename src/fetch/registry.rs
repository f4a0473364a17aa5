//! Where the bytes of a source are: from a package to requests, by each ecosystem's conventions.
//!
//! Reads configuration once, when it is first needed. Downloads indexes, never the packages themselves.

use std::path::Path;
use std::sync::Arc;

use reqwest::Url;
use tokio::sync::OnceCell;

use super::config::apt::Mirror;
use super::config::go::GoConfig;
use super::config::npm::NpmConfig;
use super::config::{Host, apt, go, npm, pip};
use super::credentials::{Credential, Netrc};
use super::error::Error;
use super::http::{Http, Request, redact};
use super::index;
use super::source::{Source, escape_module};
use crate::cancel::Cancel;

/// The most bytes of a file that is fetched.
const MAX_FILE: u64 = 2 << 30;
/// The most bytes of an index page.
const MAX_INDEX: u64 = 64 << 20;

/// `[registries]` of skep.toml: addresses for ecosystems whose own configuration does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// A Go module proxy, or a list as in `GOPROXY`.
    #[serde(default)]
    pub go: Option<String>,
    /// An npm registry.
    #[serde(default)]
    pub npm: Option<String>,
    /// A Python package index: its `simple` address.
    #[serde(default)]
    pub pypi: Option<String>,
    /// Debian mirrors (the directory that holds `dists` and `pool`), separated by spaces or commas.
    #[serde(default)]
    pub debian: Option<String>,
}

/// The root of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// Ends with `/`.
    pub url: Url,
    /// What its configuration says to send it.
    pub credential: Option<Credential>,
}

impl Base {
    /// An address below this one. `path` is plain: validated, or escaped.
    pub(super) fn join(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path()));
        url
    }
}

/// One place that may have a source's bytes.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub place: Place,
    /// Whether the next candidate may be asked only when this one says that there is no such thing.
    pub strict: bool,
}

/// Where a candidate is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// There.
    At(Request),
    /// At the `dist.tarball` of a version in an npm package's metadata.
    NpmMetadata { request: Request, version: String },
    /// Where a page of a Python index says that the file is.
    PypiPage { request: Request, file: String },
}

/// Every ecosystem's registries.
pub(super) struct Locator {
    host: Arc<Host>,
    registries: Arc<Registries>,
    netrc: OnceCell<Netrc>,
    go: OnceCell<GoConfig>,
    npm: OnceCell<Arc<NpmConfig>>,
    pypi: OnceCell<Base>,
    debian: OnceCell<Vec<Mirror>>,
}

impl Locator {
    pub(super) fn new(host: Host, registries: Registries) -> Locator {
        Locator {
            host: Arc::new(host),
            registries: Arc::new(registries),
            netrc: OnceCell::new(),
            go: OnceCell::new(),
            npm: OnceCell::new(),
            pypi: OnceCell::new(),
            debian: OnceCell::new(),
        }
    }

    /// The places that may have a source's bytes, in the order in which they are asked. `single` says that
    /// one file is wanted and not an archive: of a Go module, that is its `go.mod`.
    pub(super) async fn locate(&self, source: &Source, single: bool) -> Result<Vec<Candidate>, Error> {
        match source {
            Source::Address(url) => {
                let request = self.request(url.clone(), None).await?;
                Ok(vec![certain(Place::At(request))])
            }
            Source::Go { module, version } => self.locate_go(module, version, single).await,
            Source::Npm { scope, name, version } => self.locate_npm(scope.as_deref(), name, version).await,
            Source::Pypi { name, file } => {
                let read =
                    |host: &Host, registries: &Registries| pip::index(host, registries.pypi.as_deref());
                let base = self.pypi.get_or_try_init(|| self.read(read)).await?;
                let mut request = self
                    .request(base.join(&format!("{name}/")), base.credential.clone())
                    .await?;
                request.accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";
                request.max = MAX_INDEX;
                let file = file.clone();
                Ok(vec![certain(Place::PypiPage { request, file })])
            }
            Source::Deb { path, suite } => {
                let mut candidates = Vec::new();
                for mirror in self.mirrors().await? {
                    let wanted = suite.as_ref().is_none_or(|suite| mirror.has(suite));
                    if wanted && !candidates.iter().any(|(base, _)| *base == &mirror.base) {
                        let request = self.request(mirror.base.join(path), mirror.base.credential.clone());
                        candidates.push((&mirror.base, request.await?));
                    }
                }
                let places = candidates
                    .into_iter()
                    .map(|(_, request)| certain(Place::At(request)));
                Ok(places.collect())
            }
        }
    }

    /// Debian's mirrors, as apt and skep.toml name them.
    pub(super) async fn mirrors(&self) -> Result<&[Mirror], Error> {
        let read = |host: &Host, registries: &Registries| apt::mirrors(host, registries.debian.as_deref());
        let mirrors = self.debian.get_or_try_init(|| self.read(read)).await?;
        Ok(mirrors)
    }

    /// The directory of the system's OpenPGP key rings.
    pub(super) fn key_rings(&self) -> &Path {
        &self.host.key_rings
    }

    /// A request for a file, with the credentials that its registry or the user's netrc has for it.
    pub(super) async fn request(&self, url: Url, credential: Option<Credential>) -> Result<Request, Error> {
        let netrc = self
            .netrc
            .get_or_try_init(|| self.read(|host, _| host.netrc()))
            .await?;
        Ok(Request {
            credential: credential.or_else(|| netrc.find(&url)),
            url,
            accept: "*/*",
            max: MAX_FILE,
        })
    }

    /// The request for a candidate's bytes; downloads the index that says where they are.
    pub(super) async fn resolve(
        &self,
        place: &Place,
        http: &Http,
        cancel: &Cancel,
    ) -> Result<Request, Error> {
        let (request, found) = match place {
            Place::At(request) => return Ok(request.clone()),
            Place::NpmMetadata { request, version } => {
                let (answer, bytes) = http.get_bytes(request, cancel).await?;
                (request, index::npm_tarball(&answer.url, &bytes, version))
            }
            Place::PypiPage { request, file } => {
                let (answer, bytes) = http.get_bytes(request, cancel).await?;
                (request, index::pypi_file(&answer, &bytes, file))
            }
        };
        let url = found.map_err(|reason| Error::Index {
            url: redact(&request.url),
            reason,
        })?;
        let same = url.origin() == request.url.origin();
        let credential = request.credential.clone().filter(|_| same);
        self.request(url, credential).await
    }

    async fn locate_go(&self, module: &str, version: &str, single: bool) -> Result<Vec<Candidate>, Error> {
        let read = |host: &Host, registries: &Registries| go::configuration(host, registries.go.as_deref());
        let config = self.go.get_or_try_init(|| self.read(read)).await?;
        config.check_public(module)?;
        let extension = if single { "mod" } else { "zip" };
        let path = format!(
            "{}/@v/{}.{extension}",
            escape_module(module),
            escape_module(version)
        );
        let mut candidates = Vec::new();
        for proxy in &config.proxies {
            let request = self
                .request(proxy.base.join(&path), proxy.base.credential.clone())
                .await?;
            candidates.push(Candidate {
                place: Place::At(request),
                strict: !proxy.lenient,
            });
        }
        Ok(candidates)
    }

    /// The conventional address first, as it needs no metadata; then where the metadata says.
    async fn locate_npm(
        &self,
        scope: Option<&str>,
        name: &str,
        version: &str,
    ) -> Result<Vec<Candidate>, Error> {
        let read = |host: &Host, registries: &Registries| npm::configuration(host, registries.npm.as_deref());
        let config = self
            .npm
            .get_or_try_init(|| async { self.read(read).await.map(Arc::new) })
            .await?;
        let config = Arc::clone(config);
        let owned = scope.map(str::to_owned);
        let base = blocking(move || config.registry(owned.as_deref())).await?;
        let (file, metadata) = match scope {
            Some(scope) => (format!("@{scope}/{name}"), format!("@{scope}%2F{name}")),
            None => (name.to_owned(), name.to_owned()),
        };
        let file = base.join(&format!("{file}/-/{name}-{version}.tgz"));
        let file = self.request(file, base.credential.clone()).await?;
        let mut metadata = self
            .request(base.join(&metadata), base.credential.clone())
            .await?;
        metadata.accept = "application/vnd.npm.install-v1+json, application/json;q=0.8";
        metadata.max = MAX_INDEX;
        let metadata = Place::NpmMetadata {
            request: metadata,
            version: version.to_owned(),
        };
        let file = Candidate {
            place: Place::At(file),
            strict: true,
        };
        Ok(vec![file, certain(metadata)])
    }

    /// Reads configuration away from the threads that drive the network: a client may be asked.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Host, &Registries) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (host, registries) = (Arc::clone(&self.host), Arc::clone(&self.registries));
        blocking(move || read(&host, &registries)).await
    }
}

fn certain(place: Place) -> Candidate {
    Candidate { place, strict: false }
}

/// Runs what blocks; a panic there goes on here.
pub(super) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(run).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
