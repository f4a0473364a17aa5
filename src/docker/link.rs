//! One manager that answers: connected to, of an API version that both sides know, and known to manage.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};

use super::address::{Address, Place};
use super::error::{Error, Trouble};
use super::ssh::Tunnel;

/// How long an engine may think about one request.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long an engine may take to say what it is.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
/// The API of Docker 20.10.
const OLDEST: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};

/// How managers are reached, other than by their addresses.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file that ssh reads in the place of the user's and the system's configuration.
    pub ssh_config: Option<PathBuf>,
    /// Where private directories of ssh connections are made. At most 40 bytes, as paths of sockets are bounded.
    pub scratch: PathBuf,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ssh_config: None,
            scratch: PathBuf::from("/tmp"),
        }
    }
}

/// A connected manager.
#[derive(Debug)]
pub(super) struct Link {
    /// Its index among the managers.
    pub(super) at: usize,
    pub(super) swarm: String,
    pub(super) docker: Docker,
    /// The same socket, for what the crate's types cannot read.
    pub(super) http: reqwest::Client,
    tunnel: Option<Tunnel>,
    answered: Mutex<Instant>,
}

impl Link {
    pub(super) async fn open(at: usize, address: &Address, options: &Options) -> Result<Link, Trouble> {
        let (path, tunnel) = match &address.0 {
            Place::Unix(path) => (path.clone(), None),
            Place::Ssh(remote) => {
                let tunnel = Tunnel::open(remote, options.ssh_config.as_deref(), &options.scratch).await;
                let tunnel = tunnel.map_err(Trouble::Transport)?;
                let path = tunnel.socket().to_string_lossy().into_owned();
                (path, Some(tunnel))
            }
        };
        let greeting = tokio::time::timeout(GREETING_LIMIT, greet(&path));
        let greeted = greeting
            .await
            .unwrap_or(Err(Trouble::Transport("it does not answer".to_owned())));
        match greeted {
            Ok((docker, swarm)) => Ok(Link {
                at,
                swarm,
                docker,
                http: http(&path)?,
                tunnel,
                answered: Mutex::new(Instant::now()),
            }),
            Err(Trouble::Transport(reason)) => {
                let complaints = tunnel.as_ref().and_then(Tunnel::complaints);
                Err(Trouble::Transport(explained(reason, complaints)))
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// What ssh says about the connection, where there is one.
    pub(super) fn complaints(&self) -> Option<String> {
        self.tunnel.as_ref().and_then(Tunnel::complaints)
    }

    /// Remembers that an answer came just now.
    pub(super) fn has_answered(&self) {
        *self.answered.lock().unwrap_or_else(|lock| lock.into_inner()) = Instant::now();
    }

    /// How long ago the last answer came.
    pub(super) fn silence(&self) -> Duration {
        self.answered
            .lock()
            .unwrap_or_else(|lock| lock.into_inner())
            .elapsed()
    }
}

fn http(path: &str) -> Result<reqwest::Client, Trouble> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .unix_socket(path)
        .timeout(ANSWER_LIMIT)
        .build();
    client.map_err(|error| Trouble::Transport(error.to_string()))
}

/// A reason, and what ssh said.
pub(super) fn explained(reason: String, complaints: Option<String>) -> String {
    match complaints {
        Some(complaints) => format!("{reason}; ssh says: {complaints}"),
        None => reason,
    }
}

/// A client of the engine behind a socket, and the id of the swarm that the engine manages.
async fn greet(path: &str) -> Result<(Docker, String), Trouble> {
    let docker = Docker::connect_with_unix(path, ANSWER_LIMIT.as_secs(), API_DEFAULT_VERSION)?;
    let docker = docker.negotiate_version().await?;
    let version = docker.client_version();
    if version < OLDEST {
        return Err(Trouble::Transport(format!(
            "its API is {version}, and {OLDEST} is needed: it is older than Docker 20.10"
        )));
    }
    let docker = docker.with_request_modifier(move |request| amended(request, version));
    let swarm = docker.inspect_swarm().await?;
    let id = swarm
        .id
        .ok_or_else(|| Trouble::Answer(Error::Garbled("a swarm without an id".to_owned())))?;
    Ok((docker, id))
}

/// The request as the engine must get it. The crate leaves three things out: the version of the API in the
/// path, details of log lines, and the alphabet of base64 that the engine reads credentials in. An engine
/// takes what it cannot read for no credentials at all.
fn amended(mut request: BollardRequest, version: ClientVersion) -> BollardRequest {
    let mut path = request.uri().path().to_owned();
    if !path.starts_with("/v1.") {
        path = format!("/v{version}{path}");
    }
    let is_log = path.ends_with("/logs");
    let query = match (request.uri().query(), is_log) {
        (Some(query), true) => format!("?{query}&details=true"),
        (Some(query), false) => format!("?{query}"),
        (None, _) => String::new(),
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(uri) = parts.try_into() {
        *request.uri_mut() = uri;
    }
    if let Some(value) = request.headers_mut().get_mut("x-registry-auth") {
        let text = value
            .to_str()
            .unwrap_or_default()
            .replace('+', "-")
            .replace('/', "_");
        if let Ok(mut safe) = text.parse::<hyper::header::HeaderValue>() {
            safe.set_sensitive(true);
            *value = safe;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(uri: &str, auth: Option<&str>) -> BollardRequest {
        let mut request = hyper::Request::builder().uri(uri);
        if let Some(auth) = auth {
            request = request.header("X-Registry-Auth", auth);
        }
        let request = request.body(bollard::body_full(Default::default())).unwrap();
        amended(request, OLDEST)
    }

    #[test]
    fn requests_say_their_version() {
        let request = sent("unix://2f61/services?filters=%7B%7D", None);
        assert_eq!(
            request.uri().to_string(),
            "unix://2f61/v1.41/services?filters=%7B%7D"
        );
        let request = sent("unix://2f61/v1.41/nodes", None);
        assert_eq!(request.uri().to_string(), "unix://2f61/v1.41/nodes");
    }

    #[test]
    fn logs_are_asked_for_with_details() {
        let request = sent("unix://2f61/tasks/abc/logs?follow=false", None);
        assert_eq!(request.uri().query(), Some("follow=false&details=true"));
        let request = sent("unix://2f61/services/logs?a=b", None);
        assert_eq!(request.uri().path(), "/v1.41/services/logs");
    }

    #[test]
    fn credentials_are_in_the_alphabet_for_urls() {
        let request = sent("unix://2f61/services/create", Some("a+b/c=="));
        assert_eq!(request.headers()["X-Registry-Auth"], "a-b_c==");
    }
}
