//! Pages of registries that say where a file is: npm's package metadata, and Python's simple index as JSON
//! (PEP 691) or HTML (PEP 503). Only reads; what they name is checked by its hash later.

use std::collections::BTreeMap;

use reqwest::Url;

use super::http::Answer;
use super::source::percent_decode;

#[derive(serde::Deserialize)]
struct NpmMetadata {
    versions: BTreeMap<String, NpmVersion>,
}

#[derive(serde::Deserialize)]
struct NpmVersion {
    dist: NpmDist,
}

#[derive(serde::Deserialize)]
struct NpmDist {
    tarball: String,
}

/// Where the metadata of an npm package says that a version's tarball is.
pub(super) fn npm_tarball(page: &Url, bytes: &[u8], version: &str) -> Result<Url, String> {
    let metadata: NpmMetadata =
        serde_json::from_slice(bytes).map_err(|error| format!("not npm metadata: {error}"))?;
    let found = metadata
        .versions
        .get(version)
        .ok_or_else(|| format!("it has no version `{version}`"))?;
    web_address(page, &found.dist.tarball)
}

#[derive(serde::Deserialize)]
struct SimplePage {
    files: Vec<SimpleFile>,
}

#[derive(serde::Deserialize)]
struct SimpleFile {
    filename: String,
    url: String,
}

/// Where a page of a Python index says that a file is.
pub(super) fn pypi_file(answer: &Answer, bytes: &[u8], file: &str) -> Result<Url, String> {
    let found = match answer.media_type.ends_with("json") {
        true => {
            let page: SimplePage =
                serde_json::from_slice(bytes).map_err(|error| format!("not a simple index: {error}"))?;
            let found = page
                .files
                .into_iter()
                .find(|candidate| candidate.filename == file);
            found.map(|found| found.url)
        }
        false => {
            let text = String::from_utf8_lossy(bytes);
            anchors(&text)
                .into_iter()
                .find(|href| file_name(href).as_deref() == Some(file))
        }
    };
    let found = found.ok_or_else(|| format!("it has no file `{file}`"))?;
    web_address(&answer.url, &found)
}

fn web_address(page: &Url, text: &str) -> Result<Url, String> {
    let url = page
        .join(text)
        .map_err(|_| "it names a malformed address".to_owned())?;
    let sound = url.scheme() == "https" || url.scheme() == "http" && page.scheme() == "http";
    let bare = url.username().is_empty() && url.password().is_none();
    match sound && bare {
        true => Ok(url),
        false => Err("it names an address that is not `https`".to_owned()),
    }
}

/// The file that a link is to: the last component of its path.
fn file_name(href: &str) -> Option<String> {
    let path = href.split(['#', '?']).next()?;
    percent_decode(path.rsplit('/').next()?)
}

/// Every `href` of an `<a>` in a page.
fn anchors(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let tag = &rest[..rest.find('>').unwrap_or(rest.len())];
        let Some(attributes) = tag
            .strip_prefix(['a', 'A'])
            .filter(|rest| rest.starts_with(char::is_whitespace))
        else {
            continue;
        };
        let lower = attributes.to_ascii_lowercase();
        let Some(value) = lower.find("href=").map(|at| &attributes[at + 5..]) else {
            continue;
        };
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => value[1..].split(quote).next(),
            _ => value.split(char::is_whitespace).next(),
        };
        found.extend(value.map(|value| value.replace("&amp;", "&")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(media_type: &str) -> Answer {
        Answer {
            url: Url::parse("https://pypi.example/simple/x/").unwrap(),
            media_type: media_type.to_owned(),
        }
    }

    #[test]
    fn both_forms_of_the_simple_index() {
        let json = br#"{"meta":{"api-version":"1.0"},"name":"x","files":[
            {"filename":"x-1.whl","url":"../../files/x-1.whl","hashes":{}},
            {"filename":"x-2.whl","url":"https://files.example/x-2.whl","hashes":{}}]}"#;
        let html = br#"<!DOCTYPE html><html><body><abbr href="no">x</abbr>
            <a data-x="1" href="../../files/x-1.whl#sha256=00&amp;y">x-1.whl</a><br/>
            <A HREF='https://files.example/x-2.whl'>x-2.whl</A></body></html>"#;
        for (media_type, page) in [
            ("application/vnd.pypi.simple.v1+json", &json[..]),
            ("text/html", &html[..]),
        ] {
            let find = |file| {
                pypi_file(&answer(media_type), page, file).map(|mut url| {
                    url.set_fragment(None);
                    url.to_string()
                })
            };
            assert_eq!(find("x-1.whl").unwrap(), "https://pypi.example/files/x-1.whl");
            assert_eq!(find("x-2.whl").unwrap(), "https://files.example/x-2.whl");
            insta::allow_duplicates! {
                insta::assert_snapshot!(find("x-3.whl").unwrap_err(), @"it has no file `x-3.whl`");
            }
        }
    }

    #[test]
    fn a_page_cannot_lead_away_from_https() {
        for url in [
            "http://files.example/x.whl",
            "file:///etc/passwd",
            "https://u:p@files.example/x.whl",
        ] {
            let page = format!(r#"{{"files":[{{"filename":"x.whl","url":"{url}"}}]}}"#);
            assert!(
                pypi_file(&answer("application/json"), page.as_bytes(), "x.whl").is_err(),
                "{url}"
            );
        }
    }

    #[test]
    fn npm_metadata_names_tarballs() {
        let page = Url::parse("https://npm.example/@a%2Fb").unwrap();
        let json = br#"{"versions":{"1.0.0":{"dist":{"tarball":"https://npm.example/download/b/1"}}}}"#;
        let url = npm_tarball(&page, json, "1.0.0").unwrap();
        assert_eq!(url.as_str(), "https://npm.example/download/b/1");
        assert!(npm_tarball(&page, json, "2.0.0").is_err());
        assert!(npm_tarball(&page, b"<html>", "1.0.0").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_page_panics(html in "(<a |<A\t|href=|[\"'#&> /]|\\PC){0,60}") {
            let _ = pypi_file(&answer("text/html"), html.as_bytes(), "x");
        }
    }
}
