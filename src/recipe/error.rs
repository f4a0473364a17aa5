//! Recipe errors: what is wrong, where in the user's files, and how evaluation got there.

use std::fmt;

use starlark::codemap::FileSpan;

use super::library;

/// A place in a recipe. Line and column count from 1.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Location {
    /// The file: from the project's root, or `@skep//…` of the library.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub message: String,
    /// Where: in the project's own files wherever evaluation passed through one.
    pub at: Option<Location>,
    /// The line of the recipe that `at` names.
    pub line: Option<String>,
    /// The other places that evaluation passed through, the innermost first.
    pub through: Vec<Location>,
}

impl Error {
    pub(super) fn new(message: impl Into<String>) -> Error {
        Error {
            message: message.into(),
            at: None,
            line: None,
            through: Vec::new(),
        }
    }

    pub(super) fn at(message: impl Into<String>, span: &FileSpan) -> Error {
        Error::through(message.into(), vec![span.clone()])
    }

    /// From places, the innermost first.
    fn through(message: String, spans: Vec<FileSpan>) -> Error {
        let user = |span: &FileSpan| !span.filename().starts_with(library::PREFIX);
        let chosen = spans.iter().position(user).unwrap_or(0);
        let at = spans.get(chosen);
        let others = spans.iter().enumerate().filter(|(n, _)| *n != chosen);
        Error {
            message,
            at: at.map(Location::of),
            line: at.map(|span| {
                let line = span.resolve_span().begin.line;
                span.file.source_line(line).trim_end().to_owned()
            }),
            through: others.map(|(_, span)| Location::of(span)).collect(),
        }
    }

    pub(super) fn of(error: &starlark::Error) -> Error {
        let frames = &error.call_stack().frames;
        let mut spans: Vec<FileSpan> = frames
            .iter()
            .rev()
            .filter_map(|frame| frame.location.clone())
            .collect();
        if let Some(span) = error.span()
            && spans.first() != Some(span)
        {
            spans.insert(0, span.clone());
        }
        spans.dedup();
        Error::through(message(error), spans)
    }
}

/// Starlark's message; where it is about a bound of ours, what that bound is for.
fn message(error: &starlark::Error) -> String {
    let text = error.without_diagnostic().to_string();
    let text = text.trim_end();
    if text.contains("ticks has been exceeded") {
        return format!(
            "evaluation takes more than {} steps; a recipe describes work and does none, so look for a loop without end",
            super::MAX_STEPS
        );
    }
    if text.contains("Starlark call stack overflow") {
        return format!("functions call each other more than {} deep", super::MAX_DEPTH);
    }
    text.strip_prefix("fail: ").unwrap_or(text).to_owned()
}

impl Location {
    fn of(span: &FileSpan) -> Location {
        let begin = span.resolve_span().begin;
        Location {
            file: span.filename().to_owned(),
            line: begin.line + 1,
            column: begin.column + 1,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        f.write_str(&self.message)?;
        if let (Some(at), Some(line)) = (&self.at, &self.line) {
            let number = at.line.to_string();
            let mark = " ".repeat(number.len() + 2 + at.column);
            write!(f, "\n {number} | {line}\n{mark} ^")?;
        }
        for location in &self.through {
            write!(f, "\n  through {location}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
