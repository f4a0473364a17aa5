//! What the program says when it cannot do what it was asked, and the exit code that says whose fault it was.

use super::terminal::{self, Style, Text, printed};
use crate::digest::Digest;
use crate::{assemble, build, deploy, engine, fetch, project, publish, push, registry, rollout, store};

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An action, a test or a check failed.
    Build,
    /// Usage, configuration or a recipe is wrong.
    User,
    /// Kernel, disk, network or registry.
    Environment,
    /// Changes are pending.
    Pending,
    /// A rollout failed, and was undone.
    RolledBack,
    /// A rollout failed, and stands where it stopped.
    Stands,
    /// It would change what must stay.
    Refused,
    /// It was interrupted.
    Interrupted,
    /// A bug in skep.
    Bug,
}

impl Kind {
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Kind::Build => 1,
            Kind::User => 2,
            Kind::Pending => 3,
            Kind::Environment => 4,
            Kind::RolledBack => 5,
            Kind::Stands => 6,
            Kind::Refused => 7,
            Kind::Bug => 70,
            Kind::Interrupted => 130,
        }
    }
}

/// One failure, ready to be shown.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: Kind,
    /// What a replica or a task printed before it failed: the report starts with it.
    pub log: Vec<String>,
    /// Lower case, with the remedy if there is one.
    pub message: String,
    /// Further lines, each with its meaning in front.
    pub details: Vec<String>,
}

impl Failure {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            log: Vec::new(),
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(super) fn print(&self) {
        for line in &self.log {
            terminal::say(format!("  | {}", printed(line)));
        }
        let mut text = Text::default();
        text.push_styled(terminal::stderr_has_colours().then_some(Style::Error), "error:");
        text.push(&format!(" {}", self.message));
        terminal::say(text);
        for detail in &self.details {
            terminal::say(detail);
        }
    }
}

