//! Keeps values that are secret out of what is shown: a stand-in for a variable of `secret_env`, and nothing of its
//! value in any line. It covers a value as it is, and not what a program makes of it, such as its base64.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::stack::Stack;

/// What is shorter stands in too many lines by chance, in bytes.
const SHORTEST: usize = 6;
const STAND_IN: &str = "(secret)";

/// The secret values of a release. Its `Debug` shows none of them.
#[derive(Clone, Default)]
pub struct Mask {
    names: BTreeSet<String>,
    values: Vec<String>,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.names).finish()
    }
}

impl Mask {
    /// Covers what the variables `names` hold in any service of `stack`.
    pub fn new(names: &BTreeSet<String>, stack: &Stack) -> Mask {
        let variables = stack.services.values().flat_map(|service| &service.environment);
        let secret = variables.filter(|(name, _)| names.contains(*name));
        let mask = Mask {
            names: names.clone(),
            values: Vec::new(),
        };
        mask.and(secret.map(|(_, value)| value.as_str()))
    }

    /// Covers `values` too.
    pub fn and<'a>(self, values: impl Iterator<Item = &'a str>) -> Mask {
        // A log has one line at a time.
        let lines = values.flat_map(str::lines).map(str::trim);
        let more = lines.filter(|line| line.len() >= SHORTEST).map(str::to_owned);
        let values: BTreeSet<String> = self.values.into_iter().chain(more).collect();
        Mask {
            names: self.names,
            values: values.into_iter().collect(),
        }
    }

    /// `text` with `(secret)` where a value stood. Values that overlap are covered as one.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut covered: Vec<(usize, usize)> = Vec::new();
        for value in &self.values {
            let mut from = 0;
            while let Some(at) = text[from..].find(value.as_str()).map(|at| from + at) {
                covered.push((at, at + value.len()));
                from = at + value.chars().next().map_or(1, char::len_utf8);
            }
        }
        if covered.is_empty() {
            return Cow::Borrowed(text);
        }
        covered.sort_unstable();
        let mut masked = String::with_capacity(text.len());
        let mut end = 0;
        for (from, to) in covered {
            if from >= end {
                masked.push_str(&text[end..from]);
                masked.push_str(STAND_IN);
            }
            end = end.max(to);
        }
        masked.push_str(&text[end..]);
        Cow::Owned(masked)
    }

    /// Covers values in what is shown of a service: those of its `environment` by a stand-in that differs when the value
    /// does, and all others as [`Mask::apply`] does.
    pub fn hide(&self, shown: &mut Value) {
        if let Some(Value::Object(environment)) = shown.get_mut("environment") {
            for (name, value) in environment {
                match value {
                    Value::String(text) if self.names.contains(name) => *value = stand_in(text).into(),
                    _ => {}
                }
            }
        }
        self.cover(shown);
    }

    fn cover(&self, shown: &mut Value) {
        match shown {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.apply(text) {
                    *text = masked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.cover(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.cover(field)),
            _ => {}
        }
    }
}

/// What is shown in place of a secret value: 8 digits of its BLAKE3, enough to see that it is another one.
pub fn stand_in(value: &str) -> String {
    let hash = blake3::hash(value.as_bytes()).to_hex();
    format!("(secret, hash {})", &hash[..8])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Covers the variables `A` to `D` of one service.
    fn mask(environment: &str) -> Mask {
        let text = format!("services: {{api: {{image: api, environment: {{{environment}}}}}}}");
        let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let reading = crate::stack::read(&text, Path::new("s.yml"), &|_| None, &no_file).unwrap();
        let names = ["A", "B", "C", "D"].map(str::to_owned).into();
        Mask::new(&names, &reading.stack)
    }

    #[test]
    fn nothing_of_a_value_is_left() {
        let mask = mask(r#"A: abcdef, B: defghi, C: "first line\nsecond line", D: short, E: plain-value"#);
        for (text, expected) in [
            ("nothing to hide", "nothing to hide"),
            ("key=abcdef;", "key=(secret);"),
            ("abcdefghi", "(secret)"),
            ("defghiabcdef", "(secret)(secret)"),
            ("abcdefabcdef abcde", "(secret)(secret) abcde"),
            ("[second line]", "[(secret)]"),
            ("short plain-value", "short plain-value"),
            ("é abcdef ü", "é (secret) ü"),
        ] {
            assert_eq!(mask.apply(text), expected);
        }
        assert!(matches!(mask.apply("as it is"), Cow::Borrowed("as it is")));
        assert_eq!(mask_of_repeats().apply("xaaaaaaax"), "x(secret)x");
    }

    fn mask_of_repeats() -> Mask {
        mask("A: aaaaaa")
    }

    #[test]
    fn what_is_shown_of_a_service_tells_values_apart_and_repeats_none() {
        let mask = mask("A: a-long-secret, D: no");
        let mut shown = serde_json::json!({
            "environment": {"A": "a-long-secret", "D": "no", "E": "http://x:a-long-secret@y"},
            "command": ["--key", "a-long-secret"],
            "replicas": 3,
        });
        mask.hide(&mut shown);
        let expected = serde_json::json!({
            "environment": {"A": stand_in("a-long-secret"), "D": stand_in("no"), "E": "http://x:(secret)@y"},
            "command": ["--key", "(secret)"],
            "replicas": 3,
        });
        assert_eq!(shown, expected);
        assert_ne!(stand_in("no"), stand_in("yes"));
        assert_eq!(stand_in(""), "(secret, hash af1349b9)");
    }

    #[test]
    fn a_mask_does_not_show_what_it_covers() {
        assert_eq!(
            format!("{:?}", mask("A: a-long-secret")),
            r#"{"A", "B", "C", "D"}"#
        );
    }
}
