//! Reads stack files, which are docker's compose v3 format as `docker stack deploy` takes it, into types that
//! are the same for every target. It runs nothing, and opens only what the caller opens for it.
//!
//! Whatever a file says is honoured, noted or refused: an unknown key is an error with its place, as is one of
//! the compose specification that stacks do not have. `docs/stack.md` lists what differs from docker.
//!
//! Limits: a file of 1 MiB, 32 levels, 50,000 values with those that aliases repeat.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

mod check;
mod deploy;
mod environment;
mod error;
mod fields;
mod model;
mod mount;
mod object;
mod port;
mod quantity;
mod read;
mod scalar;
mod service;
#[cfg(test)]
mod service_tests;
mod shell;
#[cfg(test)]
mod tests;
mod variable;
mod word;
mod yaml;

pub use deploy::{
    Deploy, EndpointMode, FailureAction, Generic, Limits, Mode, Order, Placement, Reservations, Resources,
    Restart, RestartCondition, Update,
};
pub use error::{Error, Place, Problem};
pub use fields::nearest;
pub use model::{
    Attachment, Condition, Content, CredentialSpec, Extensions, FileObject, Grant, HealthCheck, HealthTest,
    Host, Limit, Logging, Mount, MountSource, Network, Port, PortMode, Propagation, Protocol, Service, Stack,
    Tmpfs, Volume,
};
pub use quantity::Span;

use read::{Context, Value};
use scalar::Scalar;
use variable::Variables;
use yaml::{Kind, Node};

/// The most text that variables may make of a file, in bytes.
const MAX_TEXT: usize = 4 << 20;

/// The last of the format's versions, `3.13`. All are read as this one.
const LAST_MINOR: u8 = 13;

/// What the compose specification has at the top of a file, and stack files have not.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("include", "write one file; anchors and `<<` share what repeats"),
    ("models", "remove it"),
    (
        "name",
        "remove it; the project and the environment name the stack",
    ),
];

/// A stack, and what a reader of the file may want to know beside it.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What the file says.
    pub stack: Stack,
    /// The variables that the file reads, or names in defaults that were not needed.
    pub variables: BTreeSet<String>,
    /// What was left aside, because it changes nothing.
    pub notes: Vec<Note>,
    places: BTreeMap<String, Place>,
}

/// A key that was left aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it stands.
    pub place: Place,
    /// Its path, such as `services.api.build`.
    pub key: String,
    /// Why it changes nothing.
    pub why: &'static str,
}

impl Reading {
    /// Where something stands: its key, or its item in a list. Paths are those of the keys in the file, with
    /// `[0]` for items: `services.api.image`, `services.api.ports[0]` (as in [`Service::ports`], ranges taken
    /// apart), and `services.api.environment.PORT` in whatever form, or in whatever file, it was written.
    /// What the file does not say is where what it would stand in is: `services.api` for a missing health
    /// check; and the file's beginning if even that is absent.
    pub fn place(&self, path: &str) -> &Place {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return place;
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }
}

