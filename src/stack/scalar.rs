//! What a plain YAML scalar means, as docker's parser has it; what only looks like a number stays text.

/// A scalar's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// A date, which Docker rewrites where text is expected.
    Date,
    Text(String),
}

impl Scalar {
    /// A plain scalar: YAML 1.2's core schema with `_` between digits, octal as `0644` and `0o644`, binary,
    /// and without `yes` and `on`.
    pub(super) fn plain(text: &str) -> Scalar {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
            "true" | "True" | "TRUE" => return Scalar::Bool(true),
            "false" | "False" | "FALSE" => return Scalar::Bool(false),
            ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
            _ => {}
        }
        let number = match text.as_bytes()[0] {
            b'.' => float(text),
            b'0'..=b'9' | b'+' | b'-' => {
                if is_date(text) {
                    return Scalar::Date;
                }
                let digits = text.replace('_', "");
                integer(&digits).map(Scalar::Int).or_else(|| float(&digits))
            }
            _ => None,
        };
        number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Scalar::Null => "nothing",
            Scalar::Bool(_) => "a boolean",
            Scalar::Int(_) | Scalar::Float(_) => "a number",
            Scalar::Date => "a date",
            Scalar::Text(_) => "text",
        }
    }
}

/// Digits with an optional sign and base; what fits into 64 bits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match prefix.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(octal) if octal.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // The library takes a sign of its own.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let value = i128::from_str_radix(digits, base).ok()?;
    let value = if negative { -value } else { value };
    (i128::from(i64::MIN)..=i128::from(u64::MAX))
        .contains(&value)
        .then_some(value)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn float(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let good_mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    let good_exponent = exponent.is_none_or(|text| digits(text.strip_prefix(['-', '+']).unwrap_or(text)));
    let value: f64 = text.parse().ok()?;
    (good_mantissa && good_exponent && value.is_finite()).then_some(Scalar::Float(value))
}

/// `YYYY-M-D`, alone or before a time.
fn is_date(text: &str) -> bool {
    let (date, time) = text.split_at(text.find(['T', 't', ' ']).unwrap_or(text.len()));
    let parts: Vec<_> = date.split('-').collect();
    let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_of_time = |c: char| c.is_ascii_digit() || "TtZ :.+-".contains(c);
    matches!(parts.as_slice(), [year, month, day] if year.len() == 4 && month.len() <= 2 && day.len() <= 2)
        && parts.iter().all(digits)
        && time.chars().all(is_of_time)
}

/// Whether Docker, which writes a number anew where text is expected, would write this very text.
pub(super) fn is_canonical(scalar: &Scalar, source: &str) -> bool {
    match scalar {
        Scalar::Int(value) => value.to_string() == source,
        Scalar::Float(value) => {
            let plain = *value == 0.0 || (1e-4..1e21).contains(&value.abs());
            plain && value.to_string() == source
        }
        Scalar::Text(_) => true,
        Scalar::Null | Scalar::Bool(_) | Scalar::Date => false,
    }
}
