//! All that this program writes to stdout and stderr. Text from elsewhere (names of files, logs, recipes, answers of
//! servers) cannot command the terminal: what is written here is escaped, unless it is skep's own style.
//!
//! A reader that went away is no failure of ours.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Text that is safe to show. Converting from a string escapes it; line ends and tabs stay.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// A style of skep's own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    /// Of the word `error`.
    Error,
    /// Of a line that is added.
    Added,
    /// Of a line that is removed.
    Removed,
}

impl Text {
    /// Adds `text`, escaped.
    pub(super) fn push(&mut self, text: &str) {
        self.0.extend(text.chars().map(Shown::of_text));
    }

    /// Adds `text`, escaped and in `style` where there is one.
    pub(super) fn push_styled(&mut self, style: Option<Style>, text: &str) {
        let Some(style) = style else {
            return self.push(text);
        };
        self.0 += match style {
            Style::Error => "\x1b[1;31m",
            Style::Added => "\x1b[32m",
            Style::Removed => "\x1b[31m",
        };
        self.push(text);
        self.0 += "\x1b[0m";
    }

    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for Text {
    fn from(text: T) -> Text {
        let mut safe = Text::default();
        safe.push(text.as_ref());
        safe
    }
}

/// Prints to stdout.
pub(super) fn print(text: impl Into<Text>) {
    write_out(text.into().0.as_bytes());
}

/// Prints a value to stdout as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) {
    write_out(format!("{}\n", json(value)).as_bytes());
}

/// Prints what a program wrote to stdout: as it is into a pipe or a file, and so that it commands nothing but colours
/// to a terminal.
pub(super) fn print_log(log: &[u8]) {
    if !io::stdout().is_terminal() {
        return write_out(log);
    }
    let colours = stdout_has_colours();
    for line in String::from_utf8_lossy(log).lines() {
        write_out(format!("{}\n", log_line(line, colours)).as_bytes());
    }
}

fn write_out(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Writes a line to stderr.
pub(super) fn say(line: impl Into<Text>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.into().0);
}

/// Writes a value to stderr as one line of JSON.
pub(super) fn say_json(value: &impl serde::Serialize) {
    let _ = writeln!(io::stderr().lock(), "{}", json(value));
}

/// Whether stderr is a terminal.
pub(super) fn is_live() -> bool {
    io::stderr().is_terminal()
}

/// Whether colours are wanted on stdout: it is a terminal, and `NO_COLOR` is not set.
pub(super) fn stdout_has_colours() -> bool {
    io::stdout().is_terminal() && colours_are_wanted()
}

/// The same of stderr.
pub(super) fn stderr_has_colours() -> bool {
    is_live() && colours_are_wanted()
}

fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// One line of text from elsewhere, without line ends, for a place in a line of ours.
pub(super) fn printable(line: &str) -> String {
    line.chars().map(Shown::of_line).collect()
}

/// One line that a program printed: the colours that it set are left out.
pub(super) fn printed(line: &str) -> String {
    log_line(line, false)
}

/// A character as it is shown.
enum Shown {
    Itself(char),
    Escaped(char),
}

impl Shown {
    fn of_text(letter: char) -> Shown {
        match letter {
            '\n' | '\t' => Shown::Itself(letter),
            _ => Shown::of_line(letter),
        }
    }

    fn of_line(letter: char) -> Shown {
        match is_invisible(letter) && letter != '\t' {
            true => Shown::Escaped(letter),
            false => Shown::Itself(letter),
        }
    }
}

impl Extend<Shown> for String {
    fn extend<I: IntoIterator<Item = Shown>>(&mut self, letters: I) {
        for letter in letters {
            match letter {
                Shown::Itself(letter) => self.push(letter),
                Shown::Escaped('\n') => self.push_str("\\n"),
                Shown::Escaped('\r') => self.push_str("\\r"),
                Shown::Escaped(letter) => self.extend(letter.escape_unicode()),
            }
        }
    }
}

impl FromIterator<Shown> for String {
    fn from_iter<I: IntoIterator<Item = Shown>>(letters: I) -> String {
        let mut text = String::new();
        text.extend(letters);
        text
    }
}

/// Whether a character shows nothing of itself, and may change how others are shown: Unicode's general categories
/// Cc, Cf, Zl and Zp.
fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

/// JSON in which such characters are escaped too: a terminal may be where it ends.
fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("plain data encodes");
    if !text.chars().any(is_invisible) {
        return text;
    }
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_invisible(letter) {
            // They stand in strings only.
            true => letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(safe, "\\u{unit:04x}");
            }),
            false => safe.push(letter),
        }
    }
    safe
}

