//! `skep lint`: what is known to go wrong with an environment before it does.

use super::failure::{Failure, Kind};
use super::{Context, deploy, terminal};
use crate::lint::{Level, Report, Target, blocking};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The environment, as skep.toml names it
    environment: String,
    /// Judge it as if it ran on TARGET, `preview` or `swarm` [default: where it runs]
    #[arg(long)]
    target: Option<Target>,
}

/// Fails with `Refused` if something blocks.
pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let report = deploy::within(
        context,
        &arguments.environment,
        deploy::How::default(),
        |deployment| deployment.lint(arguments.target),
    )?;
    match context.json {
        true => terminal::print_json(&report),
        false => terminal::print(text(&report)),
    }
    match report.of(Level::Block).count() {
        0 => Ok(()),
        count => {
            let message = format!("{} a release to `{}`", blocking(count), arguments.environment);
            Err(Failure::new(Kind::Refused, message))
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let level = match finding.level {
            Level::Block => "error",
            Level::Warn => "warning",
        };
        text += &format!("{level}: {finding}\n    because {}\n", finding.reason);
    }
    if !report.unjudged.is_empty() {
        let services: Vec<&str> = report.unjudged.iter().map(String::as_str).collect();
        text += &format!(
            "the images of `{}` are not known yet; the next release judges them\n",
            services.join("`, `")
        );
    }
    if report.findings.is_empty() {
        text += "nothing found\n";
    }
    text
}
