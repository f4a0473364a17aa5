//! Manifests and indexes of others (OCI image specification 1.1, and docker's schema 2), read and never written.

use super::Error;
use crate::digest::Digest;

/// More layers are no image that anybody made in earnest; docker allows 127.
const MAX_LAYERS: usize = 512;

/// Layers that can be unpacked. The compression is told by their bytes.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// What a digest stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// Manifests by platform, such as `linux/arm64`.
    Index(Vec<(String, Digest)>),
    Image {
        config: Digest,
        /// The lowest first.
        layers: Vec<Digest>,
    },
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(serde::Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Manifest {
    /// Reads the manifest or index `digest`.
    pub(super) fn read(bytes: &[u8], digest: &Digest) -> Result<Manifest, Error> {
        let malformed = |reason: String| Error::Malformed {
            image: digest.oci(),
            reason,
        };
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| malformed(format!("its manifest is malformed: {error}")))?;
        let of = |descriptor: &Descriptor| {
            Digest::from_oci(&descriptor.digest, descriptor.size)
                .map_err(|error| malformed(format!("its manifest is malformed: {error}")))
        };
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => {
                let named = manifests.iter().filter_map(|descriptor| {
                    let platform = descriptor.platform.as_ref()?.name()?;
                    Some(of(descriptor).map(|digest| (platform, digest)))
                });
                Ok(Manifest::Index(named.collect::<Result<_, _>>()?))
            }
            (None, Some(config), Some(layers)) if layers.len() <= MAX_LAYERS => {
                if let Some(other) = layers
                    .iter()
                    .find(|layer| !LAYERS.contains(&layer.media_type.as_str()))
                {
                    return Err(malformed(format!(
                        "its layer `{}` is of the type `{}`, which is not unpacked",
                        other.digest, other.media_type
                    )));
                }
                Ok(Manifest::Image {
                    config: of(&config)?,
                    layers: layers.iter().map(of).collect::<Result<_, _>>()?,
                })
            }
            (None, Some(_), Some(_)) => Err(malformed(format!("it has more than {MAX_LAYERS} layers"))),
            _ => Err(malformed("it is neither an image nor an index".to_owned())),
        }
    }
}

impl RawPlatform {
    /// Its name, if it is a platform at all: what builders attach to images has `unknown/unknown`.
    fn name(&self) -> Option<String> {
        let plain = matches!(
            (
                self.architecture.as_str(),
                self.variant.as_deref().unwrap_or_default()
            ),
            (_, "") | ("arm64", "v8") | ("amd64", "v1")
        );
        let variant = match plain {
            true => String::new(),
            false => format!("/{}", self.variant.as_deref().unwrap_or_default()),
        };
        (self.os != "unknown").then(|| format!("{}/{}{variant}", self.os, self.architecture))
    }
}
