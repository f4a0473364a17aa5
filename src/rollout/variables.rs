//! Files with a stack file's variables: lines `NAME=value`, as a shell would read them without expanding anything.

use std::collections::BTreeMap;
use std::path::Path;

/// The variables of `text`, each with its line; the message of an error names `file` and the line.
///
/// Empty lines and those that begin with `#` are passed over, and so is `export ` before a name. A value may stand
/// in single or double quotes, which do not belong to it; without them, ` #` begins a comment.
pub(super) fn parse(text: &str, file: &Path) -> Result<BTreeMap<String, (String, usize)>, String> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| Err(format!("{}:{}:1: {what}", file.display(), index + 1));
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once('=') else {
            return wrong("expected `NAME=value`");
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(|letter: char| letter.is_ascii_digit())
                && name
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        if !is_name(name) {
            return wrong("a variable's name has letters, digits and `_` only");
        }
        let Some(value) = unquoted(value) else {
            return wrong("a quote has no end");
        };
        variables.insert(name.to_owned(), (value.to_owned(), index + 1));
    }
    Ok(variables)
}

fn unquoted(value: &str) -> Option<&str> {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.strip_suffix(quote);
        }
    }
    let comment = value.find(" #").unwrap_or(value.len());
    Some(value[..comment].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_a_shell_reads_them() {
        let text = "# a\n\nA=1\nexport B=\"two words\"\nC='$x'\nD=a=b # c\n";
        let variables = parse(text, Path::new("prod.env")).unwrap();
        let expected = [
            ("A", "1", 3),
            ("B", "two words", 4),
            ("C", "$x", 5),
            ("D", "a=b", 6),
        ];
        assert_eq!(
            variables,
            expected
                .map(|(name, value, line)| (name.to_owned(), (value.to_owned(), line)))
                .into()
        );
        for (text, error) in [
            ("A", "prod.env:1:1: expected `NAME=value`"),
            (
                "\n1A=2",
                "prod.env:2:1: a variable's name has letters, digits and `_` only",
            ),
            ("A=\"x", "prod.env:1:1: a quote has no end"),
        ] {
            assert_eq!(parse(text, Path::new("prod.env")).unwrap_err(), error);
        }
    }
}
