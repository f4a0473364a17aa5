//! Replaces what differs from run to run.

/// What is replaced, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ids of releases: `RELEASE`.
    Release,
    /// SHA-256 in hexadecimal, and after `sha256:` as many digits of it as there are: `DIGEST`.
    Digest,
    /// Dates with times: `TIME`.
    Time,
    /// The number after a text: `N`.
    NumberAfter(&'static str),
}

/// `text` with all of `kinds` replaced.
pub fn masked(text: &str, kinds: &[Kind]) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        match kinds.iter().find_map(|kind| kind.at(rest)) {
            Some((instead, length)) => {
                masked += &instead;
                rest = &rest[length..];
            }
            None => {
                masked.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
    masked
}

impl Kind {
    /// What stands for the beginning of `text`, and how long that is.
    fn at(self, text: &str) -> Option<(String, usize)> {
        let digits = |text: &str, are: fn(&u8) -> bool| text.bytes().take_while(are).count();
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match self {
            Kind::Release => {
                looks_like(text, "xxxxxxxxxxxx-00000000000000").map(|length| ("RELEASE".into(), length))
            }
            Kind::Time => looks_like(text, "0000-00-00?00:00:00").map(|length| ("TIME".into(), length)),
            Kind::Digest => match text.strip_prefix("sha256:") {
                Some(digest) => {
                    let length = digits(digest, is_hex);
                    (length > 0).then(|| ("sha256:DIGEST".into(), text.len() - digest.len() + length))
                }
                None => (digits(text, is_hex) >= 64).then(|| ("DIGEST".into(), 64)),
            },
            Kind::NumberAfter(before) => {
                let number = text.strip_prefix(before)?;
                Some((
                    format!("{before}N"),
                    before.len() + digits(number, u8::is_ascii_digit),
                ))
            }
        }
    }
}

/// The length of `pattern` if `text` begins like it: `0` is a digit, `x` one in hexadecimal, `?` anything.
fn looks_like(text: &str, pattern: &str) -> Option<usize> {
    let begins = text.as_bytes().get(..pattern.len())?;
    let fits = |(byte, wanted): (&u8, u8)| match wanted {
        b'0' => byte.is_ascii_digit(),
        b'x' => byte.is_ascii_hexdigit(),
        b'?' => byte.is_ascii(),
        other => *byte == other,
    };
    begins
        .iter()
        .zip(pattern.bytes())
        .all(fits)
        .then_some(pattern.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_replaced_and_nothing_else() {
        let all = [
            Kind::Release,
            Kind::Digest,
            Kind::Time,
            Kind::NumberAfter("web.1."),
        ];
        let text = "5d00fed0a1b2-20261124230000 ran web.1.27 of a@sha256:0f1e (ü) at 2026-11-24T23:00:00Z";
        assert_eq!(
            masked(text, &all),
            "RELEASE ran web.1.N of a@sha256:DIGEST (ü) at TIMEZ"
        );
        assert_eq!(masked(text, &[]), text);
        assert_eq!(masked(&"0f".repeat(32), &all), "DIGEST");
    }
}
