//! YAML as a tree in which every node knows its place; aliases and merge keys are gone, and sizes bounded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::error::{Place, Problem};
use super::scalar::Scalar;

/// The largest file, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// How deep nodes stand in each other.
const MAX_DEPTH: usize = 32;
/// The most nodes, those that aliases repeat among them.
const MAX_NODES: usize = 50_000;
/// The most text, what aliases repeat included, in bytes.
const MAX_TEXT: usize = 4 << 20;
/// The longest key, in bytes.
const MAX_KEY: usize = 256;

/// A value, and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Scalar {
        value: Scalar,
        /// As it was written, without quotes.
        source: String,
        /// Whether a variable was replaced in it, so that it may stand for another type.
        substituted: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map; no two of a map are equal.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The key's.
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// What it is, in words.
    pub(super) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar { value, .. } => value.kind(),
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(
            &self.kind,
            Kind::Scalar {
                value: Scalar::Null,
                ..
            }
        )
    }

    /// Nodes and bytes of text.
    fn size(&self) -> (usize, usize) {
        let add = |(nodes, text), (more, longer): (usize, usize)| (nodes + more, text + longer);
        match &self.kind {
            Kind::Scalar { source, .. } => (1, source.len()),
            Kind::List(items) => items.iter().map(Node::size).fold((1, 0), add),
            Kind::Map(entries) => {
                let keys = entries.iter().map(|entry| entry.key.len()).sum();
                entries.iter().map(|entry| entry.node.size()).fold((1, keys), add)
            }
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.kind {
            Kind::Scalar { .. } => 0,
            Kind::List(items) => items.iter().map(Node::depth).max().unwrap_or(0),
            Kind::Map(entries) => entries.iter().map(|entry| entry.node.depth()).max().unwrap_or(0),
        }
    }
}

/// The one document of a file. An empty file is a null.
pub(super) fn parse(text: &str, file: &Arc<Path>) -> Result<Node, Problem> {
    let place = Place {
        file: file.clone(),
        line: 1,
        column: 1,
    };
    if text.len() > MAX_BYTES {
        return Err(problem(&place, "the file is larger than 1 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = Tree {
        parser: Parser::new_from_str(text),
        file: file.clone(),
        anchors: BTreeMap::new(),
        nodes: 0,
        text: 0,
    };
    tree.document()
}

fn problem(place: &Place, what: impl Into<String>) -> Problem {
    Problem {
        place: place.clone(),
        what: what.into(),
        remedy: String::new(),
    }
}

struct Tree<'t> {
    parser: Parser<'t, StrInput<'t>>,
    file: Arc<Path>,
    anchors: BTreeMap<usize, Node>,
    /// How much of the limits is used.
    nodes: usize,
    text: usize,
}

impl<'t> Tree<'t> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentStart(_) if root.is_some() => {
                    let place = self.place(span.start);
                    return Err(problem(&place, "a second document begins; a stack is one"));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 1)?);
                }
                Event::StreamEnd => break,
                _ => {}
            }
        }
        Ok(root.unwrap_or_else(|| Node {
            place: self.place(Marker::new(0, 1, 0)),
            kind: Kind::Scalar {
                value: Scalar::Null,
                source: String::new(),
                substituted: false,
            },
        }))
    }

    fn place(&self, mark: Marker) -> Place {
        Place {
            file: self.file.clone(),
            line: mark.line(),
            column: mark.col() + 1,
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(problem(&self.place(*error.marker()), error.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The node that an event begins.
    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Problem> {
        let place = self.place(span.start);
        if depth > MAX_DEPTH {
            return Err(problem(
                &place,
                format!("values stand {MAX_DEPTH} deep in each other"),
            ));
        }
        let (anchor, kind) = match event {
            Event::Alias(anchor) => return self.alias(anchor, &place, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref()).map_err(|what| problem(&place, what))?;
                let source = text.into_owned();
                let substituted = false;
                (
                    anchor,
                    Kind::Scalar {
                        value,
                        source,
                        substituted,
                    },
                )
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", &place)?;
                (anchor, Kind::List(self.items(depth)?))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", &place)?;
                (anchor, Kind::Map(self.entries(depth)?))
            }
            _ => return Err(problem(&place, "a value is missing")),
        };
        let node = Node { place, kind };
        let own = match &node.kind {
            Kind::Scalar { source, .. } => source.len(),
            _ => 0,
        };
        self.use_up(1, own, &node.place)?;
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, place: &Place, depth: usize) -> Result<Node, Problem> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(problem(place, "an alias stands in what it refers to"));
        };
        if depth + node.depth() > MAX_DEPTH {
            return Err(problem(
                place,
                format!("values stand {MAX_DEPTH} deep in each other"),
            ));
        }
        let (nodes, text) = node.size();
        self.use_up(nodes, text, place)?;
        Ok(node)
    }

    fn use_up(&mut self, nodes: usize, text: usize, place: &Place) -> Result<(), Problem> {
        self.nodes += nodes;
        self.text += text;
        match self.nodes > MAX_NODES || self.text > MAX_TEXT {
            true => Err(problem(
                place,
                format!(
                    "the file has more than {MAX_NODES} values or 4 MiB of text with what its aliases repeat"
                ),
            )),
            false => Ok(()),
        }
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        let mut order = Vec::new();
        let mut merged = None;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            let twice = |name: &str, before: &Place| {
                let line = before.line;
                let what = format!("the key `{name}` stands twice, for the first time in line {line}");
                problem(&key.place, what)
            };
            if is_merge {
                match &merged {
                    Some((before, _)) => return Err(twice("<<", before)),
                    None => merged = Some((key.place, node)),
                }
                continue;
            }
            let name = key_text(&key)?;
            if let Some(before) = entries.get(&name) {
                return Err(twice(&name, &before.place));
            }
            order.push(name.clone());
            let entry = Entry {
                key: name.clone(),
                place: key.place,
                node,
            };
            entries.insert(name, entry);
        }
        if let Some((place, node)) = merged {
            for entry in merge_sources(&place, node)? {
                if !entries.contains_key(&entry.key) {
                    order.push(entry.key.clone());
                    entries.insert(entry.key.clone(), entry);
                }
            }
        }
        Ok(order.iter().filter_map(|name| entries.remove(name)).collect())
    }

    fn check_tag(&self, tag: Option<&Tag>, expected: &str, place: &Place) -> Result<(), Problem> {
        match tag {
            Some(tag) if tag.suffix != expected || !is_core(tag) => Err(problem(place, unknown_tag(tag))),
            _ => Ok(()),
        }
    }
}

