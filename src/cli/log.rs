//! `skep log`.

use super::failure::{Failure, Kind, printable};
use super::{Context, stdout};
use crate::build::find_recorded;

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
    let text = match log {
        Some(log) => String::from_utf8_lossy(&store.read(&log)?).into_owned(),
        None => String::new(),
    };
    let repeat = format!("skep build '{}'", recorded.label);
    if context.json {
        stdout::print_json(&serde_json::json!({
            "label": recorded.label,
            "key": recorded.key.to_string(),
            "outcome": outcome,
            "log": text,
            "repeat": repeat,
        }));
        return Ok(());
    }
    eprintln!("{} ({}): {outcome}", recorded.label, &recorded.key.hex()[..12]);
    for line in text.lines() {
        stdout::print(&format!("{}\n", printable(line)));
    }
    eprintln!("to repeat it: {repeat}");
    Ok(())
}
