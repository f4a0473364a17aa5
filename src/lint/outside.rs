//! How a swarm's machines look from outside. Plain data; whoever asks them fills it in.

/// Ports that nodes of a swarm have for each other (Docker, "Open protocols and ports between the hosts"). The third,
/// 4789, has no connections that could be tried.
pub const BETWEEN_NODES: [u16; 2] = [2377, 7946];
/// Ports that the edge answers on in the place of nodes.
pub const WEB: [u16; 2] = [80, 443];
/// What was seen, as far as somebody looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Managers that are reached by ssh.
    pub managers: Vec<Login>,
    /// Nodes that answer on a port, by name.
    pub open: Vec<(String, u16)>,
    /// Names of what is probed that lead to a node, with the node's name.
    pub names: Vec<(String, String)>,
}

/// How somebody gets into a manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// Which of the environment's `managers`, counted from 0.
    pub index: usize,
    /// As whom skep goes there.
    pub user: String,
    /// On which port.
    pub port: u16,
    /// Whether a password is enough, or nothing at all.
    pub guessable: bool,
}
