//! Primitives that put images together and give them names.

#![expect(
    clippy::too_many_arguments,
    reason = "the arguments of a primitive are those that recipes name"
)]

use std::collections::{BTreeMap, BTreeSet};

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::UnpackDictEntries;
use starlark::values::list_or_tuple::UnpackListOrTuple;
use starlark::values::none::{NoneOr, NoneType};

use super::context::Context;
use super::value::{ImageValue, LayerValue, TreeValue};
use crate::plan::{Config, ImageSpec, Node, Target};

type Strings = UnpackListOrTuple<String>;

#[starlark_module]
pub(super) fn primitives(builder: &mut GlobalsBuilder) {
    /// A tree as an image layer.
    fn layer<'v>(tree: &TreeValue, eval: &mut Evaluator<'v, '_, '_>) -> anyhow::Result<LayerValue> {
        Ok(LayerValue(Context::of(eval).add_at(Node::Layer(tree.0), eval)))
    }

    /// One platform's image: its layers, lowest first, and how it runs.
    fn oci_image<'v>(
        platform: &str,
        #[starlark(require = named)] layers: UnpackListOrTuple<&'v LayerValue>,
        #[starlark(require = named, default = Strings::default())] entrypoint: Strings,
        #[starlark(require = named, default = Strings::default())] cmd: Strings,
        #[starlark(require = named, default = UnpackDictEntries::default())] env: UnpackDictEntries<
            String,
            String,
        >,
        #[starlark(require = named, default = NoneOr::None)] workdir: NoneOr<String>,
        #[starlark(require = named, default = NoneOr::None)] user: NoneOr<String>,
        #[starlark(require = named, default = UnpackListOrTuple::default())] ports: UnpackListOrTuple<u32>,
        #[starlark(require = named, default = Strings::default())] volumes: Strings,
        #[starlark(require = named, default = UnpackDictEntries::default())] labels: UnpackDictEntries<
            String,
            String,
        >,
        #[starlark(require = named, default = NoneOr::None)] stop_signal: NoneOr<String>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<ImageValue> {
        let platform = platform.parse()?;
        let config = Config {
            entrypoint: entrypoint.items,
            cmd: cmd.items,
            env: env.entries.into_iter().collect(),
            workdir: workdir.into_option(),
            user: user.into_option(),
            ports: ports
                .items
                .into_iter()
                .map(port)
                .collect::<anyhow::Result<BTreeSet<_>>>()?,
            volumes: volumes.items.into_iter().collect(),
            labels: labels.entries.into_iter().collect(),
            stop_signal: stop_signal.into_option(),
        };
        check(&config)?;
        let spec = ImageSpec {
            platform,
            layers: layers.items.iter().map(|layer| layer.0).collect(),
            config,
        };
        let id = Context::of(eval).add_at(Node::Image(Box::new(spec)), eval);
        Ok(ImageValue { platform, id })
    }

    /// Gives the images of one or several platforms a name that people build and push.
    fn target<'v>(
        name: &str,
        images: UnpackListOrTuple<&'v ImageValue>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> anyhow::Result<NoneType> {
        check_name(name)?;
        let mut platforms = BTreeMap::new();
        for image in images.items {
            anyhow::ensure!(
                platforms.insert(image.platform, image.id).is_none(),
                "the target `{name}` has two images for {}",
                image.platform
            );
        }
        anyhow::ensure!(
            !platforms.is_empty(),
            "the target `{name}` has no image; name a platform"
        );
        let mut builder = Context::of(eval).builder.borrow_mut();
        let index = builder.add(Node::Index(platforms.clone()));
        let added = builder.add_target(name, Target { index, platforms });
        anyhow::ensure!(added.is_ok(), "there are two targets called `{name}`");
        Ok(NoneType)
    }
}

fn port(port: u32) -> anyhow::Result<u16> {
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    port.ok_or_else(|| anyhow::anyhow!("a port is a number from 1 to 65535"))
}

/// Names become parts of repository names (OCI distribution specification 1.1, `<name>`).
fn check_name(name: &str) -> anyhow::Result<()> {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inside = |byte: u8| alphanumeric(byte) || matches!(byte, b'-' | b'_' | b'.');
    let bytes = name.as_bytes();
    let ends = bytes.first().is_some_and(|byte| alphanumeric(*byte))
        && bytes.last().is_some_and(|byte| alphanumeric(*byte));
    anyhow::ensure!(
        ends && name.len() <= 64 && name.bytes().all(inside),
        "`{name}` is not a target's name: expected at most 64 of `a-z 0-9 - _ .`, a letter or digit at both ends"
    );
    Ok(())
}

fn check(config: &Config) -> anyhow::Result<()> {
    for path in config.workdir.iter().chain(&config.volumes) {
        anyhow::ensure!(
            path.starts_with('/'),
            "`{path}` is not an absolute path of the image"
        );
    }
    let texts = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .chain(config.env.keys())
        .chain(config.env.values());
    anyhow::ensure!(
        !texts.into_iter().any(|text| text.contains('\0')),
        "an argument or variable holds a NUL"
    );
    for name in config.env.keys() {
        anyhow::ensure!(
            !name.is_empty() && !name.contains('='),
            "`{name}` is not a name of a variable"
        );
    }
    Ok(())
}
