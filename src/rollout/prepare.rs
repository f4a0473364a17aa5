//! From an environment's files to the record of a release: reads the stack file, finds the content of secrets and
//! configs, and gives each its version. Content that the target has keeps the version that it has.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::content::content_of;
use super::history::{Check, Migrate, Outcome, Probe, Record};
use super::reading::{beside_stack, stack_name};
use super::run::Contents;
use super::target::{self, Kind, Target, now};
use crate::project::{self, Environment, Project, SecretSource};
use crate::release::{Release, ReleaseId, ReleasedImage, SourceRevision, Version};
use crate::stack::{self, Content, FileObject, Place, Reading, Stack};

/// The most bytes of a secret or config: what Swarm takes of a secret.
pub(super) const MAX_CONTENT: u64 = 500_000;
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(600);
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stack file is wrong.
    #[error(transparent)]
    Stack(#[from] stack::Error),
    /// The configuration is.
    #[error("{0}")]
    User(String),
    /// Files were not there, and were made of their examples.
    #[error("{}", made(.0))]
    Made(Vec<PathBuf>),
    /// Values that skep.toml asks for have none.
    #[error("{}", missing(.0))]
    Missing(Vec<Missing>),
    /// A file or program fails.
    #[error("{0}")]
    Environment(String),
    /// The target cannot be asked.
    #[error(transparent)]
    Target(#[from] target::Error),
}

/// A variable of `required` that has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// The line that gives it nothing.
    pub empty: Option<Place>,
    /// The file that it belongs into, from the project's root, if there is one.
    pub file: Option<PathBuf>,
}

fn made(files: &[PathBuf]) -> String {
    match files {
        [file] => format!(
            "`{}` did not exist, and was made of its example; fill it in, and run this again",
            file.display()
        ),
        files => format!(
            "{} files did not exist, and were made of their examples; fill them in, and run this again:{}",
            files.len(),
            listed(files.iter().map(|file| format!("`{}`", file.display())))
        ),
    }
}

fn missing(values: &[Missing]) -> String {
    let one = |value: &Missing| match (&value.empty, &value.file) {
        (Some(place), _) => format!("`{}`, which is empty in {place}", value.name),
        (None, Some(file)) => format!("`{}`, which belongs into `{}`", value.name, file.display()),
        (None, None) => format!("`{}`, which is an environment variable", value.name),
    };
    match values {
        [value] => format!("a required value is missing: {}", one(value)),
        values => format!(
            "{} required values are missing:{}",
            values.len(),
            listed(values.iter().map(one))
        ),
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("\n    {item}")).collect()
}

/// What the caller knows of a release.
pub struct Wish<'a> {
    /// Images of the targets that the stack file names.
    pub images: BTreeMap<String, ReleasedImage>,
    /// What they were built of.
    pub sources: Vec<SourceRevision>,
    /// Where probes find services.
    pub addresses: BTreeMap<String, String>,
    /// Who asks: `user@host`.
    pub by: &'a str,
    /// The process's environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// The images of the stack that recipes build: those that are no reference by digest.
pub fn targets(stack: &Stack) -> Vec<String> {
    let mut names: Vec<String> = stack
        .services
        .values()
        .map(|service| service.image.clone())
        .collect();
    names.retain(|image| !image.contains('@'));
    names.sort();
    names.dedup();
    names
}

/// The record of a new release, and the content that the target may lack.
pub fn prepare(
    target: &dyn Target,
    project: &Project,
    environment: &Environment,
    reading: Reading,
    wish: Wish<'_>,
) -> Result<(Record, Contents), Error> {
    let history = target.history()?;
    let commit = wish.sources.first().and_then(|source| source.commit.as_deref());
    let mut at = now();
    let id = loop {
        let id = ReleaseId::new(commit, at);
        if history.iter().all(|record| record.release.id != id) {
            break id;
        }
        at += Duration::from_secs(1);
    };
    let mut versions = Versions {
        target,
        project,
        environment,
        history: &history,
        id: &id,
        variable: wish.variable,
        contents: Contents::default(),
    };
    let stack = reading.stack;
    let secrets = versions.of(Kind::Secret, &stack.secrets)?;
    let configs = versions.of(Kind::Config, &stack.configs)?;
    let contents = versions.contents;
    let mut images = wish.images;
    for image in stack.services.values().map(|service| &service.image) {
        if !images.contains_key(image) {
            images.insert(image.clone(), pinned(image)?);
        }
    }
    check_services(environment, &stack)?;
    let record = Record {
        release: Release {
            images,
            sources: wish.sources,
            secrets,
            configs,
            migration: None,
            by: wish.by.to_owned(),
            at,
            id: id.clone(),
        },
        stack,
        migrate: environment.migrate.as_ref().map(migrate),
        probes: probes(environment),
        checks: environment
            .checks
            .iter()
            .map(|(name, asked)| (name.clone(), check(asked)))
            .collect(),
        addresses: wish.addresses,
        singletons: environment.rules.singletons.iter().cloned().collect(),
        found: BTreeMap::new(),
        probed: Vec::new(),
        secret_env: environment.secret_env.iter().cloned().collect(),
        began: at,
        outcome: Outcome::Pending,
    };
    Ok((record, contents))
}

