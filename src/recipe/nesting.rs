//! How deep a recipe nests, found before it is parsed: the parser and what follows it recurse.

/// Brackets inside each other; CPython's bound (`MAXLEVEL` of its tokenizer).
const MAX_BRACKETS: usize = 200;

/// Indented blocks inside each other; CPython's bound (`MAXINDENT`).
const MAX_INDENTS: usize = 100;

/// Where a recipe nests too deep, as a byte of its text, and what nests there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooDeep {
    pub offset: usize,
    pub message: String,
}

/// Refuses a text that nests too deep; gives the first byte of its longest logical line, which is where a parser that
/// runs out of stack all the same is most likely to be.
pub(super) fn check(text: &str) -> Result<usize, TooDeep> {
    let mut scan = Scan {
        text: text.as_bytes(),
        at: 0,
        brackets: 0,
        indents: vec![0],
    };
    let (mut start, mut longest) = (0, (0, 0));
    while scan.at < scan.text.len() {
        let ends = scan.step()?;
        if ends && scan.brackets == 0 {
            longest = longest.max((scan.at - start, start));
            start = scan.at;
        }
    }
    Ok(longest.max((scan.at - start, start)).1)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    brackets: usize,
    /// Widths of the blocks around this line.
    indents: Vec<usize>,
}

impl Scan<'_> {
    /// Passes over one token or character. Whether it ended a line.
    fn step(&mut self) -> Result<bool, TooDeep> {
        if self.brackets == 0 && (self.at == 0 || self.text[self.at - 1] == b'\n') {
            self.indent()?;
            if self.at == self.text.len() {
                return Ok(false);
            }
        }
        let byte = self.text[self.at];
        match byte {
            b'#' => self.at = self.find(b'\n'),
            b'\'' | b'"' => self.string(),
            b'[' | b'(' | b'{' => {
                self.brackets += 1;
                if self.brackets > MAX_BRACKETS {
                    return Err(TooDeep {
                        offset: self.at,
                        message: format!(
                            "more than {MAX_BRACKETS} brackets inside each other; give parts of the value names of their own"
                        ),
                    });
                }
                self.at += 1;
            }
            b']' | b')' | b'}' => {
                self.brackets = self.brackets.saturating_sub(1);
                self.at += 1;
            }
            b'\\' => self.at = (self.at + 2).min(self.text.len()),
            _ => self.at += 1,
        }
        Ok(byte == b'\n')
    }

    fn find(&self, byte: u8) -> usize {
        let rest = &self.text[self.at..];
        rest.iter()
            .position(|found| *found == byte)
            .map_or(self.text.len(), |found| self.at + found)
    }

    /// Passes over the blanks that a line begins with. Empty lines and comments are in the block that they stand in.
    fn indent(&mut self) -> Result<(), TooDeep> {
        let start = self.at;
        while matches!(self.text.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        if matches!(self.text.get(self.at), None | Some(b'\n' | b'\r' | b'#')) {
            return Ok(());
        }
        let width = self.at - start;
        while self.indents.last().is_some_and(|outer| *outer > width) {
            self.indents.pop();
        }
        if self.indents.last().is_none_or(|outer| *outer < width) {
            self.indents.push(width);
        }
        if self.indents.len() > MAX_INDENTS + 1 {
            return Err(TooDeep {
                offset: self.at,
                message: format!(
                    "more than {MAX_INDENTS} blocks inside each other; make a function of the inner ones"
                ),
            });
        }
        Ok(())
    }

    fn string(&mut self) {
        let quote = self.text[self.at];
        let triple = self.text[self.at..].starts_with(&[quote; 3]);
        self.at += if triple { 3 } else { 1 };
        while let Some(byte) = self.text.get(self.at) {
            let rest = &self.text[self.at..];
            match byte {
                b'\\' => self.at = (self.at + 2).min(self.text.len()),
                _ if triple && rest.starts_with(&[quote; 3]) => {
                    self.at += 3;
                    return;
                }
                // A string that does not end is the parser's to refuse.
                b'\n' if !triple => return,
                found if !triple && *found == quote => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_blocks_are_counted_outside_of_text() {
        let deep = |text: &str| check(text).err().map(|deep| deep.offset);
        assert_eq!(deep(&"[".repeat(MAX_BRACKETS)), None);
        assert_eq!(deep(&format!("x = {}", "[".repeat(3000))), Some(4 + MAX_BRACKETS));
        assert_eq!(deep(&"({[".repeat(1000)), Some(MAX_BRACKETS));
        assert_eq!(deep(&"[]".repeat(3000)), None);
        let brackets = "[".repeat(3000);
        for text in [
            format!("# {brackets}"),
            format!("\"{brackets}\""),
            format!("'\\'{brackets}'"),
            format!("\"\"\"\n\"{brackets}\"\"\""),
            format!("r'\\{brackets}'"),
        ] {
            assert_eq!(deep(&text), None, "{}", &text[..8]);
        }
        let blocks = |count: usize| {
            let line = |depth: usize| format!("{}if True:\n", " ".repeat(depth));
            (0..=count).map(line).collect::<String>() + &" ".repeat(count + 1) + "pass\n"
        };
        assert_eq!(deep(&blocks(MAX_INDENTS - 1)), None);
        assert!(deep(&blocks(MAX_INDENTS)).is_some());
        let flat = "def f():\n    if a:\n        b\n# c\n\n".repeat(1000);
        assert_eq!(deep(&flat), None);
    }

    #[test]
    fn the_longest_logical_line_is_found() {
        let text = "a = 1\nb = [\n    1,\n    2,\n]\nc = \"\"\"\nx\"\"\"\n";
        assert_eq!(check(text), Ok(6));
        assert_eq!(check(""), Ok(0));
        assert_eq!(check("a = 1"), Ok(0));
    }
}
