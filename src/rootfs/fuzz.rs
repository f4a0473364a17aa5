//! What fuzzing asks of manifests and configs.

use super::config::Config;
use super::manifest::Manifest;
use crate::digest::Digest;

/// A manifest or an index.
pub fn manifest(bytes: &[u8]) {
    let digest = Digest::of(bytes);
    if let Ok(manifest) = Manifest::read(bytes, &digest) {
        assert_eq!(Manifest::read(bytes, &digest).ok(), Some(manifest));
    }
}

/// A config.
pub fn config(bytes: &[u8]) {
    let digest = Digest::of(bytes);
    if let Ok(document) = Config::read(bytes, &digest) {
        let again = Config::read(bytes, &digest).expect("it was read before");
        assert_eq!(again.config, document.config);
        assert!(document.platform.contains('/'));
    }
}
