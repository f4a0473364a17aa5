//! A service for a person: short keys, durations and sizes in units, and no value of a variable that is secret.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::ServiceSpec;
use serde_json::{Map, Value};

use super::canonical::{Names, canonical, fields};

/// Keys whose numbers are nanoseconds.
const DURATIONS: [&str; 8] = [
    "Interval",
    "Timeout",
    "StartPeriod",
    "StartInterval",
    "StopGracePeriod",
    "Delay",
    "Monitor",
    "Window",
];

/// What a reader of a plan sees. `stand_in` says what stands for the value of a variable of `secret`.
pub fn shown(
    spec: &ServiceSpec,
    secret: &BTreeSet<String>,
    stand_in: &dyn Fn(&str) -> String,
    names: Names<'_>,
) -> Value {
    let mut service = fields(canonical(spec, names));
    service.remove("Name");
    let mut template = service.remove("TaskTemplate").map(fields).unwrap_or_default();
    let mut container = template.remove("ContainerSpec").map(fields).unwrap_or_default();
    if let Some(variables) = container.remove("Env") {
        container.insert("Env".to_owned(), environment(&variables, secret, stand_in));
    }
    for (key, name) in [("Secrets", "SecretName"), ("Configs", "ConfigName")] {
        if let Some(Value::Array(objects)) = container.get_mut(key) {
            objects
                .iter_mut()
                .for_each(|object| *object = grant(object, name));
        }
    }
    let mut shown = container;
    shown.extend(template);
    shown.extend(service);
    let mut shown = Value::Object(lower(shown));
    units(&mut shown);
    shown
}

/// `NAME=value` by name, so that one that changes is one line.
fn environment(variables: &Value, secret: &BTreeSet<String>, stand_in: &dyn Fn(&str) -> String) -> Value {
    let variables = variables
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let pair = |variable: &str| {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        let value = match secret.contains(name) {
            true => stand_in(value),
            false => value.to_owned(),
        };
        (name.to_owned(), Value::String(value))
    };
    Value::Object(variables.map(pair).collect())
}

/// `version → file`.
fn grant(object: &Value, name: &str) -> Value {
    let of = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} → {}", of(&object[name]), of(&object["File"]["Name"])).into()
}

/// Keys with a small first letter, as a stack file has them.
fn lower(fields: Map<String, Value>) -> Map<String, Value> {
    let small = |(key, value): (String, Value)| {
        let mut letters = key.chars();
        let first = letters.next().map(|letter| letter.to_ascii_lowercase());
        (first.into_iter().chain(letters).collect(), value)
    };
    fields.into_iter().map(small).collect()
}

fn units(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                units(value);
                let Some(number) = value.as_u64() else { continue };
                let is_duration = DURATIONS.iter().any(|name| name.eq_ignore_ascii_case(key));
                if is_duration {
                    *value = format!("{:?}", Duration::from_nanos(number)).into();
                } else if key == "MemoryBytes" && number % (1 << 20) == 0 {
                    *value = format!("{} MiB", number >> 20).into();
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(units),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_reads_names_units_and_no_secret() {
        let spec: ServiceSpec = serde_json::from_value(json!({
            "Name": "shop_web",
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": "web@sha256:1",
                    "Env": ["B2_APP_KEY=sesame", "PORT=8000"],
                    "StopGracePeriod": 60_000_000_000_u64,
                    "Secrets": [{"SecretID": "x", "SecretName": "shop_key_1", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 292}}]
                },
                "Resources": {"Limits": {"MemoryBytes": 67_108_864}}
            },
            "Mode": {"Replicated": {"Replicas": 2}}
        }))
        .unwrap();
        let secret = ["B2_APP_KEY".to_owned()].into();
        let shown = shown(&spec, &secret, &|_| "(secret)".to_owned(), &|_| None);
        insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
        {
          "env": {
            "B2_APP_KEY": "(secret)",
            "PORT": "8000"
          },
          "image": "web@sha256:1",
          "mode": {
            "Replicated": {
              "Replicas": 2
            }
          },
          "resources": {
            "Limits": {
              "MemoryBytes": "64 MiB"
            }
          },
          "secrets": [
            "shop_key_1 → key"
          ],
          "stopGracePeriod": "60s"
        }
        "#);
    }
}
