//! Whether a service has come where a step sends it, and if not, why. Reasons are read off the replicas, not off a
//! clock; the clock only bounds how long nothing may happen. Pure.

use std::collections::BTreeMap;

use super::target::{Replica, Service, Spec, State};

/// A replica that was started again so often will not come up.
const CRASHES: u32 = 2;

/// Names of replicas that are said one by one, before the others are counted.
const NAMED: usize = 3;
/// Troubles that are said at once.
const TROUBLES: usize = 3;

/// How far a service is, for a person, in as many words for fifty replicas as for two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Such as `12 of 50 ready, 2 starting, 36 old`.
    pub state: String,
    /// Such as `api.3: exited with code 1`, the same of several replicas once.
    pub trouble: Option<String>,
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not there yet; how far, for a person.
    Waiting(String),
    /// There.
    Done,
    /// It will not come there.
    Failed(Reason),
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// What, such as `api.1 exited with code 1`.
    pub message: String,
    /// The end of what it printed.
    pub lines: Vec<String>,
    /// What it is about, if it is about one replica.
    #[serde(skip)]
    pub(super) replica: Option<Box<Replica>>,
}

impl Reason {
    /// A reason without a log.
    pub(super) fn new(message: impl Into<String>) -> Reason {
        Reason::with_lines(message, Vec::new())
    }

    pub(super) fn with_lines(message: impl Into<String>, lines: Vec<String>) -> Reason {
        Reason {
            message: message.into(),
            lines,
            replica: None,
        }
    }
}

/// How much of a service has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// One replica.
    Canary,
    /// All of them, and nothing of another spec is left.
    Whole,
}

/// How far a service is that was told to be `spec`.
pub(super) fn progress(service: &Service, spec: &Spec) -> Progress {
    let (new, old): (Vec<&Replica>, Vec<&Replica>) =
        service.tasks.iter().partition(|task| task.revision == spec.task);
    let (leaving, old): (Vec<&Replica>, Vec<&Replica>) =
        old.into_iter().partition(|task| task.state == State::Stopping);
    let (ready, others) = counted(new.iter().copied().chain(leaving));
    let old = (!old.is_empty()).then(|| format!(", {} old", old.len()));
    let state = format!(
        "{ready} of {} ready{others}{}",
        spec.replicas,
        old.unwrap_or_default()
    );
    let ill = new
        .iter()
        .filter_map(|task| Some((task.reason.as_ref()?.clone(), task.name.as_str())));
    let troubles = together(ill);
    let told = troubles
        .iter()
        .take(TROUBLES)
        .map(|(why, names)| format!("{}: {why}", listed(names)));
    let mut told: Vec<String> = told.collect();
    let more = troubles.len().saturating_sub(TROUBLES);
    told.extend((more > 0).then(|| format!("and {more} more")));
    Progress {
        state,
        trouble: (!told.is_empty()).then(|| told.join("; ")),
    }
}

/// How many replicas are ready, and the others as they follow that: `, 2 starting, 1 stopping`.
pub fn counted<'a>(replicas: impl Iterator<Item = &'a Replica>) -> (usize, String) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for replica in replicas {
        *counts.entry(replica.state.name()).or_default() += 1;
    }
    let ready = counts.remove(State::Ready.name()).unwrap_or_default();
    let others = counts.iter().map(|(state, count)| format!(", {count} {state}"));
    (ready, others.collect())
}

/// Names by what they have in common, in the order of the first of each.
pub fn together<'a, T: PartialEq>(items: impl Iterator<Item = (T, &'a str)>) -> Vec<(T, Vec<&'a str>)> {
    let mut groups: Vec<(T, Vec<&str>)> = Vec::new();
    for (key, name) in items {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, names)) => names.push(name),
            None => groups.push((key, vec![name])),
        }
    }
    groups
}

/// Names in one line: a few of them, and how many more.
pub fn listed(names: &[&str]) -> String {
    match names.len() {
        ..=NAMED => names.join(", "),
        all => format!("{} and {} more", names[..NAMED].join(", "), all - NAMED),
    }
}

/// Judges what is seen of a service that was told to be `spec`.
///
/// `patient` says of a replica that no node can take whether it may still be given time.
pub(super) fn judge(
    service: Option<&Service>,
    spec: &Spec,
    extent: Extent,
    patient: &dyn Fn(&Replica) -> bool,
) -> Verdict {
    let Some(service) = service else {
        return Verdict::Waiting("not there yet".to_owned());
    };
    if service.revision != spec.revision {
        return Verdict::Failed(Reason::new("somebody else changed it"));
    }
    let (new, old): (Vec<&Replica>, Vec<&Replica>) =
        service.tasks.iter().partition(|task| task.revision == spec.task);
    if let Some(reason) = new.iter().find_map(|task| hopeless(task, patient)) {
        return Verdict::Failed(reason);
    }
    if let Some(why) = &service.paused {
        return Verdict::Failed(why.clone());
    }
    let wanted = match extent {
        Extent::Canary => 1.min(spec.replicas),
        Extent::Whole => spec.replicas,
    };
    let count = |state| new.iter().filter(|task| task.state == state).count();
    let ready = count(State::Ready) as u32;
    let leaving = match extent {
        Extent::Canary => 0,
        Extent::Whole => {
            old.len() + count(State::Stopping) + service.tasks.len().saturating_sub(spec.replicas as usize)
        }
    };
    if ready >= wanted && leaving == 0 {
        return Verdict::Done;
    }
    let waiting = new.iter().find_map(|task| {
        task.reason
            .as_ref()
            .map(|reason| format!("; {}: {reason}", task.name))
    });
    Verdict::Waiting(format!(
        "{ready} of {wanted} ready{}{}",
        if leaving > 0 {
            format!(", {} to go", old.len().max(1))
        } else {
            String::new()
        },
        waiting.unwrap_or_default()
    ))
}

