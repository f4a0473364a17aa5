//! Variables in values: `$X`, `${X}`, defaults, alternatives and required ones. It looks up, and decides nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// How deep defaults stand in defaults.
const MAX_DEPTH: usize = 8;
/// The longest text that comes out of one value, in bytes.
const MAX_EXPANDED: usize = 1 << 20;

/// Variables by name, and which were asked for.
pub(super) struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    read: RefCell<BTreeSet<String>>,
}

/// What is wrong with a value: what, and the remedy.
pub(super) type Fault = (String, String);

impl<'a> Variables<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Variables<'a> {
        let read = RefCell::default();
        Variables { lookup, read }
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.read.borrow_mut().insert(name.to_owned());
        (self.lookup)(name)
    }

    /// The names that were asked for, or that stand in a default which was not needed.
    pub(super) fn into_names(self) -> BTreeSet<String> {
        self.read.into_inner()
    }

    /// The text with its variables replaced, or `None` if it holds no `$`.
    pub(super) fn substitute(&self, text: &str) -> Result<Option<String>, Fault> {
        if !text.contains('$') {
            return Ok(None);
        }
        let mut template = Template {
            variables: self,
            rest: text,
        };
        let text = template.text(0, true)?;
        match text.len() {
            0..=MAX_EXPANDED => Ok(Some(text)),
            _ => Err(("the value is longer than 1 MiB".to_owned(), String::new())),
        }
    }
}

/// A variable that has no value and no default: the one place where this is decided. Docker takes it for
/// empty and warns; a release that begins that way is found out in production.
pub(super) fn unset(name: &str) -> Fault {
    (
        format!("the variable `{name}` is not set"),
        format!("set it, or write `${{{name}:-}}` if it may be empty"),
    )
}

/// A text that is being read.
struct Template<'t, 'v> {
    variables: &'t Variables<'v>,
    rest: &'t str,
}

impl Template<'_, '_> {
    /// The text up to its end, or at a depth up to the `}` that closes it, which stays. What is not wanted
    /// is read all the same: its faults of form are faults, and its variables are named.
    fn text(&mut self, depth: usize, wanted: bool) -> Result<String, Fault> {
        let ends: &[char] = if depth == 0 { &['$'] } else { &['$', '}'] };
        let mut text = String::new();
        loop {
            let at = self.rest.find(ends).unwrap_or(self.rest.len());
            let (literal, rest) = self.rest.split_at(at);
            text.push_str(literal);
            self.rest = rest;
            if !self.skip("$") {
                return Ok(text);
            }
            if self.skip("$") {
                text.push('$');
            } else if self.skip("{") {
                text.push_str(&self.braced(depth, wanted)?);
            } else {
                text.push_str(&self.named(wanted)?);
            }
            if text.len() > MAX_EXPANDED {
                return Ok(text);
            }
        }
    }

    fn skip(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn name(&mut self) -> Result<String, Fault> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err((
                "a `$` is followed by no variable's name".to_owned(),
                "write `$$` for a `$`".to_owned(),
            ));
        }
        self.rest = rest;
        Ok(name.to_owned())
    }

    /// `$X`. Docker takes `$X-y` for `${X-y}`, a shell for `${X}-y`: one of them would be surprised.
    fn named(&mut self, wanted: bool) -> Result<String, Fault> {
        let name = self.name()?;
        let rest = self.rest;
        if rest.starts_with(['-', '?']) || rest.starts_with(":-") || rest.starts_with(":?") {
            let text = format!("`${name}` before `{}` is ambiguous", &rest[..1]);
            return Err((text, format!("write `${{{name}}}`")));
        }
        self.plain(&name, wanted)
    }

    fn plain(&self, name: &str, wanted: bool) -> Result<String, Fault> {
        match self.variables.get(name) {
            Some(value) => Ok(value),
            None if wanted => Err(unset(name)),
            None => Ok(String::new()),
        }
    }

    /// What follows `${`, with its `}`.
    fn braced(&mut self, depth: usize, wanted: bool) -> Result<String, Fault> {
        if depth == MAX_DEPTH {
            let text = format!("variables stand {MAX_DEPTH} deep in each other");
            return Err((text, String::new()));
        }
        let name = self.name()?;
        if self.skip("}") {
            return self.plain(&name, wanted);
        }
        let empty_is_unset = self.skip(":");
        let kind = self.rest.chars().next().filter(|c| "-?+".contains(*c));
        let Some(kind) = kind else {
            let text = format!("`${{{name}` is followed by neither `}}` nor `-`, `?` or `+`");
            return Err((text, "write `$$` for a `$`".to_owned()));
        };
        self.rest = &self.rest[1..];
        let value = self.variables.get(&name);
        let value = value.filter(|value| !(empty_is_unset && value.is_empty()));
        let wants_word = wanted && (kind == '+') == value.is_some();
        let word = self.text(depth + 1, wants_word)?;
        if !self.skip("}") {
            return Err((format!("`${{{name}` is not closed"), "write `}`".to_owned()));
        }
        match (kind, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('?', None) if wanted => Err(required(&name, &word)),
            (_, None) => Ok(word),
        }
    }
}

/// A variable that the file says is required.
fn required(name: &str, message: &str) -> Fault {
    let colon = if message.is_empty() { "" } else { ": " };
    (
        format!("the variable `{name}` is required{colon}{message}"),
        "set it".to_owned(),
    )
}
