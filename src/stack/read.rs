//! Typed access to a YAML tree: each reader says what it expects, and reports what it finds instead.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use super::Note;
use super::error::{Place, Problem};
use super::fields::Fields;
use super::quantity::{self, Span};
use super::scalar::{Scalar, is_canonical};
use super::variable::Variables;
use super::word::Word;
use super::yaml::{Entry, Kind, Node};

/// What all readers of a file share. Reading goes on after a problem, so that a run shows many.
pub(super) struct Context<'a> {
    pub(super) variables: Variables<'a>,
    /// Reads a file that the stack names, by its path beside the stack file.
    pub(super) files: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The stack file.
    pub(super) file: &'a Path,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) places: RefCell<BTreeMap<String, Place>>,
    pub(super) notes: RefCell<Vec<Note>>,
    /// Values whose variables were reported on: what else is wrong there is a consequence.
    pub(super) broken: RefCell<BTreeSet<Place>>,
}

/// A node, and its path such as `services.api.ports[0]`.
pub(super) struct Value<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

/// `KEY=VALUE`, in either form.
pub(super) struct Pair {
    pub(super) key: String,
    /// `None` if there is no value.
    pub(super) value: Option<String>,
    pub(super) place: Place,
}

impl<'a> Context<'a> {
    pub(super) fn report(&self, place: &Place, what: impl Into<String>, remedy: impl Into<String>) {
        if self.broken.borrow().contains(place) {
            return;
        }
        self.problems.borrow_mut().push(Problem {
            place: place.clone(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// Something else was expected.
    pub(super) fn expected(&self, value: &Value, expected: &str) {
        let what = format!(
            "`{}` is {}, and should be {expected}",
            value.path,
            value.node.what()
        );
        let remedy = match &value.node.kind {
            Kind::Scalar {
                value: Scalar::Null, ..
            } => "write one, or remove the key".to_owned(),
            Kind::Scalar {
                value: Scalar::Text(_),
                ..
            } if expected != "text" && expected.starts_with("a number") => {
                "write it without quotes".to_owned()
            }
            Kind::Scalar { source, .. } if expected.contains("text") => format!("write `\"{source}\"`"),
            _ => String::new(),
        };
        self.report(&value.node.place, what, remedy);
    }

    pub(super) fn remember(&self, path: &str, place: &Place) {
        self.places.borrow_mut().insert(path.to_owned(), place.clone());
    }

    pub(super) fn place(&self, path: &str) -> Option<Place> {
        self.places.borrow().get(path).cloned()
    }

    // --- maps and lists --------------------------------------------------------------------------------

    pub(super) fn fields<'c, 'n>(&'c self, value: Value<'n>) -> Option<Fields<'c, 'a, 'n>> {
        let Kind::Map(entries) = &value.node.kind else {
            self.expected(&value, "a map");
            return None;
        };
        Some(Fields::new(self, value.path, &value.node.place, entries))
    }

    pub(super) fn list<'n, T>(
        &self,
        value: Value<'n>,
        read: impl Fn(&Context<'a>, Value<'n>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Kind::List(items) = &value.node.kind else {
            self.expected(&value, "a list");
            return None;
        };
        let item = |(index, node): (usize, &'n Node)| {
            let path = format!("{}[{index}]", value.path);
            self.remember(&path, &node.place);
            read(self, Value { node, path })
        };
        Some(items.iter().enumerate().filter_map(item).collect())
    }

    /// A map whose keys are names; they are checked.
    pub(super) fn named<'n, T>(
        &self,
        value: Value<'n>,
        read: impl Fn(&Context<'a>, Value<'n>) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let Kind::Map(entries) = &value.node.kind else {
            self.expected(&value, "a map");
            return None;
        };
        let mut named = BTreeMap::new();
        for entry in entries {
            let path = format!("{}.{}", value.path, entry.key);
            self.remember(&path, &entry.place);
            if !is_name(&entry.key) {
                let what = format!(
                    "`{path}` is no name: at most 63 of `a-z A-Z 0-9 . _ -`, a letter or digit first"
                );
                self.report(&entry.place, what, "");
                continue;
            }
            let node = &entry.node;
            if let Some(item) = read(self, Value { node, path }) {
                named.insert(entry.key.clone(), item);
            }
        }
        Some(named)
    }

    // --- scalars ---------------------------------------------------------------------------------------

    pub(super) fn text(&self, value: Value) -> Option<String> {
        match &value.node.kind {
            Kind::Scalar {
                value: Scalar::Text(text),
                ..
            } => Some(text.clone()),
            _ => {
                self.expected(&value, "text");
                None
            }
        }
    }

    /// Text that is not empty.
    pub(super) fn filled(&self, value: Value) -> Option<String> {
        self.parsed(value, "text that is not empty", |text| {
            (!text.is_empty()).then(|| text.to_owned())
        })
    }

    /// Text that means something.
    pub(super) fn parsed<T>(
        &self,
        value: Value,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let Kind::Scalar {
            value: Scalar::Text(text),
            ..
        } = &value.node.kind
        else {
            self.expected(&value, expected);
            return None;
        };
        let parsed = parse(text);
        if parsed.is_none() {
            let what = format!("`{}` is `{text}`, and should be {expected}", value.path);
            self.report(&value.node.place, what, "");
        }
        parsed
    }

    pub(super) fn word<T: Word>(&self, value: Value) -> Option<T> {
        let words: Vec<_> = T::ALL.iter().map(|(word, _)| format!("`{word}`")).collect();
        let find = |text: &str| {
            T::ALL
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, word)| *word)
        };
        self.parsed(value, &format!("one of {}", words.join(", ")), find)
    }

