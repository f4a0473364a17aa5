//! Secrets where they can be read: in environments, in images, in git. Their values are never repeated.

use std::path::{Path, PathBuf};

use super::address::address;
use crate::lint::{Found, Inputs};
use crate::project::SecretSource;
use crate::stack::{Content, Grant, Service};

/// How variables are called that hold secrets.
const ENDS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "_KEY",
    "CREDENTIALS",
];

/// No secret is in an environment, written into the stack file or baked into an image. What `secret_env` names is known to
/// be one and hidden by skep, so it only warns.
pub(crate) fn plain(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    for (name, service) in &inputs.reading.stack.services {
        for (variable, value) in &service.environment {
            if inputs.environment.secret_env.contains(variable) {
                if !value.is_empty() && !is_file_of(service, value) {
                    let what = format!(
                        "`{variable}` of `{name}` is a secret, and whoever may look at the service reads it"
                    );
                    let remedy = format!(
                        "make it a real secret, and give `{name}` its file: `{variable}_FILE: /run/secrets/…`"
                    );
                    found.warning(name, &format!("environment.{variable}"), what, remedy);
                }
                continue;
            }
            if let Some(what) = secret_in(variable, value).filter(|_| !is_file_of(service, value)) {
                let what = format!("`{variable}` of `{name}` {what}");
                let remedy = format!(
                    "make it a secret, and give `{name}` its file: `{variable}_FILE: /run/secrets/…`"
                );
                found.of_variable(name, variable, what, remedy);
            }
        }
        let baked = inputs.images.get(&service.image).into_iter();
        for (variable, value) in baked.flat_map(|image| &image.env) {
            let replaced = service.environment.contains_key(variable);
            if let Some(what) = secret_in(variable, value).filter(|_| !replaced) {
                let what = format!("`{variable}` in the image `{}` {what}", service.image);
                found.of_service(
                    name,
                    "image",
                    what,
                    "take it out of the recipe, and replace the secret",
                );
            }
        }
    }
}

fn secret_in(variable: &str, value: &str) -> Option<&'static str> {
    let upper = variable.to_ascii_uppercase();
    let named = ENDS.iter().any(|end| upper.ends_with(end)) && !upper.contains("PUBLIC");
    if named && !value.is_empty() {
        return Some("holds a secret in the clear");
    }
    let password = address(value).and_then(|address| address.password);
    let in_words = || {
        let mut words = value.split_whitespace();
        value.contains("host=") && words.any(|word| word.len() > 9 && word.starts_with("password="))
    };
    match password.is_some_and(|password| !password.is_empty()) || in_words() {
        true => Some("has an address with a password in it"),
        false => None,
    }
}

/// Whether the value is the path of a file that the service is given.
fn is_file_of(service: &Service, value: &str) -> bool {
    let granted = |grants: &[Grant]| {
        let mut targets = grants.iter().filter_map(|grant| grant.target.as_deref());
        targets.any(|target| target == value)
    };
    let mounted = |target: &str| Path::new(value).starts_with(target);
    value.starts_with("/run/secrets/")
        || granted(&service.secrets)
        || granted(&service.configs)
        || service.volumes.iter().any(|mount| mounted(&mount.target))
}

/// No file with a secret is in git.
pub(crate) fn tracked(inputs: &Inputs<'_>, found: &mut Found<'_>) {
    let Some(tracked) = inputs.tracked else { return };
    let directory = inputs.environment.stack.parent().unwrap_or(Path::new(""));
    for (name, object) in &inputs.reading.stack.secrets {
        let file: PathBuf = match &object.content {
            Content::File(path) => directory.join(path),
            Content::External => {
                let name = object.name.as_ref().unwrap_or(name);
                match inputs.environment.secrets.get(name) {
                    Some(SecretSource::File(path)) => path.clone(),
                    _ => continue,
                }
            }
            Content::Driver { .. } => continue,
        };
        let file = super::files::plain(&file);
        if tracked.contains(&file) {
            found.at(
                &format!("secrets.{name}"),
                format!("`{}`, the secret `{name}`, is in git", file.display()),
                "take it out with `git rm --cached`, ignore it, and replace the secret",
            );
        }
    }
}
