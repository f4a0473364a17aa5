//! What keeps a release from running in a preview: ports that are taken, and what one machine cannot honour.

use std::collections::{BTreeMap, BTreeSet};

use crate::network::{Protocol, listen};
use crate::rollout::history::Record;
use crate::rollout::target::Problem;
use crate::stack::{self, Service};
use crate::supervisor::Port;

/// Everything that is in the way. `ports` are those that the preview has already.
pub(super) fn problems(record: &Record, ports: &BTreeMap<u16, Port>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut wanted = BTreeSet::new();
    for (name, service) in &record.stack.services {
        problems.extend(cannot(name, service).into_iter().map(Problem::user));
        for port in &service.ports {
            let number = port.published.unwrap_or(port.target);
            if !wanted.insert(number) {
                problems.push(Problem::user(format!(
                    "`{name}` publishes port {number}, and so does another service"
                )));
            } else if !ports.get(&number).is_some_and(|port| port.listening)
                && let Err(taken) = listen(number, Protocol::Tcp)
            {
                problems.push(Problem::environment(format!("`{name}`: {taken}")));
            }
        }
    }
    for (name, network) in record
        .stack
        .networks
        .iter()
        .filter(|(_, network)| network.external)
    {
        let network = network.name.as_deref().unwrap_or(name);
        problems.push(Problem::user(format!(
            "the network `{network}` is external, and a preview has none but its own"
        )));
    }
    problems
}

/// Keys whose meaning would be lost without a word.
fn cannot(name: &str, service: &Service) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |bad: bool, what: &str| {
        if bad {
            wrong.push(format!("`{name}`: a preview cannot honour {what}"));
        }
    };
    say(
        service
            .ports
            .iter()
            .any(|port| port.protocol != stack::Protocol::Tcp),
        "ports that are not TCP",
    );
    say(
        !service.cap_add.is_empty(),
        "`cap_add`: nothing has more rights than its user",
    );
    say(!service.sysctls.is_empty(), "`sysctls`");
    say(
        service.credential_spec.is_some() || service.isolation.is_some(),
        "what is of Windows",
    );
    say(
        service.tty || service.stdin_open,
        "`tty` and `stdin_open`: nobody is there to type",
    );
    let jobs = [stack::Mode::ReplicatedJob, stack::Mode::GlobalJob];
    say(jobs.contains(&service.deploy.mode), "jobs");
    let ports = service
        .ports
        .iter()
        .any(|port| port.host_ip.as_deref().is_some_and(|ip| ip != "127.0.0.1"));
    say(ports, "a `host_ip` other than 127.0.0.1");
    wrong
}