/// A map's key: text, as in Docker.
fn key_text(key: &Node) -> Result<String, Problem> {
    match &key.kind {
        Kind::Scalar { source, .. } if source.len() > MAX_KEY => Err(problem(
            &key.place,
            format!("the key is longer than {MAX_KEY} bytes"),
        )),
        Kind::Scalar {
            value: Scalar::Text(text),
            ..
        } => Ok(text.clone()),
        Kind::Scalar { value, source, .. } => Err(Problem {
            place: key.place.clone(),
            what: format!("the key `{source}` is {}, and keys are text", value.kind()),
            remedy: format!("write `\"{source}\"`"),
        }),
        Kind::List(_) | Kind::Map(_) => {
            let what = format!("the key is {}, and keys are text", key.what());
            Err(problem(&key.place, what))
        }
    }
}

/// The entries that `<<` brings in, the first of equal keys being the one that counts.
fn merge_sources(place: &Place, node: Node) -> Result<Vec<Entry>, Problem> {
    let maps = match node.kind {
        Kind::List(items) => items,
        _ => vec![node],
    };
    let mut entries = Vec::new();
    for map in maps {
        match map.kind {
            Kind::Map(more) => entries.extend(more),
            _ => return Err(problem(place, "`<<` takes a map, or a list of maps")),
        }
    }
    Ok(entries)
}

fn is_core(tag: &Tag) -> bool {
    tag.is_yaml_core_schema() || tag.handle == "!!"
}

fn unknown_tag(tag: &Tag) -> String {
    match is_core(tag) {
        true => format!("the tag `!!{}` does not fit here", tag.suffix),
        false => format!("the tag `{}{}` is unsupported", tag.handle, tag.suffix),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    let quoted = || Scalar::Text(text.to_owned());
    // The tag `!` says nothing, in docker's parser.
    let says_nothing = |tag: &&Tag| format!("{}{}", tag.handle, tag.suffix) == "!";
    let Some(tag) = tag.filter(|tag| !says_nothing(tag)) else {
        return Ok(match style {
            ScalarStyle::Plain => Scalar::plain(text),
            _ => quoted(),
        });
    };
    let value = match (is_core(tag), Scalar::plain(text)) {
        (true, _) if tag.suffix == "str" => quoted(),
        (true, Scalar::Int(value)) if tag.suffix == "float" => Scalar::Float(value as f64),
        (true, value @ Scalar::Int(_)) if tag.suffix == "int" => value,
        (true, value @ Scalar::Float(_)) if tag.suffix == "float" => value,
        (true, value @ Scalar::Bool(_)) if tag.suffix == "bool" => value,
        (true, value @ Scalar::Null) if tag.suffix == "null" => value,
        _ => return Err(unknown_tag(tag)),
    };
    Ok(value)
}
