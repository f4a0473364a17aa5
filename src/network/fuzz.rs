//! What fuzzing asks of questions to a preview's resolver.

use std::net::Ipv4Addr;

use super::Names;
use super::dns::{Transport, answer};

/// A message to the resolver: its answer has the message's number, is an answer, and fits.
pub fn question(bytes: &[u8]) {
    let names = Names::default();
    let replicas = (1..=200).map(|last| Ipv4Addr::new(10, 128, 0, last)).collect();
    names.set("front", "api", replicas);
    names.set("front", "worker", Vec::new());
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        if let Some(answer) = answer(&names, "front", bytes, transport) {
            assert!(answer.len() <= limit, "{} bytes", answer.len());
            assert_eq!(answer[..2], bytes[..2]);
            assert!(answer[2] & 0x80 != 0);
        }
    }
}
