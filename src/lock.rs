//! Lock files of skep's own making: which Debian packages a set of names comes to, pinned by SHA-256.
//!
//! A lock is TOML, one file per architecture, written by `skep lock` and read by recipes. It repeats the
//! request that it answers, so that a recipe that asks for something else finds it out of date.

use crate::platform::Arch;
use crate::tree::TreePath;

/// What a recipe wants of Debian, and where the answer is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianRequest {
    /// The suite, such as `bookworm`.
    pub suite: String,
    /// The architecture.
    pub arch: Arch,
    /// Names of packages; what they depend on is added.
    pub packages: Vec<String>,
    /// Names that are never added, whatever depends on them.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// A lock file that `skep lock` refreshes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct LockRequest {
    /// The lock file, from the project's root.
    pub file: TreePath,
    /// What it answers.
    pub request: DebianRequest,
}

/// The packages that answer a request, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianLock {
    /// What was asked.
    pub request: DebianRequest,
    /// The answer.
    #[serde(default, rename = "package")]
    pub packages: Vec<DebianPackage>,
}

/// One pinned binary package.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianPackage {
    /// Its name.
    pub name: String,
    /// Its version, with epoch and revision.
    pub version: String,
    /// The architecture in its metadata: the request's, or `all`.
    pub architecture: String,
    /// Its `Filename` below the mirror's root, such as `pool/main/t/tzdata/tzdata_….deb`.
    pub path: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Size of the file, in bytes.
    pub size: u64,
}

const HEADER: &str = "# Written by `skep lock`; edit the recipe and run it again.\n\n";

impl DebianLock {
    /// The file's text.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("plain data encodes");
        format!("{HEADER}{body}")
    }

    /// Reads a lock file; the error has the line and column.
    pub fn from_toml(text: &str) -> Result<DebianLock, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_round_trip() {
        let lock = DebianLock {
            request: DebianRequest {
                suite: "bookworm".into(),
                arch: Arch::Arm64,
                packages: vec!["tzdata".into()],
                exclude: vec!["debconf".into()],
            },
            packages: vec![DebianPackage {
                name: "tzdata".into(),
                version: "2024a-0".into(),
                architecture: "all".into(),
                path: "pool/main/t/tzdata/tzdata_2024a-0_all.deb".into(),
                sha256: "0".repeat(64),
                size: 1,
            }],
        };
        assert_eq!(DebianLock::from_toml(&lock.to_toml()).unwrap(), lock);
        assert!(DebianLock::from_toml("x = 1").is_err());
    }
}