/// Reads a stack file.
///
/// `file` is its path, for messages, and for those that it names: `files` gets the path of an `env_file`
/// joined to its directory. `variables` yields a variable's value, or `None` if it is not set, which is an
/// error unless the file has a default.
pub fn read(
    text: &str,
    file: &Path,
    variables: &dyn Fn(&str) -> Option<String>,
    files: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Reading, Error> {
    let mut root = yaml::parse(text, &Arc::from(file))?;
    let cx = Context {
        variables: Variables::new(variables),
        files,
        file,
        problems: RefCell::default(),
        places: RefCell::default(),
        notes: RefCell::default(),
        broken: RefCell::default(),
    };
    let mut room = MAX_TEXT;
    substitute(&cx, &mut root, &mut room);
    cx.remember("", &root.place);
    let stack = stack(&cx, &root);
    check::check(&cx, &stack);
    let mut problems = cx.problems.into_inner();
    problems.sort();
    // An alias repeats what is wrong.
    problems.dedup_by(|a, b| a.place == b.place && a.what == b.what);
    if !problems.is_empty() {
        return Err(Error(problems));
    }
    Ok(Reading {
        stack,
        variables: cx.variables.into_names(),
        notes: cx.notes.into_inner(),
        places: cx.places.into_inner(),
    })
}

/// `text` with its variables replaced, in all forms that a stack file knows; what is wrong with it, if it is.
pub fn fill(text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    match Variables::new(variables).substitute(text) {
        Ok(filled) => Ok(filled.unwrap_or_else(|| text.to_owned())),
        Err((what, remedy)) if remedy.is_empty() => Err(what),
        Err((what, remedy)) => Err(format!("{what}; {remedy}")),
    }
}

/// The variables that [`fill`] would read in `text`, or names in defaults that are not needed.
pub fn variables(text: &str) -> BTreeSet<String> {
    // One that is not set would be the last that is read. What is wrong with the text says whoever fills it in.
    let variables = Variables::new(&|_| Some("set".to_owned()));
    let _ = variables.substitute(text);
    variables.into_names()
}

/// Replaces the variables in every value; keys are left.
fn substitute(cx: &Context, node: &mut Node, room: &mut usize) {
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| substitute(cx, item, room)),
        Kind::Map(entries) => {
            for entry in entries {
                substitute(cx, &mut entry.node, room);
            }
        }
        Kind::Scalar {
            value: Scalar::Text(text),
            source,
            substituted,
        } => match cx.variables.substitute(text) {
            Ok(None) => {}
            Ok(Some(new)) if new.len() <= *room => {
                *room -= new.len();
                source.clone_from(&new);
                *text = new;
                *substituted = true;
            }
            Ok(Some(_)) => cx.report(&node.place, "the variables' values make more than 4 MiB", ""),
            Err((what, remedy)) => {
                cx.report(&node.place, what, remedy);
                cx.broken.borrow_mut().insert(node.place.clone());
            }
        },
        Kind::Scalar { .. } => {}
    }
}

fn stack(cx: &Context, root: &Node) -> Stack {
    let path = String::new();
    if !matches!(&root.kind, Kind::Map(_)) {
        let what = format!("the file is {}, and should be a map with `services`", root.what());
        cx.report(&root.place, what, "");
        return Stack::default();
    }
    let Some(mut fields) = cx.fields(Value { node: root, path }) else {
        return Stack::default();
    };
    fields.take("version", version);
    let services = fields.take("services", |cx, value| {
        if matches!(&value.node.kind, Kind::Map(entries) if entries.is_empty()) {
            cx.expected(&value, "a map with at least one service");
        }
        cx.named(value, service::service)
    });
    if !fields.has("services") {
        cx.report(&root.place, "the file has no `services`", "");
    }
    let stack = Stack {
        services: services.unwrap_or_default(),
        networks: fields
            .take("networks", |cx, value| cx.named(value, object::network))
            .unwrap_or_default(),
        volumes: fields
            .take("volumes", |cx, value| cx.named(value, object::volume))
            .unwrap_or_default(),
        secrets: fields
            .take("secrets", |cx, value| cx.named(value, object::secret))
            .unwrap_or_default(),
        configs: fields
            .take("configs", |cx, value| cx.named(value, object::config))
            .unwrap_or_default(),
        extensions: fields.extensions(),
    };
    fields.finish(UNSUPPORTED);
    stack
}

/// `3`, or `3.0` to `3.13`.
fn version(cx: &Context, value: Value) -> Option<()> {
    let expected = "text from `\"3\"` to `\"3.13\"`";
    cx.parsed(value, expected, |text| match text.split_once('.') {
        None => (text == "3").then_some(()),
        Some((major, minor)) => {
            let known = (0..=LAST_MINOR).any(|version| version.to_string() == minor);
            (major == "3" && known).then_some(())
        }
    })
}
