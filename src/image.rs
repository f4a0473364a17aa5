//! Images as skep knows them: layers, manifests and indexes by digest, complete when they exist.
//!
//! A [`Layer`] is described without its bytes being stored: the tree that it holds and the format version
//! are enough to make the same bytes again. Manifests and configs keep their raw bytes as blobs; nothing is
//! ever read and written back.

pub mod account;

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::platform::Platform;
use crate::tree::Tree;

/// `application/vnd.oci.image.layer.v1.tar+gzip` (OCI image specification 1.1).
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// `application/vnd.oci.image.manifest.v1+json`.
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// `application/vnd.oci.image.index.v1+json`.
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// `application/vnd.oci.image.config.v1+json`.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// What makes a layer's bytes of its tree; whatever can change one of them is named here.
pub const LAYER_FORMAT: &str = "tar=gnu/1 gzip=zlib-rs-0.6.8/6/1MiB";

/// A layer: what a registry calls it, and the recipe for its bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layer {
    /// Digest and size of the compressed bytes.
    pub digest: Digest,
    /// Digest and size of the uncompressed tar.
    pub diff_id: Digest,
    /// What the layer holds.
    pub tree: Tree,
    /// The version of tar writer and compressor that make `digest` of `tree`.
    pub format: String,
}

/// One platform's image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// The platform it runs on.
    pub platform: Platform,
    /// The manifest, a blob in the store.
    pub manifest: Digest,
    /// The config, a blob in the store.
    pub config: Digest,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Bytes that a registry holds for it: manifest, config and compressed layers.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.digest.size()).sum();
        self.manifest.size() + self.config.size() + layers
    }
}

/// A multi-platform image.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Index {
    /// The index manifest, a blob in the store.
    pub digest: Digest,
    /// Its images by platform.
    pub images: BTreeMap<Platform, Image>,
}
