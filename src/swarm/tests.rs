//! Where a conversion is not docker's: what becomes of it. The rest is compared with docker's, in `tests/convert.rs`.

use std::path::Path;

use bollard::models::TaskSpecContainerSpec;
use serde_json::{Value, json};

use super::{PinnedImage, Surroundings, service};
use crate::stack;

/// The service whose keys beside `image` are `keys`.
fn converted(keys: &str) -> Result<bollard::models::ServiceSpec, String> {
    let text = format!("services: {{a: {{image: a, {keys}}}}}");
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
    service(&around, "a", &stack, &stack.services["a"]).map_err(|error| error.to_string())
}

fn container(keys: &str) -> TaskSpecContainerSpec {
    let template = converted(keys).unwrap().task_template.unwrap();
    template.container_spec.unwrap()
}

fn mounts(keys: &str) -> Value {
    serde_json::to_value(container(keys).mounts).unwrap()
}

#[test]
fn a_port_of_one_address_is_refused() {
    let endpoint = converted("ports: [80, '0.0.0.0:81:81']").unwrap().endpoint_spec;
    assert_eq!(endpoint.unwrap().ports.unwrap().len(), 2);
    let error = converted("ports: [80, '127.0.0.1:81:81']").unwrap_err();
    insta::assert_snapshot!(error, @"`services.a.ports[1].host_ip` is `127.0.0.1`, and a Swarm publishes ports on every address of its nodes; remove it, and let a firewall say who may connect");
}

#[test]
fn memory_is_mounted_after_volumes() {
    assert_eq!(
        mounts("tmpfs: [/run, '/tmp:size=1k,mode=1777'], volumes: [{type: tmpfs, target: /x}]"),
        json!([
            {"Type": "tmpfs", "Target": "/x", "ReadOnly": false},
            {"Type": "tmpfs", "Target": "/run"},
            {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o1777}},
        ])
    );
}

#[test]
fn a_volume_without_a_name_may_stay_empty() {
    let mount = |options: &str| format!("volumes: [{{type: volume, target: /x, volume: {{{options}}}}}]");
    assert_eq!(
        mounts(&mount("nocopy: true")),
        json!([{"Type": "volume", "Target": "/x", "ReadOnly": false, "VolumeOptions": {"NoCopy": true}}])
    );
    let error = converted(&mount("subpath: part")).unwrap_err();
    insta::assert_snapshot!(error, @"`services.a.volumes[0].volume.subpath` is of a new volume, which has no directories; name a volume as `source`, or remove it");
}

#[test]
fn a_score_is_sent() {
    assert_eq!(container("oom_score_adj: -500").oom_score_adj, Some(-500));
}

#[test]
fn what_does_not_restart_does_not() {
    let template = converted("restart: 'no'").unwrap().task_template.unwrap();
    let condition = template.restart_policy.unwrap().condition;
    assert_eq!(condition.unwrap().to_string(), "none");
}
