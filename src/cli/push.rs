//! `skep push`.

use super::failure::Failure;
use super::{Context, terminal};
use crate::build::{self, Request};
use crate::publish::{self, Destination};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Targets; all if none
    names: Vec<String>,
    /// Push to PREFIX/NAME, or to PREFIX with `{name}` replaced [default: `images` in skep.toml]
    #[arg(long, value_name = "PREFIX")]
    to: Option<String>,
    /// The tag; one that exists with another digest is refused [default: the revision]
    #[arg(long)]
    tag: Option<String>,
}

pub(super) fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let setting = context.setting()?;
    let request = Request {
        names: arguments.names,
        ..Request::default()
    };
    let destination = Destination {
        to: arguments.to,
        tag: arguments.tag,
    };
    let reports = setting.until_whole(|| {
        let built = build::build(&setting, &request)?;
        publish::publish(&setting, &built.images, &destination)
    });
    let reports = reports.map_err(|error| Failure::from(error).with_log_ends(&setting.store))?;
    context.renderer.finish();
    if context.json {
        terminal::print_json(&serde_json::json!({ "pushed": reports }));
        return Ok(());
    }
    for report in reports.values() {
        let tags: Vec<String> = report.tags.iter().map(|tag| format!(":{tag}")).collect();
        terminal::print(format!(
            "{}{}@{}\n",
            report.repository,
            tags.join(","),
            report.digest
        ));
    }
    Ok(())
}
