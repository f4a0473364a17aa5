//! The gate: a command in the image of the new release that must succeed before anything rolls. Runs once for each
//! attempt, and is adopted, not repeated, by who resumes.

use std::time::{Duration, Instant};

use super::error::Stop;
use super::history::{Migrate, Record};
use super::mask::Mask;
use super::run::Setting;
use super::target::{self, LogQuery, Observed, Task, TaskState};
use super::watch::Reason;
use crate::event::Event;
use crate::release::Migration;

/// How long reading the schema's version may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the end of its log that a report shows.
const LINES: usize = 20;

/// Whether `record` migrates: it says how, and its image or command is another one than that of `previous`, or the
/// service does not run: then nobody knows what became of the schema.
pub(super) fn needed(record: &Record, previous: Option<&Record>, observed: &Observed) -> bool {
    let Some(Migrate { service, .. }) = &record.migrate else {
        return false;
    };
    let runs = observed.services.contains_key(service);
    !runs
        || previous.is_none_or(|previous| {
            previous.migrate != record.migrate || previous.image_of(service) != record.image_of(service)
        })
}

/// Where the schema stands after a rollout that does not migrate: where the one before left it.
pub(super) fn unchanged(previous: Option<&Record>) -> Option<Migration> {
    let after = previous?.release.migration?.after;
    Some(Migration { before: after, after })
}

/// `migrate-<release>-<attempt>`: the attempt that still runs, or the first that was not made.
pub(super) fn name(record: &Record, observed: &Observed) -> String {
    let name = |attempt: usize| format!("migrate-{}-{attempt}", record.release.id);
    let over = |name: &String| {
        observed
            .tasks
            .get(name)
            .is_some_and(|task| task.exit_code.is_some())
    };
    (1..)
        .map(name)
        .find(|name| !over(name))
        .expect("attempts can be counted on")
}

/// Runs it, with the schema's version read before and after.
pub(super) fn run(setting: &Setting<'_>, record: &Record, task: &str) -> Result<Migration, Stop> {
    let migrate = record
        .migrate
        .as_ref()
        .expect("only a record that migrates has the step");
    let version = |when: &str| -> Result<Option<u64>, Stop> {
        let Some(command) = &migrate.version else {
            return Ok(None);
        };
        let one = Once {
            name: format!("{task}-{when}"),
            service: &migrate.service,
            command,
            timeout: VERSION_TIMEOUT,
            loud: None,
        };
        let lines = once(setting, record, &one)?;
        Ok(lines.iter().rev().find_map(|line| last_number(line)))
    };
    let before = version("before")?;
    let one = Once {
        name: task.to_owned(),
        service: &migrate.service,
        command: &migrate.command,
        timeout: migrate.timeout,
        loud: Some("migrate"),
    };
    once(setting, record, &one)?;
    let after = version("after")?;
    Ok(Migration { before, after })
}

/// A command that runs once.
pub(super) struct Once<'a> {
    pub name: String,
    pub service: &'a str,
    pub command: &'a [String],
    pub timeout: Duration,
    /// What its lines are shown under, if they are.
    pub loud: Option<&'a str>,
}

/// Runs one task to its end; its lines are those that it printed last.
pub(super) fn once(setting: &Setting<'_>, record: &Record, one: &Once<'_>) -> Result<Vec<String>, Stop> {
    let (name, command, timeout) = (one.name.as_str(), one.command, one.timeout);
    let mask = Mask::new(&record.secret_env, &record.stack);
    let task = Task {
        name: name.to_owned(),
        service: one.service.to_owned(),
        command: command.to_vec(),
        timeout,
        place: None,
    };
    setting.target.start_task(&task, record)?;
    let deadline = Instant::now() + timeout;
    let mut shown = 0;
    loop {
        let state = setting.target.observe()?.tasks.remove(name);
        let lines = lines(setting, name, None)?;
        if let Some(of) = one.loud {
            for line in lines.iter().skip(shown) {
                let of = of.to_owned();
                let line = mask.apply(line).into_owned();
                setting.events.emit(Event::Line { of, line });
            }
        }
        // A log that was not read to its end shows nothing twice.
        shown = shown.max(lines.len());
        let end = |message: String| {
            let from = lines.len().saturating_sub(LINES);
            let lines = lines[from..]
                .iter()
                .map(|line| mask.apply(line).into_owned())
                .collect();
            Stop::Failed(Reason::with_lines(message, lines))
        };
        if let Some(state) = state.filter(|state| state.exit_code.is_some()) {
            return match failure(&state) {
                None => Ok(lines),
                Some(why) => Err(end(format!("`{}` failed: {why}", command.join(" ")))),
            };
        }
        if Instant::now() >= deadline {
            setting.target.stop_task(name)?;
            return Err(end(format!(
                "`{}` ran for longer than {} s, and was stopped",
                command.join(" "),
                timeout.as_secs()
            )));
        }
        if setting.cancel.is_raised() {
            setting.target.stop_task(name)?;
            return Err(target::Error::Cancelled.into());
        }
        std::thread::sleep(setting.target.pace());
    }
}

/// Why a task that has ended did not succeed.
pub(super) fn failure(state: &TaskState) -> Option<String> {
    let code = state.exit_code.filter(|code| *code != 0)?;
    Some(
        state
            .reason
            .clone()
            .unwrap_or_else(|| format!("exit code {code}")),
    )
}

/// What a task printed, or the last `tail` lines of it.
pub(super) fn lines(
    setting: &Setting<'_>,
    name: &str,
    tail: Option<usize>,
) -> Result<Vec<String>, target::Error> {
    let query = LogQuery {
        of: Some(name.to_owned()),
        tail,
        plain: true,
        ..LogQuery::default()
    };
    let mut lines = Vec::new();
    setting
        .target
        .logs(&query, setting.cancel, &mut |line| lines.push(line.to_owned()))?;
    Ok(lines)
}

/// The last run of digits in a line.
pub(super) fn last_number(line: &str) -> Option<u64> {
    let end = line.rfind(|letter: char| letter.is_ascii_digit())? + 1;
    let start = line[..end]
        .rfind(|letter: char| !letter.is_ascii_digit())
        .map_or(0, |at| at + 1);
    line[start..end].parse().ok()
}

/// For a person.
pub(super) fn shown(migration: Migration) -> String {
    match (migration.before, migration.after) {
        (Some(before), Some(after)) if before == after => format!("schema {after}, as before"),
        (Some(before), Some(after)) => format!("schema {before} → {after}"),
        (None, Some(after)) => format!("schema {after}"),
        _ => "schema version unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_last_number() {
        assert_eq!(
            last_number("2026/11/24 10:00:00 goose: version 20240102"),
            Some(20_240_102)
        );
        assert_eq!(last_number("version=3."), Some(3));
        assert_eq!(last_number("no version"), None);
    }
}
