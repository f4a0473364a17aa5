//! Configs, manifests and indexes (OCI image specification 1.1) in one canonical encoding.

use std::collections::{BTreeMap, HashMap};

use oci_spec::image::{
    Arch as OciArch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, Sha256Digest,
};

use super::Error;
use crate::digest::Digest;
use crate::image::{Image, Layer};
use crate::plan::Config;
use crate::platform::{Arch, Platform};

/// When every image was created: what changes from build to build is in none of them.
const CREATED: &str = "1980-01-01T00:00:00Z";

/// The image configuration of `layers` on `platform`.
pub(super) fn config(platform: Platform, config: &Config, layers: &[Layer]) -> Result<Vec<u8>, Error> {
    let mut builder = ConfigBuilder::default();
    if !config.entrypoint.is_empty() {
        builder = builder.entrypoint(config.entrypoint.clone());
    }
    if !config.cmd.is_empty() {
        builder = builder.cmd(config.cmd.clone());
    }
    if !config.env.is_empty() {
        let env = config.env.iter().map(|(name, value)| format!("{name}={value}"));
        builder = builder.env(env.collect::<Vec<_>>());
    }
    if let Some(workdir) = &config.workdir {
        builder = builder.working_dir(workdir.clone());
    }
    if let Some(user) = &config.user {
        builder = builder.user(user.clone());
    }
    if !config.ports.is_empty() {
        let ports = config.ports.iter().map(|port| format!("{port}/tcp"));
        builder = builder.exposed_ports(ports.collect::<Vec<_>>());
    }
    if !config.volumes.is_empty() {
        builder = builder.volumes(config.volumes.iter().cloned().collect::<Vec<_>>());
    }
    if !config.labels.is_empty() {
        let labels = config.labels.clone().into_iter();
        builder = builder.labels(labels.collect::<HashMap<_, _>>());
    }
    if let Some(signal) = &config.stop_signal {
        builder = builder.stop_signal(signal.clone());
    }
    let diff_ids = layers.iter().map(|layer| layer.diff_id.oci());
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(diff_ids.collect::<Vec<_>>())
        .build()?;
    let image = ImageConfigurationBuilder::default()
        .created(CREATED)
        .architecture(architecture(platform.arch))
        .os(Os::Linux)
        .config(builder.build()?)
        .rootfs(rootfs)
        .build()?;
    canonical(&image)
}

/// The manifest of an image.
pub(super) fn manifest(config: &Digest, layers: &[Layer]) -> Result<Vec<u8>, Error> {
    let layers = layers
        .iter()
        .map(|layer| descriptor(MediaType::ImageLayerGzip, &layer.digest))
        .collect::<Result<Vec<_>, _>>()?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, config)?)
        .layers(layers)
        .build()?;
    canonical(&manifest)
}

/// The index over images, in the order of their platforms.
pub(super) fn index(images: &BTreeMap<Platform, Image>) -> Result<Vec<u8>, Error> {
    let manifests = images
        .iter()
        .map(|(platform, image)| {
            let platform = PlatformBuilder::default()
                .architecture(architecture(platform.arch))
                .os(Os::Linux)
                .build()?;
            let mut descriptor = descriptor(MediaType::ImageManifest, &image.manifest)?;
            descriptor.set_platform(Some(platform));
            Ok(descriptor)
        })
        .collect::<Result<Vec<_>, Error>>()?;
    canonical(&index_of(manifests)?)
}

/// The `index.json` of a layout in which the content of `digest` is called `name`.
pub(super) fn layout_index(media_type: MediaType, digest: &Digest, name: &str) -> Result<Vec<u8>, Error> {
    let mut descriptor = descriptor(media_type, digest)?;
    let annotation = ("org.opencontainers.image.ref.name".to_owned(), name.to_owned());
    descriptor.set_annotations(Some(HashMap::from([annotation])));
    canonical(&index_of(vec![descriptor])?)
}

fn index_of(manifests: Vec<Descriptor>) -> Result<oci_spec::image::ImageIndex, Error> {
    Ok(ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(manifests)
        .build()?)
}

fn descriptor(media_type: MediaType, digest: &Digest) -> Result<Descriptor, Error> {
    let hash: Sha256Digest = digest.hex().parse()?;
    Ok(DescriptorBuilder::default()
        .media_type(media_type)
        .size(digest.size())
        .digest(hash)
        .build()?)
}

fn architecture(arch: Arch) -> OciArch {
    match arch {
        Arch::Amd64 => OciArch::Amd64,
        Arch::Arm64 => OciArch::ARM64,
    }
}

/// Compact JSON with the keys of every object sorted, however the types above keep them.
fn canonical(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    let value = serde_json::to_value(value).map_err(Error::Json)?;
    serde_json::to_vec(&sorted(value)).map_err(Error::Json)
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Sorted {
    Leaf(serde_json::Value),
    List(Vec<Sorted>),
    Object(BTreeMap<String, Sorted>),
}

fn sorted(value: serde_json::Value) -> Sorted {
    match value {
        serde_json::Value::Array(items) => Sorted::List(items.into_iter().map(sorted).collect()),
        serde_json::Value::Object(entries) => Sorted::Object(
            entries
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect(),
        ),
        leaf => Sorted::Leaf(leaf),
    }
}
