//! `skep build`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::failure::Failure;
use super::{Context, terminal};
use crate::build::{self, Built, BuiltImage, Request};
use crate::image::{Image, Layer};
use crate::platform::Platform;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Targets (`api`), targets on a platform (`api@linux/arm64`) or actions by label; all targets if none
    names: Vec<String>,
    /// Only this platform, such as `linux/arm64`; may be given several times
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// After a failure, go on with what does not depend on it
    #[arg(long)]
    keep_going: bool,
}

pub(super) fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let setting = context.setting()?;
    let request = Request {
        names: arguments.names,
        platforms: arguments.platform,
        keep_going: arguments.keep_going,
    };
    let built = build::build(&setting, &request)
        .map_err(|error| Failure::from(error).with_log_ends(&setting.store))?;
    context.renderer.finish();
    match context.json {
        true => terminal::print_json(&Report::of(&built)),
        false => terminal::print(table(&built)),
    }
    Ok(())
}

/// A line for each image: its name and digest.
fn table(built: &Built) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    for (name, image) in &built.images {
        match &image.index {
            Some(index) => lines.push((name.clone(), index.digest.oci())),
            None => lines.extend(
                image
                    .images
                    .iter()
                    .map(|(platform, image)| (format!("{name}@{platform}"), image.manifest.oci())),
            ),
        }
    }
    lines.extend(
        built
            .actions
            .iter()
            .map(|(label, tree)| (label.clone(), format!("tree:{}", tree.root))),
    );
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (name, digest)| {
        let _ = writeln!(text, "{name:width$}  {digest}");
        text
    })
}

#[derive(serde::Serialize)]
struct Report {
    images: BTreeMap<String, ImageReport>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    actions: BTreeMap<String, String>,
}

#[derive(serde::Serialize)]
struct ImageReport {
    /// The index's; absent where only some of the platforms were built.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    platforms: BTreeMap<Platform, PlatformReport>,
}

#[derive(serde::Serialize)]
struct PlatformReport {
    digest: String,
    size: u64,
    layers: Vec<LayerReport>,
}

#[derive(serde::Serialize)]
struct LayerReport {
    digest: String,
    diff_id: String,
    size: u64,
}

impl Report {
    fn of(built: &Built) -> Report {
        let images = built
            .images
            .iter()
            .map(|(name, image)| (name.clone(), ImageReport::of(image)));
        let actions = built
            .actions
            .iter()
            .map(|(label, tree)| (label.clone(), format!("tree:{}", tree.root)));
        Report {
            images: images.collect(),
            actions: actions.collect(),
        }
    }
}

impl ImageReport {
    fn of(image: &BuiltImage) -> ImageReport {
        let platforms = image
            .images
            .iter()
            .map(|(platform, image)| (*platform, PlatformReport::of(image)));
        ImageReport {
            digest: image.index.as_ref().map(|index| index.digest.oci()),
            platforms: platforms.collect(),
        }
    }
}

impl PlatformReport {
    fn of(image: &Image) -> PlatformReport {
        let layer = |layer: &Layer| LayerReport {
            digest: layer.digest.oci(),
            diff_id: layer.diff_id.oci(),
            size: layer.digest.size(),
        };
        PlatformReport {
            digest: image.manifest.oci(),
            size: image.size(),
            layers: image.layers.iter().map(layer).collect(),
        }
    }
}