    pub(super) fn flag(&self, value: Value) -> Option<bool> {
        match &value.node.kind {
            Kind::Scalar {
                value: Scalar::Bool(flag),
                ..
            } => return Some(*flag),
            // What a variable held has no type; docker takes YAML 1.1's words.
            Kind::Scalar {
                value: Scalar::Text(text),
                substituted: true,
                ..
            } => match text.to_ascii_lowercase().as_str() {
                "y" | "yes" | "true" | "on" => return Some(true),
                "n" | "no" | "false" | "off" => return Some(false),
                _ => {}
            },
            _ => {}
        }
        self.expected(&value, "`true` or `false`");
        None
    }

    pub(super) fn signed(&self, value: Value, range: RangeInclusive<i64>) -> Option<i64> {
        let number = match &value.node.kind {
            Kind::Scalar {
                value: Scalar::Int(number),
                ..
            } => i64::try_from(*number).ok(),
            Kind::Scalar {
                value: Scalar::Text(text),
                substituted: true,
                ..
            } => text.parse().ok(),
            _ => {
                self.expected(&value, "a number without a fraction");
                return None;
            }
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (path, source) = (&value.path, source(value.node));
            let (low, high) = range.into_inner();
            let what = format!("`{path}` is `{source}`, and should be a number from {low} to {high}");
            self.report(&value.node.place, what, "");
        }
        number
    }

    pub(super) fn number(&self, value: Value, range: RangeInclusive<u64>) -> Option<u64> {
        let signed = |bound: u64| i64::try_from(bound).unwrap_or(i64::MAX);
        let number = self.signed(value, signed(*range.start())..=signed(*range.end()))?;
        u64::try_from(number).ok()
    }

    /// From 0 to 1.
    pub(super) fn ratio(&self, value: Value) -> Option<f64> {
        let number = match &value.node.kind {
            Kind::Scalar {
                value: Scalar::Int(number),
                ..
            } => Some(*number as f64),
            Kind::Scalar {
                value: Scalar::Float(number),
                ..
            } => Some(*number),
            Kind::Scalar {
                value: Scalar::Text(text),
                substituted: true,
                ..
            } => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (0.0..=1.0).contains(number));
        if number.is_none() {
            self.expected(&value, "a number from 0 to 1");
        }
        number
    }

    pub(super) fn span(&self, value: Value) -> Option<Span> {
        let Kind::Scalar {
            value: Scalar::Text(text),
            ..
        } = &value.node.kind
        else {
            self.expected(&value, "a duration such as `30s`");
            return None;
        };
        match text.parse() {
            Ok(span) => Some(span),
            Err(why) => {
                self.report(&value.node.place, format!("`{}` is `{text}`", value.path), why);
                None
            }
        }
    }

    pub(super) fn bytes(&self, value: Value) -> Option<u64> {
        self.parsed(value, "a size in text, such as `200M`", quantity::bytes)
    }

    // --- what is written in several ways ---------------------------------------------------------------

    /// A list of text.
    pub(super) fn texts(&self, value: Value) -> Option<Vec<String>> {
        self.list(value, |cx, value| cx.text(value))
    }

    /// A list of text in which nothing stands twice.
    pub(super) fn set(&self, value: Value) -> Option<Vec<String>> {
        let (node, path) = (value.node, value.path.clone());
        let texts = self.texts(value)?;
        self.check_unique(node, &path, &texts);
        Some(texts)
    }

