//! Tells others what came of a rollout: a program that reads it, or an address that it is posted to. Whoever cannot be
//! told is a warning, and never the rollout's failure.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::Url;

use super::error::Error;
use super::mask::Mask;
use super::probe::flat;
use super::run::Report;
use crate::cancel::Cancel;
use crate::project::Notify;
use crate::release::ReleaseId;

/// How long telling one may take; all are told at the same time.
const LIMIT: Duration = Duration::from_secs(10);
/// How often a program is looked at.
const PACE: Duration = Duration::from_millis(20);

/// What came of a rollout, for a program.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Notice {
    /// The project.
    pub project: String,
    /// The environment.
    pub environment: String,
    /// The release that was to run, or that runs.
    pub release: Option<ReleaseId>,
    /// What ran before.
    pub previous: Option<ReleaseId>,
    /// How it ended.
    pub outcome: Ending,
    /// Whether anything was touched.
    pub changed: bool,
    /// What was done last, if it did not end well.
    pub step: Option<String>,
    /// Why it did not.
    pub reason: Option<String>,
    /// The end of what was printed by what failed, or all that is in its way.
    pub lines: Vec<String>,
    /// Who did it: `user@host`.
    pub by: String,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The release runs.
    Succeeded,
    /// It failed, and the one before it runs again.
    RolledBack,
    /// It failed, and stands where it stopped.
    Stands,
    /// Nothing was touched.
    Refused,
    /// Somebody stopped it; it stands where it stopped.
    Interrupted,
    /// There was nothing to do.
    Unchanged,
}

/// What a notice says beside how it ended.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// The project.
    pub project: &'a str,
    /// The environment.
    pub environment: &'a str,
    /// The release that was to run.
    pub release: Option<&'a ReleaseId>,
    /// Who did it.
    pub by: &'a str,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub took: Duration,
}

impl Notice {
    /// What is said of a rollout that did not begin, why, and all that is in its way.
    pub fn refused(about: &About<'_>, reason: String, lines: Vec<String>) -> Notice {
        Notice {
            reason: Some(reason),
            lines,
            ..Notice::about(about)
        }
    }

    /// Without the values that `mask` covers.
    pub fn masked(mut self, mask: &Mask) -> Notice {
        for text in self.reason.iter_mut().chain(&mut self.lines) {
            *text = mask.apply(text).into_owned();
        }
        self
    }

    fn about(about: &About<'_>) -> Notice {
        Notice {
            project: about.project.to_owned(),
            environment: about.environment.to_owned(),
            release: about.release.cloned(),
            previous: None,
            outcome: Ending::Refused,
            changed: false,
            step: None,
            reason: None,
            lines: Vec::new(),
            by: about.by.to_owned(),
            at: about.at,
            seconds: about.took.as_secs_f64(),
        }
    }

    /// What is said of `result`.
    pub fn new(about: &About<'_>, result: Result<&Report, &Error>) -> Notice {
        let mut notice = Notice::about(about);
        match result {
            Ok(report) => {
                notice.release = Some(report.release.clone());
                notice.previous = report.previous.clone();
                notice.changed = report.changed;
                notice.outcome = match report.changed {
                    true => Ending::Succeeded,
                    false => Ending::Unchanged,
                };
            }
            Err(error) => notice.fail(error),
        }
        notice
    }

    fn fail(&mut self, error: &Error) {
        self.reason = Some(error.to_string());
        let (outcome, step) = match error {
            Error::RolledBack {
                release,
                step,
                reason,
                to,
                ..
            } => {
                self.release = Some(release.clone());
                self.previous = Some(to.clone());
                self.reason = Some(reason.message.clone());
                self.lines = reason.lines.clone();
                (Ending::RolledBack, step)
            }
            Error::Stands {
                release,
                step,
                reason,
                ..
            } => {
                self.release = Some(release.clone());
                self.reason = Some(reason.message.clone());
                self.lines = reason.lines.clone();
                (Ending::Stands, step)
            }
            Error::Interrupted { step } => (Ending::Interrupted, step),
            _ => return,
        };
        self.outcome = outcome;
        self.changed = true;
        self.step = Some(step.clone());
    }
}

