//! `images.lock`: what tags of stack files mean, and for which platforms the images of others are. `skep lock` writes it,
//! and nothing else looks a tag up: an image that somebody pushed restarts nothing here.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize as _, Deserializer};

use super::Error;
use crate::digest::Digest;
use crate::platform::Platform;

/// The file, in the project's root.
pub const PINS: &str = "images.lock";

/// The most bytes of the file.
const LIMIT: u64 = 1 << 20;
const HEAD: &str = "# What tags of stack files mean. Written by `skep lock`; keep it in git.\n";

/// What one image is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// `sha256:…` of the index, or of the manifest where there is none.
    #[serde(deserialize_with = "digest")]
    pub digest: String,
    /// The manifest of each platform that skep knows; empty where the image names none.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "digests"
    )]
    pub platforms: BTreeMap<Platform, String>,
}

fn digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    sound(String::deserialize(deserializer)?)
}

fn digests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Platform, String>, D::Error> {
    let all = BTreeMap::<Platform, String>::deserialize(deserializer)?;
    all.into_iter()
        .map(|(platform, text)| Ok((platform, sound(text)?)))
        .collect()
}

fn sound<E: serde::de::Error>(text: String) -> Result<String, E> {
    match Digest::from_oci(&text, 0) {
        Ok(_) => Ok(text),
        Err(error) => Err(E::custom(error)),
    }
}

/// Images by what stack files call them, such as `redis:7-alpine`; one with a digest is there for its platforms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(pub BTreeMap<String, Pin>);

impl Pins {
    /// What the project's file says; nothing if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is longer than 1 MiB, or is not what `skep lock` writes.
    pub fn read(root: &Path) -> Result<Pins, Error> {
        let path = root.join(PINS);
        let failed = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Pins::default()),
            file => file.map_err(failed)?,
        };
        let mut text = String::new();
        let length = file.take(LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
        if length as u64 > LIMIT {
            return Err(failed(std::io::Error::other("it is longer than 1 MiB")));
        }
        let pins = toml::from_str(&text).map_err(|problem| Error::Config { path, problem })?;
        Ok(Pins(pins))
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        let tables = toml::to_string(&self.0).expect("plain data encodes");
        format!("{HEAD}\n{tables}")
    }
}

/// Whether an image is somebody else's: a target's name has neither `/` nor `:`.
pub fn is_foreign(image: &str) -> bool {
    image.contains(['/', ':'])
}

/// Whether an image is somebody else's and has no digest.
pub fn is_tag(image: &str) -> bool {
    is_foreign(image) && !image.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# What tags of stack files mean. Written by `skep lock`; keep it in git.

[\"git.example/mirror/web:1\"]
digest = \"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"

[\"redis:7-alpine\"]
digest = \"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"

[\"redis:7-alpine\".platforms]
\"linux/amd64\" = \"sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\"
\"linux/arm64\" = \"sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\"
";

    fn read(text: &str) -> Result<Pins, String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(PINS), text).unwrap();
        let pins = Pins::read(root.path());
        pins.map_err(|error| {
            error
                .to_string()
                .replace(&root.path().display().to_string(), "ROOT")
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let pins = read(FILE).unwrap();
        assert_eq!(pins.0["redis:7-alpine"].platforms.len(), 2);
        assert_eq!(pins.to_toml(), FILE);
        assert_eq!(Pins::read(Path::new("/nowhere")).unwrap(), Pins::default());
    }

    #[test]
    fn what_nobody_wrote_is_refused_with_its_place() {
        insta::assert_snapshot!(read("[x]\ndigest = \"sha256:short\"\n").unwrap_err(), @r#"
        `ROOT/images.lock`: TOML parse error at line 2, column 10
          |
        2 | digest = "sha256:short"
          |          ^^^^^^^^^^^^^^
        `sha256:short` is not a digest: expected `sha256:` and 64 lower-case hex digits
        "#);
        insta::assert_snapshot!(read(&FILE.replace("digest", "digests")).unwrap_err(), @r#"
        `ROOT/images.lock`: TOML parse error at line 4, column 1
          |
        4 | digests = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
          | ^^^^^^^
        unknown field `digests`, expected `digest` or `platforms`
        "#);
        let long = format!("{FILE}#{}", "x".repeat(1 << 20));
        insta::assert_snapshot!(read(&long).unwrap_err(), @"cannot read `ROOT/images.lock`: it is longer than 1 MiB");
    }

    #[test]
    fn targets_are_no_tags() {
        let tags = ["redis:7", "git.example/web", "web", "redis:7@sha256:a"].map(is_tag);
        assert_eq!(tags, [true, true, false, false]);
    }
}
