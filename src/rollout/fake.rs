//! A target in memory that follows its steps one look at a time, and misbehaves on demand.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::*;
use crate::cancel::Cancel;
use crate::release::{ReleaseId, Version};

type Error = TargetError;

/// How images behave, by their digest: `crash`, `sick` and `slow` are known; everything else is well.
#[derive(Default)]
pub(super) struct Fake {
    pub observed: RefCell<Observed>,
    pub holds: RefCell<BTreeMap<(Kind, Version), Vec<u8>>>,
    pub history: RefCell<Vec<Record>>,
    pub journal: RefCell<Option<Journal>>,
    pub canaries: RefCell<BTreeMap<String, bool>>,
    /// Exit codes of tasks by their first argument.
    pub exits: BTreeMap<String, i32>,
    pub problems: Vec<Problem>,
    /// Everything that was changed, in order.
    pub done: RefCell<Vec<String>>,
    /// So many changes succeed; then the process is as good as dead.
    pub lives: Cell<Option<usize>>,
    /// Where every service answers.
    pub endpoint: Option<Endpoint>,
    pub frozen: RefCell<Option<Freeze>>,
    /// Where replicas can run.
    pub places: Vec<Place>,
    /// Whether somebody else holds the lock.
    pub locked: Cell<bool>,
}

struct Held;
impl Lock for Held {}

impl Fake {
    fn change(&self, what: String) -> Result<(), Error> {
        if let Some(lives) = self.lives.get() {
            if lives == 0 {
                return Err(Error::Cancelled);
            }
            self.lives.set(Some(lives - 1));
        }
        self.done.borrow_mut().push(what);
        Ok(())
    }

    pub fn take_done(&self) -> Vec<String> {
        std::mem::take(&mut *self.done.borrow_mut())
    }

    fn follow(&self, name: &str, service: &mut Service) {
        let image = service.revision.clone();
        let replica = |slot: usize| Replica {
            name: format!("{name}.{slot}"),
            id: None,
            revision: image.clone(),
            image: image.clone(),
            state: State::Starting,
            restarts: 0,
            reason: None,
            lines: Vec::new(),
        };
        let canary = self.canaries.borrow().get(name).copied().unwrap_or(false);
        let behaves = |task: &mut Replica| match task.revision.split('/').next().unwrap_or("") {
            "crash" => {
                task.state = State::Failed;
                task.reason = Some("exited with code 1".to_owned());
                task.lines = vec!["no database".to_owned()];
            }
            "sick" => task.state = State::Unhealthy,
            "slow" => {}
            _ => task.state = State::Ready,
        };
        service
            .tasks
            .iter_mut()
            .filter(|task| task.state == State::Starting)
            .for_each(behaves);
        service.tasks.truncate(service.replicas as usize);
        let mut of_new = service.tasks.iter().filter(|task| task.revision == image);
        let settled = of_new.all(|task| task.state == State::Ready);
        let new = service.tasks.iter().filter(|task| task.revision == image).count();
        if service.tasks.len() < service.replicas as usize {
            service.tasks.push(replica(service.tasks.len() + 1));
        } else if settled && !(canary && new >= 1) {
            let old = service.tasks.iter().position(|task| task.revision != image);
            if let Some(old) = old {
                service.tasks[old] = replica(old + 1);
            }
        }
    }
}

impl Target for Fake {
    fn observe(&self) -> Result<Observed, Error> {
        let mut observed = self.observed.borrow_mut();
        for (name, service) in &mut observed.services {
            self.follow(name, service);
        }
        let names = |wanted: Kind| {
            let holds = self.holds.borrow();
            holds
                .keys()
                .filter(|(kind, _)| *kind == wanted)
                .map(|(_, version)| version.to_string())
                .collect()
        };
        observed.secrets = names(Kind::Secret);
        observed.configs = names(Kind::Config);
        Ok(observed.clone())
    }

    fn preflight(&self, _: &Record, _: &Observed) -> Result<Vec<Problem>, Error> {
        Ok(self.problems.clone())
    }

    fn specs(&self, record: &Record, _: &Observed) -> Result<BTreeMap<String, Spec>, Error> {
        let spec = |(name, image): (&String, &crate::release::ReleasedImage)| {
            let spec = Spec {
                revision: image.digest.clone(),
                task: image.digest.clone(),
                replicas: if name == "api" { 2 } else { 1 },
                needs: if name == "api" {
                    ["db".to_owned()].into()
                } else {
                    Default::default()
                },
                shown: serde_json::json!({ "image": image.digest }),
                ..Spec::default()
            };
            (name.clone(), spec)
        };
        Ok(record.release.images.iter().map(spec).collect())
    }

