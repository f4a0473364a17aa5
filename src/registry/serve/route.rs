//! Which endpoint a path means (OCI distribution specification 1.1, "Endpoints").

use reqwest::Url;

use super::answer::Refusal;
use crate::digest::Digest;
use crate::registry::address::{Name, Tag};

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    /// Hexadecimal.
    Digest(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Base,
    Blob { name: Name, hex: String },
    Uploads { name: Name },
    Upload { name: Name, id: String },
    Manifest { name: Name, reference: Reference },
    Tags { name: Name },
    Referrers { name: Name, hex: String },
}

/// The endpoint at `path`.
pub(super) fn route(path: &str) -> Result<Route, Refusal> {
    let nowhere = || Refusal::unknown("UNSUPPORTED", "there is no such endpoint");
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Base),
        Some(rest) => rest.strip_prefix('/').ok_or_else(nowhere)?,
        None => return Err(nowhere()),
    };
    // Of all that an address holds, only a digest's colon is written so by some clients.
    let rest = rest.replace("%3A", ":").replace("%3a", ":");
    let segments: Vec<&str> = rest.split('/').collect();
    let name = |segments: &[&str]| -> Result<Name, Refusal> {
        let parsed = segments.join("/").parse::<Name>();
        parsed.map_err(|error| Refusal::bad("NAME_INVALID", error.to_string()))
    };
    match &segments[..] {
        [of @ .., "blobs", "uploads"] | [of @ .., "blobs", "uploads", ""] => {
            Ok(Route::Uploads { name: name(of)? })
        }
        [of @ .., "blobs", "uploads", id] => Ok(Route::Upload {
            name: name(of)?,
            id: (*id).to_owned(),
        }),
        [of @ .., "blobs", digest] => Ok(Route::Blob {
            name: name(of)?,
            hex: hex(digest)?,
        }),
        [of @ .., "manifests", reference] => Ok(Route::Manifest {
            name: name(of)?,
            reference: match reference.contains(':') {
                true => Reference::Digest(hex(reference)?),
                false => Reference::Tag(
                    reference
                        .parse()
                        .map_err(|_| Refusal::unknown("MANIFEST_UNKNOWN", "that is no tag"))?,
                ),
            },
        }),
        [of @ .., "tags", "list"] => Ok(Route::Tags { name: name(of)? }),
        [of @ .., "referrers", digest] => Ok(Route::Referrers {
            name: name(of)?,
            hex: hex(digest)?,
        }),
        _ => Err(nowhere()),
    }
}

/// The hexadecimal part of a `sha256:…`.
pub(super) fn hex(digest: &str) -> Result<String, Refusal> {
    let parsed = Digest::from_oci(digest, 0);
    parsed
        .map(|digest| digest.hex())
        .map_err(|error| Refusal::bad("DIGEST_INVALID", error.to_string()))
}

/// The parameters of a query.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Query {
        let mut url = Url::parse("http://localhost/").expect("an address");
        url.set_query(query);
        Query(url.query_pairs().into_owned().collect())
    }

    pub(super) fn encode(pairs: &[(&str, &str)]) -> String {
        let mut url = Url::parse("http://localhost/").expect("an address");
        url.query_pairs_mut().extend_pairs(pairs);
        url.query().unwrap_or_default().to_owned()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let digest = Digest::of(b"x");
        let (hex, oci) = (digest.hex(), digest.oci());
        let name = |text: &str| text.parse::<Name>().unwrap();
        for (path, expected) in [
            ("/v2/".to_owned(), Route::Base),
            ("/v2".to_owned(), Route::Base),
            (
                "/v2/a/b/blobs/uploads/".to_owned(),
                Route::Uploads { name: name("a/b") },
            ),
            (
                "/v2/blobs/uploads/blobs/uploads/7".to_owned(),
                Route::Upload {
                    name: name("blobs/uploads"),
                    id: "7".to_owned(),
                },
            ),
            (
                format!("/v2/a/blobs/{}", oci.replace(':', "%3A")),
                Route::Blob {
                    name: name("a"),
                    hex: hex.clone(),
                },
            ),
            (
                "/v2/a/manifests/manifests/v1".to_owned(),
                Route::Manifest {
                    name: name("a/manifests"),
                    reference: Reference::Tag("v1".parse().unwrap()),
                },
            ),
            (
                format!("/v2/a/referrers/{oci}"),
                Route::Referrers { name: name("a"), hex },
            ),
            ("/v2/a/tags/list".to_owned(), Route::Tags { name: name("a") }),
        ] {
            assert_eq!(route(&path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "",
            "/",
            "/v1/",
            "/v2x",
            "/v2/a",
            "/v2//manifests/x",
            "/v2/../manifests/x",
            "/v2/a/manifests/..",
            "/v2/a/manifests/%2e%2e",
            "/v2/A/tags/list",
            "/v2/a%2fb/tags/list",
            "/v2/a/blobs/sha256:..",
            "/v2/a/blobs/sha512:00",
            "/v2/manifests/x",
            "/v2/a/../b/tags/list",
        ] {
            assert!(route(path).is_err(), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_panics(path in "(/|v2|a|blobs|uploads|manifests|tags|list|%2e|[.:é-]){0,12}") {
            let _ = route(&path);
        }
    }
}
