//! The names that replicas know each other by: a table that the supervisor changes and the resolvers read.
//! Knows no message format.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names and addresses of every network. Clones are one table. Names are compared without regard to case, and
/// with or without a final dot.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<HashMap<String, Network>>>);

#[derive(Debug, Default)]
struct Network {
    forward: HashMap<String, Known>,
    reverse: HashMap<Ipv4Addr, String>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<Ipv4Addr>,
    /// How often it was asked for: each answer begins with the next address.
    asked: usize,
}

impl Names {
    /// Says where a name leads on a network, until it is said again. Without addresses the name still exists:
    /// it belongs to a service of which no replica is ready.
    pub fn set(&self, network: &str, name: &str, addresses: Vec<Ipv4Addr>) {
        let mut networks = self.lock();
        let network = networks.entry(network.to_owned()).or_default();
        network.forward.entry(key(name)).or_default().addresses = addresses;
    }

    /// Makes a name unknown.
    pub fn remove(&self, network: &str, name: &str) {
        if let Some(network) = self.lock().get_mut(network) {
            network.forward.remove(&key(name));
        }
    }

    /// Says what an address is called when somebody asks for its name; with `None`, that it has none.
    pub fn call(&self, network: &str, address: Ipv4Addr, name: Option<&str>) {
        let mut networks = self.lock();
        let network = networks.entry(network.to_owned()).or_default();
        match name {
            Some(name) => network.reverse.insert(address, key(name)),
            None => network.reverse.remove(&address),
        };
    }

    /// Forgets a network with all of its names.
    pub fn forget(&self, network: &str) {
        self.lock().remove(network);
    }

    /// The addresses of a name, beginning with another one each time; `None` if nobody has the name.
    pub(super) fn addresses(&self, network: &str, name: &str) -> Option<Vec<Ipv4Addr>> {
        let mut networks = self.lock();
        let known = networks.get_mut(network)?.forward.get_mut(&key(name))?;
        let mut addresses = known.addresses.clone();
        if !addresses.is_empty() {
            addresses.rotate_left(known.asked % known.addresses.len());
            known.asked = known.asked.wrapping_add(1);
        }
        Some(addresses)
    }

    /// Whether a name exists; does not count as being asked for its addresses.
    pub(super) fn knows(&self, network: &str, name: &str) -> bool {
        let networks = self.lock();
        let network = networks.get(network);
        network.is_some_and(|network| network.forward.contains_key(&key(name)))
    }

    /// What an address is called.
    pub(super) fn name(&self, network: &str, address: Ipv4Addr) -> Option<String> {
        self.lock().get(network)?.reverse.get(&address).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Network>> {
        // Every change is one insertion or removal: a panic elsewhere leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 3);

    #[test]
    fn every_address_comes_first_in_turn() {
        let names = Names::default();
        names.set("front", "Api", vec![A, B]);
        let ask = || names.addresses("front", "aPI.").unwrap();
        assert_eq!([ask(), ask(), ask()], [[A, B], [B, A], [A, B]]);
        names.set("front", "api", vec![]);
        assert_eq!(ask(), Vec::<Ipv4Addr>::new());
        names.remove("front", "API");
        assert_eq!(names.addresses("front", "api"), None);
    }

    #[test]
    fn a_network_knows_its_own_names() {
        let names = Names::default();
        names.set("front", "api", vec![A]);
        names.call("front", A, Some("api.1"));
        assert!(names.knows("front", "api") && !names.knows("back", "api"));
        assert_eq!(names.name("front", A).as_deref(), Some("api.1"));
        assert_eq!(names.name("back", A), None);
        names.call("front", A, None);
        assert_eq!(names.name("front", A), None);
        names.forget("front");
        assert!(!names.knows("front", "api"));
    }
}
