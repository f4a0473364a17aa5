//! Why replicas are not well, in as few words as say it: from what a Swarm says of their tasks and nodes.

use bollard::models::{self, TaskState as At};

use super::details::HEALTH;
use super::observe::state_of;
use crate::docker::Inventory;
use crate::rollout::target::{Replica, State};

/// Whether a node says of a task what it will say again: the image or something of the node is missing.
pub(super) fn is_for_good(why: &str) -> bool {
    const SIGNS: [&str; 6] = [
        "No such image",
        "manifest unknown",
        "pull access denied",
        "no matching manifest",
        "bind source path does not exist",
        "invalid mount config",
    ];
    SIGNS.iter().any(|sign| why.contains(sign))
}

pub(super) fn exit_code(task: &models::Task) -> Option<i32> {
    let code = task.status.as_ref()?.container_status.as_ref()?.exit_code?;
    i32::try_from(code).ok()
}

/// Why a task ended, in as few words as say it.
pub(super) fn why(task: &models::Task) -> String {
    let status = task.status.as_ref();
    let err = status.and_then(|status| status.err.clone()).unwrap_or_default();
    let message = status
        .and_then(|status| status.message.clone())
        .unwrap_or_default();
    if err.contains("unhealthy container") {
        return HEALTH.to_owned();
    }
    match (state_of(task), exit_code(task)) {
        (Some(At::FAILED), Some(137)) => "killed (exit code 137)".to_owned(),
        (Some(At::FAILED), Some(code)) if code != 0 && err.starts_with("task: non-zero exit") => {
            format!("exited with code {code}")
        }
        (Some(At::COMPLETE), _) => "exited with code 0".to_owned(),
        _ if !err.is_empty() => err,
        _ => message,
    }
}

/// The same, with what the service's limits have to do with it.
pub(super) fn why_of(task: &models::Task, spec: &models::ServiceSpec) -> String {
    let why = why(task);
    let limit = spec.task_template.as_ref().and_then(|template| {
        template
            .resources
            .as_ref()?
            .limits
            .as_ref()?
            .memory_bytes
            .filter(|bytes| *bytes > 0)
    });
    match limit {
        Some(limit) if why.starts_with("killed") => {
            format!(
                "{why}, most likely out of memory: its limit is {} MiB",
                limit >> 20
            )
        }
        _ => why,
    }
}

/// Why no node takes it, with the constraints that it is about.
pub(super) fn placing(err: &str, spec: &models::ServiceSpec) -> String {
    let placement = spec
        .task_template
        .as_ref()
        .and_then(|template| template.placement.as_ref());
    let constraints = placement
        .and_then(|placement| placement.constraints.clone())
        .unwrap_or_default();
    match err.contains("constraint") && !constraints.is_empty() {
        true => format!("{err}: {}", constraints.join(", ")),
        false => err.to_owned(),
    }
}

/// A replica without a node is only late while others leave, if what it lacks is what they still have.
pub(super) fn give_time(replica: &mut Replica) {
    const SIGNS: [&str; 3] = [
        "insufficient resources",
        "host-mode port",
        "max replicas per node",
    ];
    let why = replica.reason.as_deref().unwrap_or_default();
    if replica.state == State::Unplaced && SIGNS.iter().any(|sign| why.contains(sign)) {
        replica.state = State::Starting;
    }
}

/// A replica on its way out whose node does not answer stays there until somebody says that the node is dead: it may
/// still run.
pub(super) fn note_lost(replica: &mut Replica, tasks: &[&models::Task], inventory: &Inventory) {
    let task = tasks
        .iter()
        .find(|task| task.id.is_some() && task.id == replica.id);
    let (State::Stopping, Some(task)) = (replica.state, task) else {
        return;
    };
    let is_lost = |node: &&models::Node| {
        node.id == task.node_id
            && node.status.as_ref().and_then(|status| status.state) == Some(models::NodeState::DOWN)
    };
    if inventory.nodes.iter().any(|node| is_lost(&node)) {
        let node = node_name(inventory, task);
        replica.reason = Some(format!(
            "its node `{node}` does not answer, and it may still run there; if the node is dead, `docker node rm --force {node}` says so"
        ));
    }
}

pub(super) fn node_name(inventory: &Inventory, task: &models::Task) -> String {
    let node = inventory
        .nodes
        .iter()
        .find(|node| node.id.is_some() && node.id == task.node_id);
    let name = node.and_then(|node| node.description.as_ref()?.hostname.clone());
    name.or_else(|| task.node_id.clone())
        .unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rollout::swarm::observe::replica;

    #[test]
    fn only_what_others_give_up_is_waited_for() {
        let state = |why: &str| {
            let mut late = Replica {
                name: "api.1".to_owned(),
                id: None,
                revision: String::new(),
                image: String::new(),
                state: State::Unplaced,
                restarts: 0,
                reason: Some(why.to_owned()),
                lines: Vec::new(),
            };
            give_time(&mut late);
            late.state
        };
        assert_eq!(
            state("no suitable node (insufficient resources on 3 nodes)"),
            State::Starting
        );
        assert_eq!(
            state("no suitable node (scheduling constraints not satisfied on 1 node)"),
            State::Unplaced
        );
    }

    #[test]
    fn a_node_that_does_not_answer_keeps_its_replicas() {
        let task: models::Task =
            serde_json::from_value(serde_json::json!({"ID": "t", "NodeID": "n"})).unwrap();
        let reason = |state: &str| {
            let node = serde_json::json!({
                "ID": "n", "Status": {"State": state}, "Description": {"Hostname": "node-2"}
            });
            let inventory = Inventory {
                nodes: vec![serde_json::from_value(node).unwrap()],
                ..Inventory::default()
            };
            let mut leaving = replica("worker.1", &task, State::Stopping, &BTreeMap::new());
            note_lost(&mut leaving, &[&task], &inventory);
            leaving.reason.unwrap_or_default()
        };
        assert_eq!(reason("ready"), "");
        insta::assert_snapshot!(reason("down"), @"its node `node-2` does not answer, and it may still run there; if the node is dead, `docker node rm --force node-2` says so");
    }
}
