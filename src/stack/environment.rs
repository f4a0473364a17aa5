//! A service's environment, from its files and from the stack file; values that are missing come from variables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::error::Place;
use super::read::{Context, Value};
use super::variable;

/// The largest environment file, in bytes.
const MAX_FILE: usize = 1 << 20;

type Environment = BTreeMap<String, String>;

/// `environment`, in either form.
pub(super) fn pairs(cx: &Context, value: Value) -> Option<Environment> {
    let mut environment = Environment::new();
    for pair in cx.pairs(value)? {
        add(cx, &mut environment, pair.key, pair.value, &pair.place);
    }
    Some(environment)
}

/// `env_file`: what later files say counts.
pub(super) fn files(cx: &Context, value: Value) -> Option<Environment> {
    let (node, path) = (value.node, value.path.clone());
    let mut environment = Environment::new();
    let service = path.strip_suffix(".env_file").unwrap_or_default().to_owned();
    for (index, name) in cx.one_or_more(value)?.iter().enumerate() {
        let place = cx
            .place(&format!("{path}[{index}]"))
            .unwrap_or_else(|| node.place.clone());
        // `join` leaves an absolute path as it is.
        let file = cx.file.parent().unwrap_or(Path::new("")).join(name);
        match content(cx, &file) {
            Ok(text) => read_lines(cx, &mut environment, &service, &text, &file.into()),
            Err(why) => {
                let what = format!("cannot read `{name}`: {why}");
                cx.report(&place, what, "write the file, or remove it from `env_file`");
            }
        }
    }
    Some(environment)
}

fn content(cx: &Context, file: &Path) -> Result<String, String> {
    let bytes = (cx.files)(file).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_FILE {
        return Err("it is larger than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// Lines `KEY=VALUE`, taken as they are: quotes are part of the value, and no variable is replaced. A `KEY`
/// alone is looked up; `#` begins a comment at the start of a line.
fn read_lines(cx: &Context, environment: &mut Environment, service: &str, text: &str, file: &Arc<Path>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let place = Place {
            file: file.clone(),
            line: index + 1,
            column: 1,
        };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (line, None),
        };
        cx.remember(&format!("{service}.environment.{key}"), &place);
        add(cx, environment, key.to_owned(), value, &place);
    }
}

/// An empty value too comes from the variable of this name, if there is one: so has it docker.
fn add(cx: &Context, environment: &mut Environment, key: String, value: Option<String>, place: &Place) {
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '=' || c == '\0') {
        cx.report(place, format!("`{key}` is no variable's name"), "");
        return;
    }
    let value = match value {
        Some(value) if !value.is_empty() => value,
        missing => match cx.variables.get(&key).or(missing) {
            Some(value) => value,
            None => {
                let (what, _) = variable::unset(&key);
                cx.report(
                    place,
                    what,
                    format!("set it, or write `{key}=` if it may be empty"),
                );
                return;
            }
        },
    };
    if value.contains('\0') {
        cx.report(place, format!("the value of `{key}` holds a NUL"), "");
    }
    environment.insert(key, value);
}
