//! What an environment's files say: its variables, and the stack file that they are filled into. Files that are not there
//! are made of their examples; no target is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{bounded, content_of, example_of, make_missing};
use super::mask::Mask;
use super::prepare::{Error, MAX_CONTENT, Missing};
use super::variables;
use crate::project::{Environment, Pins, Project, SecretSource, is_foreign};
use crate::release::ReleasedImage;
use crate::stack::{self, Content, Place, Reading};

/// The most bytes of a stack or environment file.
const MAX_FILE: u64 = 1 << 20;

/// A stack file with what was given to it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The stack file, read.
    pub reading: Reading,
    /// The variables that the environment's files give, and where.
    pub given: BTreeMap<String, Place>,
    /// Images that `images.lock` knows, by what the stack calls them now.
    pub pinned: BTreeMap<String, ReleasedImage>,
}

/// Reads the stack file of an environment. Its variables are those of the environment's files, then those of
/// `variable`; `<NAME>_SECRET` is the name of the secret `name`.
///
/// Files that are not there and have an example are made, all at once, and nothing is read. Every variable of
/// `required` has a value.
pub fn read_stack(
    project: &Project,
    environment: &Environment,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Source, Error> {
    let sources = environment.secrets.values();
    let secrets = sources.filter_map(|source| match source {
        SecretSource::File(path) => Some(path),
        _ => None,
    });
    let named = environment.env_files.iter().chain(secrets);
    let root = &project.root;
    let mut made = make_missing(root, named.cloned(), MAX_FILE)?;
    match read(project, environment, variable) {
        Ok(source) => {
            let stack = &source.reading.stack;
            let files = stack.secrets.values().chain(stack.configs.values());
            let files = files.filter_map(|object| match &object.content {
                Content::File(path) => Some(beside_stack(environment, path)),
                _ => None,
            });
            made.extend(make_missing(root, files, MAX_CONTENT)?);
            match made.is_empty() {
                true => Ok(source),
                false => Err(Error::Made(made)),
            }
        }
        // What is wrong now may be what is to be filled in.
        Err(_) if !made.is_empty() => Err(Error::Made(made)),
        Err(error) => Err(error),
    }
}

fn read(
    project: &Project,
    environment: &Environment,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Source, Error> {
    let (values, given) = variables_of(project, environment)?;
    let lookup = |name: &str| values.get(name).cloned().or_else(|| variable(name));
    let unset = |name: &&String| lookup(name).is_none_or(|value| value.trim().is_empty());
    let missing: Vec<_> = environment.required.iter().filter(unset).collect();
    if !missing.is_empty() {
        let missing = missing.into_iter().map(|name| Missing {
            name: name.clone(),
            empty: given.get(name).cloned(),
            file: home_of(project, environment, name),
        });
        return Err(Error::Missing(missing.collect()));
    }
    let text = text_of(&project.root, &environment.stack)?;
    let files = |path: &Path| bounded(&project.root.join(path), MAX_FILE);
    let mut reading = stack::read(&text, &environment.stack, &lookup, &files)?;
    let pinned = pin(
        &mut reading,
        &Pins::read(&project.root).map_err(|error| Error::User(error.to_string()))?,
    );
    Ok(Source {
        reading,
        given,
        pinned,
    })
}

/// Puts the digest behind each tag that `pins` knows. One that a stack file writes itself stays what it is.
fn pin(reading: &mut Reading, pins: &Pins) -> BTreeMap<String, ReleasedImage> {
    let mut pinned = BTreeMap::new();
    for service in reading.stack.services.values_mut() {
        let Some(pin) = pins.0.get(&service.image) else {
            continue;
        };
        let (repository, digest) = match service.image.split_once('@') {
            Some((repository, digest)) => (repository, digest),
            None => (service.image.as_str(), pin.digest.as_str()),
        };
        if digest == pin.digest {
            let image = ReleasedImage {
                repository: repository.to_owned(),
                digest: digest.to_owned(),
                platforms: pin.platforms.clone(),
            };
            service.image = image.reference();
            pinned.insert(service.image.clone(), image);
        }
    }
    pinned
}

/// The images in an environment's stack file that recipes do not build. One whose name needs a variable that has no
/// value here is left to who has it.
pub fn foreign_images(
    project: &Project,
    environment: &Environment,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeSet<String>, Error> {
    let mut values = BTreeMap::new();
    for file in &environment.env_files {
        let there = |path: &Path| project.root.join(path).exists();
        let path = if there(file) {
            file.clone()
        } else {
            example_of(file)
        };
        if there(&path) {
            let given = variables::parse(&text_of(&project.root, &path)?, &path).map_err(Error::User)?;
            values.extend(given.into_iter().map(|(name, (value, _))| (name, value)));
        }
    }
    let text = text_of(&project.root, &environment.stack)?;
    let files = |path: &Path| bounded(&project.root.join(path), MAX_FILE);
    let read = |otherwise: &str| -> Result<BTreeSet<String>, Error> {
        let given = |name: &str| values.get(name).cloned().or_else(|| variable(name));
        let lookup = |name: &str| given(name).or_else(|| Some(otherwise.to_owned()));
        let reading = stack::read(&text, &environment.stack, &lookup, &files)?;
        let services = reading.stack.services.into_values();
        Ok(services.map(|service| service.image).collect())
    };
    // What is the same, whatever stands for a value that is missing, needs none. Numbers make sense at most places.
    let images = &read("1")? & &read("2")?;
    Ok(images.into_iter().filter(|image| is_foreign(image)).collect())
}

/// What an environment is called on its target.
pub fn stack_name<'a>(project: &'a Project, environment: &'a Environment) -> &'a str {
    environment
        .name
        .as_deref()
        .unwrap_or(&project.config.project.name)
}

/// `text` of skep.toml with the variables of the environment's files, then those of `variable`, filled in.
pub fn fill(
    project: &Project,
    environment: &Environment,
    variable: &dyn Fn(&str) -> Option<String>,
    text: &str,
) -> Result<String, Error> {
    if !text.contains('$') {
        return Ok(text.to_owned());
    }
    // Files that are not there are made first, and named.
    read_stack(project, environment, variable)?;
    let (values, _) = variables_of(project, environment)?;
    let lookup = |name: &str| values.get(name).cloned().or_else(|| variable(name));
    stack::fill(text, &lookup).map_err(|why| Error::User(format!("`{text}` in skep.toml: {why}")))
}

/// The variables that an environment's files give, as far as they are there.
pub fn given(project: &Project, environment: &Environment) -> Result<BTreeMap<String, String>, Error> {
    let all_there = environment
        .env_files
        .iter()
        .all(|file| project.root.join(file).exists());
    match all_there {
        true => Ok(variables_of(project, environment)?.0),
        // Whoever reads the stack file makes them, or says what is missing.
        false => Ok(BTreeMap::new()),
    }
}

/// What covers the values of the environment's secret variables, as far as its files are there. Makes none.
///
/// Where the stack file cannot be read, a variable of a service is taken for the one of that name that fills the file.
pub fn mask_of(
    project: &Project,
    environment: &Environment,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Mask {
    let names: BTreeSet<String> = environment.secret_env.iter().cloned().collect();
    let files = environment.env_files.iter().chain([&environment.stack]);
    let all_there = files.into_iter().all(|file| project.root.join(file).exists());
    let source = all_there
        .then(|| read(project, environment, variable).ok())
        .flatten();
    let stack = source.map(|source| source.reading.stack).unwrap_or_default();
    let given = given(project, environment).unwrap_or_default();
    let value = |name: &String| given.get(name).cloned().or_else(|| variable(name));
    let values: Vec<String> = names.iter().filter_map(value).collect();
    Mask::new(&names, &stack).and(values.iter().map(String::as_str))
}

type Given = (BTreeMap<String, String>, BTreeMap<String, Place>);

/// The variables that an environment's files give, and where.
fn variables_of(project: &Project, environment: &Environment) -> Result<Given, Error> {
    let mut values = BTreeMap::new();
    let mut given = BTreeMap::new();
    for name in environment.secrets.keys() {
        values.insert(
            format!("{}_SECRET", name.to_uppercase().replace('-', "_")),
            name.clone(),
        );
    }
    for file in &environment.env_files {
        let text = text_of(&project.root, file)?;
        let file: Arc<Path> = Arc::from(file.as_path());
        for (name, (value, line)) in variables::parse(&text, &file).map_err(Error::User)? {
            let place = Place {
                file: file.clone(),
                line,
                column: 1,
            };
            given.insert(name.clone(), place);
            values.insert(name, value);
        }
    }
    Ok((values, given))
}

/// The file of an environment that a variable belongs into: the one whose example has it, or else the first.
fn home_of(project: &Project, environment: &Environment, name: &str) -> Option<PathBuf> {
    let has = |file: &&PathBuf| {
        let example = bounded(&example_of(&project.root.join(file)), MAX_FILE).ok();
        let text = example.and_then(|bytes| String::from_utf8(bytes).ok());
        text.and_then(|text| variables::parse(&text, file).ok())
            .is_some_and(|variables| variables.contains_key(name))
    };
    let files = &environment.env_files;
    files.iter().find(has).or(files.first()).cloned()
}

/// Paths in a stack file begin at its directory; from the project's root.
pub(super) fn beside_stack(environment: &Environment, path: &str) -> PathBuf {
    let directory = environment.stack.parent().unwrap_or(Path::new(""));
    directory.join(path)
}

fn text_of(root: &Path, path: &Path) -> Result<String, Error> {
    let bytes = content_of(root, path, MAX_FILE)?;
    String::from_utf8(bytes).map_err(|_| Error::User(format!("`{}` is not UTF-8", path.display())))
}
