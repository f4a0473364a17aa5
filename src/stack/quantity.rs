//! Durations, sizes and shares of processors, as docker writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest duration: a year.
const MAX_SPAN: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A duration in Go's form, such as `1m30s` or `1.5h`; at most a year. In JSON, the text that Go prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Span, &'static str> {
        const FORM: &str = "a duration is written like `30s`, `1m30s` or `500ms`";
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest.starts_with('-') {
            return Err("a duration cannot be negative");
        }
        if rest == "0" {
            return Ok(Span::default());
        }
        if rest.is_empty() {
            return Err(FORM);
        }
        let mut nanos = 0u128;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(FORM)?;
            let (number, unit_on) = rest.split_at(end);
            let end = unit_on.find(|c: char| c.is_ascii_digit() || c == '.');
            let (unit, after) = unit_on.split_at(end.unwrap_or(unit_on.len()));
            let unit = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => NANOS_PER_SECOND,
                "m" => 60 * NANOS_PER_SECOND,
                "h" => 3600 * NANOS_PER_SECOND,
                _ => return Err(FORM),
            };
            nanos = nanos.checked_add(scaled(number, unit).ok_or(FORM)?).ok_or(FORM)?;
            rest = after;
        }
        match nanos <= MAX_SPAN.as_nanos() {
            true => Ok(Span(Duration::from_nanos(nanos as u64))),
            false => Err("a duration is at most a year, `8760h`"),
        }
    }
}

/// A decimal number times a unit; what is below one is cut off.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // More digits than these change no nanosecond.
    let fraction = &fraction[..fraction.len().min(18)];
    let parts: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let parts = parts.checked_mul(unit)? / 10u128.pow(fraction.len() as u32);
    whole.checked_mul(unit)?.checked_add(parts)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (seconds, rest) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
        match (seconds, rest) {
            (0, 0) => return f.write_str("0s"),
            (0, 1..1_000) => return write!(f, "{rest}ns"),
            (0, 1_000..1_000_000) => return write!(f, "{}µs", decimal(rest, 3)),
            (0, _) => return write!(f, "{}ms", decimal(rest, 6)),
            _ => {}
        }
        if seconds >= 3600 {
            write!(f, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(f, "{}m", seconds / 60 % 60)?;
        }
        write!(f, "{}s", decimal(nanos % (60 * NANOS_PER_SECOND), 9))
    }
}

/// A number with so many digits behind the point, without zeros at the end.
fn decimal(number: u128, digits: usize) -> String {
    let scale = 10u128.pow(digits as u32);
    let text = format!("{}.{:0digits$}", number / scale, number % scale);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Bytes, such as `200M`, `1.5g` or `64KiB`: units are powers of 1024, in either case.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        _ => {
            let (first, rest) = unit.split_at_checked(1)?;
            let power = "kmgtp".find(first)?;
            matches!(rest, "" | "b" | "ib").then_some(power as u32 + 1)?
        }
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let bytes = scaled(number, 1u128.checked_shl(10 * power)?)?;
    i64::try_from(bytes).ok().map(|bytes| bytes as u64)
}

/// Processors in billionths, such as `0.5`; above 0, and no finer than that.
pub(super) fn nano_cpus(text: &str) -> Option<u64> {
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        || fraction.trim_end_matches('0').len() > 9
    {
        return None;
    }
    let nanos = scaled(text, NANOS_PER_SECOND)?;
    i64::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos > 0)
        .map(|nanos| nanos as u64)
}
