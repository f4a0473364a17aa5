//! `skep status`, `skep history` and `skep logs`: what an environment runs and ran. Nothing is changed.

use super::deploy::{How, within};
use super::failure::Failure;
use super::terminal::{printable, printed};
use super::{Context, terminal};
use crate::rollout::{
    Journal, LogQuery, Observed, Outcome, Record, Replica, Service, State, counted, listed, together,
};

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// The environment, as skep.toml names it
    environment: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// The environment, as skep.toml names it
    environment: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The environment, as skep.toml names it
    environment: String,
    /// Only this service, or this task
    service: Option<String>,
    /// Wait for more until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines of each
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
}

pub(super) fn status(context: &Context, arguments: &Status) -> Result<(), Failure> {
    let (observed, journal, history) =
        within(context, &arguments.environment, How::default(), |deployment| {
            let target = deployment.target();
            Ok((target.observe()?, target.journal()?, target.history()?))
        })?;
    let current = history.iter().find(|record| record.outcome.succeeded());
    if context.json {
        terminal::print_json(&serde_json::json!({
            "release": current.map(|record| &record.release.id),
            "rollout": journal,
            "services": observed.services,
            "tasks": observed.tasks,
        }));
        return Ok(());
    }
    terminal::print(status_text(&observed, journal.as_ref(), current));
    Ok(())
}

fn status_text(observed: &Observed, journal: Option<&Journal>, current: Option<&Record>) -> String {
    let mut text = match current {
        Some(record) => format!("release {}\n", record.release.id),
        None => "no release has run yet\n".to_owned(),
    };
    if let Some(journal) = journal {
        let step = journal
            .current
            .as_ref()
            .map_or_else(|| "between two steps".to_owned(), ToString::to_string);
        text += &format!(
            "a rollout of {} by {} is at: {step}; if it died, roll out again to finish, or roll back\n",
            journal.release, journal.owner
        );
    }
    if observed.services.is_empty() {
        text += "nothing runs\n";
    }
    for (name, service) in &observed.services {
        text += &service_text(name, service);
    }
    text
}

/// Services of so many replicas are shown replica by replica.
const FEW: usize = 6;
/// Kinds of trouble that are shown of one service.
const TROUBLES: usize = 10;

fn service_text(name: &str, service: &Service) -> String {
    let (ready, others) = counted(service.tasks.iter());
    let mut text = format!("{name:16} {ready}/{} ready{others}\n", service.replicas);
    if let Some(paused) = &service.paused {
        text += &format!("  stopped half-way: {}\n", printable(&paused.message));
    }
    if service.tasks.len() <= FEW {
        for task in &service.tasks {
            text += &format!("  {:14} {}\n", task.name, condition(task));
            for line in &task.lines {
                text += &format!("    | {}\n", printed(line));
            }
        }
        return text;
    }
    let ill = service.tasks.iter().filter(|task| task.state != State::Ready);
    let groups = together(ill.map(|task| (condition(task), task.name.as_str())));
    for (condition, names) in groups.iter().take(TROUBLES) {
        text += &format!("  {}: {condition}\n", listed(names));
        let lines = service.tasks.iter().find(|task| task.name == names[0]);
        for line in lines.iter().flat_map(|task| &task.lines) {
            text += &format!("    | {}\n", printed(line));
        }
    }
    if groups.len() > TROUBLES {
        text += &format!("  and {} more kinds of trouble\n", groups.len() - TROUBLES);
    }
    text
}

/// How a replica is, in a few words.
fn condition(task: &Replica) -> String {
    let restarts = match task.restarts {
        0 => String::new(),
        restarts => format!(", restarted {restarts} times"),
    };
    let reason = task.reason.as_ref();
    let reason = reason.map(|reason| format!(": {}", printable(reason)));
    format!("{}{restarts}{}", task.state.name(), reason.unwrap_or_default())
}

pub(super) fn history(context: &Context, arguments: &History) -> Result<(), Failure> {
    let history = within(context, &arguments.environment, How::default(), |deployment| {
        Ok(deployment.target().history()?)
    })?;
    if context.json {
        let records = history.iter().map(|record| {
            serde_json::json!({ "release": record.release, "outcome": record.outcome, "began": record.began })
        });
        terminal::print_json(&records.collect::<Vec<_>>());
        return Ok(());
    }
    let mut text = String::new();
    let current = history.iter().position(|record| record.outcome.succeeded());
    for (number, record) in history.iter().enumerate() {
        let sign = if current == Some(number) { '*' } else { ' ' };
        let dirty = match record.release.sources.iter().any(|source| source.dirty) {
            true => " (from a work tree with changes)",
            false => "",
        };
        let outcome = match &record.outcome {
            Outcome::Pending => "did not end".to_owned(),
            Outcome::Succeeded { .. } => "ran".to_owned(),
            Outcome::Failed {
                reason,
                rolled_back: true,
                ..
            } => format!("failed, and was undone: {}", printable(reason)),
            Outcome::Failed { reason, .. } => format!("failed: {}", printable(reason)),
        };
        let schema = record.release.migration.and_then(|migration| migration.after);
        let schema = schema
            .map(|schema| format!(", schema {schema}"))
            .unwrap_or_default();
        text += &format!(
            "{sign} {} {} by {}{dirty}{schema}: {outcome}\n",
            record.release.id,
            record.began.format("%Y-%m-%d %H:%M:%S"),
            printable(&record.release.by)
        );
    }
    if history.is_empty() {
        text += "no release yet\n";
    }
    terminal::print(text);
    Ok(())
}

pub(super) fn logs(context: &Context, arguments: &Logs) -> Result<(), Failure> {
    let query = LogQuery {
        of: arguments.service.clone(),
        tail: arguments.tail,
        follow: arguments.follow,
        plain: false,
    };
    within(context, &arguments.environment, How::default(), |deployment| {
        let mut each = |line: &str| terminal::print_log(format!("{line}\n").as_bytes());
        deployment.logs(&query, &mut each)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_replicas_are_shown_by_what_ails_them() {
        let task = |number: u32| {
            let ill = number.is_multiple_of(7);
            Replica {
                name: format!("api.{number}"),
                id: None,
                revision: "2".to_owned(),
                image: String::new(),
                state: if ill { State::Backoff } else { State::Ready },
                restarts: u32::from(ill) * 2,
                reason: ill.then(|| "exited with code 1".to_owned()),
                lines: Vec::new(),
            }
        };
        let service = |tasks: Vec<Replica>| Service {
            replicas: tasks.len() as u32,
            tasks,
            ..Service::default()
        };
        insta::assert_snapshot!(service_text("api", &service((1..=50).map(task).collect())), @"
        api              43/50 ready, 7 backoff
          api.7, api.14, api.21 and 4 more: backoff, restarted 2 times: exited with code 1
        ");
        insta::assert_snapshot!(service_text("api", &service((6..=8).map(task).collect())), @"
        api              2/3 ready, 1 backoff
          api.6          ready
          api.7          backoff, restarted 2 times: exited with code 1
          api.8          ready
        ");
    }
}
