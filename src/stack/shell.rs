//! A command in one text, taken apart as a shell would: quotes, escapes and comments, and nothing else.

use super::read::{Context, Value};
use super::yaml::Kind;

/// A list of arguments, or a text that is taken apart.
pub(super) fn command(cx: &Context, value: Value) -> Option<Vec<String>> {
    match &value.node.kind {
        Kind::List(_) => cx.texts(value),
        _ => cx.parsed(
            value,
            "a list of arguments, or a text with its quotes closed",
            split,
        ),
    }
}

/// `None` if a quote is not closed, or if the text ends with a `\`.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => {
                letters.by_ref().find(|letter| *letter == '\n');
            }
            '\\' => word.get_or_insert_default().push(letters.next()?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '\'' => break,
                        letter => word.push(letter),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '"' => break,
                        '\\' => word.push(letters.next()?),
                        letter => word.push(letter),
                    }
                }
            }
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Some(words)
}
