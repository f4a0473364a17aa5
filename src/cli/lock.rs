//! `skep lock`.

use super::failure::Failure;
use super::{Context, stdout};
use crate::build;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let changed = build::lock(&context.setting()?)?;
    match context.json {
        true => stdout::print_json(&serde_json::json!({ "changed": changed })),
        false => changed
            .iter()
            .for_each(|file| stdout::print(&format!("{file}\n"))),
    }
    Ok(())
}
