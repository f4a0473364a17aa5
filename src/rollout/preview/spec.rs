//! From a service of the stack file and its image to what a supervisor starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::user;
use crate::image::account::Account;
use crate::release::{Release, Version};
use crate::rollout::target::Error;
use crate::rootfs::{self, Root};
use crate::stack::{self, Grant, HealthTest, Service};
use crate::store::Store;
use crate::supervisor::{
    Condition, FileMount, Healthcheck, Mount, MountSource, Order, Restart, ServiceSpec, Test, Tmpfs, Update,
};

/// Where programs are looked for if neither image nor service says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Docker's defaults (its documentation of `HEALTHCHECK` and of `stop_grace_period`).
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
const START_INTERVAL: Duration = Duration::from_secs(5);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long a container that ended stays ended, as in Swarm.
const RESTART_DELAY: Duration = Duration::from_secs(5);
/// How long a new replica without a health check must run. Swarm's five seconds would be most of a preview's start.
const MONITOR: Duration = Duration::from_secs(1);

/// What is needed beside the service itself.
pub(super) struct Surroundings<'a> {
    pub store: &'a Store,
    pub release: &'a Release,
    /// The directory of the stack file, which paths in it begin at.
    pub directory: &'a Path,
}

/// What to start for `service`.
pub(super) fn spec(
    around: &Surroundings<'_>,
    name: &str,
    service: &Service,
    root: &Root,
    image: &str,
) -> Result<ServiceSpec, Error> {
    let config = &root.config;
    let wanted = service.user.as_deref().or(config.user.as_deref()).unwrap_or("0");
    let Account { uid, gid, home } = user::resolve(around.store, &root.tree, wanted)
        .map_err(|problem| Error::Refused(format!("`{name}`: {problem}")))?;
    let mut env: BTreeMap<String, String> = config.env.clone();
    env.extend(service.environment.clone());
    env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    env.entry("HOME".to_owned()).or_insert(home);
    Ok(ServiceSpec {
        image: image.to_owned(),
        root: root.tree,
        argv: argv(service, config),
        env: env.into_iter().collect(),
        cwd: service
            .working_dir
            .clone()
            .or_else(|| config.workdir.clone())
            .unwrap_or_else(|| "/".to_owned()),
        uid,
        gid,
        hostname: service
            .hostname
            .clone()
            .unwrap_or_else(|| "{service}.{slot}".to_owned()),
        stop_signal: signal(
            name,
            service.stop_signal.as_deref().or(config.stop_signal.as_deref()),
        )?,
        stop_grace: service.stop_grace_period.map_or(STOP_GRACE, |span| span.0),
        mounts: mounts(around, name, service, config),
        tmpfs: tmpfs(service),
        secrets: files(&service.secrets, &around.release.secrets, "/run/secrets"),
        configs: files(&service.configs, &around.release.configs, ""),
        networks: networks(service),
        ports: service
            .ports
            .iter()
            .map(|port| (port.published.unwrap_or(port.target), port.target))
            .collect(),
        healthcheck: healthcheck(service, config),
        restart: restart(service),
        update: update(service),
        read_only: service.read_only,
        init: service.init.unwrap_or(false),
        extra_hosts: service
            .extra_hosts
            .iter()
            .map(|host| (host.name.clone(), host.address.clone()))
            .collect(),
    })
}

fn restart(service: &Service) -> Restart {
    let policy = service.deploy.restart_policy.clone().unwrap_or_default();
    Restart {
        condition: match policy.condition {
            Some(stack::RestartCondition::None) => Condition::None,
            Some(stack::RestartCondition::OnFailure) => Condition::OnFailure,
            _ => Condition::Any,
        },
        delay: policy.delay.map_or(RESTART_DELAY, |span| span.0),
        max_attempts: policy
            .max_attempts
            .filter(|attempts| *attempts > 0)
            .map(saturated),
        window: policy.window.map_or(Duration::ZERO, |span| span.0),
    }
}

fn update(service: &Service) -> Update {
    let policy = service.deploy.update_config.clone().unwrap_or_default();
    Update {
        order: match policy.order {
            Some(stack::Order::StartFirst) => Order::StartFirst,
            _ => Order::StopFirst,
        },
        delay: policy.delay.map_or(Duration::ZERO, |span| span.0),
        monitor: policy.monitor.map_or(MONITOR, |span| span.0),
    }
}

