//! `skep push`.

use super::build::build;
use super::failure::Failure;
use super::{Context, stdout};
use crate::build::Request;
use crate::publish::{self, Destination};
use crate::push;

/// How often images are built again when content turns out to be lost.
const ATTEMPTS: usize = 3;

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
    let mut attempt = 1;
    let reports = loop {
        let built = build(&setting, &request)?;
        match publish::publish(&setting, &built.images, &destination) {
            Err(publish::Error::Push(error))
                if error.kind() == push::Kind::LostContent && attempt < ATTEMPTS =>
            {
                setting.events.warn(format!("{error}; building again"));
                attempt += 1;
            }
            other => break other?,
        }
    };
    context.renderer.finish();
    if context.json {
        stdout::print_json(&serde_json::json!({ "pushed": reports }));
        return Ok(());
    }
    for report in reports.values() {
        let tags: Vec<String> = report.tags.iter().map(|tag| format!(":{tag}")).collect();
        stdout::print(&format!(
            "{}{}@{}\n",
            report.repository,
            tags.join(","),
            report.digest
        ));
    }
    Ok(())
}
