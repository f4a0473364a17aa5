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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::stack;
    use crate::swarm::{PinnedImage, Surroundings, service};

    /// What becomes of the ports of a service, which are `text`.
    fn published(text: &str) -> Result<usize, String> {
        let text = format!("services: {{a: {{image: a, ports: {text}}}}}");
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let stack = stack::read(&text, Path::new("stack.yml"), &|_| None, &read)
            .unwrap()
            .stack;
        let nothing = [].into();
        let around = Surroundings {
            stack_name: "shop",
            images: &[("a".to_owned(), PinnedImage::default())].into(),
            secrets: &nothing,
            configs: &nothing,
            directory: Path::new("/"),
        };
        let spec = service(&around, "a", &stack, &stack.services["a"]).map_err(|error| error.to_string())?;
        Ok(spec
            .endpoint_spec
            .and_then(|endpoint| endpoint.ports)
            .map_or(0, |ports| ports.len()))
    }

    #[test]
    fn a_port_of_one_address_is_refused() {
        assert_eq!(published("[80, '0.0.0.0:81:81']"), Ok(2));
        insta::assert_snapshot!(published("[80, '127.0.0.1:81:81']").unwrap_err(), @"`services.a.ports[1].host_ip` is `127.0.0.1`, and a Swarm publishes ports on every address of its nodes; remove it, and let a firewall say who may connect");
    }
}
