//! How a Swarm's machines look to strangers, for lints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use reqwest::Url;

use super::{Deployment, Error};
use crate::docker::{Sshd, addresses_of, answering, is_here, sshd};
use crate::lint::{BETWEEN_NODES, Login, Outside, WEB};
use crate::rollout::{self, Swarm};
use crate::swarm::Node;

impl Deployment<'_> {
    /// Asks the managers' sshd, the nodes' ports, and where names lead. What does not answer is not told of, and neither
    /// is a node that is this machine.
    pub(super) fn outside(&self, swarm: &Swarm, nodes: &[Node]) -> Result<Outside, Error> {
        let named = nodes
            .iter()
            .filter_map(|node| Some((node.address?, node.name.clone())));
        let nodes: BTreeMap<IpAddr, String> = named.collect();
        let addresses: Vec<IpAddr> = nodes
            .keys()
            .copied()
            .filter(|address| !is_here(*address))
            .collect();
        let open = answering(&addresses, &[BETWEEN_NODES, WEB].concat());
        let name = |address: IpAddr| nodes.get(&address).cloned().unwrap_or_default();
        Ok(Outside {
            managers: logins(swarm),
            open: open.iter().map(|at| (name(at.ip()), at.port())).collect(),
            names: self.names(&nodes)?,
        })
    }

    /// Names in the environment's `addresses` that lead to nodes.
    fn names(&self, nodes: &BTreeMap<IpAddr, String>) -> Result<Vec<(String, String)>, Error> {
        let project = &self.setting.project;
        let mut names = Vec::new();
        for address in self.environment.addresses.values() {
            let filled = rollout::fill(project, self.environment, self.asker.variable, address)?;
            let host = Url::parse(&filled)
                .ok()
                .and_then(|url| url.host_str().map(str::to_owned));
            let Some(host) = host else { continue };
            let node = addresses_of(&host).iter().find_map(|address| nodes.get(address));
            names.extend(node.cloned().map(|node| (host, node)));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

fn logins(swarm: &Swarm) -> Vec<Login> {
    std::thread::scope(|scope| {
        let managers = swarm.managers().iter();
        let asked: Vec<_> = managers.map(|manager| scope.spawn(|| sshd(manager))).collect();
        let offers = asked.into_iter().enumerate();
        let offers = offers.filter_map(|(index, asked)| Some((index, asked.join().ok()??)));
        let login = |(index, sshd): (usize, Sshd)| Login {
            index,
            user: sshd.user,
            port: sshd.port,
            guessable: sshd
                .methods
                .iter()
                .any(|method| method != "publickey" && !method.starts_with("gssapi"))
                || sshd.methods.is_empty(),
        };
        offers.map(login).collect()
    })
}
