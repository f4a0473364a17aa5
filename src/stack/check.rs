//! What one part of a stack says of another: every name that is used stands at the top of the file.

use super::deploy::EndpointMode;
use super::model::{CredentialSpec, MountSource, PortMode, Service, Stack};
use super::read::Context;

/// The network that services are on when they name none; it need not be configured.
const DEFAULT_NETWORK: &str = "default";

pub(super) fn check(cx: &Context, stack: &Stack) {
    for (name, service) in &stack.services {
        check_names(cx, stack, name, service);
        let is_dnsrr = service.deploy.endpoint_mode == Some(EndpointMode::Dnsrr);
        let ingress = |port: &super::model::Port| port.mode == PortMode::Ingress;
        if is_dnsrr && service.ports.iter().any(ingress) {
            let path = format!("services.{name}.deploy.endpoint_mode");
            let what = format!("`{path}` is `dnsrr`, which goes with no port in the mode `ingress`");
            report(cx, &path, what, "write `mode: host` at the port");
        }
    }
    check_cycles(cx, stack);
}

fn check_names(cx: &Context, stack: &Stack, name: &str, service: &Service) {
    let at = |key: &str| format!("services.{name}.{key}");
    let absent = |path: &str, section: &str, wanted: &str| {
        let what = format!("`{path}` names `{wanted}`, which is not in `{section}`");
        report(
            cx,
            path,
            what,
            format!("add it to `{section}` at the top of the file"),
        );
    };
    for network in service.networks.keys() {
        if network != DEFAULT_NETWORK && !stack.networks.contains_key(network) {
            absent(&at(&format!("networks.{network}")), "networks", network);
        }
    }
    for (index, mount) in service.volumes.iter().enumerate() {
        if let MountSource::Volume {
            name: Some(volume), ..
        } = &mount.source
            && !stack.volumes.contains_key(volume)
        {
            absent(&at(&format!("volumes[{index}]")), "volumes", volume);
        }
    }
    for (index, grant) in service.secrets.iter().enumerate() {
        if !stack.secrets.contains_key(&grant.source) {
            absent(&at(&format!("secrets[{index}]")), "secrets", &grant.source);
        }
    }
    for (index, grant) in service.configs.iter().enumerate() {
        if !stack.configs.contains_key(&grant.source) {
            absent(&at(&format!("configs[{index}]")), "configs", &grant.source);
        }
    }
    if let Some(CredentialSpec::Config(config)) = &service.credential_spec
        && !stack.configs.contains_key(config)
    {
        absent(&at("credential_spec.config"), "configs", config);
    }
    for other in service.depends_on.keys() {
        if !stack.services.contains_key(other) {
            let path = at(&format!("depends_on.{other}"));
            let what = format!("`{path}` names `{other}`, which is no service");
            report(cx, &path, what, "");
        }
    }
}

/// Takes away what waits for nothing that is left, or what nothing waits for, until nothing more goes.
fn check_cycles(cx: &Context, stack: &Stack) {
    let mut left: Vec<&String> = stack.services.keys().collect();
    loop {
        let needs = |name: &String, other: &String| stack.services[name].depends_on.contains_key(other);
        let waits = |name: &&String| left.iter().any(|other| needs(name, other));
        let is_awaited = |name: &&String| left.iter().any(|other| needs(other, name));
        let in_circles = |name: &&String| waits(name) && is_awaited(name);
        let still: Vec<_> = left.iter().copied().filter(in_circles).collect();
        if still.len() == left.len() {
            break;
        }
        left = still;
    }
    if let Some(first) = left.first() {
        let names: Vec<_> = left.iter().map(|name| format!("`{name}`")).collect();
        let what = format!(
            "these services wait for each other, or for themselves: {}",
            names.join(", ")
        );
        report(
            cx,
            &format!("services.{first}.depends_on"),
            what,
            "remove one `depends_on`",
        );
    }
}

fn report(cx: &Context, path: &str, what: String, remedy: impl Into<String>) {
    // A path that was reported on was read.
    if let Some(place) = cx.place(path) {
        cx.report(&place, what, remedy);
    }
}
