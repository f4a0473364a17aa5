//! A release: images by digest, the sources that they came of, and the versions that they run with. The unit of
//! history and of rollback, and the only thing of a build that a rollout sees. Plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use crate::platform::Platform;

/// Digits of a revision in a release's id.
const REVISION_DIGITS: usize = 12;

/// What stands for a revision where the project is no git repository.
const NO_REVISION: &str = "000000000000";

/// `<12 hexadecimal digits of the revision>-<UTC yyyymmddhhmmss>`: a valid tag, and a valid part of a name on
/// every target. Releases of one second and one revision have one id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId(String);

/// Text that is no release's id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no release: expected 12 digits of a revision and a time, such as `5d00fed0a1b2-20261124230000`"
)]
pub struct ParseReleaseIdError(String);

impl ReleaseId {
    /// The id of a release of `revision`, a commit's hexadecimal digits, made at `time`.
    pub fn new(revision: Option<&str>, time: DateTime<Utc>) -> ReleaseId {
        let revision = revision.and_then(|revision| revision.get(..REVISION_DIGITS));
        let revision = revision.unwrap_or(NO_REVISION);
        ReleaseId(format!("{revision}-{}", time.format("%Y%m%d%H%M%S")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When it was made, as 14 digits in UTC.
    pub fn time(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, time)| time)
    }
}

impl FromStr for ReleaseId {
    type Err = ParseReleaseIdError;

    fn from_str(text: &str) -> Result<ReleaseId, ParseReleaseIdError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let valid = text.split_once('-').is_some_and(|(revision, time)| {
            revision.len() == REVISION_DIGITS
                && revision.bytes().all(hex)
                && time.len() == 14
                && time.bytes().all(|byte| byte.is_ascii_digit())
        });
        match valid {
            true => Ok(ReleaseId(text.to_owned())),
            false => Err(ParseReleaseIdError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = ParseReleaseIdError;

    fn try_from(text: String) -> Result<ReleaseId, ParseReleaseIdError> {
        text.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> String {
        id.0
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What runs, or ran, or will.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its name.
    pub id: ReleaseId,
    /// Images by target.
    pub images: BTreeMap<String, ReleasedImage>,
    /// What the images were built of.
    pub sources: Vec<SourceRevision>,
    /// The version of each secret, by its name in the stack file.
    pub secrets: BTreeMap<String, Version>,
    /// The version of each config, by its name in the stack file.
    pub configs: BTreeMap<String, Version>,
    /// Where the schema stands, if the release migrated it.
    pub migration: Option<Migration>,
    /// Who made it: `user@host`.
    pub by: String,
    /// When it was made.
    pub at: DateTime<Utc>,
}

/// An image that a registry or the store has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasedImage {
    /// Where it is, without tag and digest, such as `git.example/team/app-api`.
    pub repository: String,
    /// `sha256:…` of the index, or of the manifest if it is for one platform.
    pub digest: String,
    /// `sha256:…` of the manifest for each platform.
    pub platforms: BTreeMap<Platform, String>,
}

/// What stands for the digest of an image that is planned with before it is built.
const NOT_BUILT: &str = "not built yet";

impl ReleasedImage {
    /// An image that will be there, for a plan.
    pub fn not_built(repository: String) -> ReleasedImage {
        ReleasedImage {
            repository,
            digest: NOT_BUILT.to_owned(),
            platforms: BTreeMap::new(),
        }
    }

    /// Whether there is such an image.
    pub fn is_built(&self) -> bool {
        self.digest != NOT_BUILT
    }

    /// `repository@sha256:…`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// A repository's state at the time of a release.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRevision {
    /// The project's name.
    pub name: String,
    /// The commit's hexadecimal digits; absent without git.
    pub commit: Option<String>,
    /// Whether the work tree differed from it.
    pub dirty: bool,
}

/// One version of a secret or a config: an object on the target that never changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// The version of `name` that came with `release`: `<stack>_<name>_<release>`.
    pub fn new(stack: &str, name: &str, release: &ReleaseId) -> Version {
        Version(format!("{stack}_{name}_{release}"))
    }

    /// The version that an object's name on a target stands for.
    pub fn of(name: &str) -> Version {
        Version(name.to_owned())
    }

    /// The object's name on the target.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The schema's version, as the migration's own tool counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// Before; absent where it could not be read.
    pub before: Option<u64>,
    /// After; absent where it could not be read.
    pub after: Option<u64>,
}

impl Release {
    /// Whether `other` would run the same: what differs is its name, who made it, when, and where the schema stood.
    pub fn runs_like(&self, other: &Release) -> bool {
        self.images == other.images && self.secrets == other.secrets && self.configs == other.configs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_tags_with_revision_and_time() {
        let time = DateTime::from_timestamp(1_795_561_200, 0).unwrap();
        let id = ReleaseId::new(Some("5d00fed0a1b2c3d4e5f6"), time);
        assert_eq!(id.as_str(), "5d00fed0a1b2-20261124230000");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(ReleaseId::new(None, time).as_str(), "000000000000-20261124230000");
        let version = Version::new("honeydue", "secret_key", &id);
        assert_eq!(
            version.as_str(),
            "honeydue_secret_key_5d00fed0a1b2-20261124230000"
        );
        for text in [
            "",
            "latest",
            "5d00fed0a1b2",
            "5D00fed0a1b2-20261124230000",
            "5d00fed0a1b2-2026112423000x",
        ] {
            assert!(text.parse::<ReleaseId>().is_err(), "{text}");
        }
    }
}
