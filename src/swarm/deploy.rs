//! How many of a service run, where, with what, and how they are replaced.

use std::collections::HashMap;

use bollard::models::{
    GenericResourcesInner, GenericResourcesInnerDiscreteResourceSpec, Limit, Platform, ResourceObject,
    ServiceSpecMode, ServiceSpecModeReplicated, ServiceSpecModeReplicatedJob, ServiceSpecRollbackConfig,
    ServiceSpecUpdateConfig, TaskSpecPlacement, TaskSpecPlacementPreferences, TaskSpecPlacementSpread,
    TaskSpecResources, TaskSpecRestartPolicy,
};

use super::spec::{Error, PinnedImage, Source, list, nanos, number};
use crate::stack::{Deploy, Mode, Placement, Resources};

pub(super) fn mode(deploy: &Deploy) -> ServiceSpecMode {
    let replicas = deploy.replicas.map(number);
    match deploy.mode {
        Mode::Replicated => ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas }),
            ..ServiceSpecMode::default()
        },
        Mode::Global => ServiceSpecMode {
            global: Some(HashMap::new()),
            ..ServiceSpecMode::default()
        },
        Mode::ReplicatedJob => ServiceSpecMode {
            replicated_job: Some(ServiceSpecModeReplicatedJob {
                max_concurrent: replicas,
                total_completions: replicas,
            }),
            ..ServiceSpecMode::default()
        },
        Mode::GlobalJob => ServiceSpecMode {
            global_job: Some(HashMap::new()),
            ..ServiceSpecMode::default()
        },
    }
}

pub(super) fn update(source: &Source) -> Result<Option<ServiceSpecUpdateConfig>, Error> {
    let Some(update) = &source.service.deploy.update_config else {
        return Ok(None);
    };
    let action = update.failure_action;
    Ok(Some(ServiceSpecUpdateConfig {
        // Absent is 0 to the engine, and that is all at once.
        parallelism: Some(update.parallelism.map_or(1, number)),
        delay: update.delay.map(nanos),
        failure_action: action
            .map(|action| source.word("deploy.update_config.failure_action", action))
            .transpose()?,
        monitor: update.monitor.map(nanos),
        max_failure_ratio: update.max_failure_ratio,
        order: update
            .order
            .map(|order| source.word("deploy.update_config.order", order))
            .transpose()?,
    }))
}

pub(super) fn rollback(source: &Source) -> Result<Option<ServiceSpecRollbackConfig>, Error> {
    let Some(rollback) = &source.service.deploy.rollback_config else {
        return Ok(None);
    };
    let action = rollback.failure_action;
    Ok(Some(ServiceSpecRollbackConfig {
        parallelism: Some(rollback.parallelism.map_or(1, number)),
        delay: rollback.delay.map(nanos),
        failure_action: action
            .map(|action| source.word("deploy.rollback_config.failure_action", action))
            .transpose()?,
        monitor: rollback.monitor.map(nanos),
        max_failure_ratio: rollback.max_failure_ratio,
        order: rollback
            .order
            .map(|order| source.word("deploy.rollback_config.order", order))
            .transpose()?,
    }))
}

pub(super) fn restart_policy(source: &Source) -> Result<Option<TaskSpecRestartPolicy>, Error> {
    let Some(policy) = &source.service.deploy.restart_policy else {
        return Ok(None);
    };
    Ok(Some(TaskSpecRestartPolicy {
        condition: policy
            .condition
            .map(|condition| source.word("deploy.restart_policy.condition", condition))
            .transpose()?,
        delay: policy.delay.map(nanos),
        max_attempts: policy.max_attempts.map(number),
        window: policy.window.map(nanos),
    }))
}

pub(super) fn resources(resources: &Resources) -> Option<TaskSpecResources> {
    let (limits, reservations) = (&resources.limits, &resources.reservations);
    let generic = |generic: &crate::stack::Generic| GenericResourcesInner {
        discrete_resource_spec: Some(GenericResourcesInnerDiscreteResourceSpec {
            kind: Some(generic.kind.clone()),
            value: Some(number(generic.value)),
        }),
        ..GenericResourcesInner::default()
    };
    let generic: Vec<_> = reservations.generic.iter().map(generic).collect();
    Some(TaskSpecResources {
        limits: Some(Limit {
            nano_cpus: limits.nano_cpus.map(number),
            memory_bytes: limits.memory.map(number),
            pids: limits.pids.map(number),
        }),
        reservations: Some(ResourceObject {
            nano_cpus: reservations.nano_cpus.map(number),
            memory_bytes: reservations.memory.map(number),
            generic_resources: list(&generic),
        }),
        ..TaskSpecResources::default()
    })
}

pub(super) fn placement(placement: &Placement, image: &PinnedImage) -> TaskSpecPlacement {
    let spread = |label: &String| TaskSpecPlacementPreferences {
        spread: Some(TaskSpecPlacementSpread {
            spread_descriptor: Some(label.clone()),
        }),
    };
    let platform = |(os, architecture): &(String, String)| Platform {
        architecture: Some(architecture.clone()),
        os: Some(os.clone()),
    };
    TaskSpecPlacement {
        constraints: list(&placement.constraints),
        preferences: list(&placement.spread.iter().map(spread).collect::<Vec<_>>()),
        max_replicas: placement.max_replicas_per_node.map(number),
        platforms: list(&image.platforms.iter().map(platform).collect::<Vec<_>>()),
    }
}
