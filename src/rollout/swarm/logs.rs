//! What services and tasks print. A log ends where its task does, and is read again where the way to a manager broke.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bollard::models::Service;

use super::{ATTEMPTS, Swarm, error, wanted};
use crate::cancel::Cancel;
use crate::docker::{self, Engine, LogLine, LogOptions};
use crate::rollout::target::{Error, LogQuery};

/// How long a log that is not followed may take: a node that does not answer is not waited for.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

impl Swarm {
    pub(super) fn read_logs(
        &self,
        query: &LogQuery,
        cancel: &Cancel,
        each: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let inventory = self.look()?;
        let mut sources: Vec<(String, String, bool)> = Vec::new();
        for service in &inventory.services {
            let Some((id, spec)) = service.id.clone().zip(service.spec.as_ref()) else {
                continue;
            };
            let task = wanted::task_name(spec);
            let name = task
                .clone()
                .or_else(|| wanted::service_name(&self.about.name, spec));
            let Some(name) = name else { continue };
            match &query.of {
                Some(of) if *of == name => sources.push((name, id, false)),
                Some(of) => sources.extend(self.replica_log(service, &name, of, &inventory)),
                None if task.is_none() => sources.push((name, id, false)),
                None => {}
            }
        }
        let options = LogOptions {
            tail: query.tail.map(|lines| lines as u64),
            follow: query.follow,
            since: None,
            timestamps: true,
        };
        let engine = self.engine()?;
        let names = slots(&inventory);
        let show = |name: &str, line: &LogLine| match query.plain {
            true => line.line.clone(),
            false => {
                let of = line.task.as_ref().and_then(|task| names.get(task));
                let of = of.map_or(name.to_owned(), |slot| format!("{name}.{slot}"));
                format!("{} {of} {}", line.time.as_deref().unwrap_or_default(), line.line)
            }
        };
        let (lines, read) = channel();
        std::thread::scope(|scope| {
            for (name, id, is_task) in &sources {
                let (lines, options, show) = (lines.clone(), &options, &show);
                scope.spawn(move || {
                    let mut send = |line: LogLine| drop(lines.send(Ok((show(name, &line), line.time))));
                    let done = read_one(engine, id, *is_task, options, cancel, &mut send);
                    if let Err(problem) = done {
                        let _ = lines.send(Err(problem));
                    }
                });
            }
            drop(lines);
            let mut all = Vec::new();
            for line in read {
                match (line, query.follow) {
                    (Ok((line, _)), true) => each(&line),
                    (Ok(line), false) => all.push(line),
                    (Err(problem), _) => return Err(problem),
                }
            }
            all.sort_by(|(_, one), (_, other)| one.cmp(other));
            all.iter().for_each(|(line, _)| each(line));
            Ok(())
        })
    }

    /// The log of the newest task in a slot, if `of` names one of the service's.
    fn replica_log(
        &self,
        service: &Service,
        name: &str,
        of: &str,
        inventory: &docker::Inventory,
    ) -> Option<(String, String, bool)> {
        let slot: i64 = of.strip_prefix(name)?.strip_prefix('.')?.parse().ok()?;
        let tasks = inventory
            .tasks
            .iter()
            .filter(|task| task.service_id == service.id && task.slot == Some(slot));
        let newest = tasks.max_by_key(|task| task.created_at.clone())?;
        Some((name.to_owned(), newest.id.clone()?, true))
    }
}

/// Slots by the ids of their tasks.
fn slots(inventory: &docker::Inventory) -> std::collections::BTreeMap<String, i64> {
    let tasks = inventory.tasks.iter();
    tasks
        .filter_map(|task| Some((task.id.clone()?, task.slot?)))
        .collect()
}