/// Content of versions that a release names and the target does not have, as far as it is still what it was: the
/// name of a version says which release brought it, and nobody else knows its content.
pub fn lacking(
    target: &dyn Target,
    project: &Project,
    environment: &Environment,
    record: &Record,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Contents, Error> {
    let observed = target.observe()?;
    let versions = Versions {
        target,
        project,
        environment,
        history: &[],
        id: &record.release.id,
        variable,
        contents: Contents::default(),
    };
    let mut contents = Contents::default();
    let release = &record.release;
    for (kind, named, objects, there) in [
        (
            Kind::Secret,
            &release.secrets,
            &record.stack.secrets,
            &observed.secrets,
        ),
        (
            Kind::Config,
            &release.configs,
            &record.stack.configs,
            &observed.configs,
        ),
    ] {
        for (name, version) in named
            .iter()
            .filter(|(_, version)| !there.contains(version.as_str()))
        {
            let Some(object) = objects.get(name) else { continue };
            let content = match versions.content(kind, name, object)? {
                Some(content) => content,
                None => generated(environment, object, name)?,
            };
            contents.0.insert((kind, version.clone()), content);
        }
    }
    Ok(contents)
}

/// An image by reference has a digest: what a tag names may change between two rollouts.
pub fn pinned(image: &str) -> Result<ReleasedImage, Error> {
    let unpinned = || {
        Error::User(format!(
            "the image `{image}` is no target of the recipes, and has no digest; `skep lock` looks its tag up, or write `{image}@sha256:…`"
        ))
    };
    let (repository, digest) = image.split_once('@').ok_or_else(unpinned)?;
    Ok(ReleasedImage {
        repository: repository.to_owned(),
        digest: digest.to_owned(),
        platforms: BTreeMap::new(),
    })
}

/// What skep.toml says of services is about services that there are.
fn check_services(environment: &Environment, stack: &Stack) -> Result<(), Error> {
    let mut named: Vec<(&str, &String)> = environment.probes.keys().map(|name| ("probes", name)).collect();
    named.extend(
        environment
            .migrate
            .iter()
            .map(|migrate| ("migrate", &migrate.service)),
    );
    named.extend(
        environment
            .checks
            .values()
            .map(|check| ("checks", &check.service)),
    );
    match named
        .into_iter()
        .find(|(_, name)| !stack.services.contains_key(*name))
    {
        None => Ok(()),
        Some((key, name)) => Err(Error::User(format!(
            "skep.toml names the service `{name}` in `{key}`, and `{}` has `{}`",
            environment.stack.display(),
            stack.services.keys().cloned().collect::<Vec<_>>().join("`, `")
        ))),
    }
}

fn migrate(migrate: &project::Migrate) -> Migrate {
    Migrate {
        service: migrate.service.clone(),
        command: migrate.command.clone(),
        timeout: migrate.timeout.map_or(MIGRATE_TIMEOUT, |span| span.0),
        version: migrate.version.clone(),
        breaking: migrate.breaking,
    }
}

fn check(check: &project::Check) -> Check {
    Check {
        service: check.service.clone(),
        command: check.command.clone(),
        at_most: check.at_most,
        each_node: check.each_node,
        every: check.every.map(|span| span.0),
        timeout: check.timeout.map_or(CHECK_TIMEOUT, |span| span.0),
    }
}

fn probes(environment: &Environment) -> BTreeMap<String, Vec<Probe>> {
    let probe = |probe: &project::Probe| {
        let count = probe.count.unwrap_or(10);
        Probe {
            path: probe.path.clone(),
            status: probe.status.unwrap_or(200),
            body: probe.body.clone(),
            headers: probe.headers.clone(),
            count,
            need: probe.need.unwrap_or(count),
            interval: probe.interval.map_or(Duration::from_millis(100), |span| span.0),
            timeout: probe.timeout.map_or(Duration::from_secs(5), |span| span.0),
            tls_days: probe.tls_days,
        }
    };
    let of = |(service, probes): (&String, &Vec<project::Probe>)| {
        (service.clone(), probes.iter().map(probe).collect())
    };
    environment.probes.iter().map(of).collect()
}

struct Versions<'a> {
    target: &'a dyn Target,
    project: &'a Project,
    environment: &'a Environment,
    history: &'a [Record],
    id: &'a ReleaseId,
    variable: &'a dyn Fn(&str) -> Option<String>,
    contents: Contents,
}

