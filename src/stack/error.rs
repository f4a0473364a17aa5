//! Where things stand in a stack file, and what is wrong with it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// How many problems are shown.
const SHOWN: usize = 20;

/// A place in a file. Shows as `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as the reader was told.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One thing that is wrong. Shows as `place: what; remedy`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, with the key's path in backticks.
    pub what: String,
    /// What may be done; empty where that is plain.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Why a file is no stack: everything that was found, in the order of the file. Never empty.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(.0))]
pub struct Error(pub Vec<Problem>);

/// One problem a line.
fn listed(problems: &[Problem]) -> String {
    let mut lines: Vec<_> = problems.iter().take(SHOWN).map(Problem::to_string).collect();
    if let Some(more @ 1..) = problems.len().checked_sub(SHOWN) {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Error {
        Error(vec![problem])
    }
}
