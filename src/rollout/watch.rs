//! Whether a service has come where a step sends it, and if not, why. Reasons are read off the replicas, not off a
//! clock; the clock only bounds how long nothing may happen. Pure.

use super::target::{Replica, Service, Spec, State};

/// A replica that was started again so often will not come up.
const CRASHES: u32 = 2;

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
