//! What skep asks of registries (OCI distribution specification 1.1): manifests and blobs, there or not.
//!
//! Every operation is retried where that may help, authorized as the registry wants it, and ends when the
//! run is cancelled. Uploads are in [`super::upload`]. Knows nothing of what images are made of.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::body::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use tokio::sync::OnceCell;

use super::address::{Reference, Repository, is_loopback};
use super::auth::{Authorization, Identity};
use super::challenge::challenges;
use super::download::Inflow;
use super::error::{Error, Failure, Problem};
use super::http::{Answer, Content, Http, Outgoing, Policy, authority, follow};
use super::upload::{Lanes, Pending};
use crate::cancel::Cancel;
use crate::digest::Digest;

/// The most bytes of a manifest (specification 1.1, "Pushing Manifests": at least this much is accepted).
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The most bytes of any answer that is of no interest.
const MAX_NOTE: u64 = 64 << 10;
const MAX_REDIRECTS: usize = 5;

/// Manifests that may be asked for.
const MANIFESTS: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);

/// What a client has to know of this machine and project.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `host[:port]` of the registries that are asked over plain http; this machine always is.
    pub plain_http: BTreeSet<String>,
    /// The directory of docker's `config.json`, which holds credentials; none are used without it.
    pub docker_config: Option<PathBuf>,
}

impl Settings {
    /// Docker's directory of this user: `DOCKER_CONFIG`, or `.docker` in the home directory.
    pub fn current(plain_http: BTreeSet<String>) -> Settings {
        let named = std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        Settings {
            plain_http,
            docker_config: named.map(PathBuf::from).or_else(home),
        }
    }
}

/// A manifest as a registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Of the bytes; what was asked for by digest has that digest.
    pub digest: Digest,
    /// Its media type, without parameters.
    pub media_type: String,
    /// The bytes, at most [`MAX_MANIFEST`].
    pub bytes: Vec<u8>,
}

/// What came of an attempt to mount a blob.
#[derive(Debug)]
pub enum Mount {
    /// The registry had it elsewhere, and now it is here too.
    Mounted,
    /// It must be sent; the registry may have begun an upload for it already.
    Absent(Option<Pending>),
}

/// What may be done to a repository.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// Asks registries. Share it between tasks; connections and tokens are kept.
pub struct Client {
    pub(super) http: Http,
    settings: Settings,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

/// What is known of one registry.
pub(super) struct Host {
    /// `…/v2/`
    pub(super) base: Url,
    identity: Identity,
    /// Whether it was asked how it wants to be asked.
    met: OnceCell<()>,
    pub(super) lanes: Lanes,
}

/// One request of an operation.
pub(super) struct Call<'a> {
    pub repository: &'a Repository,
    pub access: Access,
    /// Another repository that is read from.
    pub from: Option<&'a Repository>,
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub max: u64,
    /// Where the body of a successful answer goes; into memory without it.
    pub into: Option<Arc<Mutex<Inflow>>>,
}

impl Client {
    /// A client that uses the system's proxies and certificates.
    pub fn new(settings: Settings) -> Result<Client, Error> {
        Client::with(settings, Policy::default())
    }

    pub(super) fn with(settings: Settings, policy: Policy) -> Result<Client, Error> {
        Ok(Client {
            http: Http::new(policy)?,
            settings,
            hosts: Mutex::default(),
        })
    }

