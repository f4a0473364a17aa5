//! Published ports, in short form with ranges and in long form.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::model::{Port, PortMode, Protocol};
use super::read::{Context, Value};
use super::scalar::Scalar;
use super::word::Word;
use super::yaml::Kind;

const EXPECTED: &str =
    "`[[IP:]PUBLISHED:]TARGET[/PROTOCOL]` with ports from 1 to 65535, or ranges of the same length";

/// All ports of a service, ranges taken apart.
pub(super) fn ports(cx: &Context, value: Value) -> Option<Vec<Port>> {
    let (node, path) = (value.node, value.path.clone());
    let mut places = Vec::new();
    let mut ports = Vec::new();
    for item in cx.list(value, |_, value| Some(value))? {
        let place = item.node.place.clone();
        for port in entry(cx, item).unwrap_or_default() {
            places.push(place.clone());
            ports.push(port);
        }
    }
    // From here on, places are those of the ports, not of the entries.
    for (index, place) in places.iter().enumerate() {
        cx.remember(&format!("{path}[{index}]"), place);
    }
    cx.check_unique(node, &path, &ports);
    Some(ports)
}

fn entry(cx: &Context, value: Value) -> Option<Vec<Port>> {
    match &value.node.kind {
        Kind::Map(_) => long(cx, value).map(|port| vec![port]),
        Kind::Scalar {
            value: Scalar::Int(number),
            ..
        } => match u16::try_from(*number) {
            Ok(target @ 1..) => Some(vec![port(target, None)]),
            _ => {
                cx.expected(&value, "a port from 1 to 65535");
                None
            }
        },
        _ => cx.parsed(value, EXPECTED, short),
    }
}

fn port(target: u16, published: Option<u16>) -> Port {
    Port {
        target,
        published,
        protocol: Protocol::default(),
        mode: PortMode::default(),
        host_ip: None,
    }
}

fn short(text: &str) -> Option<Vec<Port>> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, protocol)) => (rest, word(&protocol.to_ascii_lowercase())?),
        None => (text, Protocol::default()),
    };
    let (outer, target) = match rest.rsplit_once(':') {
        Some((outer, target)) => (Some(outer), target),
        None => (None, rest),
    };
    let (ip, published) = match outer.and_then(|outer| outer.rsplit_once(':')) {
        Some((ip, published)) => (Some(ip), published),
        None => (None, outer.unwrap_or_default()),
    };
    let host_ip = match ip {
        None | Some("") => None,
        Some(ip) => Some(address(ip)?),
    };
    let targets = range(target)?;
    let published = if published.is_empty() {
        None
    } else {
        Some(range(published)?)
    };
    let one = targets.len() == 1;
    // One port may be published under several.
    let pairs: Vec<(u16, Option<u16>)> = match published {
        None => targets.map(|target| (target, None)).collect(),
        Some(published) if one => published.map(|port| (*targets.start(), Some(port))).collect(),
        Some(published) if published.len() == targets.len() => targets.zip(published.map(Some)).collect(),
        Some(_) => return None,
    };
    let make = |(target, published)| Port {
        protocol,
        host_ip: host_ip.clone(),
        ..port(target, published)
    };
    Some(pairs.into_iter().map(make).collect())
}

/// An IP address, one of version 6 with or without brackets.
fn address(text: &str) -> Option<String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_string())
}

fn word<T: Word>(text: &str) -> Option<T> {
    T::ALL
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, word)| *word)
}

/// `80` or `80-89`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| *number > 0);
        number.filter(|_| digits)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

fn long(cx: &Context, value: Value) -> Option<Port> {
    let mut fields = cx.fields(value)?;
    let number = |cx: &Context, value: Value| cx.number(value, 1..=65535).map(|port| port as u16);
    let target = fields.need("target", number);
    let port = Port {
        target: target.unwrap_or(1),
        published: fields.take("published", number),
        protocol: fields.take("protocol", Context::word).unwrap_or_default(),
        mode: fields.take("mode", Context::word).unwrap_or_default(),
        host_ip: fields.take("host_ip", |cx, value| cx.parsed(value, "an IP address", address)),
    };
    fields.finish(&[("name", "remove it"), ("app_protocol", "remove it")]);
    target.map(|_| port)
}

/// A port that others reach: `8000`, or `8000-8010/udp`.
pub(super) fn exposed(cx: &Context, value: Value) -> Option<String> {
    if let Kind::Scalar {
        value: Scalar::Int(number @ 1..=65535),
        ..
    } = &value.node.kind
    {
        return Some(number.to_string());
    }
    cx.parsed(
        value,
        "a port, or a range of ports, such as `8000` or `8000-8010/udp`",
        |text| {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            word::<Protocol>(&protocol.to_ascii_lowercase())?;
            range(ports).map(|_| text.to_owned())
        },
    )
}
