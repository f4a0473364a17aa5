//! Answers a DNS message (RFC 1035, EDNS of RFC 6891) out of the names of one network. Does no I/O.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Names;

/// The most that a datagram may hold, whatever the client says: it passes every network unfragmented.
const MAX_DATAGRAM: u16 = 1_232;

/// What a datagram may hold when the client says nothing.
const PLAIN_DATAGRAM: u16 = 512;

const HEADER: usize = 12;

/// Replicas come and go: an answer is good for the moment.
const TTL: u32 = 0;

/// How a message came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The answer to a message on a network; `None` to what is no question.
///
/// A name that the network does not know does not exist: there is nobody else to ask, and a client that gets no
/// answer would wait for seconds.
pub(super) fn answer(names: &Names, network: &str, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    // Answering an answer may never end.
    if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
        return None;
    }
    let Ok(question) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
            .to_vec()
            .ok();
    };
    let answer = reply(names, network, &question);
    let encoded = answer.to_vec().ok()?;
    let client = question.edns.as_ref().map_or(PLAIN_DATAGRAM, Edns::max_payload);
    let limit = match transport {
        Transport::Udp => client.clamp(PLAIN_DATAGRAM, MAX_DATAGRAM),
        Transport::Tcp => u16::MAX,
    };
    match encoded.len() > usize::from(limit) {
        true => answer.truncate().to_vec().ok(),
        false => Some(encoded),
    }
}

fn reply(names: &Names, network: &str, question: &Message) -> Message {
    let mut answer = Message::new(question.id, MessageType::Response, question.op_code);
    answer.metadata = Metadata::response_from_request(&question.metadata);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM);
        answer.set_edns(edns);
    }
    let newer = question.edns.as_ref().is_some_and(|edns| edns.version() > 0);
    answer.metadata.response_code = match question.queries.as_slice() {
        _ if newer => ResponseCode::BADVERS,
        _ if question.op_code != OpCode::Query => ResponseCode::NotImp,
        [query] => match records(names, network, query) {
            Some(found) => {
                answer.metadata.authoritative = true;
                answer.add_answers(found);
                ResponseCode::NoError
            }
            None => ResponseCode::NXDomain,
        },
        _ => ResponseCode::FormErr,
    };
    answer
}

/// What is known to a query, maybe nothing; `None` if nobody has the name.
fn records(names: &Names, network: &str, query: &Query) -> Option<Vec<Record>> {
    let name = query.name();
    let asks_for = |kind| {
        let classes = [DNSClass::IN, DNSClass::ANY];
        classes.contains(&query.query_class()) && [kind, RecordType::ANY].contains(&query.query_type())
    };
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    if let Some(found) = reverse(names, network, name) {
        let pointer = asks_for(RecordType::PTR).then(|| record(RData::PTR(PTR(found))));
        return Some(pointer.into_iter().collect());
    }
    let text = name.to_ascii();
    if !asks_for(RecordType::A) {
        // That it has no address of version 6 is an answer; that it does not exist would be the end of the search.
        return names.knows(network, &text).then(Vec::new);
    }
    let addresses = names.addresses(network, &text)?;
    Some(
        addresses
            .into_iter()
            .map(|address| record(RData::A(A(address))))
            .collect(),
    )
}

/// The name of the address that `name` spells in `in-addr.arpa`.
fn reverse(names: &Names, network: &str, name: &Name) -> Option<Name> {
    let net = name.parse_arpa_name().ok()?;
    let IpAddr::V4(address) = net.addr() else {
        return None;
    };
    // A shorter name spells a net.
    if net.prefix_len() != 32 {
        return None;
    }
    let mut name = Name::from_ascii(names.name(network, address)?).ok()?;
    name.set_fqdn(true);
    Some(name)
}