/// How many replicas a service has here: one machine has one of a global service.
pub(super) fn replicas(service: &Service) -> u32 {
    saturated(service.deploy.replicas.unwrap_or(1))
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// An entrypoint of the service's leaves the image's arguments aside, as docker has it.
fn argv(service: &Service, config: &rootfs::Config) -> Vec<String> {
    let mut argv = match service.entrypoint.is_empty() {
        true => config.entrypoint.clone(),
        false => service.entrypoint.clone(),
    };
    match (service.command.is_empty(), service.entrypoint.is_empty()) {
        (false, _) => argv.extend(service.command.clone()),
        (true, true) => argv.extend(config.cmd.clone()),
        (true, false) => {}
    }
    argv
}

fn signal(name: &str, text: Option<&str>) -> Result<i32, Error> {
    let text = text.unwrap_or("SIGTERM");
    let known = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("TERM", 15),
        ("WINCH", 28),
    ];
    let plain = text.to_uppercase();
    let plain = plain.strip_prefix("SIG").unwrap_or(&plain);
    let by_name = known
        .iter()
        .find(|(name, _)| *name == plain)
        .map(|(_, number)| *number);
    let number = by_name.or_else(|| text.parse().ok().filter(|number| (1..=64).contains(number)));
    number.ok_or_else(|| Error::Refused(format!("`{name}`: `{text}` is no signal that ends a program")))
}

fn mounts(around: &Surroundings<'_>, name: &str, service: &Service, config: &rootfs::Config) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in &service.volumes {
        let source = match &mount.source {
            stack::MountSource::Volume {
                name: Some(volume), ..
            } => MountSource::Volume(volume.clone()),
            stack::MountSource::Volume { name: None, .. } => {
                MountSource::Volume(anonymous(name, &mount.target))
            }
            stack::MountSource::Bind { path, .. } => MountSource::Host(absolute(around.directory, path)),
            stack::MountSource::Tmpfs { .. } => continue,
        };
        mounts.push(Mount {
            source,
            at: mount.target.clone(),
            read_only: mount.read_only,
        });
    }
    // What the image calls a volume outlives its replica only if somebody asks for it; here everybody does.
    for at in &config.volumes {
        if !mounts.iter().any(|mount| mount.at == *at)
            && !service.tmpfs.iter().any(|tmpfs| tmpfs.target == *at)
        {
            mounts.push(Mount {
                source: MountSource::Volume(anonymous(name, at)),
                at: at.clone(),
                read_only: false,
            });
        }
    }
    mounts
}

/// The name of a volume that has none.
fn anonymous(service: &str, at: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    format!("{service}{}", at.chars().map(plain).collect::<String>())
}

fn absolute(directory: &Path, path: &str) -> PathBuf {
    directory.join(path)
}

fn tmpfs(service: &Service) -> Vec<Tmpfs> {
    let short = service.tmpfs.iter().map(|tmpfs| Tmpfs {
        at: tmpfs.target.clone(),
        size: tmpfs.size,
        mode: tmpfs.mode,
    });
    let long = service.volumes.iter().filter_map(|mount| match mount.source {
        stack::MountSource::Tmpfs { size } => Some(Tmpfs {
            at: mount.target.clone(),
            size,
            mode: None,
        }),
        _ => None,
    });
    short.chain(long).collect()
}

fn files(grants: &[Grant], versions: &BTreeMap<String, Version>, below: &str) -> Vec<FileMount> {
    let of = |grant: &Grant| {
        let target = grant.target.as_deref().unwrap_or(&grant.source);
        let at = match target.starts_with('/') {
            true => target.to_owned(),
            false => format!("{below}/{target}"),
        };
        versions.get(&grant.source).map(|version| FileMount {
            version: version.to_string(),
            at,
            mode: grant.mode.unwrap_or(0o444),
        })
    };
    grants.iter().filter_map(of).collect()
}

fn networks(service: &Service) -> BTreeMap<String, BTreeSet<String>> {
    if service.networks.is_empty() {
        return [("default".to_owned(), BTreeSet::new())].into();
    }
    let attached = service.networks.iter();
    attached
        .map(|(name, attachment)| (name.clone(), attachment.aliases.iter().cloned().collect()))
        .collect()
}

/// The service's check, with the image's for what it does not say.
fn healthcheck(service: &Service, config: &rootfs::Config) -> Option<Healthcheck> {
    let image = config.healthcheck.clone().unwrap_or_default();
    let own = service.healthcheck.clone().unwrap_or_default();
    let test = match own.test {
        Some(HealthTest::Disabled) => return None,
        Some(HealthTest::Command(argv)) => Test::Argv(argv),
        Some(HealthTest::Shell(line)) => Test::Shell(line),
        None => match image.test.split_first() {
            Some((word, argv)) if word == "CMD" => Test::Argv(argv.to_vec()),
            Some((word, [line])) if word == "CMD-SHELL" => Test::Shell(line.clone()),
            _ => return None,
        },
    };
    let span = |own: Option<stack::Span>, image: Option<Duration>, otherwise| {
        own.map(|span| span.0)
            .or(image)
            .filter(|span| !span.is_zero())
            .unwrap_or(otherwise)
    };
    Some(Healthcheck {
        test,
        interval: span(own.interval, image.interval, INTERVAL),
        timeout: span(own.timeout, image.timeout, TIMEOUT),
        retries: own
            .retries
            .map(saturated)
            .or(image.retries)
            .filter(|retries| *retries > 0)
            .unwrap_or(RETRIES),
        start_period: span(own.start_period, image.start_period, Duration::ZERO),
        start_interval: span(own.start_interval, None, START_INTERVAL),
    })
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
