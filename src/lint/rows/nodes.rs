//! Services and the nodes that they may come to. Judged where the target was asked; without its nodes nothing is said.

use std::collections::BTreeSet;

use crate::lint::{Found, Inputs};
use crate::stack::{Mode, Order, Port, PortMode, Service};
use crate::swarm::Node;

/// The nodes that may get tasks of a service.
fn candidates<'a>(inputs: &Inputs<'a>, service: &Service) -> Option<Vec<&'a Node>> {
    let nodes = inputs.nodes?.iter();
    let takes = |node: &&Node| node.takes(&service.deploy.placement.constraints);
    Some(nodes.filter(takes).collect())
}

/// Every image has the platform of each node that it may come to.
pub(crate) fn platforms(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        let Some(nodes) = candidates(inputs, service) else {
            continue;
        };
        let Some(has) = inputs.platforms.get(&service.image) else {
            found.unjudged(name);
            continue;
        };
        let lacking: Vec<&Node> = nodes
            .into_iter()
            .filter(|node| !has.contains(&node.platform()))
            .collect();
        let lacks: BTreeSet<String> = lacking.iter().map(|node| node.platform()).collect();
        let [first, ..] = lacking.as_slice() else { continue };
        let has: Vec<&str> = has.iter().map(String::as_str).collect();
        let lacks: Vec<&str> = lacks.iter().map(String::as_str).collect();
        found.of_service(
            name,
            "image",
            format!(
                "`{}` is for {}, and `{name}` may come to the node `{}`, which is {}",
                service.image,
                has.join(" and "),
                first.name,
                first.platform()
            ),
            format!(
                "build it for {} too, or keep `{name}` away with a constraint such as `node.platform.arch != {}`",
                lacks.join(" and "),
                first.arch
            ),
        );
    }
}

/// Every service that has replicas finds a node.
pub(crate) fn unschedulable(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        let none = candidates(inputs, service).is_some_and(|nodes| nodes.is_empty());
        if !none || service.deploy.replicas == Some(0) {
            continue;
        }
        let constraints = &service.deploy.placement.constraints;
        let what = match constraints.as_slice() {
            [] => format!("no node of the swarm is ready to take `{name}`"),
            all => format!(
                "no node that is ready has what `{name}` asks for: `{}`",
                all.join("`, `")
            ),
        };
        let remedy = "mend the constraints, or label a node with `docker node update --label-add`";
        found.of_service(name, "deploy.placement.constraints", what, remedy);
    }
}

/// A new replica that starts first finds a node where no old one holds its port.
pub(crate) fn port_deadlock(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        let update = service.deploy.update_config.as_ref();
        let starts_first = update.and_then(|update| update.order) == Some(Order::StartFirst);
        // Where none is named, each replica gets one that is free.
        let held = |port: &Port| port.mode == PortMode::Host && port.published.is_some();
        let Some(index) = service.ports.iter().position(held) else {
            continue;
        };
        let Some(nodes) = candidates(inputs, service).filter(|_| starts_first) else {
            continue;
        };
        let replicas = match service.deploy.mode {
            Mode::Global => nodes.len() as u64,
            Mode::Replicated => service.deploy.replicas.unwrap_or(1),
            Mode::ReplicatedJob | Mode::GlobalJob => continue,
        };
        if replicas > 0 && replicas >= nodes.len() as u64 {
            found.of_service(
                name,
                &format!("ports[{index}]"),
                format!(
                    "port {} of `{name}` is held on each of its {} nodes, and with `start-first` a new replica waits for it forever",
                    service.ports[index].target,
                    nodes.len()
                ),
                "write `order: stop-first`, or publish it with `mode: ingress`",
            );
        }
    }
}
