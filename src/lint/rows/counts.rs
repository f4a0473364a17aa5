//! How many of a service there are, now and while it is replaced: singletons, connections, volumes of one node.

use crate::lint::{Found, Inputs};
use crate::stack::{Mode, MountSource, Order, Service, Volume};

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