fn hopeless(task: &Replica, patient: &dyn Fn(&Replica) -> bool) -> Option<Reason> {
    let what = match task.state {
        State::Unplaced if !patient(task) => "has no node",
        State::Failed => "failed",
        State::Unhealthy => "is unhealthy",
        // While it starts once more, nobody knows yet what it says.
        State::Backoff if task.restarts >= CRASHES => "ends again and again",
        _ => return None,
    };
    let message = match &task.reason {
        Some(reason) => format!("{} {what}: {reason}", task.name),
        None => format!("{} {what}", task.name),
    };
    Some(Reason {
        message,
        lines: task.lines.clone(),
        replica: Some(Box::new(task.clone())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(revision: &str, state: State) -> Replica {
        Replica {
            name: "api.1".to_owned(),
            id: None,
            revision: revision.to_owned(),
            image: String::new(),
            state,
            restarts: 0,
            reason: None,
            lines: Vec::new(),
        }
    }

    fn check(tasks: Vec<Replica>, extent: Extent, expected: &str) {
        let service = Service {
            revision: "2".to_owned(),
            task: "2".to_owned(),
            replicas: 2,
            tasks,
            ..Service::default()
        };
        let spec = Spec {
            revision: "2".to_owned(),
            task: "2".to_owned(),
            replicas: 2,
            ..Spec::default()
        };
        let verdict = match judge(Some(&service), &spec, extent, &|_| false) {
            Verdict::Waiting(why) => format!("waiting: {why}"),
            Verdict::Done => "done".to_owned(),
            Verdict::Failed(reason) => format!("failed: {}", reason.message),
        };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn a_canary_is_one_ready_replica() {
        use State::{Ready, Starting};
        check(
            vec![task("2", Starting), task("1", Ready)],
            Extent::Canary,
            "waiting: 0 of 1 ready",
        );
        check(vec![task("2", Ready), task("1", Ready)], Extent::Canary, "done");
    }

    #[test]
    fn the_whole_is_there_when_nothing_old_is_left() {
        use State::{Ready, Stopping};
        let whole = Extent::Whole;
        check(
            vec![task("2", Ready), task("1", Ready)],
            whole,
            "waiting: 1 of 2 ready, 1 to go",
        );
        check(
            vec![task("2", Ready), task("2", Ready), task("1", Stopping)],
            whole,
            "waiting: 2 of 2 ready, 1 to go",
        );
        check(vec![task("2", Ready), task("2", Ready)], whole, "done");
    }

    #[test]
    fn fifty_replicas_are_told_of_in_one_line() {
        let spec = Spec {
            task: "2".to_owned(),
            replicas: 50,
            ..Spec::default()
        };
        let service = |tasks: Vec<(u32, &str, State, Option<&str>)>| Service {
            tasks: tasks
                .into_iter()
                .map(|(number, revision, state, reason)| Replica {
                    name: format!("api.{number}"),
                    reason: reason.map(str::to_owned),
                    ..task(revision, state)
                })
                .collect(),
            ..Service::default()
        };
        let shown = |tasks| {
            let progress = progress(&service(tasks), &spec);
            format!("{}\n{}", progress.state, progress.trouble.unwrap_or_default())
        };
        let half = (1..=50).map(|number| match number {
            ..20 => (number, "2", State::Ready, None),
            20..27 => (number, "2", State::Backoff, Some("exited with code 1")),
            27 => (number, "2", State::Unplaced, Some("no node has room")),
            28 => (number, "1", State::Stopping, None),
            _ => (number, "1", State::Ready, None),
        });
        insta::assert_snapshot!(shown(half.collect()), @"
        19 of 50 ready, 7 backoff, 1 stopping, 1 unplaced, 22 old
        api.20, api.21, api.22 and 4 more: exited with code 1; api.27: no node has room
        ");
        let each = (1..=5).map(|number| {
            let reasons = ["a", "b", "c", "d", "e"];
            (number, "2", State::Failed, Some(reasons[number as usize - 1]))
        });
        insta::assert_snapshot!(shown(each.collect()), @"
        0 of 50 ready, 5 failed
        api.1: a; api.2: b; api.3: c; and 2 more
        ");
        let all = (1..=50).map(|number| (number, "2", State::Ready, None));
        insta::assert_snapshot!(shown(all.collect()), @"50 of 50 ready");
    }

    #[test]
    fn failures_are_seen_at_once_and_those_of_the_old_do_not_count() {
        use State::{Backoff, Failed, Ready, Unhealthy};
        let whole = Extent::Whole;
        check(
            vec![task("2", Unhealthy), task("1", Ready)],
            whole,
            "failed: api.1 is unhealthy",
        );
        check(
            vec![task("2", Ready), task("1", Failed)],
            whole,
            "waiting: 1 of 2 ready, 1 to go",
        );
        let mut crash = task("2", Backoff);
        crash.reason = Some("exited with code 1".to_owned());
        check(
            vec![crash.clone()],
            whole,
            "waiting: 0 of 2 ready; api.1: exited with code 1",
        );
        crash.restarts = CRASHES;
        check(
            vec![crash],
            whole,
            "failed: api.1 ends again and again: exited with code 1",
        );
    }
}
