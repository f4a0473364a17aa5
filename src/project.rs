//! A project: its root, and `skep.toml`, which holds configuration and no logic.

use std::io;
use std::path::{Path, PathBuf};

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
}

/// `skep.toml`. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
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
        key: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        expected: &'static str,
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
            true => Ok(Project { root, config }),
            false => Err(Error::NoRecipe(root)),
        }
    }
}

impl Config {
    fn parse(text: &str, path: &Path) -> Result<Config, Error> {
        let config: Config = toml::from_str(text).map_err(|problem| Error::Config {
            path: path.to_owned(),
            problem,
        })?;
        let wrong = |key, value: &str, expected| Error::Value {
            path: path.to_owned(),
            key,
            value: value.to_owned(),
            expected,
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let name = &config.project.name;
        if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) || name.starts_with('-') {
            let expected = "at most 40 of `a-z 0-9 -`, a letter or digit first";
            return Err(wrong("project.name", name, expected));
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