impl From<project::Error> for Failure {
    fn from(error: project::Error) -> Failure {
        Failure::new(Kind::User, error.to_string())
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        let kind = match error {
            store::Error::Cancelled => Kind::Interrupted,
            _ => Kind::Environment,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<assemble::Error> for Failure {
    fn from(error: assemble::Error) -> Failure {
        let kind = match error {
            assemble::Error::Occupied(_) => Kind::User,
            assemble::Error::Unreproducible { .. } => Kind::Bug,
            _ => Kind::Environment,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<fetch::Error> for Failure {
    fn from(error: fetch::Error) -> Failure {
        let kind = match error {
            fetch::Error::Cancelled => Kind::Interrupted,
            fetch::Error::Source { .. } | fetch::Error::NoAddress { .. } | fetch::Error::Config { .. } => {
                Kind::User
            }
            _ => Kind::Environment,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<build::Error> for Failure {
    fn from(error: build::Error) -> Failure {
        match error {
            build::Error::Recipe(error) => Failure::new(Kind::User, error.to_string()),
            build::Error::Unknown(error) => Failure::new(Kind::User, error.to_string()),
            build::Error::Source(error) => Failure::new(Kind::Environment, error.to_string()),
            build::Error::Failed(failures) => of_actions(&failures),
            build::Error::Fetch(error) => error.into(),
            build::Error::Interrupted => Failure::new(Kind::Interrupted, error.to_string()),
            build::Error::Store(error) => error.into(),
            build::Error::Assemble(error) => error.into(),
            error @ build::Error::Io { .. } => Failure::new(Kind::Environment, error.to_string()),
        }
    }
}

impl From<publish::Error> for Failure {
    fn from(error: publish::Error) -> Failure {
        let kind = match error {
            publish::Error::Build(error) => return error.into(),
            publish::Error::Push(ref error) => match error.kind() {
                push::Kind::Interrupted => Kind::Interrupted,
                push::Kind::Refused => Kind::Refused,
                push::Kind::Environment => Kind::Environment,
                push::Kind::Internal => Kind::Bug,
            },
            _ => Kind::User,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<rollout::TargetError> for Failure {
    fn from(error: rollout::TargetError) -> Failure {
        use rollout::TargetError as Error;
        let kind = match error {
            Error::Locked { .. } | Error::Refused(_) => Kind::Refused,
            Error::Environment(_) => Kind::Environment,
            Error::Cancelled => Kind::Interrupted,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<rollout::Error> for Failure {
    fn from(error: rollout::Error) -> Failure {
        use rollout::{Error, Fault};
        let message = error.to_string();
        match error {
            Error::Target(error) => error.into(),
            Error::Interrupted { .. } => Failure::new(Kind::Interrupted, message),
            Error::Endless { .. } => Failure::new(Kind::Build, message),
            Error::Problems { problems, .. } => {
                let kind = match problems.iter().map(|problem| problem.fault).min() {
                    Some(Fault::User) | None => Kind::User,
                    Some(Fault::Environment) => Kind::Environment,
                    Some(Fault::Refused) => Kind::Refused,
                };
                let mut failure = Failure::new(kind, message);
                let more = problems.iter().skip(1);
                failure
                    .details
                    .extend(more.map(|problem| format!("error: {}", problem.message)));
                failure
            }
            Error::RolledBack { reason, schema, .. } => Failure {
                log: reason.lines,
                details: schema
                    .map(|schema| format!("the schema stays at {schema}"))
                    .into_iter()
                    .collect(),
                ..Failure::new(Kind::RolledBack, message)
            },
            Error::Stands { reason, .. } => Failure {
                log: reason.lines,
                ..Failure::new(Kind::Stands, message)
            },
            Error::Changed { .. } | Error::Frozen { .. } | Error::HalfWay { .. } => {
                Failure::new(Kind::Refused, message)
            }
            Error::NothingBegun | Error::NoPrevious { .. } => Failure::new(Kind::User, message),
        }
    }
}

impl From<deploy::Error> for Failure {
    fn from(error: deploy::Error) -> Failure {
        use deploy::Error;
        match error {
            Error::Project(error) => error.into(),
            Error::Build(error) => error.into(),
            Error::Publish(error) => (*error).into(),
            Error::Rollout(error) => (*error).into(),
            Error::Target(error) => error.into(),
            Error::Root(error) => Failure::new(Kind::Environment, error.to_string()),
            Error::Prepare(rollout::PrepareError::Target(error)) => error.into(),
            Error::Prepare(error @ rollout::PrepareError::Environment(_)) => {
                Failure::new(Kind::Environment, error.to_string())
            }
            Error::Registry(error) => {
                let kind = match error {
                    registry::Error::Cancelled => Kind::Interrupted,
                    _ => Kind::Environment,
                };
                Failure::new(kind, error.to_string())
            }
            error @ (Error::Mixture { .. }
            | Error::AcrossMigration { .. }
            | Error::Dirty { .. }
            | Error::Revoked { .. }) => Failure::new(Kind::Refused, error.to_string()),
            Error::Blocked { ref findings, .. } => {
                let mut failure = Failure::new(Kind::Refused, error.to_string());
                failure.details.extend(findings.iter().map(ToString::to_string));
                failure
            }
            error @ (Error::NoTag { .. }
            | Error::NoImage { .. }
            | Error::Address(_)
            | Error::Lint(_)
            | Error::NoEarlier { .. }
            | Error::NoService { .. }
            | Error::NoRelease { .. }
            | Error::AllFailed { .. }
            | Error::Adopted { .. }
            | Error::NothingFound { .. }
            | Error::NoSecret { .. }
            | Error::ForeignPlan { .. }
            | Error::PlanFile { .. }
            | Error::Unknown { .. }
            | Error::Prepare(_)) => Failure::new(Kind::User, error.to_string()),
        }
    }
}

/// The first failure decides the exit code; all are shown.
fn of_actions(failures: &[engine::Failure]) -> Failure {
    use engine::Fault;
    let kind = match failures.first().map(|failure| failure.fault) {
        Some(Fault::Action) => Kind::Build,
        Some(Fault::Project) => Kind::User,
        Some(Fault::Cancelled) => Kind::Interrupted,
        _ => Kind::Environment,
    };
    if kind == Kind::Interrupted {
        return Failure::new(kind, "interrupted");
    }
    let line = |failure: &engine::Failure| format!("`{}` {}", failure.label, joined(&failure.message));
    let mut messages = failures.iter().map(line);
    let mut whole = Failure::new(kind, messages.next().unwrap_or_default());
    whole
        .details
        .extend(failures.first().into_iter().flat_map(details));
    for (failure, message) in failures.iter().skip(1).zip(messages) {
        whole.details.push(format!("error: {message}"));
        whole.details.extend(details(failure));
    }
    whole
}

/// "exited with code 1" continues the label; other messages explain it.
fn joined(message: &str) -> String {
    let verbs = ["exited", "was killed", "ran for", "printed"];
    match verbs.iter().any(|verb| message.starts_with(verb)) {
        true => message.to_owned(),
        false => format!("failed: {message}"),
    }
}

/// Where the whole log is, and the command that repeats the action. The end of the log is shown by
/// [`Failure::with_log_ends`], which has the store.
fn details(failure: &engine::Failure) -> Vec<String> {
    let mut details = Vec::new();
    details.extend(failure.log.map(log_marker));
    if failure.key.is_some() && failure.fault == engine::Fault::Action {
        details.extend(
            failure
                .log
                .map(|_| format!("  the whole log: skep log '{}'", failure.label)),
        );
        details.push(format!("  to repeat it:  skep build '{}'", failure.label));
    }
    details
}

const LOG: &str = "\0log ";

fn log_marker(log: Digest) -> String {
    format!("{LOG}{log}")
}

/// Lines of a log's end that are shown.
const LOG_LINES: usize = 20;

impl Failure {
    /// Puts the ends of logs where they belong.
    pub(super) fn with_log_ends(mut self, store: &store::Store) -> Failure {
        let shown = |detail: &String| -> Vec<String> {
            let Some(log) = detail.strip_prefix(LOG) else {
                return vec![detail.clone()];
            };
            let bytes = log
                .parse()
                .ok()
                .and_then(|log: Digest| store.read(&log).ok())
                .unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
            end.iter().map(|line| format!("  | {}", printed(line))).collect()
        };
        self.details = self.details.iter().flat_map(shown).collect();
        self
    }
}
