//! Paragraphs of fields (`deb822(5)`), as control files, `Packages`, `Release` and apt's sources have them.
//! Copies nothing: a paragraph is a part of the text.

/// Consecutive lines that are not blank.
#[derive(Clone, Copy, Debug)]
pub(in crate::fetch) struct Paragraph<'a>(&'a str);

/// The paragraphs of a text.
pub(in crate::fetch) fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while let Some((line, after)) = rest.split_once('\n').filter(|(line, _)| line.trim().is_empty()) {
            debug_assert!(line.len() < rest.len());
            rest = after;
        }
        if rest.trim().is_empty() {
            return None;
        }
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            if line.trim().is_empty() {
                break;
            }
            end += line.len();
        }
        let (paragraph, after) = rest.split_at(end);
        rest = after;
        Some(Paragraph(paragraph))
    })
}

impl<'a> Paragraph<'a> {
    /// A field's value without the space around it; further lines are kept as they are. Names ignore case.
    pub(in crate::fetch) fn get(&self, field: &str) -> Option<&'a str> {
        let mut offset = 0;
        let mut lines = self.0.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            let start = offset;
            offset += line.len();
            let Some((name, _)) = line.split_once(':') else {
                continue;
            };
            if line.starts_with([' ', '\t', '#']) || !name.eq_ignore_ascii_case(field) {
                continue;
            }
            while let Some(more) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
                offset += more.len();
            }
            return Some(self.0[start + name.len() + 1..offset].trim());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_their_further_lines() {
        let text = "\n\nPackage: a\nDepends: b,\n c\nX:\n\n \nPackage: d\r\nEmpty:\n# Package: no\n";
        let all: Vec<_> = paragraphs(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("a"));
        assert_eq!(all[0].get("Depends"), Some("b,\n c"));
        assert_eq!(all[0].get("X"), Some(""));
        assert_eq!(all[0].get("Y"), None);
        assert_eq!(all[1].get("Package"), Some("d"));
        assert_eq!(paragraphs("").count(), 0);
        assert_eq!(paragraphs("\n \n").count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_every_paragraph_ends(text in "(A|:| |\t|\n|\r|#|é){0,40}") {
            for paragraph in paragraphs(&text) {
                let _ = paragraph.get("A");
            }
        }
    }
}
