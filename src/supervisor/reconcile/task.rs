//! Programs that run once: never started again, and asked for by a name that counts once.

use std::sync::Arc;
use std::time::Duration;

use super::run::{Ended, Phase, Run};
use super::{Reconciler, Turn};
use crate::supervisor::spec::ServiceSpec;
use crate::supervisor::state::{self, End, Exit, Stamp, TaskState};

/// How many tasks that ended are remembered.
const MAX_ENDED: usize = 64;

/// A task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) fingerprint: String,
    pub(super) began: Stamp,
    pub(super) run: Option<Run>,
    /// When its time is over.
    deadline: Duration,
    /// Why it was asked to end.
    stopped: Option<String>,
    pub(super) result: Option<state::Task>,
}

impl Reconciler {
    pub(super) fn run_task(
        &mut self,
        name: String,
        spec: Arc<ServiceSpec>,
        timeout: Duration,
        turn: &mut Turn,
    ) {
        if self.tasks.contains_key(&name) || self.stopping {
            return;
        }
        let mut ended: Vec<_> = self.tasks.iter().filter(|(_, task)| task.run.is_none()).collect();
        if ended.len() >= MAX_ENDED {
            ended.sort_by_key(|(_, task)| task.began);
            let oldest = ended[0].0.clone();
            self.tasks.remove(&oldest);
        }
        let task = Task {
            fingerprint: spec.fingerprint().hex(),
            began: turn.now.stamp,
            deadline: turn.now.at + timeout,
            stopped: None,
            result: None,
            run: Some(turn.start(&name, 0, &spec)),
        };
        self.tasks.insert(name, task);
    }
}

impl Task {
    /// One that is known from before this supervisor: how it ended, or that nobody saw it.
    pub(super) fn known(task: state::Task, now: Stamp) -> Task {
        let result = match task.exit {
            Some(_) => task.clone(),
            None => state::Task {
                state: TaskState::Failed,
                exit: Some(Exit {
                    end: End::Unseen,
                    at: now,
                }),
                reason: Some(End::Unseen.to_string()),
                ..task.clone()
            },
        };
        Task {
            fingerprint: task.spec,
            began: task.began,
            run: None,
            deadline: Duration::ZERO,
            stopped: None,
            result: Some(result),
        }
    }

    pub(super) fn stop(&mut self, why: &str, turn: &mut Turn) {
        if let Some(run) = &mut self.run {
            if self.stopped.is_none() {
                self.stopped = Some(why.to_owned());
            }
            run.stop(turn);
        }
    }

    pub(super) fn advance(&mut self, turn: &mut Turn) {
        let Some(run) = &mut self.run else { return };
        run.advance(turn);
        if turn.stopping {
            self.stop("stopped together with everything else", turn);
        } else if self.stopped.is_none() && turn.reached(self.deadline) {
            self.stop("took longer than it may, and was stopped", turn);
        }
    }

    /// Takes an end in, if it is this task's.
    pub(super) fn ended(&mut self, ended: &Ended, turn: &Turn) -> bool {
        if self.run.take_if(|run| run.id == ended.run).is_none() {
            return false;
        }
        let done = ended.end.is_success() && self.stopped.is_none();
        let reason = match &self.stopped {
            Some(why) => why.clone(),
            None => ended.end.to_string(),
        };
        self.result = Some(state::Task {
            state: if done { TaskState::Done } else { TaskState::Failed },
            exit: Some(Exit {
                end: ended.end.clone(),
                at: turn.now.stamp,
            }),
            tail: ended.tail.clone(),
            reason: (!done).then_some(reason),
            ..self.view(&[])
        });
        true
    }

    /// How it is; `tail` is what it printed last, if it runs.
    pub(super) fn view(&self, tail: &[String]) -> state::Task {
        let ending = |run: &Run| !matches!(run.phase, Phase::Starting | Phase::Up(_));
        match &self.result {
            Some(result) => result.clone(),
            None => state::Task {
                spec: self.fingerprint.clone(),
                state: match self.run.as_ref().is_some_and(ending) {
                    true => TaskState::Stopping,
                    false => TaskState::Running,
                },
                began: self.began,
                exit: None,
                tail: tail.to_vec(),
                reason: self.stopped.clone(),
            },
        }
    }
}
