//! Who we are to a registry: credentials of docker's configuration, and tokens made of them (the distribution
//! project's token authentication, and RFC 7617). None of it is ever shown.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use hyper::body::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use tokio::sync::OnceCell;

use super::challenge::Challenge;
use super::error::{Failure, Problem};
use super::http::{Answer, Content, Http, Outgoing, follow, watch};
use crate::cancel::Cancel;

/// A token's answer is smaller than this, in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// How long a token lives if nothing is said (token authentication, "Token Response Fields").
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A credential helper that takes longer than this is waiting for somebody who is not there.
const MAX_HELPER: Duration = Duration::from_secs(60);

/// The value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorization(String);

impl Authorization {
    fn basic(user: &str, password: &str) -> Authorization {
        Authorization(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    /// The header; one with characters that no header may hold is as good as none.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How a registry wants to be asked, as far as is known.
#[derive(Clone, Debug)]
enum Scheme {
    Open,
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Debug)]
struct Token {
    authorization: Authorization,
    /// When another one is asked for before this one is used.
    until: Instant,
}

/// What is known of who we are to one registry.
#[derive(Debug)]
pub(super) struct Identity {
    /// The registry as people write it, which is what credentials are kept under.
    host: String,
    /// Where its interface is.
    api_host: String,
    /// The directory of docker's `config.json`.
    docker_config: Option<PathBuf>,
    credential: OnceCell<Option<Credential>>,
    scheme: Mutex<Scheme>,
    /// By scopes. Held while one is fetched, so that whoever else wants it waits.
    tokens: tokio::sync::Mutex<HashMap<Vec<String>, Token>>,
}

struct Credential(DockerCredential);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Identity {
    pub(super) fn new(host: String, api_host: String, docker_config: Option<PathBuf>) -> Identity {
        Identity {
            host,
            api_host,
            docker_config,
            credential: OnceCell::new(),
            scheme: Mutex::new(Scheme::Open),
            tokens: tokio::sync::Mutex::default(),
        }
    }

    /// Takes note of how the registry wants to be asked.
    pub(super) fn learn(&self, challenges: &[Challenge]) {
        let bearer = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let scheme = match bearer.or(challenges.first()) {
            Some(Challenge::Bearer { realm, service }) => Scheme::Bearer {
                realm: realm.clone(),
                service: service.clone(),
            },
            Some(Challenge::Basic) => Scheme::Basic,
            None => return,
        };
        *self.scheme.lock().expect("never poisoned") = scheme;
    }

    /// What to send with a request that needs `scopes`; nothing to a registry that is open to all.
    pub(super) async fn authorization(
        &self,
        http: &Http,
        base: &Url,
        scopes: &[String],
        cancel: &Cancel,
    ) -> Result<Option<Authorization>, Problem> {
        self.authorize(http, base, scopes, None, cancel).await
    }

    /// What to send after a request with `used` was answered with 401 and `challenges`; nothing if there is
    /// nothing better, so that the permission is missing.
    pub(super) async fn renewed(
        &self,
        http: &Http,
        base: &Url,
        scopes: &[String],
        used: Option<&Authorization>,
        challenges: &[Challenge],
        cancel: &Cancel,
    ) -> Result<Option<Authorization>, Problem> {
        // Gitea asks for user and password where a token's permissions are not enough.
        let asks_for_token = challenges
            .iter()
            .any(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        if used.is_some() && !asks_for_token {
            return Ok(None);
        }
        self.learn(challenges);
        let fresh = self.authorize(http, base, scopes, used, cancel).await?;
        Ok(fresh.filter(|fresh| Some(fresh) != used))
    }

    async fn authorize(
        &self,
        http: &Http,
        base: &Url,
        scopes: &[String],
        stale: Option<&Authorization>,
        cancel: &Cancel,
    ) -> Result<Option<Authorization>, Problem> {
        let scheme = self.scheme.lock().expect("never poisoned").clone();
        let (realm, service) = match scheme {
            Scheme::Open => return Ok(None),
            Scheme::Basic => {
                let credential = self.credential(cancel).await?;
                return Ok(match credential {
                    Some(DockerCredential::UsernamePassword(user, password)) => {
                        Some(Authorization::basic(user, password))
                    }
                    _ => None,
                });
            }
            Scheme::Bearer { realm, service } => (realm, service),
        };
        let mut tokens = watch(cancel, self.tokens.lock()).await?;
        if let Some(token) = tokens.get(scopes)
            && token.until > Instant::now()
            && Some(&token.authorization) != stale
        {
            return Ok(Some(token.authorization.clone()));
        }
        let realm = follow(base, Some(&realm))?;
        let token = self.fetch_token(http, realm, service, scopes, cancel).await?;
        let authorization = token.authorization.clone();
        tokens.insert(scopes.to_vec(), token);
        Ok(Some(authorization))
    }

    async fn fetch_token(
        &self,
        http: &Http,
        realm: Url,
        service: Option<String>,
        scopes: &[String],
        cancel: &Cancel,
    ) -> Result<Token, Problem> {
        let credential = self.credential(cancel).await?;
        let mut attempt = 1;
        loop {
            let (outgoing, basic) = token_request(credential, &realm, service.as_deref(), scopes);
            let basic = basic.map(|basic| basic.header());
            let problem = match http.send(outgoing, basic, cancel).await {
                Ok(answer) if answer.is_success() => return read_token(&answer),
                Ok(answer) if matches!(answer.status, 400 | 401 | 403) => {
                    self.denied(&answer, cancel).await?.into()
                }
                Ok(answer) => answer.failure().into(),
                Err(problem) => problem,
            };
            http.pause(&mut attempt, problem, cancel).await?;
        }
    }

    /// Says that an answer means that we may not.
    pub(super) async fn denied(&self, answer: &Answer, cancel: &Cancel) -> Result<Failure, Problem> {
        let (host, reported) = (&self.host, answer.reported());
        let remedy = match self.credential(cancel).await? {
            // Gitea says so after the upload, with the status of a missing permission.
            _ if ["quota", "exceeded"]
                .iter()
                .any(|word| reported.message.contains(word)) =>
            {
                format!("make room at `{host}`, or have the limit raised")
            }
            None => {
                format!("there are no credentials for `{host}`: `docker login {host}`, or set DOCKER_CONFIG")
            }
            Some(_) => format!(
                "the credentials for `{host}` are wrong or not enough: `docker login {host}` as somebody who \
                 may do this; a token of Gitea needs the scope `write:package`"
            ),
        };
        Ok(Failure::Denied {
            status: answer.status,
            reported,
            remedy,
        })
    }

    async fn credential(&self, cancel: &Cancel) -> Result<Option<&DockerCredential>, Problem> {
        let read = async {
            let Some(directory) = self.docker_config.clone() else {
                return Ok(None);
            };
            let (host, resolved) = (self.host.clone(), self.api_host.clone());
            let reading = tokio::task::spawn_blocking(move || {
                read_credential(&directory.join("config.json"), [&host, &resolved])
            });
            let read = tokio::time::timeout(MAX_HELPER, reading).await;
            match read {
                Ok(Ok(read)) => read,
                Ok(Err(_)) => Err("reading them failed".to_owned()),
                Err(_) => Err("the credential helper does not answer".to_owned()),
            }
        };
        let read = watch(cancel, self.credential.get_or_try_init(|| read)).await?;
        match read {
            Ok(credential) => Ok(credential.as_ref().map(|Credential(credential)| credential)),
            Err(reason) => Err(Problem::Credentials {
                host: self.host.clone(),
                reason,
            }),
        }
    }
}

/// What docker may have written down a host as, the plain name first.
fn keys(hosts: [&str; 2]) -> Vec<String> {
    let forms = |host: &str| {
        let address = format!("https://{host}");
        [
            host.to_owned(),
            address.clone(),
            format!("{address}/v1/"),
            format!("{address}/v2/"),
        ]
    };
    let [written, resolved] = hosts;
    let resolved = (resolved != written).then(|| forms(resolved));
    forms(written)
        .into_iter()
        .chain(resolved.into_iter().flatten())
        .collect()
}

/// The user and the password that docker's configuration has for a registry: what its nodes pull with. `None` if it has
/// none.
pub fn credential(settings: &super::Settings, host: &str) -> Result<Option<(String, String)>, String> {
    let Some(directory) = &settings.docker_config else {
        return Ok(None);
    };
    let found = read_credential(&directory.join("config.json"), [host, host])?;
    Ok(found.and_then(|Credential(credential)| match credential {
        DockerCredential::UsernamePassword(user, password) => Some((user, password)),
        DockerCredential::IdentityToken(_) => None,
    }))
}

fn read_credential(config: &Path, hosts: [&str; 2]) -> Result<Option<Credential>, String> {
    let bytes = match std::fs::read(config) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("`{}`: {error}", config.display())),
    };
    for key in keys(hosts) {
        use CredentialRetrievalError as E;
        let reason = match docker_credential::get_credential_from_reader(&bytes[..], &key) {
            Ok(DockerCredential::UsernamePassword(user, _)) if user.is_empty() => continue,
            Ok(credential) => return Ok(Some(Credential(credential))),
            Err(E::NoCredentialConfigured | E::ConfigNotFound) => continue,
            // Docker's helpers say it so, on their standard output.
            Err(E::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => continue,
            Err(E::HelperFailure { helper, .. }) => format!("the helper `{helper}` failed"),
            Err(E::HelperCommunicationError) => "its credential helper cannot be run".to_owned(),
            Err(E::MalformedHelperResponse) => "its credential helper's answer makes no sense".to_owned(),
            Err(E::CredentialDecodingError | E::CredentialMismatchError) => {
                format!("the entry for `{key}` is malformed")
            }
            Err(E::ConfigReadError) => "it is not the json that docker writes".to_owned(),
        };
        return Err(format!("`{}`: {reason}", config.display()));
    }
    Ok(None)
}

fn token_request(
    credential: Option<&DockerCredential>,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
) -> (Outgoing, Option<Authorization>) {
    let mut url = realm.clone();
    let mut outgoing = Outgoing {
        method: Method::GET,
        url: realm.clone(),
        headers: Vec::new(),
        content: Content::Empty,
        max: MAX_TOKEN,
        into: None,
    };
    if let Some(DockerCredential::IdentityToken(token)) = credential {
        // An address serves to encode a form (OAuth2, RFC 6749, section 6).
        url.set_query(None);
        url.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "skep")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", token);
        let form = url.query().unwrap_or_default().to_owned();
        outgoing.method = Method::POST;
        outgoing.headers.push((
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        ));
        outgoing.content = Content::Bytes(Bytes::from(form));
        return (outgoing, None);
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
    }
    outgoing.url = url;
    let basic = match credential {
        Some(DockerCredential::UsernamePassword(user, password)) => {
            Some(Authorization::basic(user, password))
        }
        _ => None,
    };
    (outgoing, basic)
}

fn read_token(answer: &Answer) -> Result<Token, Problem> {
    #[derive(serde::Deserialize)]
    struct Body {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let body: Option<Body> = serde_json::from_slice(&answer.body).ok();
    let (token, life) = body
        .and_then(|body| Some((body.token.or(body.access_token)?, body.expires_in)))
        .filter(|(token, _)| !token.is_empty())
        .ok_or_else(|| Problem::answer("there is no token in it"))?;
    let life = life.map_or(DEFAULT_LIFE, Duration::from_secs);
    // Some of its life passes on the way; a clock's error must not make it useless at once.
    let life = (life - life / 5).clamp(Duration::from_secs(1), Duration::from_secs(24 * 3600));
    Ok(Token {
        authorization: Authorization(format!("Bearer {token}")),
        until: Instant::now() + life,
    })
}
