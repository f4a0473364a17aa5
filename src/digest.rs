//! Names for bytes: the SHA-256 digest that the store, the Remote Execution API and OCI registries share.
//!
//! Pure data; nothing here reads a file. A BLAKE3 [`Fingerprint`] names what never leaves skep: work tree
//! states, evaluation inputs and secret versions. It must never stand where a [`Digest`] is meant.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
use sha2::Digest as _;

/// A blob's SHA-256 and its size in bytes (REAPI v2 `Digest`).
///
/// Its text form is `<64 lower-case hex>/<decimal size>`; registries see [`Digest::oci`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    hash: [u8; 32],
    size: u64,
}

/// What is wrong with a digest's text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a digest: expected {expected}")]
pub struct ParseDigestError {
    text: String,
    expected: &'static str,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest {
            hash: sha2::Sha256::digest(bytes).into(),
            size: bytes.len() as u64,
        }
    }

    /// A digest from its parts, for formats that carry hash and size apart (OCI descriptors, `Packages` files).
    ///
    /// `hex` is 64 lower-case hex digits.
    pub fn from_hex(hex: &str, size: u64) -> Result<Digest, ParseDigestError> {
        let hash = parse_hex(hex).ok_or_else(|| ParseDigestError {
            text: hex.to_owned(),
            expected: "64 lower-case hex digits",
        })?;
        Ok(Digest { hash, size })
    }

    /// A digest from an OCI descriptor's `sha256:<hex>` and size; other algorithms are refused.
    pub fn from_oci(text: &str, size: u64) -> Result<Digest, ParseDigestError> {
        let hash = text
            .strip_prefix("sha256:")
            .and_then(parse_hex)
            .ok_or_else(|| ParseDigestError {
                text: text.to_owned(),
                expected: "`sha256:` and 64 lower-case hex digits",
            })?;
        Ok(Digest { hash, size })
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        to_hex(&self.hash)
    }

    /// The SHA-256 itself.
    pub fn bytes(&self) -> [u8; 32] {
        self.hash
    }

    /// `sha256:<hex>`, as OCI descriptors and registries write it.
    pub fn oci(&self) -> String {
        format!("sha256:{}", self.hex())
    }

    /// The size of the blob, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The REAPI message.
    pub fn to_proto(&self) -> reapi::Digest {
        reapi::Digest {
            hash: self.hex(),
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
        }
    }

    /// From the REAPI message; a negative size or a hash that is not SHA-256 is refused.
    pub fn from_proto(proto: &reapi::Digest) -> Result<Digest, ParseDigestError> {
        let size = u64::try_from(proto.size_bytes).map_err(|_| ParseDigestError {
            text: proto.size_bytes.to_string(),
            expected: "a size of at least 0",
        })?;
        Digest::from_hex(&proto.hash, size)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        text.split_once('/')
            .and_then(|(hex, size)| Some((parse_hex(hex)?, size.parse().ok()?)))
            .map(|(hash, size)| Digest { hash, size })
            .ok_or_else(|| ParseDigestError {
                text: text.to_owned(),
                expected: "`<64 lower-case hex>/<size>`",
            })
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Digests what is written to it, in constant memory.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: sha2::Sha256,
    size: u64,
}

impl Hasher {
    /// Starts with nothing written.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The digest of all that was written.
    pub fn finish(self) -> Digest {
        Digest {
            hash: self.state.finalize().into(),
            size: self.size,
        }
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A keyed BLAKE3 name for internal use; `context` separates the domains (BLAKE3 derive-key mode).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `bytes` in the domain `context`, a constant such as `"skep 1 secret version"`.
    pub fn of(context: &'static str, bytes: &[u8]) -> Fingerprint {
        Fingerprint(blake3::derive_key(context, bytes))
    }

    /// Of bytes that come one after the other, in the domain `context`.
    pub fn hasher(context: &'static str) -> FingerprintHasher {
        FingerprintHasher(blake3::Hasher::new_derive_key(context))
    }

    /// From 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Option<Fingerprint> {
        parse_hex(hex).map(Fingerprint)
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }
}

/// Fingerprints what is written to it, in constant memory.
#[derive(Clone, Debug)]
pub struct FingerprintHasher(blake3::Hasher);

impl FingerprintHasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The fingerprint of all that was added.
    pub fn finish(&self) -> Fingerprint {
        Fingerprint(*self.0.finalize().as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

fn to_hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| DIGITS[nibble as usize] as char)
        .collect()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_empty_blob_has_the_well_known_name() {
        assert_eq!(Digest::of(b"").to_string(), format!("{EMPTY}/0"));
        assert_eq!(Digest::of(b"").oci(), format!("sha256:{EMPTY}"));
        assert_eq!(Hasher::new().finish(), Digest::of(b""));
    }

    #[test]
    fn text_and_proto_round_trip() {
        let digest = Digest::of(b"skep");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(Digest::from_proto(&digest.to_proto()), Ok(digest));
        assert_eq!(Digest::from_oci(&digest.oci(), 4), Ok(digest));
    }

    #[test]
    fn a_fingerprint_of_parts_is_that_of_the_whole() {
        let mut hasher = Fingerprint::hasher("skep test");
        hasher.update(b"sk");
        hasher.update(b"ep");
        assert_eq!(hasher.finish(), Fingerprint::of("skep test", b"skep"));
        assert_eq!(
            Fingerprint::from_hex(&hasher.finish().hex()),
            Some(hasher.finish())
        );
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        for text in ["", "/0", EMPTY, &EMPTY.to_uppercase(), "zz/1", "0/-1"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!(Digest::from_oci(&format!("sha512:{EMPTY}"), 0).is_err());
    }
}
