//! The `deploy` section: how many of a service run, where, with what, and how they are replaced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::quantity::{self, Span};
use super::read::{Context, Value};
use super::word::words;

words! {
    /// What a service is on the target.
    pub enum Mode {
        #[default] Replicated = "replicated",
        /// One on each node.
        Global = "global",
        ReplicatedJob = "replicated-job",
        GlobalJob = "global-job",
    }
}

words! {
    /// Which of the old and the new task is there alone, or not.
    pub enum Order {
        #[default] StopFirst = "stop-first",
        StartFirst = "start-first",
    }
}

words! {
    /// What happens when an update fails.
    pub enum FailureAction {
        #[default] Pause = "pause",
        Continue = "continue",
        /// Not in `rollback_config`.
        Rollback = "rollback",
    }
}

words! {
    /// When a task that ended is started again.
    pub enum RestartCondition {
        #[default] Any = "any",
        OnFailure = "on-failure",
        None = "none",
    }
}

words! {
    /// How others find the service.
    pub enum EndpointMode {
        /// One address for all tasks.
        #[default] Vip = "vip",
        /// The tasks' addresses.
        Dnsrr = "dnsrr",
    }
}

/// How a service runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// `replicated` unless the file says otherwise.
    pub mode: Mode,
    /// `None` is 1; only where the mode is replicated.
    pub replicas: Option<u64>,
    /// Of the service.
    pub labels: BTreeMap<String, String>,
    /// How its tasks are replaced by new ones.
    pub update_config: Option<Update>,
    /// How they are replaced by previous ones.
    pub rollback_config: Option<Update>,
    /// When a task that ended is started again.
    pub restart_policy: Option<Restart>,
    /// What a task may use, and what is kept free for it.
    pub resources: Resources,
    /// On which nodes.
    pub placement: Placement,
    /// How others find it.
    pub endpoint_mode: Option<EndpointMode>,
}

/// How tasks are replaced. Each `None` is the target's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// At the same time; 0 is all.
    pub parallelism: Option<u64>,
    /// Between two.
    pub delay: Option<Span>,
    /// What happens when too many fail.
    pub failure_action: Option<FailureAction>,
    /// How long a new task is watched.
    pub monitor: Option<Span>,
    /// How many may fail, from 0 to 1.
    pub max_failure_ratio: Option<f64>,
    /// What comes first.
    pub order: Option<Order>,
}

/// When a task that ended is started again. Each `None` is the target's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// When.
    pub condition: Option<RestartCondition>,
    /// How long it waits.
    pub delay: Option<Span>,
    /// How often at most.
    pub max_attempts: Option<u64>,
    /// How long a task runs until it counts as started.
    pub window: Option<Span>,
}

/// Resources of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// At most.
    pub limits: Limits,
    /// At least.
    pub reservations: Reservations,
}

/// What a task may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Processes.
    pub pids: Option<u64>,
}

/// What is kept free for a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservations {
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// What nodes count themselves, such as GPUs.
    pub generic: Vec<Generic>,
}

/// So many of a resource that nodes count themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generic {
    /// Its name.
    pub kind: String,
    /// How many.
    pub value: u64,
}

/// On which nodes tasks run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Such as `node.role == worker`; all hold.
    pub constraints: Vec<String>,
    /// The node labels over whose values tasks are spread, the first one first.
    pub spread: Vec<String>,
    /// On one node, from 1.
    pub max_replicas_per_node: Option<u64>,
}

/// What the compose specification has here, and stack files have not.
const UNSUPPORTED: &[(&str, &str)] = &[];

pub(super) fn deploy(cx: &Context, value: Value) -> Option<Deploy> {
    if value.node.is_null() {
        return Some(Deploy::default());
    }
    let mut fields = cx.fields(value)?;
    let deploy = Deploy {
        mode: fields.take("mode", Context::word).unwrap_or_default(),
        replicas: fields.take("replicas", |cx, value| cx.number(value, 0..=1_000_000)),
        labels: fields.take("labels", Context::labels).unwrap_or_default(),
        update_config: fields.take("update_config", update),
        rollback_config: fields.take("rollback_config", rollback),
        restart_policy: fields.take("restart_policy", restart),
        resources: fields.take("resources", resources).unwrap_or_default(),
        placement: fields.take("placement", placement).unwrap_or_default(),
        endpoint_mode: fields.take("endpoint_mode", Context::word),
    };
    if deploy.replicas.is_some() && matches!(deploy.mode, Mode::Global | Mode::GlobalJob) {
        let what = format!(
            "`{}` goes with the mode `replicated` or `replicated-job`",
            fields.path_of("replicas")
        );
        cx.report(
            &fields.place_of("replicas"),
            what,
            "remove it, or change the mode",
        );
    }
    fields.finish(UNSUPPORTED);
    Some(deploy)
}

