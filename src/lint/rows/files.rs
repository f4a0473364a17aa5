//! Files that a release reads: those that git does not have, and what they say to nobody.

use std::path::{Component, Path, PathBuf};

use crate::lint::{Found, Inputs};
use crate::project::Environment;
use crate::stack::{self, Content, nearest};

/// The stack file, and the configs that it names, are in git.
pub(crate) fn untracked(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    const REMEDY: &str = "add it with `git add --force`, or mend `.gitignore`";
    let Some(tracked) = inputs.tracked else { return };
    let stack = plain(&inputs.environment.stack);
    let what = |file: &Path| format!("`{}` is not in git", file.display());
    if !tracked.contains(&stack) {
        found.at("", what(&stack), REMEDY);
    }
    let directory = inputs.environment.stack.parent().unwrap_or(Path::new(""));
    for (name, object) in &inputs.reading.stack.configs {
        if let Content::File(path) = &object.content {
            let file = plain(&directory.join(path));
            if !tracked.contains(&file) {
                found.at(&format!("configs.{name}"), what(&file), REMEDY);
            }
        }
    }
}

/// A relative path without `.` and `..`, as git names files; one that leaves the project is left as it is.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.iter().collect()
}

/// Every variable of the environment's files is read by the stack file, or says where the managers or services are.
pub(crate) fn unread_variable(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let Environment {
        managers, addresses, ..
    } = inputs.environment;
    let filled = managers
        .iter()
        .map(toml::Spanned::get_ref)
        .chain(addresses.values());
    let mut read = inputs.reading.variables.clone();
    read.extend(filled.flat_map(|text| stack::variables(text)));
    for (name, place) in inputs.given.iter().filter(|(name, _)| !read.contains(*name)) {
        let missing = read.iter().filter(|name| !inputs.given.contains_key(*name));
        let remedy = match nearest(missing.map(String::as_str), name) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("give it to a service with `{name}: ${{{name}}}`, or remove it"),
        };
        let what = format!(
            "nothing in `{}` reads `{name}`",
            inputs.environment.stack.display()
        );
        found.push(place.clone(), None, what, remedy);
    }
}
