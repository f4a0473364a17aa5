//! `[environments.NAME]` of skep.toml: a place that releases run on, and what is particular to it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::rules::Rules;
use crate::stack::Span;

/// Releases that are kept for a rollback, unless the environment says how many.
const KEEP: usize = 10;
/// The most that can be kept.
const MAX_KEEP: usize = 100;
/// The longest name of a stack: with a release and an attempt it is still a name in DNS.
const MAX_NAME: usize = 18;

/// What releases run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// This machine, without root.
    Preview,
    /// A Docker Swarm.
    Swarm,
}

/// `[environments.NAME]`. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// What it is.
    pub target: TargetKind,
    /// The stack file, from the project's root.
    pub stack: PathBuf,
    /// What the stack is called there; the project's name if absent. At most 18 lower-case letters, digits and `-`.
    #[serde(default)]
    pub name: Option<String>,
    /// Where a Swarm's managers are, tried in turn: `unix:///…` or `ssh://[user@]host[:port]`, with `${…}` of the
    /// environment's files. The engine of this machine if absent.
    #[serde(default)]
    pub managers: Vec<toml::Spanned<String>>,
    /// The id of the Swarm; any other is refused. What was seen first counts if absent.
    #[serde(default)]
    pub cluster: Option<String>,
    /// For how long whoever changes a Swarm may be silent before he is taken for dead; 60 s if absent.
    #[serde(default)]
    pub patience: Option<Span>,
    /// As whom nodes pull images, by the host of the registry.
    #[serde(default)]
    pub pull: BTreeMap<String, Pull>,
    /// Files with lines `NAME=value` that give the stack file's variables, from the project's root; later ones count.
    #[serde(default)]
    pub env_files: Vec<PathBuf>,
    /// Variables of those files that must have a value.
    #[serde(default)]
    pub required: Vec<String>,
    /// Variables of services whose values are secrets: shown nowhere, and compared by a hash.
    #[serde(default)]
    pub secret_env: Vec<String>,
    /// Where probes find a service, such as `https://api.example`, with `${…}` of the environment's files; where the
    /// target publishes it if absent.
    #[serde(default)]
    pub addresses: BTreeMap<String, String>,
    /// Who is told what came of a rollout.
    #[serde(default)]
    pub notify: Vec<Notify>,
    /// Where the content of secrets is that the stack file calls external, by name.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSource>,
    /// What must succeed before anything rolls.
    #[serde(default)]
    pub migrate: Option<Migrate>,
    /// What must answer at the end, by service.
    #[serde(default)]
    pub probes: BTreeMap<String, Vec<Probe>>,
    /// What is asked inside the target while services roll, by name.
    #[serde(default)]
    pub checks: BTreeMap<String, Check>,
    /// How long a stage of a rollout may take; 5 minutes if absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Releases that are kept for a rollback, from 1 to 100.
    #[serde(default = "keep")]
    pub keep: usize,
    /// What lints cannot know by themselves.
    #[serde(default)]
    pub rules: Rules,
    /// Lints that are put up with.
    #[serde(default)]
    pub allow: Vec<Allow>,
}

fn keep() -> usize {
    KEEP
}

/// Where a secret's content is: one of these.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SecretSource {
    /// In a file, from the project's root; a newline at its end does not count.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
    /// On the stdout of a program; a newline at its end does not count.
    Command(Vec<String>),
    /// Nowhere yet: so many random letters and digits, made when the target has none.
    Generate(u8),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::File(path) => write!(f, "file {}", path.display()),
            SecretSource::Env(name) => write!(f, "variable {name}"),
            SecretSource::Command(command) => write!(f, "output of {}", command[0]),
            SecretSource::Generate(length) => write!(f, "{length} random characters"),
        }
    }
}

/// As whom nodes pull images. They do so whenever a replica starts on another node, long after a rollout: it has to be
/// somebody whose credentials last.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// Who docker's configuration has to be logged in as.
    pub user: String,
    /// The last day of the credentials, as `2027-01-31`, and where it stands.
    #[serde(default)]
    pub until: Option<toml::Spanned<toml::value::Date>>,
}

/// Who is told what came of a rollout: one of these.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Notify {
    /// A program, which reads the report as JSON on stdin.
    Command(Vec<String>),
    /// An address that the report is posted to.
    Url(String),
    /// The environment variable that holds such an address, because it is a secret.
    Env(String),
}

/// A command that must succeed before anything rolls.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// The service whose image and settings it has.
    pub service: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may run; 10 minutes if absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// The command that prints the schema's version.
    #[serde(default)]
    pub version: Option<Vec<String>>,
    /// Whether what ran before cannot do with the new schema: a failure after it stands, and is not rolled back.
    #[serde(default)]
    pub breaking: bool,
}

/// A command that is asked inside the target while services roll.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The service whose image and settings it has.
    pub service: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The last number that it prints is at most this; any is good if absent, as long as the command succeeds.
    #[serde(default)]
    pub at_most: Option<u64>,
    /// Whether it is asked on each node that the service may come to.
    #[serde(default)]
    pub each_node: bool,
    /// From one time to the next, at least a second; once if absent.
    #[serde(default)]
    pub every: Option<Span>,
    /// How long an answer may take; 30 seconds if absent.
    #[serde(default)]
    pub timeout: Option<Span>,
}

