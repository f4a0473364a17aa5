//! A project: its root, and `skep.toml`, which holds configuration and no logic.

mod environment;
mod pins;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use environment::{Allow, Check, Environment, Migrate, Notify, Probe, Pull, SecretSource, TargetKind};
pub use pins::{PINS, Pin, Pins, is_foreign, is_tag};
pub use rules::{Attestation, Connections, Rules};

use crate::fetch::Registries;

/// The configuration file, in the project's root.
pub const CONFIG: &str = "skep.toml";

/// A project on disk.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its root, absolute.
    pub root: PathBuf,
    /// What `skep.toml` says.
    pub config: Config,
    /// `skep.toml` itself, for places in it.
    pub text: String,
}

/// `skep.toml`. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[project]`.
    pub project: About,
    /// `[registries]`: where packages come from, if the ecosystems' own configuration does not say.
    #[serde(default)]
    pub registries: Registries,
    /// `[push]`.
    #[serde(default)]
    pub push: Push,
    /// `[environments.NAME]`: where releases run.
    #[serde(default)]
    pub environments: BTreeMap<String, Environment>,
}

/// What the project is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Where images are pushed, such as `git.example/team/honeydue-{name}`; `{name}` is the target.
    #[serde(default)]
    pub images: Option<String>,
}

/// How images are pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Registries (`host` or `host:port`) that are spoken to without TLS. Loopback needs no entry.
    #[serde(default)]
    pub plain_http: Vec<String>,
}

/// Why there is no project.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the directory nor any above it has a `skep.toml`.
    #[error(
        "`{}` has no skep.toml, nor has any directory above it; write one\n\n    [project]\n    name = \"{}\"\n\nand a skep.star beside it with the images to build", .0.display(), suggested_name(.0)
    )]
    Absent(PathBuf),
    /// There is a `skep.toml`, and no `skep.star`.
    #[error(
        "`{}` has no skep.star; write one with the images to build\n\n    load(\"@skep//go.star\", \"go_module\")\n    load(\"@skep//image.star\", \"image\")\n\n    code = go_module(src = source([\"go.mod\", \"go.sum\", \"**/*.go\"]))\n\n    image(\n        name = \"api\",\n        platforms = [\"linux/amd64\", \"linux/arm64\"],\n        contents = lambda platform: [code.binary(\"api\", platform, at = \"/api\")],\n        entrypoint = [\"/api\"],\n    )\n", .0.display()
    )]
    NoRecipe(PathBuf),
    /// `skep.toml` is malformed.
    #[error("`{}`: {}", path.display(), problem.to_string().trim_end())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with line and column.
        problem: toml::de::Error,
    },
    /// A value that makes no sense.
    #[error("`{}`: `{key}` is `{value}`, and should be {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
    },
    /// An environment that `skep.toml` does not have.
    #[error("`{}` has no environment `{name}`; {}", path.display(), known_environments(known))]
    NoEnvironment {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn known_environments(known: &[String]) -> String {
    match known {
        [] => "write\n\n    [environments.preview]\n    target = \"preview\"\n    stack = \"deploy/preview.yml\"\n".to_owned(),
        known => format!("it has `{}`", known.join("`, `")),
    }
}

fn suggested_name(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect()
}

impl Project {
    /// The project that `directory` lies in.
    pub fn open(directory: &Path) -> Result<Project, Error> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let directory = directory.canonicalize().map_err(io(directory))?;
        let root = directory.ancestors().find(|above| above.join(CONFIG).is_file());
        let root = root.ok_or_else(|| Error::Absent(directory.clone()))?.to_owned();
        let path = root.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(io(&path))?;
        let config = Config::parse(&text, &path)?;
        match root.join("skep.star").is_file() {
            true => Ok(Project { root, config, text }),
            false => Err(Error::NoRecipe(root)),
        }
    }

    /// Line and column of a byte of `skep.toml`, both from 1.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// The environment `name`.
    pub fn environment(&self, name: &str) -> Result<&Environment, Error> {
        let environments = &self.config.environments;
        environments.get(name).ok_or_else(|| Error::NoEnvironment {
            path: self.root.join(CONFIG),
            name: name.to_owned(),
            known: environments.keys().cloned().collect(),
        })
    }
}

