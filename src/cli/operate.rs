//! What an operator does with what runs: `skep resume`, `abort`, `adopt`, `drift`, `restart`, `run`, `freeze` and
//! `secret`.

use std::time::Duration;

use super::deploy::{How, pending, show, text, within};
use super::failure::{Failure, Kind};
use super::terminal::printable;
use super::{Context, terminal};

/// How long a command may run that is run once, unless it is said.
const RUN_SECONDS: u64 = 600;

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The environment, as skep.toml names it
    environment: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
pub(super) struct Drift {
    /// The environment, as skep.toml names it
    environment: String,
    /// Exit with 3 if something was changed
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    /// The environment, as skep.toml names it
    environment: String,
    /// The service
    service: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The environment, as skep.toml names it
    environment: String,
    /// The service whose image and settings the command has
    service: String,
    /// Stop it after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = RUN_SECONDS)]
    timeout: u64,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Freeze {
    /// The environment, as skep.toml names it
    environment: String,
    /// Why nothing is to change
    #[arg(long, default_value = "no reason was given")]
    reason: String,
    /// Allow changes again
    #[arg(long)]
    off: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Secret {
    #[command(subcommand)]
    verb: SecretVerb,
}

#[derive(Debug, clap::Subcommand)]
enum SecretVerb {
    /// Show the versions of secrets, and what needs them
    Ls {
        /// The environment, as skep.toml names it
        environment: String,
    },
    /// Mark a version as one that must not be used again
    Revoke {
        /// The environment, as skep.toml names it
        environment: String,
        /// A version, or a secret for its current one
        version: String,
    },
}

pub(super) fn resume(context: &Context, arguments: &Named) -> Result<(), Failure> {
    let report = within(context, &arguments.environment, arguments.how, |deployment| {
        deployment.resume()
    })?;
    show(context, &arguments.environment, &report);
    Ok(())
}

pub(super) fn abort(context: &Context, arguments: &Named) -> Result<(), Failure> {
    let report = within(context, &arguments.environment, arguments.how, |deployment| {
        deployment.abort()
    })?;
    show(context, &arguments.environment, &report);
    Ok(())
}

pub(super) fn adopt(context: &Context, arguments: &Named) -> Result<(), Failure> {
    let record = within(context, &arguments.environment, arguments.how, |deployment| {
        deployment.adopt()
    })?;
    match context.json {
        true => terminal::print_json(&record.release),
        false => {
            let services: Vec<&str> = record.stack.services.keys().map(String::as_str).collect();
            terminal::print(format!(
                "{} is recorded as {}: {}\n",
                arguments.environment,
                record.release.id,
                services.join(", ")
            ));
        }
    }
    Ok(())
}

pub(super) fn drift(context: &Context, arguments: &Drift) -> Result<(), Failure> {
    let proposal = within(context, &arguments.environment, How::default(), |deployment| {
        deployment.drift()
    })?;
    match context.json {
        true => terminal::print_json(&proposal),
        false => terminal::print(text(&proposal, terminal::stdout_has_colours())),
    }
    pending(arguments.exit_code, &proposal)
}

pub(super) fn restart(context: &Context, arguments: &Restart) -> Result<(), Failure> {
    within(context, &arguments.environment, How::default(), |deployment| {
        deployment.restart(&arguments.service)
    })?;
    match context.json {
        true => terminal::print_json(&serde_json::json!({ "restarted": arguments.service })),
        false => terminal::print(format!("{} was restarted\n", arguments.service)),
    }
    Ok(())
}

pub(super) fn run(context: &Context, arguments: &Run) -> Result<(), Failure> {
    let timeout = Duration::from_secs(arguments.timeout);
    let code = within(context, &arguments.environment, How::default(), |deployment| {
        deployment.run(&arguments.service, &arguments.command, timeout)
    })?;
    if context.json {
        terminal::print_json(&serde_json::json!({ "exit_code": code }));
    }
    match code {
        0 => Ok(()),
        code => Err(Failure::new(
            Kind::Build,
            format!("`{}` exited with code {code}", arguments.command.join(" ")),
        )),
    }
}

pub(super) fn freeze(context: &Context, arguments: &Freeze) -> Result<(), Failure> {
    let reason = (!arguments.off).then_some(arguments.reason.as_str());
    within(context, &arguments.environment, How::default(), |deployment| {
        deployment.freeze(reason)
    })?;
    match (context.json, arguments.off) {
        (true, off) => terminal::print_json(&serde_json::json!({ "frozen": !off })),
        (false, true) => terminal::print(format!("{} may change again\n", arguments.environment)),
        (false, false) => terminal::print(format!("{} is frozen\n", arguments.environment)),
    }
    Ok(())
}

pub(super) fn secret(context: &Context, arguments: &Secret) -> Result<(), Failure> {
    match &arguments.verb {
        SecretVerb::Ls { environment } => {
            let versions = within(context, environment, How::default(), |deployment| {
                deployment.secrets()
            })?;
            if context.json {
                terminal::print_json(&versions);
                return Ok(());
            }
            let mut text = String::new();
            for version in &versions {
                let marks = [
                    (version.current, "runs"),
                    (version.revoked, "revoked"),
                    (!version.there, "gone"),
                ];
                let marks: Vec<&str> = marks
                    .iter()
                    .filter(|(is, _)| *is)
                    .map(|(_, mark)| *mark)
                    .collect();
                let line = format!(
                    "{} {} {}",
                    printable(version.version.as_str()),
                    version.releases.len(),
                    marks.join(",")
                );
                text += line.trim_end();
                text.push('\n');
            }
            if versions.is_empty() {
                text += "no secrets\n";
            }
            terminal::print(text);
        }
        SecretVerb::Revoke { environment, version } => {
            within(context, environment, How::default(), |deployment| {
                deployment.revoke(version)
            })?;
            match context.json {
                true => terminal::print_json(&serde_json::json!({ "revoked": version })),
                false => terminal::print(format!("{version} is revoked\n")),
            }
        }
    }
    Ok(())
}
