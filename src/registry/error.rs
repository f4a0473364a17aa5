//! What can go wrong with a registry; no message holds a credential.

use std::fmt;

use super::address::Repository;
use crate::store;

/// The longest text of a registry's own that is repeated, in characters.
const MAX_REPORTED: usize = 300;

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
    /// The http client cannot be made, for example because this machine has no certificates.
    #[error("cannot make an http client: {0}")]
    Client(String),
    /// Credentials are configured, and cannot be read.
    #[error("cannot read the credentials for `{host}`: {reason}")]
    Credentials {
        /// The registry's host.
        host: String,
        /// What is wrong, without any of their text.
        reason: String,
    },
    /// A request came to nothing.
    #[error("`{repository}`: cannot {what}: {failure}")]
    Failed {
        /// Where.
        repository: Repository,
        /// The operation, such as `upload the blob sha256:…`.
        what: String,
        /// What happened, and the remedy.
        failure: Box<Failure>,
    },
    /// The store failed; nothing of it was the registry's fault.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// How a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Credentials are missing, wrong, or not enough: 401 or 403.
    #[error("access is refused ({status}{reported}); {remedy}")]
    Denied {
        /// The status.
        status: u16,
        /// The registry's own words.
        reported: Reported,
        /// What may be done.
        remedy: String,
    },
    /// Any other status.
    #[error("the registry answers {status}{reported}")]
    Status {
        /// The status.
        status: u16,
        /// The registry's own words.
        reported: Reported,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// An upload that was begun is not known any more, or what arrived is not what was sent.
    #[error("the upload was lost on the way ({status}{reported})")]
    Torn {
        /// The status.
        status: u16,
        /// The registry's own words.
        reported: Reported,
    },
    /// The connection failed, or broke.
    #[error("{reason}{remedy}")]
    Network {
        /// What happened.
        reason: String,
        /// What may be done; begins with `; ` if there is anything.
        remedy: String,
    },
    /// The registry said something that makes no sense, or that is not done for safety.
    #[error("its answer cannot be used: {0}")]
    Answer(String),
    /// The registry has something else there.
    #[error("it holds `{got}` where `{expected}` should be")]
    Digest {
        /// `sha256:…` that was sent or asked for.
        expected: String,
        /// What the registry says.
        got: String,
    },
}

impl Failure {
    /// Whether the same request may well succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Failure::Status { status, .. } => {
                matches!(status, 408 | 425 | 429 | 500..) && !matches!(status, 501 | 505)
            }
            Failure::Network { .. } | Failure::Torn { .. } => true,
            Failure::Denied { .. } | Failure::Answer(_) | Failure::Digest { .. } => false,
        }
    }

    /// The pause that the registry asks for, in seconds.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A registry's own error code and message (specification 1.1, "Error codes"), or nothing. Shows as
/// `, CODE: message`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Such as `MANIFEST_BLOB_UNKNOWN`; empty if there was none.
    pub code: String,
    /// Its text; empty if there was none.
    pub message: String,
}

impl Reported {
    /// The first error of a body, or the beginning of a plain text. Html is dropped.
    pub(super) fn read(body: &[u8]) -> Reported {
        #[derive(serde::Deserialize)]
        struct Body {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        if let Ok(body) = serde_json::from_slice::<Body>(body) {
            let first = body.errors.into_iter().next();
            return first.map_or_else(Reported::default, |entry| Reported {
                code: plain(&entry.code),
                message: plain(&entry.message),
            });
        }
        let text = String::from_utf8_lossy(body);
        let message = match text.trim_start().starts_with(['<', '{', '[']) {
            true => String::new(),
            false => plain(&text),
        };
        Reported {
            code: String::new(),
            message,
        }
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (before, text) in [(", ", &self.code), (": ", &self.message)] {
            if !text.is_empty() {
                write!(f, "{before}{text}")?;
            }
        }
        Ok(())
    }
}

/// One short line without control characters, which a terminal might obey.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(MAX_REPORTED).collect()
}

/// Why an attempt stopped, before it is known what it was for.
#[derive(Debug)]
pub(super) enum Problem {
    Cancelled,
    Store(store::Error),
    Credentials { host: String, reason: String },
    Failure(Failure),
}

impl Problem {
    /// The error of an operation on a repository.
    pub(super) fn during(self, repository: &Repository, what: impl Into<String>) -> Error {
        match self {
            Problem::Cancelled => Error::Cancelled,
            Problem::Store(error) => Error::Store(error),
            Problem::Credentials { host, reason } => Error::Credentials { host, reason },
            Problem::Failure(failure) => Error::Failed {
                repository: repository.clone(),
                what: what.into(),
                failure: Box::new(failure),
            },
        }
    }

    pub(super) fn answer(reason: impl Into<String>) -> Problem {
        Problem::Failure(Failure::Answer(reason.into()))
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Failure(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_own_words_are_shown_and_tamed() {
        let shown = |body: &str| format!("500{}", Reported::read(body.as_bytes()));
        insta::assert_snapshot!(shown(r#"{"errors":[{"code":"UNKNOWN","message":"database is locked"}]}"#), @"500, UNKNOWN: database is locked");
        insta::assert_snapshot!(shown(r#"{"errors":[{"code":"DENIED"}]}"#), @"500, DENIED");
        insta::assert_snapshot!(shown("quota\u{1b}[31m\n exceeded"), @"500: quota [31m exceeded");
        for nothing in ["", "<html>", "{}", r#"{"errors":[]}"#, r#"{"errors":3}"#] {
            assert_eq!(shown(nothing), "500");
        }
        assert!(Reported::read(&[b'x'; 5000]).message.len() == MAX_REPORTED);
    }
}
