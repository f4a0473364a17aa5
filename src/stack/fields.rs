//! Maps with known keys: they are taken one by one, and what is left is reported.

use super::Note;
use super::error::Place;
use super::model::Extensions;
use super::read::{Context, Value};
use super::scalar::Scalar;
use super::yaml::{Entry, Kind, Node};

/// A map whose keys are taken one by one; what is left at the end is reported.
pub(super) struct Fields<'c, 'a, 'n> {
    cx: &'c Context<'a>,
    path: String,
    place: &'n Place,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'c, 'a, 'n> Fields<'c, 'a, 'n> {
    pub(super) fn new(cx: &'c Context<'a>, path: String, place: &'n Place, entries: &'n [Entry]) -> Self {
        let known = Vec::new();
        Fields {
            cx,
            path,
            place,
            entries,
            known,
        }
    }

    /// What a key holds, read; `None` if it is absent, or if its problem was reported.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Context<'a>, Value<'n>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let path = self.path_of(key);
        self.cx.remember(&path, &entry.place);
        let node = &entry.node;
        read(self.cx, Value { node, path })
    }

    /// The same, of a key that must be there.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Context<'a>, Value<'n>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            let what = format!("`{}` has no `{key}`", self.path);
            self.cx.report(&self.own_place(), what, "");
        }
        self.take(key, read)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// Where a key stands, or the map if it does not.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.map_or_else(|| self.own_place(), |entry| entry.place.clone())
    }

    /// Where the map's key or item stands.
    fn own_place(&self) -> Place {
        self.cx.place(&self.path).unwrap_or_else(|| self.place.clone())
    }

    /// Reports something about a key.
    pub(super) fn report(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.cx.report(&self.place_of(key), what, remedy);
    }

    /// Leaves a key aside that changes nothing, and notes why.
    pub(super) fn ignore(&mut self, key: &'static str, why: &'static str) {
        self.known.push(key);
        if self.has(key) {
            self.cx.notes.borrow_mut().push(Note {
                place: self.place_of(key),
                key: self.path_of(key),
                why,
            });
        }
    }

    /// The keys that begin with `x-`.
    pub(super) fn extensions(&mut self) -> Extensions {
        let extensions = self.entries.iter().filter(|entry| entry.key.starts_with("x-"));
        self.known.push("x-");
        extensions
            .map(|entry| (entry.key.clone(), json(&entry.node)))
            .collect()
    }

    /// Reports every key that was not taken. Those of the compose specification that stack files do not
    /// have come with what to do instead.
    pub(super) fn finish(self, unsupported: &[(&'static str, &str)]) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) || key.starts_with("x-") && self.known.contains(&"x-") {
                continue;
            }
            let path = self.path_of(key);
            if let Some((_, remedy)) = unsupported.iter().find(|(name, _)| *name == key) {
                self.cx.report(
                    &entry.place,
                    format!("`{path}` is unsupported in a stack"),
                    *remedy,
                );
                continue;
            }
            let names = self.known.iter().chain(unsupported.iter().map(|(name, _)| name));
            let near = nearest(names.copied().filter(|name| *name != "x-"), key);
            let remedy = near.map_or(String::new(), |name| format!("did you mean `{name}`?"));
            self.cx
                .report(&entry.place, format!("`{path}` is unknown"), remedy);
        }
    }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.kind {
        Kind::List(items) => items.iter().map(json).collect(),
        Kind::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone(), json(&entry.node)))
            .collect(),
        Kind::Scalar { value, source, .. } => match value {
            Scalar::Null => serde_json::Value::Null,
            Scalar::Bool(flag) => (*flag).into(),
            Scalar::Int(number) => match i64::try_from(*number) {
                Ok(number) => number.into(),
                Err(_) => (*number as u64).into(),
            },
            // What JSON has no number for stays text.
            Scalar::Float(number) => match serde_json::Number::from_f64(*number) {
                Some(number) => number.into(),
                None => source.as_str().into(),
            },
            Scalar::Date => source.as_str().into(),
            Scalar::Text(text) => text.as_str().into(),
        },
    }
}

/// The one of `names` that may have been meant by `wanted`.
pub fn nearest<'n>(names: impl IntoIterator<Item = &'n str>, wanted: &str) -> Option<&'n str> {
    let near = names.into_iter().min_by_key(|name| distance(name, wanted))?;
    (distance(near, wanted) <= 2 && wanted.len() > 2).then_some(near)
}

/// How many letters have to be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