    fn holds(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<Option<bool>, Error> {
        Ok(self
            .holds
            .borrow()
            .get(&(kind, version.clone()))
            .map(|held| held == content))
    }

    fn apply(&self, step: &Step, record: &Record) -> Result<(), Error> {
        self.change(step.to_string())?;
        let (Step::Canary { service } | Step::Roll { service } | Step::Remove { service }) = step else {
            panic!("{step} is no step of a target");
        };
        let mut observed = self.observed.borrow_mut();
        let Some(spec) = self.specs(record, &observed)?.remove(service) else {
            observed.services.remove(service);
            return Ok(());
        };
        self.canaries
            .borrow_mut()
            .insert(service.clone(), matches!(step, Step::Canary { .. }));
        let entry = observed.services.entry(service.clone()).or_default();
        (entry.revision, entry.task, entry.replicas, entry.shown) =
            (spec.revision, spec.task, spec.replicas, spec.shown);
        Ok(())
    }

    fn put(&self, kind: Kind, version: &Version, content: &[u8]) -> Result<(), Error> {
        self.change(format!("put {version}"))?;
        self.holds
            .borrow_mut()
            .insert((kind, version.clone()), content.to_vec());
        Ok(())
    }

    fn delete(&self, kind: Kind, version: &Version) -> Result<(), Error> {
        self.change(format!("delete {version}"))?;
        self.holds.borrow_mut().remove(&(kind, version.clone()));
        Ok(())
    }

    fn start_task(&self, task: &Task, _: &Record) -> Result<(), Error> {
        let place = task.place.as_ref().map(|place| format!(" on {place}"));
        let place = place.unwrap_or_default();
        self.change(format!("task {}{place}", task.command.join(" ")))?;
        let exit_code = self.exits.get(&task.command[0]).copied().unwrap_or(0);
        let exit_code = (exit_code >= 0).then_some(exit_code);
        let state = TaskState {
            exit_code,
            reason: None,
        };
        self.observed.borrow_mut().tasks.insert(task.name.clone(), state);
        Ok(())
    }

    fn places(&self, _: &str, _: &Record) -> Result<Vec<Place>, Error> {
        Ok(self.places.clone())
    }

    fn end_task(&self, _: &str) -> Result<(), Error> {
        self.change("end task".to_owned())
    }

    fn stop_task(&self, name: &str) -> Result<(), Error> {
        self.change("stop task".to_owned())?;
        let state = TaskState {
            exit_code: Some(137),
            reason: None,
        };
        self.observed.borrow_mut().tasks.insert(name.to_owned(), state);
        Ok(())
    }

    fn logs(&self, _: &LogQuery, _: &Cancel, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        each("goose: version 3");
        Ok(())
    }

    fn endpoint(&self, _: &str, _: &Record) -> Result<Option<Endpoint>, Error> {
        Ok(self.endpoint.clone())
    }

    fn lock(&self, _: &str, _: bool) -> Result<Box<dyn Lock>, Error> {
        match self.locked.get() {
            true => Err(Error::Locked {
                owner: "somebody".to_owned(),
            }),
            false => Ok(Box::new(Held)),
        }
    }

    fn journal(&self) -> Result<Option<Journal>, Error> {
        Ok(self.journal.borrow().clone())
    }

    fn write_journal(&self, journal: Option<&Journal>) -> Result<(), Error> {
        if self.lives.get() != Some(0) {
            *self.journal.borrow_mut() = journal.cloned();
        }
        Ok(())
    }

    fn history(&self) -> Result<Vec<Record>, Error> {
        let mut history = self.history.borrow().clone();
        history.sort_by_key(|record| std::cmp::Reverse(record.began));
        Ok(history)
    }

    fn record(&self, record: &Record) -> Result<(), Error> {
        if self.lives.get() == Some(0) {
            return Err(Error::Cancelled);
        }
        self.forget(&record.release.id)?;
        self.history.borrow_mut().push(record.clone());
        Ok(())
    }

    fn forget(&self, id: &ReleaseId) -> Result<(), Error> {
        self.history
            .borrow_mut()
            .retain(|record| record.release.id != *id);
        Ok(())
    }

    fn frozen(&self) -> Result<Option<Freeze>, Error> {
        Ok(self.frozen.borrow().clone())
    }

    fn freeze(&self, freeze: Option<&Freeze>) -> Result<(), Error> {
        *self.frozen.borrow_mut() = freeze.cloned();
        Ok(())
    }

    fn revoke(&self, version: &Version) -> Result<(), Error> {
        self.observed.borrow_mut().revoked.insert(version.to_string());
        Ok(())
    }
}