/// A request that must be answered well: a path, or a table with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Absolute path.
    pub path: String,
    /// The status that is expected; 200 if absent.
    pub status: Option<u16>,
    /// Text that the body must hold.
    pub body: Option<String>,
    /// Headers and the text that each must hold.
    pub headers: BTreeMap<String, String>,
    /// How many requests.
    pub count: Option<u32>,
    /// How many of them must be answered well.
    pub need: Option<u32>,
    /// From one to the next.
    pub interval: Option<Span>,
    /// How long one may take.
    pub timeout: Option<Span>,
    /// For how many more days the certificate must be valid, at least; it is not looked at if absent.
    pub tls_days: Option<u16>,
}

/// A lint that is put up with, for a reason and until a day.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Its name, and where it stands.
    pub lint: toml::Spanned<String>,
    /// Only for this service.
    #[serde(default)]
    pub service: Option<String>,
    /// Why.
    pub reason: String,
    /// The last day, as `2027-01-31`.
    pub until: toml::value::Date,
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Probe, D::Error> {
        deserializer.deserialize_any(ProbeVisitor)
    }
}

struct ProbeVisitor;

impl<'de> Visitor<'de> for ProbeVisitor {
    type Value = Probe;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path such as `/health`, or a table with `path`")
    }

    fn visit_str<E: de::Error>(self, path: &str) -> Result<Probe, E> {
        Ok(Probe {
            path: path.to_owned(),
            status: None,
            body: None,
            headers: BTreeMap::new(),
            count: None,
            need: None,
            interval: None,
            timeout: None,
            tls_days: None,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Probe, A::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: String,
            status: Option<u16>,
            body: Option<String>,
            #[serde(default)]
            headers: BTreeMap<String, String>,
            count: Option<u32>,
            need: Option<u32>,
            interval: Option<Span>,
            timeout: Option<Span>,
            tls_days: Option<u16>,
        }
        let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Probe {
            path: table.path,
            status: table.status,
            body: table.body,
            headers: table.headers,
            count: table.count,
            need: table.need,
            interval: table.interval,
            timeout: table.timeout,
            tls_days: table.tls_days,
        })
    }
}

/// A value that makes no sense: its key below the environment, itself, and what is expected.
pub(super) type Senseless = (String, String, &'static str);

impl Environment {
    /// What no type can say.
    pub(super) fn check(&self) -> Result<(), Senseless> {
        if self.keep == 0 || self.keep > MAX_KEEP {
            return Err(("keep".to_owned(), self.keep.to_string(), "from 1 to 100"));
        }
        let is_name = |name: &String| {
            let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(valid) && !name.starts_with('-')
        };
        if let Some(name) = self.name.as_ref().filter(|name| !is_name(name)) {
            let expected = "at most 18 lower-case letters, digits and `-`";
            return Err(("name".to_owned(), name.clone(), expected));
        }
        if let Some(migrate) = &self.migrate
            && (migrate.command.is_empty() || migrate.version.as_ref().is_some_and(Vec::is_empty))
        {
            return Err((
                "migrate.command".to_owned(),
                "[]".to_owned(),
                "a program and its arguments",
            ));
        }
        self.check_probes()?;
        self.check_checks()?;
        self.check_secrets()?;
        self.check_notify()?;
        let unexplained = self.allow.iter().find(|allow| allow.reason.trim().is_empty());
        match unexplained {
            Some(allow) => Err((
                "allow.reason".to_owned(),
                allow.lint.get_ref().clone(),
                "a reason",
            )),
            None => self.rules.check(),
        }
    }

    fn check_probes(&self) -> Result<(), Senseless> {
        for (service, probe) in self
            .probes
            .iter()
            .flat_map(|(service, probes)| probes.iter().map(move |probe| (service, probe)))
        {
            let key = format!("probes.{service}");
            if !probe.path.starts_with('/') || probe.path.bytes().any(|byte| byte <= b' ') {
                return Err((
                    key,
                    probe.path.clone(),
                    "a path that begins with `/` and holds no space",
                ));
            }
            let count = probe.count.unwrap_or(10);
            if count == 0 || count > 10_000 {
                return Err((key, count.to_string(), "a `count` from 1 to 10000"));
            }
            if probe.need.is_some_and(|need| need == 0 || need > count) {
                return Err((
                    key,
                    probe.need.unwrap_or_default().to_string(),
                    "a `need` from 1 to `count`",
                ));
            }
        }
        Ok(())
    }

    fn check_checks(&self) -> Result<(), Senseless> {
        for (name, check) in &self.checks {
            let key = format!("checks.{name}");
            if check.command.is_empty() {
                return Err((key, "[]".to_owned(), "a program and its arguments"));
            }
            let every = check.every.map(|span| span.0);
            if let Some(every) = every.filter(|every| every.as_secs() == 0) {
                return Err((key, format!("{every:?}"), "an `every` of at least 1s"));
            }
        }
        Ok(())
    }

    fn check_secrets(&self) -> Result<(), Senseless> {
        for (name, source) in &self.secrets {
            let key = format!("secrets.{name}");
            match source {
                SecretSource::Generate(0..16) | SecretSource::Generate(129..) => {
                    return Err((key, "generate".to_owned(), "a length from 16 to 128"));
                }
                SecretSource::Command(command) if command.is_empty() => {
                    return Err((key, "[]".to_owned(), "a program and its arguments"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_notify(&self) -> Result<(), Senseless> {
        for to in &self.notify {
            match to {
                Notify::Command(command) if command.is_empty() => {
                    return Err((
                        "notify".to_owned(),
                        "[]".to_owned(),
                        "a program and its arguments",
                    ));
                }
                // It may be a secret, though it should not stand here then.
                Notify::Url(url) if !url.starts_with("https://") && !url.starts_with("http://") => {
                    return Err((
                        "notify".to_owned(),
                        "url".to_owned(),
                        "an address with `https://`",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