fn read_one(
    engine: &Engine,
    id: &str,
    is_task: bool,
    options: &LogOptions,
    cancel: &Cancel,
    each: &mut dyn FnMut(LogLine),
) -> Result<(), Error> {
    let read = |cancel: &Cancel, each: &mut dyn FnMut(LogLine)| match is_task {
        true => engine.task_logs(id, options, cancel, each),
        false => engine.service_logs(id, options, cancel, each),
    };
    let done = match options.follow {
        true => read(cancel, each),
        false => whole(
            |each| within(LOG_TIMEOUT, cancel, &mut |cancel| read(cancel, each)),
            || engine.swarm_id().map(drop),
            each,
        ),
    };
    match done {
        Err(docker::Error::Cancelled | docker::Error::NotFound(_)) => Ok(()),
        other => other.map_err(error),
    }
}

/// A log that is not followed: read once more from its beginning where the connection broke, after `reach` found a manager
/// that answers. The run that it is of goes on meanwhile.
fn whole(
    mut read: impl FnMut(&mut dyn FnMut(LogLine)) -> Result<(), docker::Error>,
    reach: impl Fn() -> Result<(), docker::Error>,
    each: &mut dyn FnMut(LogLine),
) -> Result<(), docker::Error> {
    let mut attempt = 1;
    loop {
        let mut lines = Vec::new();
        match read(&mut |line| lines.push(line)) {
            Err(docker::Error::Unreachable { .. }) if attempt < ATTEMPTS => {
                attempt += 1;
                reach()?;
            }
            done => {
                lines.into_iter().for_each(each);
                return done;
            }
        }
    }
}

/// The end of one task's log, in the order in which it was written: an engine sends what goes to one stream before
/// what goes to the other.
pub(super) fn read_log(
    engine: &Engine,
    id: &str,
    tail: Option<u64>,
    cancel: &Cancel,
) -> Result<Vec<String>, Error> {
    let options = LogOptions {
        tail,
        timestamps: true,
        ..LogOptions::default()
    };
    let mut lines = Vec::new();
    read_one(engine, id, true, &options, cancel, &mut |line| lines.push(line))?;
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    Ok(lines.into_iter().map(|line| line.line).collect())
}

/// Runs `ask` with a flag that is raised after `limit`, or with `cancel`.
fn within<T>(limit: Duration, cancel: &Cancel, ask: &mut dyn FnMut(&Cancel) -> T) -> T {
    let bounded = Cancel::default();
    let (done, is_done) = channel::<()>();
    std::thread::scope(|scope| {
        let raised = bounded.clone();
        scope.spawn(move || {
            let began = Instant::now();
            while began.elapsed() < limit && !cancel.is_raised() {
                match is_done.recv_timeout(Duration::from_millis(50)) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
            raised.raise();
        });
        let value = ask(&bounded);
        drop(done);
        value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            stream: docker::Stream::Out,
            task: None,
            node: None,
            time: None,
            line: text.to_owned(),
        }
    }

    /// What is read of a log that breaks so many times after its first line, and how that ends.
    fn read(breaks: usize) -> (Vec<String>, bool) {
        let mut broken = 0;
        let mut lines = Vec::new();
        let done = whole(
            |each| {
                each(line("one"));
                broken += 1;
                if broken <= breaks {
                    return Err(docker::Error::Unreachable { reasons: Vec::new() });
                }
                each(line("two"));
                Ok(())
            },
            || Ok(()),
            &mut |line| lines.push(line.line),
        );
        (lines, done.is_ok())
    }

    #[test]
    fn a_log_that_broke_is_read_from_its_beginning() {
        for breaks in [0, 1, ATTEMPTS - 1] {
            assert_eq!(read(breaks), (vec!["one".to_owned(), "two".to_owned()], true));
        }
        assert_eq!(read(ATTEMPTS), (vec!["one".to_owned()], false));
    }

    #[test]
    fn where_no_manager_answers_any_more_that_is_the_end() {
        let lost = || Err(docker::Error::Unreachable { reasons: Vec::new() });
        let mut times = 0;
        let done = whole(
            |_| {
                times += 1;
                lost()
            },
            lost,
            &mut |_| {},
        );
        assert!(matches!(done, Err(docker::Error::Unreachable { .. })));
        assert_eq!(times, 1);
    }
}
