//! What the ecosystems' own configuration says: files, variables, and installed clients. Talks to no registry.
//!
//! An address comes from the ecosystem's variables and files, else from `[registries]` of skep.toml, else
//! from the ecosystem's client, asked once in a run. Nothing is guessed: no registry's name is in this code.

pub(super) mod apt;
pub(super) mod go;
pub(super) mod npm;
pub(super) mod pip;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Url;

use super::credentials::{Netrc, split_user};
use super::error::Error;
use super::source::is_loopback;

const MAX_FILE: u64 = 1 << 20;
const MAX_CLIENT_OUTPUT: u64 = 64 << 10;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The machine as configuration readers see it; a test can put another one in its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// Environment variables.
    pub vars: BTreeMap<String, String>,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// The system's configuration, `/etc`.
    pub etc: PathBuf,
    /// The directory of the system's OpenPGP key rings.
    pub key_rings: PathBuf,
    /// The project's root.
    pub project: PathBuf,
    /// Whether installed clients may be asked.
    pub clients: bool,
}

impl Host {
    /// This machine.
    pub(super) fn current(project: &Path) -> Host {
        Host {
            vars: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            home: std::env::home_dir(),
            etc: "/etc".into(),
            key_rings: "/usr/share/keyrings".into(),
            project: match project.as_os_str().is_empty() {
                true => ".".into(),
                false => project.to_owned(),
            },
            clients: true,
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        let value = self.vars.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// A file below the user's home.
    pub(super) fn in_home(&self, path: &str) -> Option<PathBuf> {
        Some(self.home.as_ref()?.join(path))
    }

    /// `$XDG_CONFIG_HOME` or what stands for it.
    pub(super) fn user_config(&self) -> Option<PathBuf> {
        match self.var("XDG_CONFIG_HOME") {
            Some(path) => Some(path.into()),
            None => self.in_home(".config"),
        }
    }

    /// A configuration file of at most 1 MiB; `None` if there is none, or none that we may read.
    pub(super) fn read(&self, path: &Path) -> Result<Option<String>, Error> {
        let failed = |reason: String| Error::Config {
            name: path.display().to_string(),
            reason,
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut bytes = Vec::new();
        match file.take(MAX_FILE + 1).read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        }
        if bytes.len() as u64 > MAX_FILE {
            return Err(failed("larger than 1 MiB".to_owned()));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The user's netrc file.
    pub(super) fn netrc(&self) -> Result<Netrc, Error> {
        let path = match self.var("NETRC") {
            Some(path) => Some(path.into()),
            None => self.in_home(".netrc"),
        };
        let text = path.map(|path| self.read(&path)).transpose()?.flatten();
        Ok(text.map(|text| Netrc::parse(&text)).unwrap_or_default())
    }

    /// What an installed client prints, trimmed; `None` if it is not installed, fails, or says nothing.
    /// Blocks for up to 30 seconds.
    pub(super) fn ask(&self, argv: &[&str]) -> Option<String> {
        if !self.clients {
            return None;
        }
        let mut child = Command::new(argv[0])
            .args(&argv[1..])
            .envs(&self.vars)
            .current_dir(&self.project)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdout = child.stdout.take()?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(MAX_CLIENT_OUTPUT).read_to_string(&mut text);
            read.ok().map(|_| text)
        });
        let deadline = Instant::now() + CLIENT_TIMEOUT;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    // It is beyond help; its answer is not waited for.
                    let _ = child.kill();
                    let _ = child.wait();
                    return None;
                }
            }
        };
        let text = reader.join().ok()??;
        let text = text.trim();
        (status.success() && !text.is_empty() && text != "undefined" && text != "null")
            .then(|| text.to_owned())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

/// The address of a registry, with a `/` at its end, and the credentials that were written into it.
///
/// Plain http is taken as configured: the bytes are pinned, and credentials are not sent in the clear.
pub(super) fn base_address(name: &str, text: &str) -> Result<super::registry::Base, Error> {
    let failed = |reason: &str| Error::Config {
        name: name.to_owned(),
        reason: reason.to_owned(),
    };
    let url = Url::parse(text.trim()).map_err(|_| failed("not an address"))?;
    if !["https", "http"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(failed("expected `https://…`"));
    }
    let (mut url, credential) = split_user(url);
    if credential.is_some() && url.scheme() == "http" && !is_loopback(&url) {
        return Err(failed("credentials would be sent in the clear; use `https://`"));
    }
    url.set_fragment(None);
    url.set_query(None);
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(super::registry::Base { url, credential })
}

/// The value of `key` in the text of an INI file's `section`, as Python's `configparser` reads it.
pub(super) fn ini_value(text: &str, section: &str, key: &str) -> Option<String> {
    let mut here = false;
    let mut found = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('#') || trimmed.starts_with(';') {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            here = name.0.trim() == section;
        } else if here
            && let Some((name, value)) = trimmed.split_once(['=', ':'])
            && name.trim().replace('_', "-").eq_ignore_ascii_case(key)
        {
            found = Some(value.trim().to_owned());
        }
    }
    found.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_asked_and_their_failures_are_no_answer() {
        let host = Host {
            clients: true,
            project: "/".into(),
            ..Host::default()
        };
        assert_eq!(
            host.ask(&["/bin/echo", " https://a.example "]).as_deref(),
            Some("https://a.example")
        );
        assert_eq!(host.ask(&["/bin/echo", "undefined"]), None);
        assert_eq!(host.ask(&["/bin/sh", "-c", "echo x; exit 1"]), None);
        assert_eq!(host.ask(&["/no/such/client"]), None);
        let silent = Host {
            clients: false,
            ..host
        };
        assert_eq!(silent.ask(&["/bin/echo", "x"]), None);
    }

    #[test]
    fn addresses_end_with_a_slash_and_give_their_credentials_up() {
        let base = base_address("x", "https://me:s3cret@a.example/simple").unwrap();
        assert_eq!(base.url.as_str(), "https://a.example/simple/");
        assert!(base.credential.is_some());
        for text in ["", "a.example", "file:///x", "http://me:s3cret@a.example/"] {
            let error = base_address("PIP_INDEX_URL", text).unwrap_err().to_string();
            assert!(
                error.contains("PIP_INDEX_URL") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}
