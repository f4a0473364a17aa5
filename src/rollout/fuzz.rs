//! What fuzzing asks of files of variables.

use std::path::Path;

use super::variables::parse;

/// A file of variables: names are a shell's, and each value is read as it was written.
pub fn variables(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(variables) = parse(&text, Path::new("prod.env")) else {
        return;
    };
    for (name, (value, line)) in &variables {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        assert!(name.chars().all(plain) && !name.starts_with(|letter: char| letter.is_ascii_digit()));
        assert!(
            *line >= 1 && *line <= text.lines().count(),
            "{name} on line {line}"
        );
        let Some(quote) = ['"', '\''].into_iter().find(|quote| !value.contains(*quote)) else {
            continue;
        };
        let written = format!("{name}={quote}{value}{quote}\n");
        let again = parse(&written, Path::new("prod.env")).expect("it was read before");
        assert_eq!(again.get(name).map(|(value, _)| value), Some(value));
    }
}
