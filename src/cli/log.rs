//! `skep log`.

use super::failure::{Failure, Kind};
use super::{Context, terminal};
use crate::build::find_recorded;
use crate::digest::Digest;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The action's label, such as `api@linux/arm64:go_build`, or the first digits of its key
    action: String,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let project = context.project()?;
    let store = context.store()?;
    let found = find_recorded(&store, &project.root, &arguments.action)?;
    let recorded = match &found[..] {
        [recorded] => recorded,
        [] => {
            let message = format!(
                "no action `{}` was run for this project; build it first",
                arguments.action
            );
            return Err(Failure::new(Kind::User, message));
        }
        several => {
            let labels: Vec<&str> = several.iter().map(|recorded| recorded.label.as_str()).collect();
            let message = format!("`{}` may be any of {}", arguments.action, labels.join(", "));
            return Err(Failure::new(Kind::User, message));
        }
    };
    let (outcome, log) = match &recorded.failed {
        Some(failed) => (failed.message.clone(), failed.log),
        None => match store.result(&recorded.key)? {
            Some(result) => ("succeeded".to_owned(), result.log),
            None => ("its result is no longer in the store".to_owned(), None),
        },
    };
    let repeat = format!("skep build '{}'", recorded.label);
    let again = |_: &[Digest]| {};
    let log = match log.map(|log| store.until_whole(again, || store.read(&log))) {
        None => Vec::new(),
        Some(Ok(log)) => log,
        Some(Err(error)) if error.is_lost_content() => {
            let message = format!(
                "what `{}` printed was lost in the store; to repeat it: {repeat}",
                recorded.label
            );
            return Err(Failure::new(Kind::Environment, message));
        }
        Some(Err(error)) => return Err(error.into()),
    };
    if context.json {
        terminal::print_json(&serde_json::json!({
            "label": recorded.label,
            "key": recorded.key.to_string(),
            "outcome": outcome,
            "log": String::from_utf8_lossy(&log),
            "repeat": repeat,
        }));
        return Ok(());
    }
    let key = &recorded.key.hex()[..12];
    terminal::say(format!("{} ({key}): {outcome}", recorded.label));
    terminal::print_log(&log);
    terminal::say(format!("to repeat it: {repeat}"));
    Ok(())
}
