//! apt's sources: which mirrors have which suites, in the one-line and the deb822 format (`sources.list(5)`).

use std::path::{Path, PathBuf};

use super::{Host, base_address};
use crate::fetch::debian::control::paragraphs;
use crate::fetch::error::Error;
use crate::fetch::registry::Base;

/// One mirror with some of what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fetch) struct Mirror {
    /// Its root, which `dists/` and `pool/` are below.
    pub base: Base,
    /// The suites it is used for; empty for a mirror of `[registries]`, which may have any.
    pub suites: Vec<String>,
    /// The key ring that signs it, if the configuration names a file.
    pub signed_by: Option<PathBuf>,
}

impl Mirror {
    /// Whether this mirror may have a suite.
    pub(in crate::fetch) fn has(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|here| here == suite)
    }
}

/// The mirrors of apt that have binary packages in `main`, then those of `[registries]` (separated by
/// spaces or commas), which serve where apt is for another distribution, or dropped a version.
pub(in crate::fetch) fn mirrors(host: &Host, registries: Option<&str>) -> Result<Vec<Mirror>, Error> {
    let mut mirrors = Vec::new();
    for path in files(host) {
        if let Some(text) = host.read(&path)? {
            mirrors.extend(
                match path.extension().is_some_and(|extension| extension == "sources") {
                    true => parse_deb822(&text),
                    false => parse_lines(&text),
                },
            );
        }
    }
    let more = registries.unwrap_or_default().split([' ', ',', '\n']);
    for address in more.map(str::trim).filter(|address| !address.is_empty()) {
        mirrors.push(Mirror {
            base: base_address("[registries] debian", address)?,
            suites: Vec::new(),
            signed_by: None,
        });
    }
    match mirrors.is_empty() {
        false => Ok(mirrors),
        true => Err(Error::NoAddress {
            ecosystem: "Debian",
            asked: "nothing in `/etc/apt`",
            key: "debian",
        }),
    }
}

/// `sources.list` and what `sources.list.d` holds, in the order of their names.
fn files(host: &Host) -> Vec<PathBuf> {
    let apt = host.etc.join("apt");
    let known = |path: &Path| {
        path.extension()
            .is_some_and(|end| end == "list" || end == "sources")
    };
    let entries = std::fs::read_dir(apt.join("sources.list.d"))
        .into_iter()
        .flatten();
    let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    more.retain(|path| known(path));
    more.sort();
    std::iter::once(apt.join("sources.list")).chain(more).collect()
}

fn parse_lines(text: &str) -> Vec<Mirror> {
    text.lines().filter_map(parse_line).collect()
}

/// `deb [option=value …] uri suite component…`
fn parse_line(line: &str) -> Option<Mirror> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="));
        rest = after;
    }
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    words.any(|component| component == "main").then_some(())?;
    mirror(uri, &[suite], signed_by)
}

fn parse_deb822(text: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for paragraph in paragraphs(text) {
        let words = |field: &str| {
            let value = paragraph.get(field).unwrap_or_default();
            value.split_whitespace().collect::<Vec<_>>()
        };
        let enabled = paragraph
            .get("Enabled")
            .is_none_or(|value| !value.trim().eq_ignore_ascii_case("no"));
        if enabled && words("Types").contains(&"deb") && words("Components").contains(&"main") {
            let signed_by = words("Signed-By");
            let (uris, suites) = (words("URIs"), words("Suites"));
            // More than one word is a key in the file itself, or several key rings; both are left to apt.
            let signed_by = signed_by.first().filter(|_| signed_by.len() == 1).copied();
            mirrors.extend(uris.into_iter().filter_map(|uri| mirror(uri, &suites, signed_by)));
        }
    }
    mirrors
}

/// `None` for what is no web address: `cdrom:`, `mirror+file:`, `file:`.
fn mirror(uri: &str, suites: &[&str], signed_by: Option<&str>) -> Option<Mirror> {
    let base = base_address("apt's sources", uri).ok()?;
    Some(Mirror {
        base,
        suites: suites
            .iter()
            .map(|suite| suite.trim_end_matches('/').to_owned())
            .collect(),
        signed_by: signed_by.map(PathBuf::from).filter(|path| path.is_absolute()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(mirrors: &[Mirror]) -> Vec<String> {
        let line = |mirror: &Mirror| {
            let key = mirror.signed_by.as_ref().map(|path| path.display().to_string());
            format!(
                "{} {} {}",
                mirror.base.url,
                mirror.suites.join("+"),
                key.unwrap_or_default()
            )
        };
        mirrors.iter().map(line).collect()
    }

    #[test]
    fn one_line_sources() {
        let text = "\
# deb https://no.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] https://a.example/debian bookworm main contrib # why
deb-src https://a.example/debian bookworm main
deb\thttp://b.example/debian bookworm-updates main
deb cdrom:[Debian]/ bookworm main
deb https://c.example/ nodistro other
deb";
        insta::assert_debug_snapshot!(summary(&parse_lines(text)), @r#"
        [
            "https://a.example/debian/ bookworm /k.gpg",
            "http://b.example/debian/ bookworm-updates ",
        ]
        "#);
    }

    #[test]
    fn deb822_sources() {
        let text = "\
Types: deb deb-src
# a comment
URIs: https://a.example/debian https://b.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/x.gpg

Types: deb
URIs: https://c.example
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: https://d.example
Suites: bookworm
Components: main
";
        insta::assert_debug_snapshot!(summary(&parse_deb822(text)), @r#"
        [
            "https://a.example/debian/ bookworm+bookworm-updates /usr/share/keyrings/x.gpg",
            "https://b.example/debian/ bookworm+bookworm-updates /usr/share/keyrings/x.gpg",
        ]
        "#);
    }

    #[test]
    fn files_come_in_order_and_skep_toml_last() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("apt/sources.list.d");
        std::fs::create_dir_all(&parts).unwrap();
        std::fs::write(parts.join("b.list"), "deb https://b.example x main").unwrap();
        std::fs::write(
            parts.join("a.sources"),
            "Types: deb\nURIs: https://a.example\nSuites: x\nComponents: main",
        )
        .unwrap();
        std::fs::write(parts.join("c.list.off"), "deb https://c.example x main").unwrap();
        let host = Host {
            etc: etc.path().into(),
            ..Host::default()
        };
        let found = mirrors(&host, Some("https://y.example, https://z.example")).unwrap();
        let hosts: Vec<_> = found
            .iter()
            .filter_map(|mirror| mirror.base.url.host_str())
            .collect();
        assert_eq!(hosts, ["a.example", "b.example", "y.example", "z.example"]);
        assert!(found[2].has("anything") && !found[0].has("anything"));
        assert!(mirrors(&Host::default(), None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_source_panics(text in "(deb|\\[|\\]|=|#| |\n|:|Types|URIs|https://|[a-z]){0,60}") {
            let _ = (parse_lines(&text), parse_deb822(&text));
        }
    }
}
