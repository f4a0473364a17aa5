//! Addresses of images (OCI distribution specification 1.1, "Pulling manifests"). Pure text; nothing is asked.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::digest::Digest;

/// The longest name of a repository, in bytes.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {reason}")]
pub struct AddressError {
    text: String,
    what: &'static str,
    reason: &'static str,
}

/// The name of a repository inside its registry, such as `owner/api`: lower-case words joined by `.`, `_`,
/// `__` or dashes, and separated by `/`; at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Name, AddressError> {
        let reason = match text {
            "" => "it is empty",
            _ if text.len() > MAX_NAME => "it is longer than 255 bytes",
            _ if text.bytes().any(|byte| byte.is_ascii_uppercase()) => "it must be lower case",
            _ if text.split('/').all(is_component) => return Ok(Name(text.to_owned())),
            _ => {
                "its parts between `/` are lower-case letters and digits, joined by `.`, `_`, `__` or dashes"
            }
        };
        Err(AddressError {
            text: text.to_owned(),
            what: "the name of a repository",
            reason,
        })
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|byte| is_word(*byte)) || !bytes.last().is_some_and(|byte| is_word(*byte)) {
        return false;
    }
    let mut separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    separators.all(|separator| match separator {
        "" | "." | "_" | "__" => true,
        dashes => dashes.bytes().all(|byte| byte == b'-'),
    })
}

/// A tag: letters, digits, `_`, `.` and `-`, at most 128, the first neither `.` nor `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Tag, AddressError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let reason = match text.as_bytes() {
            [] => "it is empty",
            bytes if bytes.len() > MAX_TAG => "it is longer than 128 bytes",
            [first, ..] if !is_word(*first) => "it begins with a letter, a digit or `_`",
            [_, rest @ ..] if rest.iter().all(|byte| is_word(*byte) || b".-".contains(byte)) => {
                return Ok(Tag(text.to_owned()));
            }
            _ => "it has letters, digits, `_`, `.` and `-` only",
        };
        Err(AddressError {
            text: text.to_owned(),
            what: "a tag",
            reason,
        })
    }
}

/// A repository of a registry: `host[:port]/owner/name`. The host is never guessed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    host: String,
    name: Name,
}

impl Repository {
    /// The registry's `host[:port]` in lower case, as it was written.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name inside the registry.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where an image is that a stack file names as docker does, and its tag: `redis:7-alpine` is one of the registry
    /// that docker takes for granted, and a tag may stand before a digest.
    ///
    /// # Errors
    ///
    /// If it is no such name.
    pub fn of_image(image: &str) -> Result<(Repository, Tag), AddressError> {
        let refused = || AddressError {
            text: image.to_owned(),
            what: "an image",
            reason: "expected `[host/]name[:tag][@sha256:…]` in lower case",
        };
        let reference: oci_client::Reference = image.parse().map_err(|_| refused())?;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        Ok((repository.parse()?, reference.tag().unwrap_or("latest").parse()?))
    }

    /// Where the registry's interface is: its host, except for the one registry whose address is an alias.
    pub(super) fn api_host(&self) -> String {
        let reference =
            oci_client::Reference::with_tag(self.host.clone(), self.name.0.clone(), "latest".into());
        reference.resolve_registry().to_owned()
    }
}

impl FromStr for Repository {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Repository, AddressError> {
        let refused = |reason| AddressError {
            text: text.to_owned(),
            what: "the address of a repository",
            reason,
        };
        let no_host = "it names no registry; write the registry's host first, as in `git.example/owner/name`";
        let (host, name) = text.split_once('/').ok_or_else(|| refused(no_host))?;
        let host = host.to_ascii_lowercase();
        if !host.contains(['.', ':']) && host != "localhost" {
            return Err(refused(no_host));
        }
        if !is_host(&host) {
            return Err(refused("its host is malformed; expected `host[:port]`"));
        }
        let name: Name = name
            .parse()
            .map_err(|error: AddressError| refused(error.reason))?;
        if host.len() + 1 + name.0.len() > MAX_NAME {
            return Err(refused("it is longer than 255 bytes"));
        }
        Ok(Repository { host, name })
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = split_port(host);
    let port_is_sound = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let is_label = |label: &str| {
        let sound = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        sound && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_v6 = bracketed(name).is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    port_is_sound && (is_v6 || name.split('.').all(is_label))
}

/// Host and port of `host[:port]`; an IPv6 address stands in brackets.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => (&host[..at], Some(&host[at + 1..])),
        _ => (host, None),
    }
}

fn bracketed(name: &str) -> Option<&str> {
    name.strip_prefix('[')?.strip_suffix(']')
}