    /// The digest that a manifest has there; `None` if there is none.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        cancel: &Cancel,
    ) -> Result<Option<String>, Error> {
        let what = || format!("look up the manifest `{reference}`");
        let found = self
            .manifest(Method::HEAD, repository, reference, cancel)
            .await
            .map_err(|problem| problem.during(repository, what()))?;
        let Some(answer) = found else { return Ok(None) };
        if let Some(digest) = answer.digest() {
            return Ok(Some(digest));
        }
        // The header is optional for a registry, and may be of another algorithm.
        let manifest = self.get_manifest(repository, reference, cancel).await?;
        Ok(manifest.map(|manifest| manifest.digest.oci()))
    }

    /// A manifest; `None` if there is none. Bytes of another digest than the one asked for are an error.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        cancel: &Cancel,
    ) -> Result<Option<Manifest>, Error> {
        let failed = |problem: Problem| problem.during(repository, format!("get the manifest `{reference}`"));
        let found = self.manifest(Method::GET, repository, reference, cancel).await;
        let Some(answer) = found.map_err(failed)? else {
            return Ok(None);
        };
        let digest = Digest::of(&answer.body);
        if let Reference::Digest(expected) = reference
            && expected.oci() != digest.oci()
        {
            let failure = Failure::Digest {
                expected: expected.oci(),
                got: digest.oci(),
            };
            return Err(failed(failure.into()));
        }
        let media_type = answer.header("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default();
        Ok(Some(Manifest {
            digest,
            media_type: media_type.trim().to_owned(),
            bytes: answer.body,
        }))
    }

    /// Puts a manifest, and makes sure that the registry has put that one.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        media_type: &'static str,
        bytes: &[u8],
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let failed = |problem: Problem| problem.during(repository, format!("put the manifest `{reference}`"));
        let expected = Digest::of(bytes).oci();
        let bytes = Bytes::copy_from_slice(bytes);
        let put = async {
            let host = self.host(repository, cancel).await?;
            let url = host.url(repository, &format!("manifests/{reference}"))?;
            let call = Call {
                headers: vec![(CONTENT_TYPE, HeaderValue::from_static(media_type))],
                ..Call::new(repository, Access::Push, Method::PUT, url)
            };
            let content = || Content::Bytes(bytes.clone());
            let answer = self.change(&host, &call, content, cancel).await?;
            match answer.is_success() {
                true => Ok(answer),
                false => Err(answer.failure().into()),
            }
        };
        let answer = put.await.map_err(failed)?;
        let got = match answer.digest() {
            Some(digest) => Some(digest),
            None => self.head_manifest(repository, reference, cancel).await?,
        };
        match got {
            Some(got) if got == expected => Ok(()),
            got => {
                let got = got.unwrap_or_else(|| "nothing".to_owned());
                Err(failed(Failure::Digest { expected, got }.into()))
            }
        }
    }

    /// Whether a blob is in the repository.
    pub async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<bool, Error> {
        let ask = async {
            let host = self.host(repository, cancel).await?;
            let url = host.url(repository, &format!("blobs/{}", digest.oci()))?;
            let call = Call::new(repository, Access::Pull, Method::HEAD, url);
            let answer = self.retried(&host, &call, cancel).await?;
            match answer.status {
                404 => Ok(false),
                _ if answer.is_success() => Ok(true),
                _ => Err(answer.failure().into()),
            }
        };
        ask.await.map_err(|problem: Problem| {
            problem.during(repository, format!("look up the blob `{}`", digest.oci()))
        })
    }

    /// Asks the registry to take a blob from a repository of its own: from `from`, or from any that it
    /// finds. Registries that cannot do that begin an upload instead.
    pub async fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
        cancel: &Cancel,
    ) -> Result<Mount, Error> {
        let ask = async {
            let host = self.host(repository, cancel).await?;
            let mut url = host.url(repository, "blobs/uploads/")?;
            url.query_pairs_mut().append_pair("mount", &digest.oci());
            if let Some(from) = from {
                url.query_pairs_mut().append_pair("from", from.name().as_str());
            }
            let call = Call {
                from,
                ..Call::new(repository, Access::Push, Method::POST, url)
            };
            let answer = self.change(&host, &call, || Content::Empty, cancel).await?;
            match answer.status {
                201 => Ok(Mount::Mounted),
                202 => Ok(Mount::Absent(Some(Pending::of(&answer)?))),
                // What cannot be mounted is sent.
                400 | 404 | 405 => Ok(Mount::Absent(None)),
                _ => Err(answer.failure().into()),
            }
        };
        ask.await.map_err(|problem: Problem| {
            problem.during(repository, format!("begin with the blob `{}`", digest.oci()))
        })
    }

    async fn manifest(
        &self,
        method: Method,
        repository: &Repository,
        reference: &Reference,
        cancel: &Cancel,
    ) -> Result<Option<Answer>, Problem> {
        let host = self.host(repository, cancel).await?;
        let url = host.url(repository, &format!("manifests/{reference}"))?;
        let call = Call {
            headers: vec![(ACCEPT, MANIFESTS)],
            max: MAX_MANIFEST,
            ..Call::new(repository, Access::Pull, method, url)
        };
        let answer = self.retried(&host, &call, cancel).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_success() => Ok(Some(answer)),
            _ => Err(answer.failure().into()),
        }
    }

    /// Sends a request without a body until there is an answer that stays.
    pub(super) async fn retried(
        &self,
        host: &Host,
        call: &Call<'_>,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let mut attempt = 1;
        loop {
            let problem = match self.once(host, call, || Content::Empty, cancel).await {
                Ok(answer) if answer.failure().is_transient() => answer.failure().into(),
                Ok(answer) => return Ok(answer),
                Err(problem) => problem,
            };
            self.http.pause(&mut attempt, problem, cancel).await?;
        }
    }

    /// Sends a request that changes something, through a lane, until there is an answer that stays.
    async fn change(
        &self,
        host: &Host,
        call: &Call<'_>,
        content: impl Fn() -> Content + Send + Sync,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let mut attempt = 1;
        loop {
            let lane = host.lanes.enter(cancel).await?;
            let result = self.once(host, call, &content, cancel).await;
            drop(lane);
            let problem = match result {
                Ok(answer) if answer.failure().is_transient() => answer.failure().into(),
                Ok(answer) => {
                    host.lanes.succeeded();
                    return Ok(answer);
                }
                Err(problem) => problem,
            };
            host.lanes.failed(&problem);
            self.http.pause(&mut attempt, problem, cancel).await?;
        }
    }

    /// Sends a request, once more if who we are has to be said anew. 401 and 403 are failures.
    pub(super) async fn once(
        &self,
        host: &Host,
        call: &Call<'_>,
        content: impl Fn() -> Content + Send + Sync,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let scopes = call.scopes();
        // Uploads may lead to another host, which is told nothing.
        let is_ours = call.url.origin() == host.base.origin();
        let identity = &host.identity;
        let used = match is_ours {
            true => {
                identity
                    .authorization(&self.http, &host.base, &scopes, cancel)
                    .await?
            }
            false => None,
        };
        let answer = self.follow(host, call, &content, used.as_ref(), cancel).await?;
        // Another host that we were led to does not get to say where our password goes.
        let is_ours = is_ours && answer.url.origin() == host.base.origin();
        if answer.status != 401 || !is_ours {
            return match answer.status {
                401 | 403 => Err(identity.denied(&answer, cancel).await?.into()),
                _ => Ok(answer),
            };
        }
        let asked = challenges(&answer.headers);
        let fresh = identity
            .renewed(&self.http, &host.base, &scopes, used.as_ref(), &asked, cancel)
            .await?;
        let Some(fresh) = fresh else {
            return Err(identity.denied(&answer, cancel).await?.into());
        };
        if matches!(content(), Content::Chunk(..)) {
            // Its bytes are gone; the upload starts over, with the fresh token.
            return Err(Failure::Torn {
                status: answer.status,
                reported: answer.reported(),
            }
            .into());
        }
        let again = self.follow(host, call, &content, Some(&fresh), cancel).await?;
        match again.status {
            401 | 403 => Err(identity.denied(&again, cancel).await?.into()),
            _ => Ok(again),
        }
    }

    /// Sends a request, and follows where it leads if it only reads.
    async fn follow(
        &self,
        host: &Host,
        call: &Call<'_>,
        content: &(impl Fn() -> Content + Send + Sync),
        authorization: Option<&Authorization>,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_ours = url.origin() == host.base.origin();
            let authorization = authorization.filter(|_| is_ours);
            let content = content();
            let answer = self
                .send(call, url.clone(), content, authorization, cancel)
                .await?;
            let reads = matches!(call.method, Method::GET | Method::HEAD);
            match answer.status {
                301 | 302 | 303 | 307 | 308 if reads => url = follow(&url, answer.header("location"))?,
                _ => return Ok(answer),
            }
        }
        Err(Problem::answer("it redirects once too often"))
    }

    async fn send(
        &self,
        call: &Call<'_>,
        url: Url,
        content: Content,
        authorization: Option<&Authorization>,
        cancel: &Cancel,
    ) -> Result<Answer, Problem> {
        let outgoing = Outgoing {
            method: call.method.clone(),
            url,
            headers: call.headers.clone(),
            content,
            max: call.max,
            into: call.into.clone(),
        };
        let header = authorization.map(Authorization::header);
        self.http.send(outgoing, header, cancel).await
    }

    /// The registry of a repository, which is asked first how it wants to be asked: better than to find out
    /// with a layer in hand.
    pub(super) async fn host(&self, repository: &Repository, cancel: &Cancel) -> Result<Arc<Host>, Problem> {
        let host = {
            let mut hosts = self.hosts.lock().expect("never poisoned");
            match hosts.get(repository.host()) {
                Some(host) => Arc::clone(host),
                None => {
                    let host = Arc::new(self.new_host(repository)?);
                    hosts.insert(repository.host().to_owned(), Arc::clone(&host));
                    host
                }
            }
        };
        let meet = async {
            let call = Call::new(repository, Access::Pull, Method::GET, host.base.clone());
            let mut attempt = 1;
            loop {
                let problem = match self
                    .send(&call, host.base.clone(), Content::Empty, None, cancel)
                    .await
                {
                    Ok(answer) if answer.status == 401 => {
                        host.identity.learn(&challenges(&answer.headers));
                        return Ok::<(), Problem>(());
                    }
                    Ok(answer) if answer.failure().is_transient() => answer.failure().into(),
                    // Whatever else it says, its answers to real requests count.
                    Ok(_) => return Ok(()),
                    Err(problem) => problem,
                };
                self.http.pause(&mut attempt, problem, cancel).await?;
            }
        };
        host.met.get_or_try_init(|| meet).await?;
        Ok(host)
    }

    pub(super) fn new_host(&self, repository: &Repository) -> Result<Host, Problem> {
        let (host, api_host) = (repository.host(), repository.api_host());
        let is_plain = is_loopback(host) || self.settings.plain_http.contains(host);
        let scheme = if is_plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{api_host}/v2/"));
        let docker_config = self.settings.docker_config.clone();
        Ok(Host {
            base: base.map_err(|error| Problem::answer(error.to_string()))?,
            identity: Identity::new(host.to_owned(), api_host, docker_config),
            met: OnceCell::new(),
            lanes: Lanes::default(),
        })
    }
}

impl Host {
    pub(super) fn url(&self, repository: &Repository, rest: &str) -> Result<Url, Problem> {
        let url = self.base.join(&format!("{}/{rest}", repository.name()));
        url.map_err(|error| Problem::answer(format!("`{}`: {error}", authority(&self.base))))
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(repository: &'a Repository, access: Access, method: Method, url: Url) -> Call<'a> {
        Call {
            repository,
            access,
            from: None,
            method,
            url,
            headers: Vec::new(),
            max: MAX_NOTE,
            into: None,
        }
    }

    fn scopes(&self) -> Vec<String> {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let own = format!("repository:{}:{actions}", self.repository.name());
        let from = self.from.map(|from| format!("repository:{}:pull", from.name()));
        std::iter::once(own).chain(from).collect()
    }
}
