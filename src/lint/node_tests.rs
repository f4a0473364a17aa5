//! What rows find that are told of a swarm's nodes.

use super::tests::Case;
use crate::swarm::Node;

fn node(name: &str, arch: &str) -> Node {
    Node {
        id: format!("id-{name}"),
        name: name.to_owned(),
        os: "linux".to_owned(),
        arch: arch.to_owned(),
        ready: true,
        ..Node::default()
    }
}

/// What a lint finds about a service `api` with further lines, on nodes of the architectures amd64, amd64 and arm64.
#[track_caller]
fn found(lint: &str, lines: &str, platforms: &[(&str, &str)]) -> String {
    let mut text = "services:\n  api:\n    image: api\n".to_owned();
    for line in lines.lines() {
        text += &format!("    {line}\n");
    }
    let nodes = [node("a", "x86_64"), node("b", "x86_64"), node("c", "aarch64")];
    let case = Case {
        platforms,
        nodes: Some(&nodes),
        ..Case::new(&text, "")
    };
    case.of(lint)
}

fn placed(constraints: &str) -> String {
    format!("deploy: {{placement: {{constraints: [{constraints}]}}}}")
}

#[test]
fn platforms() {
    let amd64 = &[("api", "linux/amd64")];
    let both = &[("api", "linux/amd64"), ("api", "linux/arm64")];
    insta::assert_snapshot!(found("platforms", "", amd64), @"deploy/stack.yml:3:5: platforms: `api` is for linux/amd64, and `api` may come to the node `c`, which is linux/arm64; build it for linux/arm64 too, or keep `api` away with a constraint such as `node.platform.arch != aarch64`");
    assert_eq!(found("platforms", "", both), "");
    for constraint in [
        "node.hostname != c",
        "node.platform.arch==x86_64",
        "node.id == id-a",
    ] {
        assert_eq!(found("platforms", &placed(&format!("'{constraint}'")), amd64), "");
    }
    // An image that nobody knows is said to be so, and without nodes nobody asks.
    let one = [node("a", "x86_64")];
    let unknown = |nodes| {
        let case = Case {
            nodes,
            ..Case::new("services: {api: {image: api, healthcheck: {test: x}}}", "")
        };
        let report = case.check().unwrap();
        assert!(report.findings.iter().all(|finding| finding.lint != "platforms"));
        report.unjudged
    };
    assert_eq!(unknown(Some(&one[..])), ["api".to_owned()].into());
    assert_eq!(unknown(None), [].into());
}

#[test]
fn unschedulable() {
    insta::assert_snapshot!(found("unschedulable", &placed("node.labels.disk == ssd"), &[]), @"deploy/stack.yml:4:26: unschedulable: no node that is ready has what `api` asks for: `node.labels.disk == ssd`; mend the constraints, or label a node with `docker node update --label-add`");
    assert_eq!(found("unschedulable", "", &[]), "");
    assert_eq!(found("unschedulable", &placed("node.role == worker"), &[]), "");
    let none = "deploy: {replicas: 0, placement: {constraints: [node.role == manager]}}";
    assert_eq!(found("unschedulable", none, &[]), "");
    let drained = [Node {
        drained: true,
        ..node("a", "x86_64")
    }];
    let case = Case {
        nodes: Some(&drained),
        ..Case::new("services: {api: {image: api}}", "")
    };
    insta::assert_snapshot!(case.of("unschedulable"), @"deploy/stack.yml:1:12: unschedulable: no node of the swarm is ready to take `api`; mend the constraints, or label a node with `docker node update --label-add`");
}

#[test]
fn port_deadlock() {
    let with = |deploy: &str, mode: &str| {
        let lines = format!(
            "ports: [{{target: 80, published: 80, mode: {mode}}}]\ndeploy: {{{deploy}, update_config: {{order: start-first}}}}"
        );
        found("port-deadlock", &lines, &[])
    };
    insta::assert_snapshot!(with("replicas: 3", "host"), @"deploy/stack.yml:4:13: port-deadlock: port 80 of `api` is held on each of its 3 nodes, and with `start-first` a new replica waits for it forever; write `order: stop-first`, or publish it with `mode: ingress`");
    assert_ne!(with("mode: global", "host"), "");
    assert_eq!(with("replicas: 2", "host"), "");
    assert_eq!(with("replicas: 3", "ingress"), "");
    let stop_first = "ports: [{target: 80, published: 80, mode: host}]\ndeploy: {replicas: 3}";
    assert_eq!(found("port-deadlock", stop_first, &[]), "");
    let any = "ports: [{target: 80, mode: host}]\ndeploy: {replicas: 3, update_config: {order: start-first}}";
    assert_eq!(found("port-deadlock", any, &[]), "");
}
