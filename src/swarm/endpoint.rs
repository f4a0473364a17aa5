//! Where a service answers: its published ports.

use bollard::models::{EndpointPortConfig, EndpointSpec};

use super::spec::{Error, Source};

/// What the ports of a Swarm listen on.
const EVERYWHERE: &str = "0.0.0.0";

pub(super) fn endpoint(source: &Source) -> Result<EndpointSpec, Error> {
    let mut ports = Vec::new();
    for (index, port) in source.service.ports.iter().enumerate() {
        if let Some(address) = port.host_ip.as_ref().filter(|address| *address != EVERYWHERE) {
            return Err(Error::new(
                source.at(format!("ports[{index}].host_ip")),
                format!("is `{address}`, and a Swarm publishes ports on every address of its nodes"),
                "remove it, and let a firewall say who may connect",
            ));
        }
        ports.push(EndpointPortConfig {
            name: None,
            protocol: Some(source.word("ports", port.protocol)?),
            target_port: Some(port.target.into()),
            published_port: port.published.map(i64::from),
            publish_mode: Some(source.word("ports", port.mode)?),
        });
    }
    ports.sort_by_key(|port| port.published_port);
    let mode = source.service.deploy.endpoint_mode;
    Ok(EndpointSpec {
        mode: mode
            .map(|mode| source.word("deploy.endpoint_mode", mode))
            .transpose()?,
        ports: Some(ports),
    })
}
