//! `skep export`.

use std::path::Path;

use super::Context;
use super::failure::{Failure, Kind};
use crate::assemble::{self, Exported};
use crate::build::{self, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A target (`api`), or a target on a platform (`api@linux/arm64`)
    name: String,
    /// Where to: `oci:DIR`, a directory that is absent or empty
    to: String,
}

pub(super) fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let directory = arguments
        .to
        .strip_prefix("oci:")
        .filter(|directory| !directory.is_empty());
    let directory = directory.ok_or_else(|| {
        Failure::new(
            Kind::User,
            format!(
                "`{}` is not a place to export to: expected `oci:DIR`",
                arguments.to
            ),
        )
    })?;
    if arguments.name.contains(':') {
        let message = format!(
            "`{}` is not an image: expected a target such as `api`",
            arguments.name
        );
        return Err(Failure::new(Kind::User, message));
    }
    let setting = context.setting()?;
    let request = Request {
        names: vec![arguments.name],
        ..Request::default()
    };
    let exported = setting.until_whole(|| -> Result<(), build::Error> {
        for (name, image) in &build::build(&setting, &request)?.images {
            let exported = match (&image.index, image.images.values().next()) {
                (Some(index), _) => Exported::Index(index),
                (None, Some(image)) => Exported::Image(image),
                (None, None) => continue,
            };
            assemble::export(&setting.store, exported, name, Path::new(directory))?;
        }
        Ok(())
    });
    exported.map_err(|error| Failure::from(error).with_log_ends(&setting.store))
}
