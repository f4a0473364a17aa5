//! Lock files for Debian: from a mirror's metadata to the packages that a request comes to.
//!
//! What is trusted: the suite's `InRelease`, whose SHA-256 sums vouch for `Packages`, which vouches for each
//! package. `InRelease` is checked with `gpgv` against the key ring that apt's configuration names, or the
//! system's Debian key rings. Where there is no `gpgv` or no key ring, it is trusted for having come over
//! https, with a warning, and refused over plain http. Nothing is trusted later: a lock pins SHA-256 sums,
//! and a fetch takes nothing else. A mirror that shows an old state is not noticed (`Valid-Until` is not
//! read); the lock file shows what was taken.

pub(super) mod control;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod packages;
mod relation;
mod release;
mod resolve;
mod signature;
mod version;

use crate::cancel::Cancel;
use crate::event::Events;
use crate::fetch::config::apt::Mirror;
use crate::fetch::error::Error;
use crate::fetch::http::{Http, redact};
use crate::fetch::registry::{Locator, blocking};
use crate::lock::{DebianLock, DebianRequest};
use crate::store::Store;

/// Why a request has no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A request that no mirror could answer.
    #[error("`{what}` is not {expected}")]
    Request {
        /// What it asks for.
        what: String,
        /// What it should be.
        expected: &'static str,
    },
    /// No mirror that is configured has the suite.
    #[error(
        "no configured mirror has the suite `{0}`; name one in skep.toml\n\n    [registries]\n    debian = \"https://…\"\n"
    )]
    NoMirror(String),
    /// A mirror's metadata is malformed, or not signed by a known key.
    #[error("`{url}`: {reason}")]
    Metadata {
        /// The file.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A package that is not there, and why it is needed.
    #[error("{chain} needs `{wanted}`, which {suite} does not have{hint}")]
    Unsatisfied {
        /// Who needs it, and who needs that one.
        chain: String,
        /// The dependency as its package writes it.
        wanted: String,
        /// The suite and the architecture.
        suite: String,
        /// What else there is.
        hint: String,
    },
    /// Two packages that may not be installed together.
    #[error("`{one}` and `{other}` cannot be installed together: {one} says `{relation}`")]
    Conflict {
        /// The one that says so.
        one: String,
        /// The other.
        other: String,
        /// The field and its value.
        relation: String,
    },
}

/// Answers a request: from the first mirror of its suite that can.
pub(super) async fn lock(
    locator: &Locator,
    http: &Http,
    store: &Store,
    events: &Events,
    request: &DebianRequest,
    cancel: &Cancel,
) -> Result<DebianLock, Error> {
    check(request)?;
    let mirrors = locator.mirrors().await?.iter();
    let mirrors: Vec<&Mirror> = mirrors.filter(|mirror| mirror.has(&request.suite)).collect();
    let mut failed = None;
    for mirror in mirrors {
        let source = release::Suite {
            locator,
            http,
            store,
            events,
            mirror,
            request,
        };
        match source.packages(cancel).await {
            Ok(text) => {
                let request = request.clone();
                let lock = blocking(move || resolve::resolve(&text, &request)).await?;
                return Ok(lock);
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                let url = redact(&mirror.base.url);
                events.warn(format!(
                    "passed over the mirror `{url}` for `{}`: {error}",
                    request.suite
                ));
                failed.get_or_insert(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| LockError::NoMirror(request.suite.clone()).into()))
}

/// What goes into addresses and into lookups must look like what it is.
fn check(request: &DebianRequest) -> Result<(), LockError> {
    let word = |text: &str, more: &[u8]| {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte);
        text.len() >= 2 && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(known)
    };
    if !word(&request.suite, b"-.") {
        return Err(LockError::Request {
            what: request.suite.clone(),
            expected: "a suite such as `bookworm`",
        });
    }
    let mut names = request.packages.iter().chain(&request.exclude);
    match names.find(|name| !word(name, b"+-.")) {
        None => Ok(()),
        Some(name) => Err(LockError::Request {
            what: name.clone(),
            expected: "the name of a Debian package",
        }),
    }
}
