//! Changes that an engine refuses, or that would wait for themselves for ever.

use bollard::models::{
    EndpointPortConfigPublishModeEnum as PublishMode, ServiceSpec, ServiceSpecUpdateConfigOrderEnum as Order,
};

/// Why `wanted` cannot take the place of `there`, or run at all; with the remedy.
pub fn impossible(name: &str, there: Option<&ServiceSpec>, wanted: &ServiceSpec) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(there) = there
        && kind(there) != kind(wanted)
    {
        found.push(format!(
            "`{name}` is {}, and cannot become {}: give it another name, or remove it first",
            kind(there),
            kind(wanted)
        ));
    }
    let update = wanted.update_config.as_ref();
    let starts_first = update.is_some_and(|update| update.order == Some(Order::START_FIRST));
    let ports = wanted
        .endpoint_spec
        .iter()
        .flat_map(|endpoint| endpoint.ports.iter().flatten());
    let host = ports
        .filter(|port| port.publish_mode == Some(PublishMode::HOST))
        .filter_map(|port| port.published_port);
    for port in host.filter(|_| starts_first) {
        found.push(format!(
            "`{name}` publishes port {port} of its node, and starts the new replica first: it would wait for the old one to give the port up; write `order: stop-first`"
        ));
    }
    found
}

fn kind(spec: &ServiceSpec) -> &'static str {
    let Some(mode) = &spec.mode else {
        return "replicated";
    };
    match () {
        () if mode.global.is_some() => "global",
        () if mode.replicated_job.is_some() => "a replicated job",
        () if mode.global_job.is_some() => "a global job",
        () => "replicated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(there: serde_json::Value, wanted: serde_json::Value) -> String {
        let there = serde_json::from_value(there).unwrap();
        impossible("web", Some(&there), &serde_json::from_value(wanted).unwrap()).join("\n")
    }

    #[test]
    fn what_an_engine_refuses_is_known_before() {
        let replicated = json!({"Mode": {"Replicated": {"Replicas": 1}}});
        assert_eq!(check(replicated.clone(), replicated.clone()), "");
        insta::assert_snapshot!(check(replicated.clone(), json!({"Mode": {"Global": {}}})), @"`web` is replicated, and cannot become global: give it another name, or remove it first");
        let port = |order: &str| {
            json!({
                "UpdateConfig": {"Order": order},
                "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]}
            })
        };
        assert_eq!(check(replicated.clone(), port("stop-first")), "");
        insta::assert_snapshot!(check(replicated, port("start-first")), @"`web` publishes port 8080 of its node, and starts the new replica first: it would wait for the old one to give the port up; write `order: stop-first`");
    }
}
