//! The addresses of a network: which subnet it has, and who holds which address in it. Knows no kernel.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// How many networks there can be.
pub(super) const MAX_SUBNETS: u32 = 1 << (HOST_BITS_OF_ALL - HOST_BITS);

/// All subnets are parts of 10.128.0.0/9.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const HOST_BITS_OF_ALL: u32 = 23;

/// A subnet of 1,022 addresses, about as many as a bridge takes ports.
const HOST_BITS: u32 = 10;

/// A range of addresses. Its first is the gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(u32);

impl Subnet {
    /// The subnet with a number below [`MAX_SUBNETS`]; no two overlap.
    pub(super) fn numbered(number: u32) -> Option<Subnet> {
        (number < MAX_SUBNETS).then(|| Subnet(u32::from(FIRST) + (number << HOST_BITS)))
    }

    /// The address of the bridge, on which the resolver answers.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.0 + 1)
    }

    /// How many leading bits the addresses share.
    pub fn prefix(&self) -> u8 {
        (u32::BITS - HOST_BITS) as u8
    }

    /// Whether the address is one of the subnet.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) >> HOST_BITS == self.0 >> HOST_BITS
    }

    fn hosts(&self) -> std::ops::Range<u32> {
        self.0 + 2..self.0 + (1 << HOST_BITS) - 1
    }
}

/// Gives out addresses of a subnet. One that was given back is the last to be given out again: whoever still
/// knows it as another replica's finds nobody there, and not somebody else.
#[derive(Debug)]
pub(super) struct Addresses {
    subnet: Subnet,
    held: BTreeSet<u32>,
    next: u32,
}

impl Addresses {
    pub fn of(subnet: Subnet) -> Addresses {
        Addresses {
            subnet,
            held: BTreeSet::new(),
            next: subnet.hosts().start,
        }
    }

    /// An address that nobody holds; `None` when there is none.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let hosts = self.subnet.hosts();
        let mut cycle = (self.next..hosts.end).chain(hosts.start..self.next);
        let free = cycle.find(|address| !self.held.contains(address))?;
        self.held.insert(free);
        self.next = free + 1;
        Some(Ipv4Addr::from(free))
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.held.remove(&u32::from(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_follow_each_other() {
        let first = Subnet::numbered(0).unwrap();
        let second = Subnet::numbered(1).unwrap();
        assert_eq!(first.gateway(), Ipv4Addr::new(10, 128, 0, 1));
        assert_eq!(second.gateway(), Ipv4Addr::new(10, 128, 4, 1));
        let last = Subnet::numbered(MAX_SUBNETS - 1).unwrap();
        assert_eq!(last.gateway(), Ipv4Addr::new(10, 255, 252, 1));
        assert_eq!(Subnet::numbered(MAX_SUBNETS), None);
        assert!(first.contains(Ipv4Addr::new(10, 128, 3, 255)));
        assert!(!first.contains(second.gateway()));
    }

    #[test]
    fn an_address_is_used_again_as_late_as_can_be() {
        let subnet = Subnet::numbered(3).unwrap();
        let mut addresses = Addresses::of(subnet);
        let first = addresses.take().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 128, 12, 2));
        addresses.give_back(first);
        let others: Vec<_> = (0..1_020).map(|_| addresses.take().unwrap()).collect();
        assert!(!others.contains(&first));
        assert!(others.iter().all(|address| subnet.contains(*address)));
        assert_eq!(addresses.take(), Some(first));
        assert_eq!(addresses.take(), None);
        addresses.give_back(others[7]);
        assert_eq!(addresses.take(), Some(others[7]));
    }
}
