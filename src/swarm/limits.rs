//! What engines learnt over the years. An older one leaves it aside without a word, so it is looked at beforehand.

use super::spec::Error;
use crate::stack::{self, Mode, MountSource};

/// A key, since which version of the API it is known, and whether a service has it.
type Row = (&'static str, (u32, u32), fn(&stack::Service) -> bool);

const UPGRADE: &str = "remove it, or upgrade the engines";

const SINCE: &[Row] = &[
    ("init", (1, 37), |service| service.init.is_some()),
    ("credential_spec.config", (1, 40), |service| {
        matches!(service.credential_spec, Some(stack::CredentialSpec::Config(_)))
    }),
    ("sysctls", (1, 40), |service| !service.sysctls.is_empty()),
    ("deploy.placement.max_replicas_per_node", (1, 40), |service| {
        service.deploy.placement.max_replicas_per_node.is_some()
    }),
    ("ulimits", (1, 41), |service| !service.ulimits.is_empty()),
    ("cap_add", (1, 41), |service| !service.cap_add.is_empty()),
    ("cap_drop", (1, 41), |service| !service.cap_drop.is_empty()),
    ("deploy.resources.limits.pids", (1, 41), |service| {
        service.deploy.resources.limits.pids.is_some()
    }),
    ("deploy.mode", (1, 41), |service| {
        matches!(service.deploy.mode, Mode::ReplicatedJob | Mode::GlobalJob)
    }),
    ("healthcheck.start_interval", (1, 44), |service| {
        let check = service.healthcheck.as_ref();
        check.is_some_and(|check| check.start_interval.is_some())
    }),
    ("volumes", (1, 45), |service| {
        let has_subpath =
            |mount: &stack::Mount| matches!(mount.source, MountSource::Volume { subpath: Some(_), .. });
        service.volumes.iter().any(has_subpath)
    }),
    ("oom_score_adj", (1, 46), |service| {
        service.oom_score_adj.is_some()
    }),
];

/// What an engine whose API has the version `api` cannot be told of the service `name`: all of it.
pub fn unsupported(name: &str, service: &stack::Service, api: (u32, u32)) -> Vec<Error> {
    let found = SINCE
        .iter()
        .filter(|(_, since, has)| *since > api && has(service));
    let error = |(key, (major, minor), _): &Row| {
        let what = match *key {
            "volumes" => "has a `subpath`, which engines know",
            _ => "is known to engines",
        };
        let (ours, theirs) = api;
        let what = format!("{what} since version {major}.{minor} of their API; this one has {ours}.{theirs}");
        Error::new(format!("services.{name}.{key}"), what, UPGRADE)
    };
    found.map(error).collect()
}
