//! What a service's replicas are: plain data that a client puts, and that is kept and compared by fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Fingerprint;
use crate::tree::{Tree, TreePath};

/// The most replicas that one service may have.
pub const MAX_REPLICAS: u32 = 64;

/// The longest name of a service, task, network, volume, secret or config, in bytes.
const MAX_NAME: usize = 128;

/// Everything that a container is started from. Two replicas with the same [`ServiceSpec::fingerprint`] are
/// alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// The image's digest, `sha256:…`, or whatever else names it. Only shown.
    pub image: String,
    /// Its root file system, in the store.
    pub root: Tree,
    /// Program and arguments. A program without a slash is looked for on the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The environment; of a name that stands twice, the last one counts.
    pub env: Vec<(String, String)>,
    /// The working directory, absolute.
    pub cwd: String,
    /// The user that the program runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The host name; `{service}` and `{slot}` in it are replaced.
    pub hostname: String,
    /// The signal that asks it to end, by number.
    pub stop_signal: i32,
    /// How long it may take to end until it is killed.
    #[serde(with = "millis")]
    pub stop_grace: Duration,
    /// Volumes and directories of the host.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Where an empty file system in memory is.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Secrets as files.
    #[serde(default)]
    pub secrets: Vec<FileMount>,
    /// Configs as files.
    #[serde(default)]
    pub configs: Vec<FileMount>,
    /// The networks that it is on, and by which names beside the service's it is found there.
    #[serde(default)]
    pub networks: BTreeMap<String, BTreeSet<String>>,
    /// Ports on the host's loopback address, and where in the container they lead: there has to be a network.
    #[serde(default)]
    pub ports: BTreeMap<u16, u16>,
    /// How to tell that it works; without one, running is enough.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
    /// What happens when it ends by itself.
    pub restart: Restart,
    /// How replicas are replaced. Not part of the fingerprint: another policy replaces no replica.
    pub update: Update,
    /// Whether its root file system cannot be written.
    #[serde(default)]
    pub read_only: bool,
    /// Whether process 1 is one that reaps orphans and passes signals on.
    #[serde(default)]
    pub init: bool,
    /// Further lines of `/etc/hosts`: name and address.
    #[serde(default)]
    pub extra_hosts: Vec<(String, String)>,
}

/// Something of the host's in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where, absolute.
    pub at: String,
    /// Whether it cannot be written there.
    #[serde(default)]
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A volume of the preview's own, made when it is first used, then filled from what the image has there.
    Volume(String),
    /// A file or directory of the host, absolute.
    Host(PathBuf),
}

/// A file system in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Where, absolute.
    pub at: String,
    /// At most so many bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// The permissions of its root; 0o1777 if none are given.
    #[serde(default)]
    pub mode: Option<u32>,
}

/// One version of a secret or config, as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMount {
    /// Under which name it was put.
    pub version: String,
    /// Where, absolute.
    pub at: String,
    /// Its permissions.
    pub mode: u32,
}

/// How to tell that a container works. The meanings are docker's, and while a container is starting it is
/// asked more often than that, so that it counts as healthy as soon as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// The program to run in the container; exit code 0 is healthy.
    pub test: Test,
    /// From the end of one check to the next.
    #[serde(with = "millis")]
    pub interval: Duration,
    /// How long a check may take.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// So many failures in a row are unhealthy; at least 1.
    pub retries: u32,
    /// Until so long after the start, failures do not count.
    #[serde(with = "millis")]
    pub start_period: Duration,
    /// The interval while `start_period` lasts.
    #[serde(with = "millis")]
    pub start_interval: Duration,
}

/// The program of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Program and arguments.
    Argv(Vec<String>),
    /// A line for the container's `/bin/sh`.
    Shell(String),
}

impl Test {
    /// Program and arguments.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Test::Argv(argv) => argv.clone(),
            Test::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        }
    }
}

/// When a container that ended by itself is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// After what.
    pub condition: Condition,
    /// How long after its end. Doubled with every failure in a row, up to half a minute.
    #[serde(with = "millis")]
    pub delay: Duration,
    /// At most so often.
    #[serde(default)]
    pub max_attempts: Option<u32>,
    /// Only attempts within so long count, if it is not zero.
    #[serde(with = "millis", default)]
    pub window: Duration,
}

/// After which ends a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Every one.
    Any,
    /// Every one but exit code 0.
    OnFailure,
    /// None.
    None,
}