/// A line of a log. Its colours (ECMA-48, "Select Graphic Rendition") stay if `colours` says so, and end with the line.
fn log_line(line: &str, colours: bool) -> String {
    let (mut safe, mut rest, mut coloured) = (String::new(), line, false);
    while let Some(at) = rest.find("\x1b[") {
        safe.extend(rest[..at].chars().map(Shown::of_line));
        let parameters = &rest[at + 2..];
        let end = parameters.find(|letter: char| !matches!(letter, '0'..='9' | ';' | ':'));
        match end.filter(|end| parameters[*end..].starts_with('m')) {
            Some(end) => {
                let hides = parameters[..end]
                    .split([';', ':'])
                    .any(|parameter| parameter == "8");
                if colours && !hides {
                    safe += &rest[at..at + 2 + end + 1];
                    coloured = true;
                }
                rest = &parameters[end + 1..];
            }
            None => {
                safe.extend(['\x1b', '['].map(Shown::of_line));
                rest = parameters;
            }
        }
    }
    safe.extend(rest.chars().map(Shown::of_line));
    if coloured {
        safe += "\x1b[0m";
    }
    safe
}

/// Lines at the bottom of a terminal that change in place.
pub(super) struct Bars(MultiProgress);

/// One of them.
pub(super) struct Bar(ProgressBar);

impl Bars {
    pub(super) fn new() -> Bars {
        Bars(MultiProgress::new())
    }

    /// A line in the form of `template` that is drawn again every `tick`: above `below`, or at the bottom.
    pub(super) fn add(&self, template: &str, tick: Duration, below: Option<&Bar>) -> Bar {
        let bar = match below {
            Some(below) => self.0.insert_before(&below.0, ProgressBar::new_spinner()),
            None => self.0.add(ProgressBar::new_spinner()),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
        bar.enable_steady_tick(tick);
        Bar(bar)
    }

    /// Prints above all of them.
    pub(super) fn say(&self, line: impl Into<Text>) {
        let _ = self.0.println(line.into().0);
    }
}

impl Bar {
    /// Shows `message`, one line.
    pub(super) fn show(&self, message: &str) {
        self.0.set_message(printable(message));
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        let hostile = "a\x1b]0;title\x07\x1b[2Jb\u{9b}31mc\x7f\u{202e}d\u{2066}e\u{200f}f\u{61c}g\u{2028}h\r";
        let shown =
            r"a\u{1b}]0;title\u{7}\u{1b}[2Jb\u{9b}31mc\u{7f}\u{202e}d\u{2066}e\u{200f}f\u{61c}g\u{2028}h\r";
        assert_eq!(Text::from(hostile).as_str(), shown);
        assert_eq!(printable(hostile), shown);
        assert_eq!(
            Text::from(shown).as_str(),
            shown,
            "escaping twice changes nothing"
        );
        assert_eq!(Text::from("a\tb\nc").as_str(), "a\tb\nc");
        assert_eq!(printable("a\tb\nc"), "a\tb\\nc");
        assert_eq!(printable("Zürich 東京 👍🏽"), "Zürich 東京 👍🏽");
    }

    #[test]
    fn no_invisible_character_is_left() {
        for number in (0..=0x10ffff).filter_map(char::from_u32) {
            let shown = printable(&number.to_string());
            assert!(
                !shown.chars().any(|letter| is_invisible(letter) && letter != '\t'),
                "{number:?}"
            );
        }
    }

    #[test]
    fn styles_are_skeps_own() {
        let mut text = Text::default();
        text.push_styled(Some(Style::Error), "error:\x1b[0m");
        text.push_styled(None, " plain");
        assert_eq!(text.as_str(), "\x1b[1;31merror:\\u{1b}[0m\x1b[0m plain");
    }

    #[test]
    fn logs_keep_their_colours_and_nothing_else() {
        let line = "\x1b[1;32mok\x1b[0m \x1b[8mhidden\x1b[38;2;1;2;3m\x1b[2K\x1b]8;;x\x07";
        assert_eq!(
            log_line(line, true),
            "\x1b[1;32mok\x1b[0m hidden\x1b[38;2;1;2;3m\\u{1b}[2K\\u{1b}]8;;x\\u{7}\x1b[0m"
        );
        assert_eq!(printed(line), r"ok hidden\u{1b}[2K\u{1b}]8;;x\u{7}");
        assert_eq!(printed("\x1b["), r"\u{1b}[");
        assert_eq!(log_line("plain", true), "plain");
    }

    #[test]
    fn json_is_the_same_value_and_safe() {
        let value = "a\x1b\x7f\u{85}\u{202e}\u{e0041}ü";
        let text = json(&value);
        assert_eq!(text, r#""a\u001b\u007f\u0085\u202e\udb40\udc41ü""#);
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }
}
