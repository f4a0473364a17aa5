//! Recipe errors: what is wrong, where in the user's files, and how evaluation got there.

use std::fmt;

use starlark::codemap::FileSpan;
use starlark::eval::Evaluator;

use super::library;
use crate::plan::Location;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

    /// An error at a byte of `text`, the content of `file`.
    pub(super) fn in_text(message: impl Into<String>, file: &str, text: &str, offset: usize) -> Error {
        let location = location_in(file, text, offset);
        Error {
            line: text
                .lines()
                .nth(location.line - 1)
                .map(|line| line.trim_end().to_owned()),
            at: Some(location),
            ..Error::new(message)
        }
    }

    pub(super) fn at(message: impl Into<String>, span: &FileSpan) -> Error {
        Error::through(message.into(), vec![span.clone()])
    }

    /// From places, the innermost first.
    fn through(message: String, spans: Vec<FileSpan>) -> Error {
        let chosen = spans.iter().position(is_users).unwrap_or(0);
        let at = spans.get(chosen);
        let others = spans.iter().enumerate().filter(|(n, _)| *n != chosen);
        Error {
            message,
            at: at.map(location),
            line: at.map(|span| {
                let line = span.resolve_span().begin.line;
                span.file.source_line(line).trim_end().to_owned()
            }),
            through: others.map(|(_, span)| location(span)).collect(),
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

/// The place of a byte of `text`, the content of `file`.
pub(super) fn location_in(file: &str, text: &str, offset: usize) -> Location {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    Location {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
    }
}

fn location(span: &FileSpan) -> Location {
    let begin = span.resolve_span().begin;
    Location {
        file: span.filename().to_owned(),
        line: begin.line + 1,
        column: begin.column + 1,
    }
}

/// Whether the place is in a file of the project.
fn is_users(span: &FileSpan) -> bool {
    !span.filename().starts_with(library::PREFIX)
}

/// The innermost call in the project's own files that evaluation is in.
pub(super) fn users_call(eval: &Evaluator<'_, '_, '_>) -> Option<Location> {
    let stack = eval.call_stack();
    let mut spans = stack
        .frames
        .iter()
        .rev()
        .filter_map(|frame| frame.location.as_ref());
    spans.find(|span| is_users(span)).map(location)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        f.write_str(&self.message)?;
        if let (Some(at), Some(line)) = (&self.at, &self.line) {
            let number = at.line.to_string();
            let (line, column) = window(line, at.column);
            let mark = " ".repeat(number.len() + 2 + column);
            write!(f, "\n {number} | {line}\n{mark} ^")?;
        }
        for location in &self.through {
            write!(f, "\n  through {location}")?;
        }
        Ok(())
    }
}

/// Of a line that is too long to show, what stands around a column, and where the column is in that.
fn window(line: &str, column: usize) -> (String, usize) {
    const AROUND: usize = 80;
    let start = column.saturating_sub(AROUND + 1);
    let shown: String = line.chars().skip(start).take(2 * AROUND).collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if line.chars().count() > start + 2 * AROUND {
        "…"
    } else {
        ""
    };
    (
        format!("{before}{shown}{after}"),
        column - start + before.chars().count(),
    )
}

impl std::error::Error for Error {}
