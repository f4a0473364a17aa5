//! Which endpoint a path means (OCI distribution specification 1.1, "Endpoints").

use std::fmt;

use reqwest::Url;

use super::answer::Refusal;
use crate::digest::Digest;
use crate::registry::address::{Name, Tag};

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(Named),
}

/// A digest in an address or a manifest. Content is named by SHA-256 alone; what is named otherwise is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A SHA-256, hexadecimal.
    Hex(String),
    /// `algorithm:encoded` of any other algorithm.
    Other(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Base,
    Blob { name: Name, digest: Named },
    Uploads { name: Name },
    Upload { name: Name, id: String },
    Manifest { name: Name, reference: Reference },
    Tags { name: Name },
    Referrers { name: Name, subject: Named },
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
            digest: Named::parse(digest)?,
        }),
        [of @ .., "manifests", reference] => Ok(Route::Manifest {
            name: name(of)?,
            reference: match reference.contains(':') {
                true => Reference::Digest(Named::parse(reference)?),
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
            subject: Named::parse(digest)?,
        }),
        _ => Err(nowhere()),
    }
}

impl Named {
    /// From `algorithm:encoded` (image specification 1.1, "Digests").
    pub(super) fn parse(text: &str) -> Result<Named, Refusal> {
        match Digest::from_oci(text, 0) {
            Ok(digest) => Ok(Named::Hex(digest.hex())),
            Err(_) if is_of_another_algorithm(text) => Ok(Named::Other(text.to_owned())),
            Err(error) => Err(Refusal::bad("DIGEST_INVALID", error.to_string())),
        }
    }

    /// Hexadecimal, if it can name something here.
    pub(super) fn hex(&self) -> Option<&str> {
        match self {
            Named::Hex(hex) => Some(hex),
            Named::Other(_) => None,
        }
    }

    /// As records hold it: without the algorithm's name for a SHA-256.
    pub(super) fn key(&self) -> &str {
        match self {
            Named::Hex(text) | Named::Other(text) => text,
        }
    }

    pub(super) fn of_key(key: String) -> Named {
        match key.contains(':') {
            true => Named::Other(key),
            false => Named::Hex(key),
        }
    }

    /// Hexadecimal, for what is to be kept (distribution specification 1.1, "Pushing blobs": 400 for an
    /// algorithm that is not supported).
    pub(super) fn to_keep(&self) -> Result<&str, Refusal> {
        self.hex().ok_or_else(|| {
            let message =
                format!("`{self}` is not a SHA-256, and this registry keeps nothing by another digest");
            Refusal::bad("DIGEST_INVALID", message)
        })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::Hex(hex) => write!(f, "sha256:{hex}"),
            Named::Other(text) => f.write_str(text),
        }
    }
}

/// Whether this is a digest, and of another algorithm than SHA-256.
fn is_of_another_algorithm(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else {
        return false;
    };
    let is_component = |component: &str| {
        let is_right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !component.is_empty() && component.bytes().all(is_right)
    };
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_encoded = |byte: u8| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte);
    match algorithm {
        "sha256" => false,
        "sha512" => encoded.len() == 128 && encoded.bytes().all(is_hex),
        _ => {
            let components = algorithm.split(['+', '.', '_', '-']);
            let is_algorithm = components.into_iter().all(is_component);
            is_algorithm && !encoded.is_empty() && encoded.bytes().all(is_encoded)
        }
    }
}

/// The parameters of a query.
#[derive(Clone)]
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

    /// A parameter that is a digest.
    pub(super) fn digest(&self, name: &str) -> Result<Option<Named>, Refusal> {
        self.get(name).map(Named::parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let digest = Digest::of(b"x");
        let (hex, oci) = (digest.hex(), digest.oci());
        let other = format!("sha512:{hex}{hex}");
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
                    digest: Named::Hex(hex.clone()),
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
                Route::Referrers {
                    name: name("a"),
                    subject: Named::Hex(hex),
                },
            ),
            (
                format!("/v2/a/blobs/{other}"),
                Route::Blob {
                    name: name("a"),
                    digest: Named::Other(other.clone()),
                },
            ),
            (
                format!("/v2/a/manifests/{other}"),
                Route::Manifest {
                    name: name("a"),
                    reference: Reference::Digest(Named::Other(other)),
                },
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
            "/v2/a/blobs/md5:",
            "/v2/a/blobs/:00",
            "/v2/a/blobs/md5:..",
            "/v2/a/blobs/md5.:00",
            "/v2/a/manifests/MD5:00",
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