    /// A text, or a list of text in which nothing stands twice.
    pub(super) fn one_or_more(&self, value: Value) -> Option<Vec<String>> {
        match &value.node.kind {
            Kind::Scalar {
                value: Scalar::Text(text),
                ..
            } => Some(vec![text.clone()]),
            Kind::List(_) => self.set(value),
            _ => {
                self.expected(&value, "text, or a list of it");
                None
            }
        }
    }

    pub(super) fn check_unique<T: PartialEq>(&self, list: &Node, path: &str, items: &[T]) {
        let twice = (1..items.len()).find(|index| items[..*index].contains(&items[*index]));
        if let Some(index) = twice {
            let place = self.place(&format!("{path}[{index}]"));
            let what = format!("`{path}[{index}]` stands twice");
            self.report(place.as_ref().unwrap_or(&list.place), what, "remove one");
        }
    }

    /// A map, or a list of `KEY=VALUE`. No key stands twice.
    pub(super) fn pairs(&self, value: Value) -> Option<Vec<Pair>> {
        let pairs: Vec<Pair> = match &value.node.kind {
            Kind::Map(entries) => entries
                .iter()
                .filter_map(|entry| self.entry(&value.path, entry))
                .collect(),
            Kind::List(_) => {
                let path = value.path.clone();
                let read = |cx: &Context, value: Value| {
                    let place = value.node.place.clone();
                    let text = cx.text(value)?;
                    let (key, value) = match text.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (text, None),
                    };
                    Some(Pair { key, value, place })
                };
                let pairs = self.list(value, read)?;
                for (at, pair) in pairs.iter().enumerate() {
                    self.remember(&format!("{path}.{}", pair.key), &pair.place);
                    if pairs[..at].iter().any(|before| before.key == pair.key) {
                        let what = format!("`{path}` has `{}` twice", pair.key);
                        self.report(&pair.place, what, "remove one");
                    }
                }
                pairs
            }
            _ => {
                self.expected(&value, "a map, or a list of `KEY=VALUE`");
                return None;
            }
        };
        for pair in pairs.iter().filter(|pair| pair.key.is_empty()) {
            self.report(&pair.place, "a name is missing before the `=`", "");
        }
        Some(pairs)
    }

    fn entry(&self, path: &str, entry: &Entry) -> Option<Pair> {
        let path = format!("{path}.{}", entry.key);
        self.remember(&path, &entry.place);
        let node = &entry.node;
        let value = match node.is_null() {
            true => None,
            false => Some(self.loose_text(Value { node, path })?),
        };
        Some(Pair {
            key: entry.key.clone(),
            value,
            place: entry.place.clone(),
        })
    }

    /// Text, or a number that is the same as text.
    pub(super) fn loose_text(&self, value: Value) -> Option<String> {
        if let Kind::Scalar {
            value: scalar,
            source,
            ..
        } = &value.node.kind
        {
            if is_canonical(scalar, source) {
                return Some(source.clone());
            }
            if matches!(scalar, Scalar::Int(_) | Scalar::Float(_) | Scalar::Date) {
                let kind = scalar.kind();
                let what = format!(
                    "`{}` is {kind}, and YAML has another text for it than `{source}`",
                    value.path
                );
                self.report(&value.node.place, what, format!("write `\"{source}\"`"));
                return None;
            }
        }
        self.expected(&value, "text or a number");
        None
    }

    /// Pairs in which no value is an empty one.
    pub(super) fn labels(&self, value: Value) -> Option<BTreeMap<String, String>> {
        let pairs = self.pairs(value)?.into_iter();
        Some(
            pairs
                .map(|pair| (pair.key, pair.value.unwrap_or_default()))
                .collect(),
        )
    }

    /// A map from options to text or numbers.
    pub(super) fn options(&self, value: Value) -> Option<BTreeMap<String, String>> {
        let Kind::Map(entries) = &value.node.kind else {
            self.expected(&value, "a map");
            return None;
        };
        let mut options = BTreeMap::new();
        for entry in entries {
            let path = format!("{}.{}", value.path, entry.key);
            self.remember(&path, &entry.place);
            let node = &entry.node;
            if let Some(text) = self.loose_text(Value { node, path }) {
                options.insert(entry.key.clone(), text);
            }
        }
        Some(options)
    }
}

/// A name that every target takes.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed)
}

fn source(node: &Node) -> &str {
    match &node.kind {
        Kind::Scalar { source, .. } => source,
        Kind::List(_) | Kind::Map(_) => "",
    }
}
