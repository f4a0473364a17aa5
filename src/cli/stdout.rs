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
