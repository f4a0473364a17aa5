use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

use super::Names;
use super::dns::{Transport, answer};

const A: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 3);

fn names() -> Names {
    let names = Names::default();
    names.set("front", "api", vec![A, B]);
    names.set("front", "tasks.api", vec![A, B]);
    names.set("front", "my_worker", vec![]);
    names.call("front", A, Some("api.1"));
    names.set("back", "db", vec![B]);
    names
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask_by(message: &Message, transport: Transport) -> Message {
    let bytes = answer(&names(), "front", &message.to_vec().unwrap(), transport).unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!((answer.id, answer.message_type), (4_711, MessageType::Response));
    answer
}

fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = ask_by(&query(name, kind), Transport::Udp);
    assert!(answer.answers.iter().all(|record| record.ttl == 0));
    let texts = answer.answers.iter().map(|record| record.data.to_string());
    (answer.response_code, texts.collect())
}

#[test]
fn names_are_answered_for_whatever_their_case() {
    use RecordType as Type;
    use ResponseCode::{NXDomain, NoError};
    let both = ["10.128.0.2", "10.128.0.3"];
    for (name, kind, code, records) in [
        ("api.", Type::A, NoError, &both[..]),
        ("aPi.", Type::A, NoError, &both),
        ("tasks.api.", Type::A, NoError, &both),
        ("api.", Type::ANY, NoError, &both),
        ("api.", Type::AAAA, NoError, &[]),
        ("api.", Type::MX, NoError, &[]),
        ("my_worker.", Type::A, NoError, &[]),
        ("db.", Type::A, NXDomain, &[]),
        ("db.", Type::AAAA, NXDomain, &[]),
        ("api.example.com.", Type::A, NXDomain, &[]),
        (".", Type::NS, NXDomain, &[]),
        ("2.0.128.10.in-addr.arpa.", Type::PTR, NoError, &["api.1."]),
        ("2.0.128.10.IN-ADDR.arpa.", Type::A, NoError, &[]),
        ("3.0.128.10.in-addr.arpa.", Type::PTR, NXDomain, &[]),
        ("0.128.10.in-addr.arpa.", Type::PTR, NXDomain, &[]),
        ("1.ip6.arpa.", Type::PTR, NXDomain, &[]),
    ] {
        let (found, texts) = ask(name, kind);
        assert_eq!(
            (found, texts.iter().map(String::as_str).collect::<Vec<_>>()),
            (code, records.to_vec()),
            "{name} {kind}"
        );
    }
}

#[test]
fn the_question_comes_back_as_it_was() {
    let question = query("aPi.", RecordType::A);
    let answer = ask_by(&question, Transport::Udp);
    assert_eq!(answer.queries, question.queries);
    assert_eq!(answer.answers[0].name.to_ascii(), "aPi.");
    assert!(answer.authoritative && answer.recursion_available && answer.recursion_desired);
    assert!(answer.edns.is_none());
}

#[test]
fn another_class_knows_no_addresses() {
    let mut question = query("api.", RecordType::A);
    question.queries[0].set_query_class(DNSClass::CH);
    let answer = ask_by(&question, Transport::Udp);
    assert_eq!(
        (answer.response_code, answer.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[test]
fn what_is_no_plain_question_is_refused() {
    let code = |change: &dyn Fn(&mut Message)| {
        let mut question = query("api.", RecordType::A);
        change(&mut question);
        ask_by(&question, Transport::Udp).response_code
    };
    assert_eq!(
        code(&|question| question.metadata.op_code = OpCode::Update),
        ResponseCode::NotImp
    );
    assert_eq!(code(&|question| question.queries.clear()), ResponseCode::FormErr);
    assert_eq!(
        code(&|question| question.queries.extend(question.queries.clone())),
        ResponseCode::FormErr
    );
    let newer = |question: &mut Message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        question.set_edns(edns);
    };
    // The number has two names.
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
}

#[test]
fn malformed_messages_are_told_so_and_answers_are_not_answered() {
    let bytes = query("api.", RecordType::A).to_vec().unwrap();
    let tell = |bytes: &[u8]| answer(&names(), "front", bytes, Transport::Udp);
    let told = Message::from_vec(&tell(&bytes[..bytes.len() - 1]).unwrap()).unwrap();
    assert_eq!((told.id, told.response_code), (4_711, ResponseCode::FormErr));
    assert_eq!(tell(&bytes[..11]), None);
    assert_eq!(tell(&[]), None);
    assert_eq!(tell(&tell(&bytes).unwrap()), None);
}

#[test]
fn an_answer_that_is_too_long_is_cut_off_but_by_tcp() {
    let names = Names::default();
    let addresses = (0..200).map(|number| Ipv4Addr::new(10, 128, 1, number));
    names.set("front", "api", addresses.collect());
    let ask = |transport, payload: Option<u16>| {
        let mut question = query("api.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            question.set_edns(edns);
        }
        let bytes = answer(&names, "front", &question.to_vec().unwrap(), transport).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.edns.is_some(), payload.is_some());
        (bytes.len(), answer.truncation, answer.answers.len())
    };
    for payload in [None, Some(0), Some(4_096)] {
        let (length, truncated, records) = ask(Transport::Udp, payload);
        assert!(length <= 512 && truncated && records == 0);
    }
    let (_, truncated, records) = ask(Transport::Tcp, None);
    assert!(!truncated && records == 200);
    names.set("front", "api", vec![A; 60]);
    assert!(ask(Transport::Udp, None).1);
    assert!(!ask(Transport::Udp, Some(1_232)).1);
}

#[test]
fn the_first_address_changes() {
    let names = names();
    let first = || {
        let question = query("api.", RecordType::A).to_vec().unwrap();
        let answer = answer(&names, "front", &question, Transport::Udp).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        match answer.answers[0].data {
            RData::A(address) => address.0,
            ref other => panic!("{other}"),
        }
    };
    assert_eq!([first(), first(), first()], [A, B, A]);
}

proptest! {
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_garbage(&bytes);
    }

    #[test]
    fn damaged_questions_are_survived(
        places in proptest::collection::vec((0usize..40, any::<u8>()), 1..6),
        cut in 0usize..40,
    ) {
        let mut question = query("tasks.api.", RecordType::A);
        question.set_edns(Edns::new());
        let mut bytes = question.to_vec().unwrap();
        for (at, byte) in places {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        check_garbage(&bytes);
        bytes.truncate(cut);
        check_garbage(&bytes);
    }
}

/// Whatever comes in, nothing panics, and what goes out is a response to it.
fn check_garbage(bytes: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Some(answer) = answer(&names(), "front", bytes, transport) {
            assert!(answer.len() <= 1_232);
            assert_eq!(answer[..2], bytes[..2]);
            assert_eq!(answer[2] & 0x80, 0x80);
            Message::from_vec(&answer).unwrap();
        }
    }
}