/// Whether `host[:port]` is this machine, whatever a resolver says.
pub(super) fn is_loopback(host: &str) -> bool {
    let (name, _) = split_port(host);
    let v6 = bracketed(name).and_then(|inner| inner.parse::<Ipv6Addr>().ok());
    name == "localhost"
        || v6.is_some_and(|address| address.is_loopback())
        || name
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A repository with or without a tag: `host[:port]/owner/name[:tag]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The repository.
    pub repository: Repository,
    /// The tag; there is no default.
    pub tag: Option<Tag>,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if text.contains('@') {
            return Err(AddressError {
                text: text.to_owned(),
                what: "the address of a repository",
                reason: "it names a digest, which follows from what is built",
            });
        }
        // A colon behind the last slash begins a tag; one before it, a port.
        let (repository, tag) = match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') && repository.contains('/') => {
                (repository, Some(tag.parse()?))
            }
            _ => (text, None),
        };
        Ok(Address {
            repository: repository.parse()?,
            tag,
        })
    }
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A name that may come to mean something else.
    Tag(Tag),
    /// Its digest; the size does not matter.
    Digest(Digest),
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Reference {
        Reference::Digest(digest)
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Reference {
        Reference::Tag(tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => f.write_str(&tag.0),
            Reference::Digest(digest) => f.write_str(&digest.oci()),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Repository {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl serde::Serialize for Tag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, host, name, tag) in [
            ("git.example/owner/api", "git.example", "owner/api", None),
            ("Git.Example/o/a:v1", "git.example", "o/a", Some("v1")),
            ("localhost/a", "localhost", "a", None),
            ("127.0.0.1:5000/a/b-c__d.e", "127.0.0.1:5000", "a/b-c__d.e", None),
            ("[::1]:5000/a:T_1.x-y", "[::1]:5000", "a", Some("T_1.x-y")),
            ("a.b:1/x--y/z:0", "a.b:1", "x--y/z", Some("0")),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.repository.host(), host, "{text}");
            assert_eq!(address.repository.name().as_str(), name, "{text}");
            assert_eq!(address.tag.as_ref().map(Tag::as_str), tag, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("a.b/{}", "x".repeat(255));
        for text in [
            "",
            "/",
            "a",
            "a/b",
            "owner/api:1",
            "a.b/",
            "a.b/A",
            "a.b//c",
            "a.b/c/",
            "a.b/.c",
            "a.b/c..d",
            "a.b/c___d",
            "a.b/c:",
            "a.b/c:-x",
            "a.b/c:x/y",
            "a.b:0/c",
            "a.b:66000/c",
            "a.b:/c",
            "a.b:+1/c",
            "-a.b/c",
            "a..b/c",
            "[::g]:1/c",
            "https://a.b/c",
            "u:p@a.b/c",
            "a.b/c@sha256:00",
            "a.b/c d",
            "a.b/../c",
            "a.b/c%2f",
            &long,
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        insta::assert_snapshot!(error("owner/api"), @"`owner/api` is not the address of a repository: it names no registry; write the registry's host first, as in `git.example/owner/name`");
        insta::assert_snapshot!(error("git.example/Owner/api"), @"`git.example/Owner/api` is not the address of a repository: it must be lower case");
        insta::assert_snapshot!(error("git.example/owner/api:a b"), @"`a b` is not a tag: it has letters, digits, `_`, `.` and `-` only");
    }

    #[test]
    fn this_machine_is_known_by_name() {
        for host in [
            "localhost",
            "localhost:1",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "a.b",
            "128.0.0.1",
            "localhost.a.b",
            "127.0.0.1.a.b:80",
            "[::2]:1",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn images_are_named_as_docker_names_them() {
        let of = |image: &str| {
            let (repository, tag) = Repository::of_image(image)?;
            Ok::<_, AddressError>(format!(
                "{} {}",
                repository.to_string().split_once('/').unwrap().1,
                tag.as_str()
            ))
        };
        assert_eq!(of("redis:7-alpine").unwrap(), "library/redis 7-alpine");
        assert_eq!(of("team/web").unwrap(), "team/web latest");
        let digest = format!("git.example:3000/a/b:1@sha256:{}", "0".repeat(64));
        assert_eq!(of(&digest).unwrap(), "a/b 1");
        assert_eq!(
            Repository::of_image(&digest).unwrap().0.host(),
            "git.example:3000"
        );
        insta::assert_snapshot!(of("Not/An image").unwrap_err(), @"`Not/An image` is not an image: expected `[host/]name[:tag][@sha256:…]` in lower case");
    }

    #[test]
    fn an_alias_is_resolved_and_nothing_else() {
        let api = |text: &str| text.parse::<Repository>().unwrap().api_host();
        assert_eq!(api("git.example:3000/a/b"), "git.example:3000");
        assert_ne!(api("docker.io/a/b"), "docker.io");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_accepted_reads_back(text in "\\PC{0,20}|[a-z0-9.:/_@-]{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                let repository = address.repository.to_string();
                prop_assert_eq!(repository.parse::<Repository>().unwrap(), address.repository);
            }
        }

        #[test]
        fn names_and_tags_are_safe_as_file_names(text in "[a-zA-Z0-9._/-]{0,12}") {
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert!(!tag.as_str().contains('/') && !tag.as_str().starts_with('.'));
            }
            if let Ok(name) = text.parse::<Name>() {
                prop_assert!(name.as_str().split('/').all(|part| !part.starts_with('.') && !part.is_empty()));
            }
        }
    }
}
