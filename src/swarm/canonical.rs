//! A normal form of specs: what an engine gives back is equal to what it was sent, and nothing else is.
//!
//! An engine leaves out what says nothing, writes down some of its defaults, and calls networks by their ids. What is
//! neither said nor different is left out here, on both sides.

use bollard::models::{ServiceSpec, TaskSpec};
use serde_json::{Map, Value};

use super::{OURS, PULL};

/// The name of a network, by its id.
pub type Names<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Values that an engine of 20.10 or later has for what is absent, and writes down for some keys.
const DEFAULTS: [(&str, &str); 8] = [
    ("Isolation", "default"),
    ("Runtime", "container"),
    ("FailureAction", "pause"),
    ("Order", "stop-first"),
    ("Condition", "any"),
    ("Mode", "vip"),
    ("PublishMode", "ingress"),
    ("Protocol", "tcp"),
];

/// Where nothing is something else than zero: the key, and what it is in, if others have such a key.
const ZERO_COUNTS: [(&str, &str); 5] = [
    ("Replicas", ""),
    ("StopGracePeriod", ""),
    ("Init", ""),
    // Of a secret or config; an engine leaves out that of a tmpfs.
    ("Mode", "File"),
    ("Delay", "RestartPolicy"),
];

/// Maps whose keys and values are a user's: an empty value is one.
const TEXTS: [&str; 4] = ["Labels", "Options", "DriverOpts", "Sysctls"];

/// The normal form of a service.
pub fn canonical(spec: &ServiceSpec, names: Names<'_>) -> Value {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    normalize("", &mut value, names);
    value
}

/// The normal form of what replicas are made of, of a service or of a task; without the count of restarts.
pub fn task_template(spec: &TaskSpec, names: Names<'_>) -> Value {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    normalize("", &mut value, names);
    value
}

/// What tells one normal form from another: 16 hexadecimal digits.
pub fn revision(canonical: &Value) -> String {
    // Keys are sorted: it is the map of `serde_json` without `preserve_order`.
    blake3::hash(canonical.to_string().as_bytes()).to_hex()[..16].to_owned()
}

/// `of` is the key whose value it is.
fn normalize(of: &str, value: &mut Value, names: Names<'_>) {
    let Value::Object(fields) = value else {
        if let Value::Array(items) = value {
            items.iter_mut().for_each(|item| normalize(of, item, names));
        }
        return;
    };
    if TEXTS.contains(&of) {
        fields.retain(|key, _| of != "Labels" || key == PULL || !key.starts_with(OURS));
        return;
    }
    // Two services may differ in how often they were restarted, and in the ids that an object has.
    for key in ["ForceUpdate", "SecretID", "ConfigID"] {
        fields.remove(key);
    }
    for (key, value) in fields.iter_mut() {
        normalize(key, value, names);
        match (key.as_str(), value) {
            ("Networks", Value::Array(networks)) => {
                networks.iter_mut().for_each(|network| rename(network, names));
                networks.sort_by_key(|network| network["Target"].to_string());
            }
            ("Secrets" | "Configs", Value::Array(objects)) => {
                objects.sort_by_key(|object| format!("{} {}", object["SecretName"], object["File"]));
            }
            // Without a number it is one.
            ("Replicated", Value::Object(mode)) => drop(mode.entry("Replicas").or_insert(1.into())),
            ("ReplicatedJob", Value::Object(mode)) => {
                for key in ["MaxConcurrent", "TotalCompletions"] {
                    mode.entry(key).or_insert(1.into());
                }
            }
            // A port is nowhere before another, and docker's order of a range changes from file to file.
            ("Ports", Value::Array(ports)) => ports.sort_by_key(|port| {
                let number = |key: &str| port[key].as_u64();
                (number("PublishedPort"), number("TargetPort"), port.to_string())
            }),
            ("Aliases", Value::Array(aliases)) => aliases.sort_by_key(ToString::to_string),
            _ => {}
        }
    }
    fields.retain(|key, value| says_something(of, key, value));
}

fn rename(network: &mut Value, names: Names<'_>) {
    let name = network["Target"].as_str().and_then(names);
    if let Some(name) = name {
        network["Target"] = name.into();
    }
}

fn says_something(of: &str, key: &str, value: &Value) -> bool {
    let zero_counts = || {
        ZERO_COUNTS
            .iter()
            .any(|(name, place)| key == *name && (place.is_empty() || of == *place))
    };
    match value {
        Value::Null => false,
        Value::String(text) => {
            !text.is_empty()
                && !DEFAULTS
                    .iter()
                    .any(|(name, default)| key == *name && text == default)
        }
        Value::Array(items) => !items.is_empty(),
        // An empty `Global` is a mode all the same.
        Value::Object(fields) => !fields.is_empty() || key == "Global" || key == "GlobalJob",
        Value::Bool(value) => *value || zero_counts(),
        // Zero is all at once, and nothing is one at a time.
        Value::Number(number) if key == "Parallelism" => number.as_u64() != Some(1),
        Value::Number(number) => number.as_f64() != Some(0.0) || zero_counts(),
    }
}