fn update(cx: &Context, value: Value) -> Option<Update> {
    let mut fields = cx.fields(value)?;
    let update = Update {
        parallelism: fields.take("parallelism", |cx, value| cx.number(value, 0..=1_000_000)),
        delay: fields.take("delay", Context::span),
        failure_action: fields.take("failure_action", Context::word),
        monitor: fields.take("monitor", Context::span),
        max_failure_ratio: fields.take("max_failure_ratio", Context::ratio),
        order: fields.take("order", Context::word),
    };
    fields.finish(&[]);
    Some(update)
}

fn rollback(cx: &Context, value: Value) -> Option<Update> {
    let (path, place) = (value.path.clone(), value.node.place.clone());
    let config = update(cx, value)?;
    if config.failure_action == Some(FailureAction::Rollback) {
        let what = format!("`{path}.failure_action` cannot be `rollback`: nothing is behind it");
        cx.report(
            &cx.place(&format!("{path}.failure_action")).unwrap_or(place),
            what,
            "write `pause` or `continue`",
        );
    }
    Some(config)
}

fn restart(cx: &Context, value: Value) -> Option<Restart> {
    let mut fields = cx.fields(value)?;
    let restart = Restart {
        condition: fields.take("condition", Context::word),
        delay: fields.take("delay", Context::span),
        max_attempts: fields.take("max_attempts", |cx, value| cx.number(value, 0..=1_000_000)),
        window: fields.take("window", Context::span),
    };
    fields.finish(&[]);
    Some(restart)
}

fn cpus(cx: &Context, value: Value) -> Option<u64> {
    let expected = "a number of processors in quotes, such as `\"0.5\"`, above 0 and with 9 digits at most";
    cx.parsed(value, expected, quantity::nano_cpus)
}

fn resources(cx: &Context, value: Value) -> Option<Resources> {
    let mut fields = cx.fields(value)?;
    let resources = Resources {
        limits: fields.take("limits", limits).unwrap_or_default(),
        reservations: fields.take("reservations", reservations).unwrap_or_default(),
    };
    fields.finish(&[]);
    Some(resources)
}

fn limits(cx: &Context, value: Value) -> Option<Limits> {
    let mut fields = cx.fields(value)?;
    let limits = Limits {
        nano_cpus: fields.take("cpus", cpus),
        memory: fields.take("memory", Context::bytes),
        pids: fields.take("pids", |cx, value| cx.number(value, 1..=4_194_304)),
    };
    fields.finish(&[]);
    Some(limits)
}

fn reservations(cx: &Context, value: Value) -> Option<Reservations> {
    let mut fields = cx.fields(value)?;
    let reservations = Reservations {
        nano_cpus: fields.take("cpus", cpus),
        memory: fields.take("memory", Context::bytes),
        generic: fields
            .take("generic_resources", |cx, value| cx.list(value, generic))
            .unwrap_or_default(),
    };
    fields.finish(&[
        ("devices", "name them in `generic_resources`"),
        ("pids", "it is a limit only"),
    ]);
    Some(reservations)
}

fn generic(cx: &Context, value: Value) -> Option<Generic> {
    let mut fields = cx.fields(value)?;
    let generic = fields.need("discrete_resource_spec", |cx, value| {
        let mut fields: Fields = cx.fields(value)?;
        let kind = fields.need("kind", Context::filled);
        let value = fields.need("value", |cx, value| cx.number(value, 0..=u64::MAX >> 1));
        fields.finish(&[]);
        Some(Generic {
            kind: kind?,
            value: value?,
        })
    });
    fields.finish(&[]);
    generic
}

fn placement(cx: &Context, value: Value) -> Option<Placement> {
    let mut fields = cx.fields(value)?;
    let constraints = fields.take("constraints", |cx, value| cx.list(value, constraint));
    let placement = Placement {
        constraints: constraints.unwrap_or_default(),
        spread: fields
            .take("preferences", |cx, value| cx.list(value, preference))
            .unwrap_or_default(),
        max_replicas_per_node: fields.take("max_replicas_per_node", |cx, value| {
            cx.number(value, 1..=1_000_000)
        }),
    };
    fields.finish(&[]);
    Some(placement)
}

/// `KEY==VALUE` or `KEY!=VALUE`; what the keys are is the target's to know.
fn constraint(cx: &Context, value: Value) -> Option<String> {
    let expected = "a constraint such as `node.role == worker`";
    cx.parsed(value, expected, |text| {
        let (key, value) = text.split_once("==").or_else(|| text.split_once("!="))?;
        (!key.trim().is_empty() && !value.trim().is_empty()).then(|| text.to_owned())
    })
}

fn preference(cx: &Context, value: Value) -> Option<String> {
    let mut fields = cx.fields(value)?;
    let spread = fields.need("spread", Context::filled);
    fields.finish(&[]);
    spread
}
