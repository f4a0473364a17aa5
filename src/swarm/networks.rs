//! The networks of a stack, and how a service is on them.

use std::collections::BTreeMap;

use bollard::models::{Ipam, IpamConfig, NetworkAttachmentConfig, NetworkCreateRequest};
use serde_json::Value;

use super::spec::{Source, list, map, scoped, stack_labels};
use crate::stack::{Attachment, Network, Stack};

/// The network of services that name none.
const DEFAULT: &str = "default";

/// What networks of a Swarm are made with, unless the file names another.
const OVERLAY: &str = "overlay";

/// Networks that are no stack's: they have no names of services.
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];

/// Of `service`, by the target's name.
pub(super) fn attachments(source: &Source) -> Vec<NetworkAttachmentConfig> {
    let default = BTreeMap::from([(DEFAULT.to_owned(), Attachment::default())]);
    let networks = match source.service.networks.is_empty() {
        true => &default,
        false => &source.service.networks,
    };
    let attachment = |(name, attachment): (&String, &Attachment)| {
        let target = network_name(source.around.stack_name, name, source.stack);
        let mut aliases = attachment.aliases.clone();
        if !PREDEFINED.contains(&target.as_str()) {
            aliases.push(source.name.to_owned());
        }
        NetworkAttachmentConfig {
            target: Some(target),
            aliases: list(&aliases),
            driver_opts: (!attachment.driver_opts.is_empty()).then(|| map(&attachment.driver_opts)),
        }
    };
    let mut attachments: Vec<_> = networks.iter().map(attachment).collect();
    attachments.sort_by(|a, b| a.target.cmp(&b.target));
    attachments
}

/// How the network that a stack file calls `name` is called on the engine.
pub fn network_name(stack_name: &str, name: &str, stack: &Stack) -> String {
    match stack.networks.get(name) {
        Some(Network {
            name: Some(theirs), ..
        }) => theirs.clone(),
        Some(Network { external: true, .. }) => name.to_owned(),
        _ => scoped(stack_name, name),
    }
}

/// What makes the network that a stack file calls `name`; `None` if it is external. For `default` too, also if the file
/// does not configure it: then `network` is the default.
pub fn network(stack_name: &str, name: &str, network: &Network) -> Option<NetworkCreateRequest> {
    if network.external {
        return None;
    }
    let subnet = |subnet: &String| IpamConfig {
        subnet: Some(subnet.clone()),
        ..IpamConfig::default()
    };
    let subnets: Vec<_> = network.subnets.iter().map(subnet).collect();
    let has_ipam = network.ipam_driver.is_some() || !subnets.is_empty();
    Some(NetworkCreateRequest {
        name: network.name.clone().unwrap_or_else(|| scoped(stack_name, name)),
        driver: Some(network.driver.clone().unwrap_or_else(|| OVERLAY.to_owned())),
        internal: Some(network.internal),
        attachable: Some(network.attachable),
        ipam: has_ipam.then(|| Ipam {
            driver: network.ipam_driver.clone(),
            config: list(&subnets),
            options: None,
        }),
        options: (!network.driver_opts.is_empty()).then(|| map(&network.driver_opts)),
        labels: Some(stack_labels(stack_name, &network.labels)),
        ..NetworkCreateRequest::default()
    })
}

/// Where a network that is there, as the engine describes it, is not what `wanted` would make: an engine changes none
/// of it. Labels do not count, and neither do options and addresses that it chose itself.
pub fn differences(there: &Value, wanted: &NetworkCreateRequest) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |key: &str, is: String, should: String| {
        if is != should {
            found.push(format!("`{key}` is {is}, and should be {should}"));
        }
    };
    let driver = wanted.driver.as_deref().unwrap_or(OVERLAY);
    compare("driver", text(&there["Driver"]), driver.to_owned());
    for (key, name, should) in [
        ("internal", "Internal", wanted.internal),
        ("attachable", "Attachable", wanted.attachable),
    ] {
        let is = there[name].as_bool().unwrap_or_default();
        compare(key, is.to_string(), should.unwrap_or_default().to_string());
    }
    for (option, should) in wanted.options.iter().flatten().collect::<BTreeMap<_, _>>() {
        let is = text(&there["Options"][option]);
        compare(&format!("driver_opts.{option}"), is, should.clone());
    }
    // Encryption is on as soon as the option is there.
    let is_encrypted = there["Options"].get("encrypted").is_some();
    let should = wanted
        .options
        .as_ref()
        .is_some_and(|options| options.contains_key("encrypted"));
    if is_encrypted && !should {
        compare("driver_opts.encrypted", "set".to_owned(), "absent".to_owned());
    }
    let should: Vec<_> = wanted
        .ipam
        .iter()
        .flat_map(|ipam| ipam.config.iter().flatten())
        .filter_map(|config| config.subnet.clone())
        .collect();
    if !should.is_empty() {
        let pools = there["IPAM"]["Config"].as_array();
        let is: Vec<_> = pools
            .into_iter()
            .flatten()
            .map(|pool| text(&pool["Subnet"]))
            .collect();
        compare("ipam.config", is.join(", "), should.join(", "));
    }
    found
}

/// Without quotes; `absent` for nothing.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or("absent").to_owned()
}
