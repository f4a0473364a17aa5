//! Results, to stdout. A reader that went away is no failure of ours.

use std::io::{self, Write as _};

/// Prints text as it is.
pub(super) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) {
    let text = serde_json::to_string(value).expect("plain data encodes");
    print(&format!("{text}\n"));
}

/// Whether colours are wanted on stdout: it is a terminal, and `NO_COLOR` is not set.
pub(super) fn has_colours() -> bool {
    use std::io::IsTerminal as _;
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
