//! `WWW-Authenticate` (RFC 9110, section 11.6.1), as registries write it. Malformed parts are passed over.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Headers longer than this are not looked at.
const MAX_HEADER: usize = 8 << 10;

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from `realm` (the distribution project's token authentication).
    Bearer { realm: String, service: Option<String> },
}

/// The challenges of a response that skep can answer, in order.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .filter(|text| text.len() <= MAX_HEADER)
        .flat_map(parse)
        .collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        match rest.strip_prefix('=') {
            // A parameter of the scheme before it.
            Some(value) => {
                let (value, after) = take_value(value.trim_start());
                rest = after;
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
            }
            None => found.push((word.to_ascii_lowercase(), Vec::new())),
        }
    }
    let known = |(scheme, parameters): (String, Vec<(String, String)>)| {
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key == name);
            found
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        match scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: parameter("realm")?,
                service: parameter("service"),
            }),
            _ => None,
        }
    };
    found.into_iter().filter_map(known).collect()
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read() {
        let gitea = r#"Bearer realm="https://git.example/v2/token",service="container_registry",scope="*""#;
        let expected = bearer("https://git.example/v2/token", Some("container_registry"));
        assert_eq!(parse(gitea), [expected]);
        let both =
            r#"Negotiate, basic realm="a, \"b\"", BEARER Realm = "https://x/" , scope="a:b:pull,push c" "#;
        let expected = [Challenge::Basic, bearer("https://x/", None)];
        assert_eq!(parse(both), expected);
        assert_eq!(
            parse("Bearer realm=https://x/,service=s"),
            [bearer("https://x/", Some("s"))]
        );
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        for text in [
            "",
            ",",
            "Bearer",
            r#"Bearer service="x""#,
            "=x",
            "\"",
            r#"Bearer realm=""#,
            "Digest a=b",
        ] {
            assert_eq!(parse(text), [], "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in r#"((Bearer|Basic|realm|[a-z ,="\\é])){0,30}"#) {
            let _ = parse(&text);
        }
    }
}