/// Options of a map's normal form that are no map are of no use to a reader.
pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value) -> Value {
        let spec: ServiceSpec = serde_json::from_value(value).unwrap();
        canonical(&spec, &|id| (id == "id1").then(|| "shop_inner".to_owned()))
    }

    #[test]
    fn what_an_engine_adds_says_nothing() {
        let sent = of(json!({
            "Name": "shop_web",
            "Labels": {"a": "b"},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "web@sha256:1", "ReadOnly": false, "Secrets": [
                    {"SecretID": "", "SecretName": "shop_key", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 292}}
                ]},
                "Networks": [{"Target": "shop_inner", "Aliases": ["web"]}],
                "Placement": {}
            },
            "Mode": {"Replicated": {"Replicas": 0}},
            "UpdateConfig": {"Parallelism": 1},
            "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "Protocol": "tcp"}]}
        }));
        let back = of(json!({
            "Name": "shop_web",
            "Labels": {"a": "b", "skep.update": "null"},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "web@sha256:1", "Isolation": "default", "Secrets": [
                    {"SecretID": "xyz", "SecretName": "shop_key", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 292}}
                ]},
                "Networks": [{"Target": "id1", "Aliases": ["web"]}],
                "Resources": {"Reservations": {}}, "ForceUpdate": 3, "Runtime": "container"
            },
            "Mode": {"Replicated": {"Replicas": 0}},
            "UpdateConfig": {"Parallelism": 1, "FailureAction": "pause", "MaxFailureRatio": 0, "Order": "stop-first"},
            "EndpointSpec": {"Mode": "vip", "Ports": [
                {"TargetPort": 80, "PublishedPort": 8080, "Protocol": "tcp", "PublishMode": "ingress"}
            ]}
        }));
        assert_eq!(sent, back);
        assert_eq!(revision(&sent), revision(&back));
    }

    #[test]
    fn zeros_count_where_an_engine_keeps_them() {
        let restarts = |value: Value| of(json!({ "TaskTemplate": {"RestartPolicy": value} }));
        assert_eq!(
            restarts(json!({"Delay": 0})),
            restarts(json!({"Condition": "any", "Delay": 0, "MaxAttempts": 0}))
        );
        assert_ne!(restarts(json!({"Delay": 0})), restarts(json!(null)));
        let update = |value: Value| of(json!({ "UpdateConfig": value }));
        assert_ne!(update(json!({"Parallelism": 0})), update(json!(null)));
        assert_eq!(update(json!({"Parallelism": 1, "Delay": 0})), update(json!(null)));
        let mount = |options: Value| {
            let mount = json!({"Type": "tmpfs", "Target": "/a", "TmpfsOptions": options});
            of(json!({ "TaskTemplate": {"ContainerSpec": {"Mounts": [mount]}} }))
        };
        assert_eq!(mount(json!({"Mode": 0})), mount(json!({})));
    }

    #[test]
    fn texts_of_a_user_are_left_as_they_are() {
        for key in ["Labels", "Sysctls"] {
            let with = |value: Value| of(json!({ "TaskTemplate": {"ContainerSpec": { key: value }} }));
            assert_ne!(with(json!({"a": ""})), with(json!({})));
            // Names and values that say nothing elsewhere.
            assert_ne!(with(json!({"Protocol": "tcp"})), with(json!({})));
            assert_ne!(with(json!({"ForceUpdate": "1"})), with(json!({})));
        }
        let labels = |value: Value| of(json!({ "Labels": value }));
        assert_eq!(labels(json!({"skep.a": "b"})), labels(json!({})));
        assert_ne!(labels(json!({"skep.pull": "b"})), labels(json!({})));
    }

    #[test]
    fn what_is_different_stays_different() {
        let with = |key: &str, value: Value| of(json!({ "TaskTemplate": {"ContainerSpec": { key: value }} }));
        assert_ne!(
            with("StopGracePeriod", json!(0)),
            with("StopGracePeriod", json!(null))
        );
        assert_ne!(with("Init", json!(false)), with("Init", json!(null)));
        let restarts = |value: Value| of(json!({ "TaskTemplate": {"RestartPolicy": value} }));
        assert_ne!(
            restarts(json!({"Condition": "any", "Delay": 0})),
            restarts(json!({"Condition": "any"}))
        );
        assert_ne!(of(json!({"Mode": {"Global": {}}})), of(json!({"Mode": {}})));
    }

    #[test]
    fn a_service_without_a_number_of_replicas_has_one() {
        let replicated = |mode: Value| of(json!({ "Mode": {"Replicated": mode} }));
        assert_eq!(replicated(json!({})), replicated(json!({"Replicas": 1})));
        assert_ne!(replicated(json!({})), replicated(json!({"Replicas": 0})));
        assert_eq!(
            of(json!({"Mode": {"ReplicatedJob": {}}})),
            of(json!({"Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}}))
        );
    }

    #[test]
    fn ports_have_no_order() {
        let ports = |ports: &[Value]| of(json!({ "EndpointSpec": {"Ports": ports} }));
        let udp = json!({"TargetPort": 53, "PublishedPort": 53, "Protocol": "udp"});
        let tcp = json!({"TargetPort": 53, "PublishedPort": 53, "Protocol": "tcp"});
        let any = json!({"TargetPort": 9, "Protocol": "tcp"});
        assert_eq!(
            ports(&[udp.clone(), tcp.clone(), any.clone()]),
            ports(&[any.clone(), tcp.clone(), udp.clone()])
        );
        assert_ne!(ports(&[udp, any.clone()]), ports(&[tcp, any]));
    }
}