/// How replicas are replaced, one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Which comes first.
    pub order: Order,
    /// From one replica's success to the next one's turn.
    #[serde(with = "millis", default)]
    pub delay: Duration,
    /// How long a new replica without a health check must run until it counts as a success.
    #[serde(with = "millis", default)]
    pub monitor: Duration,
}

/// Whether the new or the old replica has its turn first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The new one starts, and the old one ends when the new one is ready.
    StartFirst,
    /// The new one starts when nothing is left of the old one.
    StopFirst,
}

/// Why a spec is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A name that cannot be one of a file.
    #[error("`{0}` is not a name: expected letters, digits, `_`, `.` and `-`, and a letter or digit first")]
    Name(String),
    /// No program.
    #[error("there is no program to start")]
    NoProgram,
    /// A path inside the container that is not absolute, or climbs.
    #[error("`{0}` is not an absolute path without `..`")]
    Path(String),
    /// Too many replicas.
    #[error("{0} replicas are more than the {MAX_REPLICAS} that a service may have")]
    Replicas(u32),
}

impl ServiceSpec {
    /// The name of everything in the spec but [`ServiceSpec::update`].
    pub fn fingerprint(&self) -> Fingerprint {
        let alike = ServiceSpec {
            update: Update {
                order: Order::StopFirst,
                delay: Duration::ZERO,
                monitor: Duration::ZERO,
            },
            ..self.clone()
        };
        let bytes = serde_json::to_vec(&alike).expect("plain data encodes");
        Fingerprint::of("skep 1 service spec", &bytes)
    }

    /// Whether replicas can be made of it, as far as can be told without looking at any file.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(SpecError::NoProgram);
        }
        let versions = self.secrets.iter().chain(&self.configs);
        let volumes = self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume(name) => Some(name),
            MountSource::Host(_) => None,
        });
        let names = versions.clone().map(|file| &file.version);
        let mut names = names.chain(volumes).chain(self.networks.keys());
        names.try_for_each(|name| check_name(name))?;
        let mut paths = versions
            .map(|file| &file.at)
            .chain(self.mounts.iter().map(|mount| &mount.at))
            .chain(self.tmpfs.iter().map(|tmpfs| &tmpfs.at))
            .chain([&self.cwd]);
        let wrong = |path: &&String| !path.starts_with('/') || path.parse::<TreePath>().is_err();
        match paths.find(wrong) {
            Some(path) => Err(SpecError::Path(path.clone())),
            None => Ok(()),
        }
    }

    /// The host name of the replica in `slot`.
    pub fn hostname(&self, service: &str, slot: u32) -> String {
        let name = self.hostname.replace("{service}", service);
        name.replace("{slot}", &slot.to_string())
    }
}

/// Whether `name` can be a file's name, and part of a container's.
pub(super) fn check_name(name: &str) -> Result<(), SpecError> {
    let word = |c: char| c.is_ascii_alphanumeric();
    let good = name.starts_with(word)
        && name.len() <= MAX_NAME
        && name.chars().all(|c| word(c) || "_.-".contains(c));
    match good {
        true => Ok(()),
        false => Err(SpecError::Name(name.to_owned())),
    }
}

/// Durations as whole milliseconds.
pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::testing;

    #[test]
    fn a_spec_is_what_it_was_after_a_round_trip() {
        let spec = testing::spec("v1");
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ServiceSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn the_fingerprint_leaves_out_how_replicas_are_replaced_and_nothing_else() {
        let spec = testing::spec("v1");
        let mut other = spec.clone();
        other.update.order = Order::StartFirst;
        assert_eq!(other.fingerprint(), spec.fingerprint());
        other.env.push(("A".to_owned(), "b".to_owned()));
        assert_ne!(other.fingerprint(), spec.fingerprint());
    }

    #[test]
    fn names_that_climb_and_paths_that_do_are_refused() {
        let mut spec = testing::spec("v1");
        assert_eq!(spec.check(), Ok(()));
        spec.cwd = "/a/../b".to_owned();
        assert_eq!(spec.check(), Err(SpecError::Path("/a/../b".to_owned())));
        spec.cwd = "/".to_owned();
        spec.secrets.push(FileMount {
            version: "../key".to_owned(),
            at: "/run/secrets/key".to_owned(),
            mode: 0o400,
        });
        assert_eq!(spec.check(), Err(SpecError::Name("../key".to_owned())));
    }
}
