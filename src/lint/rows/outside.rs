//! What whoever has no key sees of a swarm: the managers' sshd, the nodes' ports, and names that lead past the edge.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::lint::{BETWEEN_NODES, Found, Inputs, WEB};
use crate::project::CONFIG;
use crate::stack::Place;

/// Where everybody tries.
const SSH: u16 = 22;

/// Managers are logged in to with keys, not as root, and not where everybody tries.
pub(crate) fn manager_ssh(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for login in inputs.outside.iter().flat_map(|outside| &outside.managers) {
        let Some(manager) = inputs.environment.managers.get(login.index) else {
            continue;
        };
        let (line, column) = inputs.project.line_and_column(manager.span().start);
        let place = Place {
            file: Arc::from(Path::new(CONFIG)),
            line,
            column,
        };
        let name = manager.get_ref();
        let mut say = |what: String, remedy: &str| found.push(place.clone(), None, what, remedy);
        if login.guessable {
            let what = format!("the sshd of `{name}` takes passwords, which can be guessed");
            say(
                what,
                "write `PasswordAuthentication no` and `KbdInteractiveAuthentication no` in its sshd_config",
            );
        }
        if login.user == "root" {
            let what = format!("skep logs in to `{name}` as `root`");
            say(
                what,
                "make a user there who may use the engine's socket, and `PermitRootLogin no`",
            );
        }
        if login.port == SSH {
            let what = format!("the sshd of `{name}` is on port {SSH}, where everybody tries");
            say(
                what,
                "give it another `Port`, or let only known addresses come to it",
            );
        }
    }
}

/// What nodes have for each other answers nobody else.
pub(crate) fn node_ports(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (node, ports) in open(inputs, &BETWEEN_NODES) {
        let what =
            format!("the node `{node}` answers this machine on {ports}, which is for other nodes only");
        found.at(
            "",
            what,
            "let its firewall drop 2377/tcp, 7946/tcp, 7946/udp and 4789/udp of everybody else",
        );
    }
}

/// Where an edge stands before the nodes, nobody gets past it.
pub(crate) fn past_the_edge(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    if !inputs.environment.rules.edge {
        return;
    }
    for (node, ports) in open(inputs, &WEB) {
        let what = format!("the node `{node}` answers this machine on {ports}, past the edge");
        found.at(
            "",
            what,
            "let its firewall drop what does not come from the edge's addresses",
        );
    }
    for (name, node) in inputs.outside.iter().flat_map(|outside| &outside.names) {
        let what = format!("`{name}` leads to the node `{node}`, past the edge");
        found.at(
            "",
            what,
            "let the name lead to the edge, which hides where the nodes are",
        );
    }
}

/// Nodes that answer on some of `wanted`, with those ports for a person.
fn open<'a>(inputs: &Inputs<'a>, wanted: &[u16]) -> BTreeMap<&'a str, String> {
    let mut nodes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (node, port) in inputs.outside.iter().flat_map(|outside| &outside.open) {
        if wanted.contains(port) {
            nodes.entry(node).or_default().push(port.to_string());
        }
    }
    let listed = |(node, ports): (&'a str, Vec<String>)| (node, format!("port {}", ports.join(" and ")));
    nodes.into_iter().map(listed).collect()
}