/// Tells everybody, at the same time and for at most ten seconds; whoever could not be told is a warning. Nobody is told
/// that there was nothing to do. Programs run in `directory`.
pub fn notify(
    to: &[Notify],
    directory: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
    notice: &Notice,
    cancel: &Cancel,
) -> Vec<String> {
    if notice.outcome == Ending::Unchanged {
        return Vec::new();
    }
    // That somebody stopped the rollout is news too.
    let cancel = match cancel.is_raised() {
        true => Cancel::default(),
        false => cancel.clone(),
    };
    let json = serde_json::to_vec(notice).expect("plain data encodes");
    let (json, cancel) = (&json, &cancel);
    std::thread::scope(|scope| {
        let threads: Vec<_> = to
            .iter()
            .map(|to| {
                let address = match to {
                    Notify::Url(url) => Some(url.clone()),
                    Notify::Env(name) => variable(name).filter(|url| !url.is_empty()),
                    Notify::Command(_) => None,
                };
                scope.spawn(move || match (to, address) {
                    (Notify::Command(command), _) => run(command, directory, json, cancel),
                    (_, Some(address)) => post(address.trim(), json, cancel),
                    (_, None) => Err("it is not set".to_owned()),
                })
            })
            .collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().expect("nothing in it panics"));
        let warning = |(to, told): (&Notify, Result<(), String>)| {
            told.err()
                .map(|why| format!("cannot tell {} what came of it: {why}", name(to)))
        };
        to.iter().zip(ended).filter_map(warning).collect()
    })
}

/// Who it is, without what may be a secret: the path of an address often is one.
fn name(to: &Notify) -> String {
    match to {
        Notify::Command(command) => format!("`{}`", command.join(" ")),
        Notify::Env(name) => format!("the address in `{name}`"),
        Notify::Url(url) => match url.parse::<Url>().ok().as_ref().and_then(Url::host_str) {
            Some(host) => format!("`{host}`"),
            None => "an address that is none".to_owned(),
        },
    }
}

fn run(command: &[String], directory: &Path, json: &[u8], cancel: &Cancel) -> Result<(), String> {
    let [program, arguments @ ..] = command else {
        return Err("it is no program".to_owned());
    };
    let child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // What it started itself ends with it.
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| format!("it does not start: {error}"))?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let json = json.to_vec();
    // Nobody waits for a program to read it.
    std::thread::spawn(move || stdin.write_all(&json));
    match wait(&mut child, cancel) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("it failed: {status}")),
        Err(why) => {
            end(&mut child);
            Err(why)
        }
    }
}

fn wait(child: &mut Child, cancel: &Cancel) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() >= deadline => return Err(too_long()),
            Ok(None) if cancel.is_raised() => return Err("interrupted".to_owned()),
            Ok(None) => std::thread::sleep(PACE),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Ends a program that was not waited for yet: its number is still its own.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

fn too_long() -> String {
    format!("it took longer than {} s", LIMIT.as_secs())
}

fn post(address: &str, json: &[u8], cancel: &Cancel) -> Result<(), String> {
    let url: Url = address.parse().map_err(|_| "it is no address".to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    match runtime.block_on(cancel.unless_raised(send(url, json))) {
        Some(Err(error)) if error.is_timeout() => Err(too_long()),
        // The message of an error has the address in it.
        Some(Err(error)) => Err(flat(&error.without_url())),
        Some(Ok(status)) if status.is_success() => Ok(()),
        Some(Ok(status)) => Err(format!("it answered {}", status.as_u16())),
        None => Err("interrupted".to_owned()),
    }
}

async fn send(url: Url, json: &[u8]) -> reqwest::Result<reqwest::StatusCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(LIMIT);
    let loopback = |host: &str| host == "localhost" || host.starts_with("127.") || host == "[::1]";
    if url.host_str().is_some_and(loopback) {
        builder = builder.no_proxy();
    }
    let request = builder.build()?.post(url);
    let request = request
        .header("content-type", "application/json")
        .body(json.to_vec());
    Ok(request.send().await?.status())
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
