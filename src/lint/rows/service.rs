//! How services are set up: images, sockets, health checks, ports, networks, limits, and how they end.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::lint::{Found, Inputs};
use crate::project::is_tag;
use crate::rootfs::Config;
use crate::stack::{HealthCheck, HealthTest, Mode, MountSource, Service, Span};

/// Docker's, where nothing is said.
const INTERVAL: Duration = Duration::from_secs(30);
const RETRIES: u64 = 3;

/// Sockets of engines: whoever speaks to one is root of the node.
const SOCKETS: &[&str] = &[
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
];

/// What a recipe does not build is named by its digest, or `images.lock` has it.
pub(crate) fn mutable_image(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        let image = &service.image;
        if is_tag(image) {
            found.of_service(
                name,
                "image",
                format!("`{image}` may be another image tomorrow"),
                "run `skep lock`, which writes down what it is today, or write the name of a target that builds it",
            );
        }
    }
}

/// No service is given an engine's socket, or a directory with one in it. Read-only is no help: a socket is spoken to.
pub(crate) fn docker_socket(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        for (index, mount) in service.volumes.iter().enumerate() {
            let MountSource::Bind { path, .. } = &mount.source else {
                continue;
            };
            let within = SOCKETS.iter().any(|socket| Path::new(socket).starts_with(path));
            if within || path.ends_with("/docker.sock") {
                found.of_service(
                    name,
                    &format!("volumes[{index}]"),
                    format!("`{name}` is given `{path}`, and with it the engine's socket"),
                    "put a proxy in between that lets through only what the service asks for",
                );
            }
        }
    }
}

fn is_job(service: &Service) -> bool {
    matches!(service.deploy.mode, Mode::ReplicatedJob | Mode::GlobalJob)
}

/// A service's health check, as far as it is known.
enum Check<'a> {
    None,
    /// Switched off in the stack file.
    Off,
    /// The image would say it.
    Unknown,
    There(Option<&'a HealthCheck>, Option<&'a crate::rootfs::Healthcheck>),
}

fn check_of<'a>(service: &'a Service, image: Option<&'a Config>) -> Check<'a> {
    let own = service.healthcheck.as_ref();
    let of_image = image.and_then(|image| image.healthcheck.as_ref());
    let of_image = of_image.filter(|check| check.test[0] != "NONE");
    match own.and_then(|check| check.test.as_ref()) {
        Some(HealthTest::Disabled) => Check::Off,
        Some(_) => Check::There(own, of_image),
        None if image.is_none() => Check::Unknown,
        None if of_image.is_none() => Check::None,
        None => Check::There(own, of_image),
    }
}

/// Every service says how its health is asked, or its image does.
pub(crate) fn health_check(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    const REMEDY: &str = "write a `healthcheck` with a `test`";
    let services = inputs.reading.stack.services.iter();
    for (name, service) in services.filter(|(_, service)| !is_job(service)) {
        let what = match check_of(service, inputs.images.get(&service.image)) {
            Check::None => format!("neither `{name}` nor its image has a health check"),
            Check::Off => format!("the health check of `{name}` is switched off"),
            Check::Unknown => {
                found.unjudged(name);
                continue;
            }
            Check::There(..) => continue,
        };
        found.of_service(name, "healthcheck", what, REMEDY);
    }
}

/// A health check has more patience than `rules.boot` says that the service needs.
pub(crate) fn probe_budget(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        let Some(boot) = inputs.environment.rules.boot.get(name) else {
            continue;
        };
        let image = inputs.images.get(&service.image);
        let (own, of_image) = match check_of(service, image) {
            Check::There(own, of_image) => (own, of_image),
            Check::None | Check::Off => continue,
            Check::Unknown => {
                found.unjudged(name);
                continue;
            }
        };
        let own = own.cloned().unwrap_or_default();
        let is_whole = own.start_period.is_some() && own.interval.is_some() && own.retries.is_some();
        if image.is_none() && !is_whole {
            found.unjudged(name);
            continue;
        }
        let span = |own: Option<Span>, of_image: Option<Duration>| own.map(|span| span.0).or(of_image);
        let start = span(own.start_period, of_image.and_then(|check| check.start_period)).unwrap_or_default();
        let interval = span(own.interval, of_image.and_then(|check| check.interval)).unwrap_or(INTERVAL);
        let retries = own.retries.filter(|retries| *retries > 0);
        let retries = retries.or(of_image.and_then(|check| check.retries).map(u64::from));
        let retries = retries.unwrap_or(RETRIES);
        let more = interval.saturating_mul(u32::try_from(retries).unwrap_or(u32::MAX));
        let patience = start.saturating_add(more);
        if patience < boot.0 {
            let what = format!(
                "`{name}` takes up to {boot} to boot, and is given up after {}: {} and {retries} × {}",
                Span(patience),
                Span(start),
                Span(interval)
            );
            found.of_service(
                name,
                "healthcheck.start_period",
                what,
                format!("write `start_period: {boot}`"),
            );
        }
    }
}

/// Ports of a swarm listen on every address.
pub(crate) fn port_address(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        for (index, port) in service.ports.iter().enumerate() {
            if let Some(address) = &port.host_ip {
                found.of_service(
                    name,
                    &format!("ports[{index}]"),
                    format!("port {} of `{name}` is to listen on {address} only, which Swarm does not do", port.target),
                    "publish no port, and let services on its network reach it; or remove the address, and close the port in the nodes' firewall",
                );
            }
        }
    }
}

/// Networks that services share are encrypted between nodes.
pub(crate) fn encrypted_network(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    const DEFAULT: &str = "default";
    let stack = &inputs.reading.stack;
    let mut used = BTreeSet::new();
    for service in stack.services.values() {
        used.extend(service.networks.keys().map(String::as_str));
        if service.networks.is_empty() {
            used.insert(DEFAULT);
        }
    }
    for name in used {
        let network = stack.networks.get(name).cloned().unwrap_or_default();
        let is_overlay = network.driver.as_deref().is_none_or(|driver| driver == "overlay");
        let encrypted = network.driver_opts.get("encrypted");
        if network.external || !is_overlay || encrypted.is_some_and(|value| value != "false") {
            continue;
        }
        found.at(
            &format!("networks.{name}"),
            format!("the network `{name}` is not encrypted between nodes"),
            format!(
                "write `{name}: {{driver_opts: {{encrypted: \"\"}}}}` in `networks` at the top of the file"
            ),
        );
    }
}

/// Every service has a limit of memory.
pub(crate) fn memory_limit(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        if service.deploy.resources.limits.memory.is_none() {
            found.of_service(
                name,
                "deploy.resources.limits",
                format!("`{name}` has no limit of memory"),
                "write `deploy: {resources: {limits: {memory: 256M}}}` with what it needs",
            );
        }
    }
}

/// Every service says how long it has to end, and that is what `rules.stop_grace` asks for.
pub(crate) fn stop_grace(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let least = inputs.environment.rules.stop_grace;
    let services = inputs.reading.stack.services.iter();
    for (name, service) in services.filter(|(_, service)| !is_job(service)) {
        let what = match (service.stop_grace_period, least) {
            (None, _) => format!("`{name}` does not say how long it has to end, and is killed after 10s"),
            (Some(grace), Some(least)) if grace < least => {
                format!("`{name}` has {grace} to end, and {least} is the least")
            }
            _ => continue,
        };
        let wanted = least.map_or("60s".to_owned(), |least| least.to_string());
        found.of_service(
            name,
            "stop_grace_period",
            what,
            format!("write `stop_grace_period: {wanted}`"),
        );
    }
}