impl Config {
    fn parse(text: &str, path: &Path) -> Result<Config, Error> {
        let config: Config = toml::from_str(text).map_err(|problem| Error::Config {
            path: path.to_owned(),
            problem,
        })?;
        let wrong = |key: &str, value: &str, expected| Error::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = |name: &str| {
            !name.is_empty() && name.len() <= 40 && name.bytes().all(plain) && !name.starts_with('-')
        };
        let expected = "at most 40 of `a-z 0-9 -`, a letter or digit first";
        if !is_name(&config.project.name) {
            return Err(wrong("project.name", &config.project.name, expected));
        }
        for (name, environment) in &config.environments {
            if !is_name(name) {
                return Err(wrong("environments", name, expected));
            }
            let checked = environment.check();
            checked.map_err(|(key, value, expected)| {
                wrong(&format!("environments.{name}.{key}"), &value, expected)
            })?;
        }
        match &config.project.images {
            Some(images) if images.matches("{name}").count() != 1 || !images.contains('/') => {
                let expected = "a repository with `{name}` once, such as `git.example/team/app-{name}`";
                Err(wrong("project.images", images, expected))
            }
            _ => Ok(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text, Path::new("skep.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn everything_but_the_name_may_be_left_out() {
        let config = Config::parse("[project]\nname = \"a\"", Path::new("skep.toml")).unwrap();
        assert_eq!((config.project.images, config.push.plain_http), (None, vec![]));
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_is() {
        insta::assert_snapshot!(error("[project]\nname = \"a\"\nimage = \"x\""), @r#"
        `skep.toml`: TOML parse error at line 3, column 1
          |
        3 | image = "x"
          | ^^^^^
        unknown field `image`, expected `name` or `images`
        "#);
        insta::assert_snapshot!(error("[project]\nname = \"A b\""), @"`skep.toml`: `project.name` is `A b`, and should be at most 40 of `a-z 0-9 -`, a letter or digit first");
        insta::assert_snapshot!(error("[project]\nname = \"a\"\nimages = \"x/y\""), @"`skep.toml`: `project.images` is `x/y`, and should be a repository with `{name}` once, such as `git.example/team/app-{name}`");
    }

    #[test]
    fn environments_say_where_releases_run() {
        let text =
            "[project]\nname = \"a\"\n[environments.preview]\ntarget = \"preview\"\nstack = \"s.yml\"\n";
        let of = |more: &str| Config::parse(&format!("{text}{more}"), Path::new("skep.toml"));
        let config = of("probes = { api = [\"/health\", { path = \"/x\", need = 3 }] }\nsecrets = { key = { generate = 32 } }").unwrap();
        let environment = &config.environments["preview"];
        assert_eq!(environment.secrets["key"], SecretSource::Generate(32));
        let paths: Vec<_> = environment.probes["api"]
            .iter()
            .map(|probe| (probe.path.as_str(), probe.need))
            .collect();
        assert_eq!(paths, [("/health", None), ("/x", Some(3))]);
        let error = |more| of(more).unwrap_err().to_string();
        insta::assert_snapshot!(error("probes = { api = [{ path = \"/x\", wants = 3 }] }"), @r#"
        `skep.toml`: TOML parse error at line 6, column 34
          |
        6 | probes = { api = [{ path = "/x", wants = 3 }] }
          |                                  ^^^^^
        unknown field `wants`, expected one of `path`, `status`, `body`, `headers`, `count`, `need`, `interval`, `timeout`, `tls_days`
        "#);
        insta::assert_snapshot!(error("probes = { api = [\"x\"] }"), @"`skep.toml`: `environments.preview.probes.api` is `x`, and should be a path that begins with `/` and holds no space");
        insta::assert_snapshot!(error("checks = { x = { service = \"api\", command = [] } }"), @"`skep.toml`: `environments.preview.checks.x` is `[]`, and should be a program and its arguments");
        insta::assert_snapshot!(error("checks = { x = { service = \"api\", command = [\"/x\"], every = \"0s\" } }"), @"`skep.toml`: `environments.preview.checks.x` is `0ns`, and should be an `every` of at least 1s");
        insta::assert_snapshot!(error("probes = { api = [3] }"), @"
        `skep.toml`: TOML parse error at line 6, column 19
          |
        6 | probes = { api = [3] }
          |                   ^
        invalid type: integer `3`, expected a path such as `/health`, or a table with `path`
        ");
        insta::assert_snapshot!(error("secrets = { key = { generate = 3 } }"), @"`skep.toml`: `environments.preview.secrets.key` is `generate`, and should be a length from 16 to 128");
        insta::assert_snapshot!(error("secrets = { key = { file = \"a\", env = \"B\" } }"), @r#"
        `skep.toml`: TOML parse error at line 6, column 19
          |
        6 | secrets = { key = { file = "a", env = "B" } }
          |                   ^^^^^^^^^^^^^^^^^^^^^^^^^
        wanted exactly 1 element, more than 1 element
        "#);
        insta::assert_snapshot!(error("allow = [{ lint = \"sslmode\", reason = \"no\", until = \"soon\" }]"), @r#"
        `skep.toml`: TOML parse error at line 6, column 53
          |
        6 | allow = [{ lint = "sslmode", reason = "no", until = "soon" }]
          |                                                     ^^^^^^
        invalid type: string "soon", expected a TOML datetime
        "#);
        insta::assert_snapshot!(error("notify = [{ command = [] }]"), @"`skep.toml`: `environments.preview.notify` is `[]`, and should be a program and its arguments");
        let bare = error("notify = [{ url = \"chat.example/secret\" }]");
        insta::assert_snapshot!(bare, @"`skep.toml`: `environments.preview.notify` is `url`, and should be an address with `https://`");
        insta::assert_snapshot!(error("keep = 0"), @"`skep.toml`: `environments.preview.keep` is `0`, and should be from 1 to 100");
    }

    #[test]
    fn what_is_missing_is_written_out() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("My App");
        std::fs::create_dir(&at).unwrap();
        let error = Project::open(&at).unwrap_err().to_string();
        assert!(error.contains("[project]\n    name = \"my-app\""), "{error}");
        std::fs::write(at.join(CONFIG), "[project]\nname = \"a\"").unwrap();
        let error = Project::open(&at).unwrap_err().to_string();
        assert!(error.contains("go_module(src"), "{error}");
        std::fs::write(at.join("skep.star"), "").unwrap();
        std::fs::create_dir(at.join("below")).unwrap();
        assert_eq!(
            Project::open(&at.join("below")).unwrap().root,
            at.canonicalize().unwrap()
        );
    }
}
