//! `skep lock`.

use super::failure::Failure;
use super::{Context, terminal};
use crate::project::PINS;
use crate::{build, deploy};

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let setting = context.setting()?;
    let mut changed: Vec<String> = build::lock(&setting)?.iter().map(ToString::to_string).collect();
    let images = deploy::lock_images(&setting, &|name| std::env::var(name).ok())?;
    if !images.is_empty() {
        changed.push(PINS.to_owned());
    }
    if context.json {
        terminal::print_json(&serde_json::json!({ "changed": changed, "images": images }));
        return Ok(());
    }
    for file in &changed {
        terminal::print(format!("{file}\n"));
    }
    for moved in &images {
        let before = moved.before.as_deref().unwrap_or("new");
        let now = moved.now.as_deref().unwrap_or("gone");
        let change = match before == now {
            true => format!("other platforms of {now}"),
            false => format!("{before} → {now}"),
        };
        terminal::print(format!("  {}: {change}\n", moved.image));
    }
    Ok(())
}