impl Versions<'_> {
    fn of(
        &mut self,
        kind: Kind,
        objects: &BTreeMap<String, FileObject>,
    ) -> Result<BTreeMap<String, Version>, Error> {
        let mut versions = BTreeMap::new();
        for (name, object) in objects {
            versions.insert(name.clone(), self.one(kind, name, object)?);
        }
        Ok(versions)
    }

    fn one(&mut self, kind: Kind, name: &str, object: &FileObject) -> Result<Version, Error> {
        let current = self.history.iter().find_map(|record| match kind {
            Kind::Secret => record.release.secrets.get(name),
            Kind::Config => record.release.configs.get(name),
        });
        let Some(content) = self.content(kind, name, object)? else {
            // Made here once; what the target has stays.
            let there = current
                .map(|version| self.target.holds(kind, version, b""))
                .transpose()?
                .flatten();
            return Ok(match (current, there) {
                (Some(version), Some(_)) => version.clone(),
                _ => self.new_version(kind, name, generated(self.environment, object, name)?),
            });
        };
        match current {
            Some(version) if self.target.holds(kind, version, &content)? == Some(true) => Ok(version.clone()),
            _ => Ok(self.new_version(kind, name, content)),
        }
    }

    fn new_version(&mut self, kind: Kind, name: &str, content: Vec<u8>) -> Version {
        let version = Version::new(stack_name(self.project, self.environment), name, self.id);
        self.contents.0.insert((kind, version.clone()), content);
        version
    }

    /// Its content; `None` if it is to be generated.
    fn content(&self, kind: Kind, name: &str, object: &FileObject) -> Result<Option<Vec<u8>>, Error> {
        match &object.content {
            Content::File(path) => {
                let path = beside_stack(self.environment, path);
                content_of(&self.project.root, &path, MAX_CONTENT).map(Some)
            }
            Content::External if kind == Kind::Secret => {
                let name = object.name.as_deref().unwrap_or(name);
                self.external(name)
            }
            _ => Err(Error::User(format!(
                "`{name}` in `{}` is neither a file nor a secret of skep.toml",
                self.environment.stack.display()
            ))),
        }
    }

    fn external(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let source = self.environment.secrets.get(name).ok_or_else(|| {
            Error::User(format!(
                "nothing says where the secret `{name}` is; write in skep.toml below the environment\n\n    secrets = {{ {name} = {{ file = \"deploy/secrets/{name}.txt\" }} }}\n"
            ))
        })?;
        let content = match source {
            SecretSource::Generate(_) => return Ok(None),
            SecretSource::File(path) => content_of(&self.project.root, path, MAX_CONTENT)?,
            SecretSource::Env(variable) => (self.variable)(variable)
                .ok_or_else(|| {
                    Error::User(format!(
                        "the secret `{name}` is in `{variable}`, which is not set"
                    ))
                })?
                .into_bytes(),
            SecretSource::Command(command) => output(&self.project.root, name, command)?,
        };
        let content = content.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(content);
        match content.is_empty() {
            true => Err(Error::User(format!("the secret `{name}` is empty"))),
            false => Ok(Some(content)),
        }
    }
}

/// What a program says that keeps a secret. What it prints to stderr is the user's to see.
fn output(directory: &Path, name: &str, command: &[String]) -> Result<Vec<u8>, Error> {
    let failed = |why: String| Error::Environment(format!("`{}` for the secret `{name}` {why}", command[0]));
    let child = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| failed(format!("does not start: {error}")))?;
    let mut content = Vec::new();
    let stdout = child.stdout.take().expect("it was asked for");
    let read = stdout.take(MAX_CONTENT + 1).read_to_end(&mut content);
    let ended = child.wait();
    read.map_err(|error| failed(format!("cannot be read: {error}")))?;
    match ended {
        Ok(status) if !status.success() => Err(failed(format!("failed: {status}"))),
        Ok(_) if content.len() as u64 > MAX_CONTENT => {
            Err(failed(format!("printed more than {MAX_CONTENT} bytes")))
        }
        Ok(_) => Ok(content),
        Err(error) => Err(failed(format!("cannot be waited for: {error}"))),
    }
}

/// Random letters and digits, as many as skep.toml says.
fn generated(environment: &Environment, object: &FileObject, name: &str) -> Result<Vec<u8>, Error> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let name = object.name.as_deref().unwrap_or(name);
    let Some(SecretSource::Generate(length)) = environment.secrets.get(name) else {
        unreachable!("only what is to be generated has no content");
    };
    let random = bounded_random(usize::from(*length));
    let random = random.map_err(|error| Error::Environment(format!("cannot read /dev/urandom: {error}")))?;
    Ok(random
        .iter()
        .map(|byte| LETTERS[usize::from(byte % 64)])
        .collect())
}

fn bounded_random(length: usize) -> io::Result<Vec<u8>> {
    let mut random = vec![0; length];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random)
}

#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
