//! What fuzzing asks of answers of registries, and of requests to the embedded one.

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::address::{Address, Repository};
use super::challenge::challenges;
use super::error::Reported;

pub use super::serve::fuzz::{pushed_manifest, request};

/// The longest error that is repeated: a code, a message, and what joins them.
const MAX_REPORTED: usize = 2 * 300 + 4;

/// The value of a `WWW-Authenticate`.
pub fn challenge(bytes: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let _ = challenges(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]));
    }
}

/// The body of an error: what is repeated of it is one short line.
pub fn error(bytes: &[u8]) {
    let shown = Reported::read(bytes).to_string();
    assert!(shown.chars().count() <= MAX_REPORTED, "{shown:?}");
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
}

/// The name of an image, as stack files and `images.lock` write it: what was read is written as it is read.
pub fn image_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok((repository, tag)) = Repository::of_image(&text) {
        let written = format!("{repository}:{tag}");
        assert_eq!(Repository::of_image(&written), Ok((repository, tag)), "{written}");
    }
    if let Ok(address) = text.parse::<Address>() {
        let tag = address.tag.iter().map(|tag| format!(":{tag}"));
        let written: String = [address.repository.to_string()].into_iter().chain(tag).collect();
        assert_eq!(written.parse(), Ok(address), "{written}");
    }
}
