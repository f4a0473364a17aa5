//! Relations between packages (Debian policy 7.1): `a (>= 1) | b, c:any`.

use std::cmp::Ordering;

use super::version::compare;
use crate::platform::Arch;

/// One alternative: a package, or a name that packages provide, and which versions will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation<'a> {
    pub name: &'a str,
    /// The architecture after the colon: `any`, `native`, or one by name.
    qualifier: Option<&'a str>,
    constraint: Option<(Operator, &'a str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    AtMost,
    Equal,
    AtLeast,
    Greater,
}

impl<'a> Relation<'a> {
    /// Whether this version of a package called `name` will do.
    pub(super) fn accepts(&self, version: &str) -> bool {
        self.constraint.is_none_or(|(operator, wanted)| {
            let order = compare(version, wanted);
            match operator {
                Operator::Less => order == Ordering::Less,
                Operator::AtMost => order != Ordering::Greater,
                Operator::Equal => order == Ordering::Equal,
                Operator::AtLeast => order != Ordering::Less,
                Operator::Greater => order == Ordering::Greater,
            }
        })
    }

    /// Whether something that provides the name will do; without a version it does only where any version
    /// will (policy 7.5).
    pub(super) fn accepts_provided(&self, version: Option<&str>) -> bool {
        match version {
            Some(version) => self.accepts(version),
            None => self.constraint.is_none(),
        }
    }

    /// Whether packages of one architecture can answer: a foreign one is never installed.
    pub(super) fn is_for(&self, arch: Arch) -> bool {
        matches!(self.qualifier, None | Some("any" | "native")) || self.qualifier == Some(arch.as_str())
    }

    /// The version of a `Provides: name (= version)`.
    pub(super) fn exact(&self) -> Option<&'a str> {
        self.constraint.map(|(_, version)| version)
    }
}

/// The groups of a field: all of them must hold, each by one of its alternatives, with the text of each.
/// What cannot be read is left out of its group, which then may have no alternative.
pub(super) fn groups(field: &str) -> impl Iterator<Item = (&str, Vec<Relation<'_>>)> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| {
            let alternatives = group.split('|').filter_map(parse).collect();
            (group, alternatives)
        })
}

/// `name[:qualifier] [(operator version)]`; lists of architectures and profiles do not occur in binary packages.
fn parse(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let end = text
        .find(|c: char| c.is_whitespace() || c == '(')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let rest = rest.trim();
    let constraint = match rest.strip_prefix('(') {
        None if rest.is_empty() => None,
        None => return None,
        Some(inner) => Some(parse_constraint(inner.strip_suffix(')')?.trim())?),
    };
    (!name.is_empty()).then_some(Relation {
        name,
        qualifier,
        constraint,
    })
}

fn parse_constraint(text: &str) -> Option<(Operator, &str)> {
    let operators = [
        ("<<", Operator::Less),
        ("<=", Operator::AtMost),
        (">=", Operator::AtLeast),
        (">>", Operator::Greater),
        ("=", Operator::Equal),
    ];
    let found = |(sign, operator)| Some((operator, text.strip_prefix(sign)?.trim()));
    operators
        .into_iter()
        .find_map(found)
        .filter(|(_, version)| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_alternatives() {
        let all: Vec<_> =
            groups("libc6 (>= 2.36), debconf (>=0.5)|debconf-2.0 , perl:any,,x [amd64]").collect();
        let names: Vec<Vec<_>> = all
            .iter()
            .map(|(_, group)| group.iter().map(|one| one.name).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec!["libc6"],
                vec!["debconf", "debconf-2.0"],
                vec!["perl"],
                vec![]
            ]
        );
        assert_eq!(all[1].0, "debconf (>=0.5)|debconf-2.0");
        assert!(all[0].1[0].accepts("2.36-9") && !all[0].1[0].accepts("2.35"));
        assert!(!all[0].1[0].accepts_provided(None) && all[2].1[0].accepts_provided(None));
    }

    #[test]
    fn operators() {
        for (constraint, accepted) in [
            ("<< 2", "1"),
            ("<= 2", "1 2"),
            ("= 2", "2"),
            (">= 2", "2 3"),
            (">> 2", "3"),
        ] {
            let text = format!("a ({constraint})");
            let relation = parse(&text).unwrap();
            let found: Vec<_> = ["1", "2", "3"]
                .into_iter()
                .filter(|version| relation.accepts(version))
                .collect();
            assert_eq!(found.join(" "), accepted, "{constraint}");
        }
        assert_eq!(parse("a (> 1"), None);
        assert_eq!(parse("a (2)"), None);
        assert!(!parse("a:arm64").unwrap().is_for(Arch::Amd64));
    }

    proptest::proptest! {
        #[test]
        fn no_relation_panics(text in "([a-z0-9]|[ (),|<>=:é]){0,40}") {
            let _ = groups(&text).count();
        }
    }
}
