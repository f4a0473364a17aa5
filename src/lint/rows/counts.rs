//! How many of a service there are, now and while it is replaced: singletons, connections, volumes of one node.

use crate::lint::{Found, Inputs};
use crate::stack::{Mode, MountSource, Order, PortMode, Service, Volume};

/// How many replicas, and how many more while they are replaced; `None` where the nodes decide.
fn replicas(service: &Service) -> Option<(u64, u64)> {
    if matches!(service.deploy.mode, Mode::Global | Mode::GlobalJob) {
        return None;
    }
    let replicas = service.deploy.replicas.unwrap_or(1);
    let update = service.deploy.update_config.as_ref();
    let surge = match update.filter(|update| update.order == Some(Order::StartFirst)) {
        None => 0,
        Some(update) => match update.parallelism.unwrap_or(1) {
            0 => replicas,
            parallelism => parallelism.min(replicas),
        },
    };
    Some((replicas, surge))
}

/// Services of `rules.singletons` never run twice, not even while they are replaced.
pub(crate) fn singleton(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let services = &inputs.reading.stack.services;
    for (name, service) in services {
        if !inputs.environment.rules.singletons.contains(name) {
            continue;
        }
        let replicas = service.deploy.replicas.unwrap_or(1);
        match replicas {
            _ if matches!(service.deploy.mode, Mode::Global | Mode::GlobalJob) => found.of_service(
                name,
                "deploy.mode",
                format!("`{name}` runs once at most, and here once on each node"),
                "write `mode: replicated` with one replica",
            ),
            0 | 1 => {}
            _ => found.of_service(
                name,
                "deploy.replicas",
                format!("`{name}` runs once at most, and here {replicas} times"),
                "write `replicas: 1`",
            ),
        }
        let ways = [
            ("update_config", &service.deploy.update_config),
            ("rollback_config", &service.deploy.rollback_config),
        ];
        for (key, way) in ways {
            if way.as_ref().and_then(|way| way.order) == Some(Order::StartFirst) {
                found.of_service(
                    name,
                    &format!("deploy.{key}.order"),
                    format!(
                        "`{name}` runs once at most, and `start-first` starts the new one beside the old one"
                    ),
                    "write `order: stop-first`",
                );
            }
        }
    }
}

/// All replicas together, and those that overlap while they are replaced, stay under `rules.connections.limit`.
pub(crate) fn connections(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let Some(rule) = &inputs.environment.rules.connections else {
        return;
    };
    let mut total: u64 = 0;
    let mut parts = Vec::new();
    let mut first = None;
    for (name, service) in &inputs.reading.stack.services {
        let Some(value) = service.environment.get(&rule.variable) else {
            continue;
        };
        let each = match value.trim().parse::<u64>() {
            Ok(each @ 1..) => each,
            _ => {
                found.of_variable(
                    name,
                    &rule.variable,
                    format!("`{}` of `{name}` is `{value}`, and bounds nothing", rule.variable),
                    "write a number from 1",
                );
                continue;
            }
        };
        let Some((replicas, surge)) = replicas(service) else {
            found.of_service(
                name,
                "deploy.mode",
                format!("`{name}` opens {each} connections on each node, however many there are"),
                "write `mode: replicated`, or take the database away from it",
            );
            continue;
        };
        total = total.saturating_add((replicas + surge).saturating_mul(each));
        parts.push(match surge {
            0 => format!("`{name}` {replicas} × {each}"),
            _ => format!("`{name}` ({replicas} + {surge} while it is replaced) × {each}"),
        });
        first.get_or_insert(name);
    }
    if let Some(name) = first.filter(|_| total >= u64::from(rule.limit)) {
        found.of_variable(
            name,
            &rule.variable,
            format!(
                "services may open {total} connections, and {} are too many: {}",
                rule.limit,
                parts.join(", ")
            ),
            format!("lower `{}`, or have fewer replicas", rule.variable),
        );
    }
}

/// Replicas on several nodes do not see each other's volumes.
pub(crate) fn local_volume(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let stack = &inputs.reading.stack;
    for (name, service) in &stack.services {
        let several = replicas(service).is_some_and(|(replicas, _)| replicas > 1);
        if !several || stays_on_one_node(service) {
            continue;
        }
        for (index, mount) in service.volumes.iter().enumerate() {
            let MountSource::Volume {
                name: Some(volume), ..
            } = &mount.source
            else {
                continue;
            };
            if stack.volumes.get(volume).is_some_and(is_local) {
                let replicas = service.deploy.replicas.unwrap_or(1);
                found.of_service(
                    name,
                    &format!("volumes[{index}]"),
                    format!("`{name}` has {replicas} replicas, and each node has a volume `{volume}` of its own"),
                    "keep the files in shared storage, write `replicas: 1`, or keep it on one node with a constraint on `node.hostname`",
                );
            }
        }
    }
}

/// A volume of one node with one replica on it: the only copy, or none where the replica goes next.
pub(crate) fn single_copy(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let stack = &inputs.reading.stack;
    for (name, service) in &stack.services {
        let Some((1, _)) = replicas(service).filter(|_| service.deploy.mode == Mode::Replicated) else {
            continue;
        };
        let volume = service.volumes.iter().enumerate().find_map(|(index, mount)| {
            let MountSource::Volume { name, .. } = &mount.source else {
                return None;
            };
            let name = name.as_ref()?;
            let local = stack.volumes.get(name).is_some_and(is_local);
            (local && !mount.read_only).then_some((index, name))
        });
        let Some((index, volume)) = volume else { continue };
        let key = format!("volumes[{index}]");
        if stays_on_one_node(service) {
            let what = format!("the volume `{volume}` of `{name}` is on one node, and is lost with it");
            let remedy = "keep a copy elsewhere, and allow this with where it is";
            found.of_service(name, &key, what, remedy);
        } else {
            let what = format!("`{name}` may be moved to another node, where its volume `{volume}` is empty");
            let remedy =
                "keep it on one node with a constraint on `node.hostname`, or its files in shared storage";
            found.of_service(name, &key, what, remedy);
        }
    }
}

/// A service that others ask has an answer while it is replaced. Singletons cannot, nor what has a volume to itself.
pub(crate) fn update_gap(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        let asked = !service.ports.is_empty() || inputs.environment.probes.contains_key(name);
        let may_not = inputs.environment.rules.singletons.contains(name)
            || service
                .volumes
                .iter()
                .any(|mount| matches!(mount.source, MountSource::Volume { .. }))
            || service.ports.iter().any(|port| port.mode == PortMode::Host);
        let one = service.deploy.mode == Mode::Replicated && replicas(service) == Some((1, 0));
        if asked && one && !may_not {
            found.of_service(
                name,
                "deploy.update_config.order",
                format!("`{name}` has one replica, which ends before the next one starts"),
                "write `update_config: {order: start-first}`, or `replicas: 2`",
            );
        }
    }
}

/// The engine's own driver makes a directory of the node, unless its options mount something.
fn is_local(volume: &Volume) -> bool {
    let own = volume.driver.as_deref().is_none_or(|driver| driver == "local");
    own && !volume.external && !volume.driver_opts.contains_key("device")
}

fn stays_on_one_node(service: &Service) -> bool {
    let named = |constraint: &String| {
        let mut parts = constraint.split("==");
        let key = parts.next().unwrap_or_default().trim();
        parts.next().is_some() && matches!(key, "node.hostname" | "node.id")
    };
    service.deploy.placement.constraints.iter().any(named)
}
