//! Image configs (OCI image specification 1.1, "Image Configuration"), as far as running needs them; and docker's
//! health checks, which that specification lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Error;
use crate::digest::Digest;

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Program and arguments that always come first.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// The environment, in the order of the names.
    pub env: BTreeMap<String, String>,
    /// `user`, `uid`, either with `:group` or `:gid`; `None` is root.
    pub user: Option<String>,
    /// Where it starts; `None` is `/`.
    pub workdir: Option<String>,
    /// Ports as `8000/tcp`.
    pub ports: BTreeSet<String>,
    /// Absolute paths whose content outlives it.
    pub volumes: BTreeSet<String>,
    /// The signal that ends it, by name or number; `None` is SIGTERM.
    pub stop_signal: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How docker would find out whether it is well.
    pub healthcheck: Option<Healthcheck>,
}

/// Docker's health check (its image specification 1.2, "Healthcheck"). What is `None` has docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, argument…]` or `["CMD-SHELL", command]`; never empty.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Option<Duration>,
    /// Of one check.
    pub timeout: Option<Duration>,
    /// In which a failure does not count yet.
    pub start_period: Option<Duration>,
    /// Failures in a row until it is unwell.
    pub retries: Option<u32>,
}

/// A whole config.
#[derive(Debug)]
pub(super) struct Document {
    /// Such as `linux/amd64`.
    pub platform: String,
    /// What the layers unpack to, the lowest first.
    pub diff_ids: Vec<String>,
    pub config: Config,
}

impl Config {
    /// Reads the config `digest`. Fields that it does not know are ignored: others may add to it.
    pub(super) fn read(bytes: &[u8], digest: &Digest) -> Result<Document, Error> {
        let raw: RawDocument = serde_json::from_slice(bytes).map_err(|error| Error::Malformed {
            image: digest.oci(),
            reason: format!("its config is malformed: {error}"),
        })?;
        Ok(Document {
            platform: format!("{}/{}", raw.os, raw.architecture),
            diff_ids: raw.rootfs.diff_ids,
            config: raw.config.unwrap_or_default().into(),
        })
    }
}

#[derive(serde::Deserialize)]
struct RawDocument {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(serde::Deserialize)]
struct RawRootfs {
    diff_ids: Vec<String>,
}

/// Any field may be absent or null.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<RawHealthcheck>,
}

/// Durations are nanoseconds; 0 is the default.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    retries: u32,
}

impl From<RawConfig> for Config {
    fn from(raw: RawConfig) -> Config {
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let names = |map: Option<BTreeMap<String, serde::de::IgnoredAny>>| {
            map.unwrap_or_default().into_keys().collect()
        };
        let env = raw.env.unwrap_or_default().into_iter();
        let env = env.map(|variable| match variable.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (variable, String::new()),
        });
        Config {
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            env: env.collect(),
            user: said(raw.user),
            workdir: said(raw.working_dir),
            ports: names(raw.exposed_ports),
            volumes: names(raw.volumes),
            stop_signal: said(raw.stop_signal),
            labels: raw.labels.unwrap_or_default(),
            healthcheck: raw.healthcheck.and_then(Healthcheck::of),
        }
    }
}

impl Healthcheck {
    /// An empty test inherits that of a base image, which nobody has any more: there is none.
    fn of(raw: RawHealthcheck) -> Option<Healthcheck> {
        let duration = |nanos| Some(Duration::from_nanos(nanos)).filter(|duration| !duration.is_zero());
        Some(Healthcheck {
            test: raw.test.filter(|test| !test.is_empty())?,
            interval: duration(raw.interval),
            timeout: duration(raw.timeout),
            start_period: duration(raw.start_period),
            retries: Some(raw.retries).filter(|retries| *retries > 0),
        })
    }
}
