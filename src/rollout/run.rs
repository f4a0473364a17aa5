//! The model: takes the steps of a proposal, watches each, and goes back when one fails.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::history::{Journal, Outcome, Record};
use super::migrate;
use super::probe::{self, Probed, Subject};
use super::proposal::Proposal;
use super::target::{self, Fault, Kind, Observed, Problem, Step, Target, now};
use super::watch::{self, Extent, Reason, Verdict};
use crate::cancel::Cancel;
use crate::event::{Event, Events, StepState};
use crate::release::{ReleaseId, Version};

/// How often a target is looked at while something is waited for.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// Content of secrets and configs by version. Its `Debug` shows none of it.
#[derive(Clone, Default)]
pub struct Contents(pub BTreeMap<(Kind, Version), Vec<u8>>);

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a rollout goes about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a stage may take before it counts as failed.
    pub timeout: Duration,
    /// Releases that are kept for a rollback, at least 1; the one that runs is one of them.
    pub keep: usize,
    /// Whether probes are left out.
    pub skip_probes: bool,
    /// Who does this: `user@host (process 7)`.
    pub owner: String,
}

/// What every rollout needs.
pub struct Setting<'a> {
    /// Where to.
    pub target: &'a dyn Target,
    /// How.
    pub options: &'a Options,
    /// Who wants to know.
    pub events: &'a Events,
    /// Raised to stop.
    pub cancel: &'a Cancel,
}

/// What came of a rollout that did not fail.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// What runs.
    pub release: ReleaseId,
    /// What ran before.
    pub previous: Option<ReleaseId>,
    /// Whether there was something to do.
    pub changed: bool,
    /// What the probes saw.
    pub probes: Vec<Probed>,
    /// Where services can be reached.
    pub addresses: BTreeMap<String, String>,
}

/// Why a release does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot run there; nothing was touched.
    #[error("release {release} cannot run here: {}", first(problems))]
    Problems {
        /// The release.
        release: ReleaseId,
        /// Everything that was found, at least one.
        problems: Vec<Problem>,
    },
    /// It failed, and the release before it runs again.
    #[error("release {release} failed at {step}: {}; {to} runs again", reason.message)]
    RolledBack {
        /// The release that failed.
        release: ReleaseId,
        /// What was done last.
        step: String,
        /// Why.
        reason: Box<Reason>,
        /// The release that runs.
        to: ReleaseId,
        /// Where the schema stands now, if the failed release migrated it.
        schema: Option<u64>,
    },
    /// It failed, and stands where it stopped.
    #[error("release {release} failed at {step}: {}; {stands}", reason.message)]
    Stands {
        /// The release that failed.
        release: ReleaseId,
        /// What was done last.
        step: String,
        /// Why.
        reason: Box<Reason>,
        /// What stands now, for a person.
        stands: String,
    },
    /// It was interrupted, and stands where it stopped.
    #[error("interrupted at {step}; roll out again to finish, or roll back to undo")]
    Interrupted {
        /// What was done last.
        step: String,
    },
    /// The target refused before anything was touched.
    #[error(transparent)]
    Target(#[from] target::Error),
}

fn first(problems: &[Problem]) -> &str {
    problems.first().map_or("", |problem| &problem.message)
}

/// How a step ends that does not succeed.
pub(super) enum Stop {
    Failed(Reason),
    Target(target::Error),
}

impl From<target::Error> for Stop {
    fn from(error: target::Error) -> Stop {
        Stop::Target(error)
    }
}

impl Stop {
    pub(super) fn failed(message: impl Into<String>) -> Stop {
        Stop::Failed(Reason {
            message: message.into(),
            lines: Vec::new(),
        })
    }
}

/// A release on its way to a target.
pub struct Rollout<'a> {
    setting: &'a Setting<'a>,
    record: Record,
    contents: &'a Contents,
    journal: Journal,
    /// Whether a service was touched.
    touched: bool,
    probes: Vec<Probed>,
}

impl<'a> Rollout<'a> {
    /// What rolling out `record` would change.
    pub fn propose(setting: &Setting<'_>, record: &Record) -> Result<Proposal, Error> {
        let observed = setting.target.observe()?;
        let history = setting.target.history()?;
        let previous = succeeded(&history);
        let attempt = migrate::needed(record, previous, &observed).then(|| migrate::name(record, &observed));
        Ok(Proposal::new(
            setting.target,
            record,
            &observed,
            previous,
            attempt.as_deref(),
        )?)
    }

    /// Makes the target be `record`. `contents` has the versions that the target may lack.
    pub fn run(setting: &'a Setting<'a>, record: Record, contents: &'a Contents) -> Result<Report, Error> {
        Rollout::start(setting, record, contents, false)
    }

    /// Makes the target be `record` again, a release of its history. Nothing migrates.
    pub fn back(setting: &'a Setting<'a>, record: Record) -> Result<Report, Error> {
        static NONE: Contents = Contents(BTreeMap::new());
        Rollout::start(setting, record, &NONE, true)
    }

    fn start(
        setting: &'a Setting<'a>,
        mut record: Record,
        contents: &'a Contents,
        rollback: bool,
    ) -> Result<Report, Error> {
        let target = setting.target;
        let _lock = target.lock(&setting.options.owner)?;
        let observed = target.observe()?;
        let history = target.history()?;
        let previous = succeeded(&history).cloned();
        let migrates = !rollback && migrate::needed(&record, previous.as_ref(), &observed);
        let attempt = migrates.then(|| migrate::name(&record, &observed));
        let proposal = Proposal::new(target, &record, &observed, previous.as_ref(), attempt.as_deref())?;
        let settled = target.journal()?.is_none()
            && previous.as_ref().is_some_and(|previous| {
                history.first().map(|newest| &newest.release.id) == Some(&previous.release.id)
                    && (rollback || previous.release.runs_like(&record.release))
                    && previous.probes == record.probes
            });
        if proposal.is_empty() && settled {
            let release = previous.map_or(record.release.id.clone(), |previous| previous.release.id);
            return Ok(Report {
                previous: Some(release.clone()),
                release,
                changed: false,
                probes: Vec::new(),
                addresses: addresses(target, &record)?,
            });
        }
        let problems = target.preflight(&record, &observed)?;
        if !problems.is_empty() {
            let release = record.release.id;
            return Err(Error::Problems { release, problems });
        }
        record.outcome = Outcome::Pending;
        record.began = now();
        if attempt.is_none() {
            record.release.migration = migrate::unchanged(previous.as_ref());
        }
        let journal = Journal {
            release: record.release.id.clone(),
            previous: previous.as_ref().map(|record| record.release.id.clone()),
            owner: setting.options.owner.clone(),
            began: now(),
            done: Vec::new(),
            current: None,
            rollback,
        };
        let mut rollout = Rollout {
            setting,
            record,
            contents,
            journal,
            touched: false,
            probes: Vec::new(),
        };
        target.record(&rollout.record)?;
        target.write_journal(Some(&rollout.journal))?;
        match rollout.go(&proposal) {
            Ok(()) => rollout.succeed(previous.as_ref()),
            Err(stop) => Err(rollout.fail(stop, previous)),
        }
    }

    fn go(&mut self, proposal: &Proposal) -> Result<(), Stop> {
        for stage in &proposal.stages {
            for step in stage {
                self.begin(step)?;
                self.take(step)?;
            }
            self.watch(stage, proposal)?;
            for step in stage {
                self.done(step)?;
            }
        }
        self.probe()
    }

    fn begin(&mut self, step: &Step) -> Result<(), Stop> {
        self.touched |= matches!(
            step,
            Step::Canary { .. } | Step::Roll { .. } | Step::Remove { .. }
        );
        self.journal.current = Some(step.clone());
        self.setting.target.write_journal(Some(&self.journal))?;
        self.say(step, StepState::Began, None);
        Ok(())
    }

    fn done(&mut self, step: &Step) -> Result<(), Stop> {
        self.journal.done.push(step.clone());
        self.journal.current = None;
        self.setting.target.write_journal(Some(&self.journal))?;
        let note = match step {
            Step::Migrate { .. } => self.record.release.migration.map(migrate::shown),
            _ => None,
        };
        self.say(step, StepState::Done, note);
        Ok(())
    }

    fn say(&self, step: &Step, state: StepState, note: Option<String>) {
        let step = step.to_string();
        self.setting.events.emit(Event::Step { step, state, note });
    }

    fn take(&mut self, step: &Step) -> Result<(), Stop> {
        let target = self.setting.target;
        match step {
            Step::Put { kind, version } => match self.contents.0.get(&(*kind, version.clone())) {
                Some(content) => Ok(target.put(*kind, version, content)?),
                None => Err(Stop::failed(format!(
                    "the target no longer has `{version}`, and its content is kept nowhere else"
                ))),
            },
            Step::Migrate { task } => {
                let migration = migrate::run(self.setting, &self.record, task)?;
                self.record.release.migration = Some(migration);
                Ok(target.record(&self.record)?)
            }
            Step::Canary { .. } | Step::Roll { .. } | Step::Remove { .. } => {
                Ok(target.apply(step, &self.record)?)
            }
        }
    }

    /// Until every service of `stage` has come where it was sent.
    fn watch(&mut self, stage: &[Step], proposal: &Proposal) -> Result<(), Stop> {
        let deadline = Instant::now() + self.setting.options.timeout;
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let observed = self.setting.target.observe()?;
            let mut waiting = Vec::new();
            for step in stage {
                match verdict(step, proposal, &observed) {
                    Verdict::Done => {}
                    Verdict::Waiting(why) => waiting.push(format!("{step}: {why}")),
                    Verdict::Failed(reason) => {
                        self.journal.current = Some(step.clone());
                        return Err(Stop::Failed(reason));
                    }
                }
                self.show(step, &observed, &mut said);
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let limit = self.setting.options.timeout.as_secs();
                return Err(Stop::failed(format!(
                    "not there after {limit} s: {}",
                    waiting.join("; ")
                )));
            }
            if self.setting.cancel.is_raised() {
                return Err(target::Error::Cancelled.into());
            }
            std::thread::sleep(PACE);
        }
    }

    /// Says what changed since the last look.
    fn show(&self, step: &Step, observed: &Observed, said: &mut BTreeMap<String, String>) {
        let (Step::Canary { service } | Step::Roll { service }) = step else {
            return;
        };
        for task in observed
            .services
            .get(service)
            .into_iter()
            .flat_map(|service| &service.tasks)
        {
            let state = format!("{:?}", task.state).to_lowercase();
            let state = match &task.reason {
                Some(reason) => format!("{state}: {reason}"),
                None => state,
            };
            let key = format!("{} {}", task.name, task.revision);
            if said.insert(key, state.clone()).as_ref() != Some(&state) {
                let what = task.name.clone();
                self.setting.events.emit(Event::Watched { what, state });
            }
        }
    }

    fn probe(&mut self) -> Result<(), Stop> {
        if self.setting.options.skip_probes {
            return Ok(());
        }
        let mut subjects = Vec::new();
        for (service, probes) in &self.record.probes {
            let Some(endpoint) = self.setting.target.endpoint(service, &self.record)? else {
                return Err(Stop::failed(format!(
                    "`{service}` cannot be probed: it publishes no port"
                )));
            };
            subjects.push(Subject {
                service,
                endpoint,
                probes,
            });
        }
        let probed = probe::probe(&subjects, self.setting.cancel)
            .map_err(|error| target::Error::Environment(format!("cannot probe: {error}")))?;
        self.probes = probed.ok_or(target::Error::Cancelled)?;
        for probed in &self.probes {
            let state = if probed.passed() {
                StepState::Done
            } else {
                StepState::Failed
            };
            let note = format!("{} of {} good", probed.good, probed.made);
            let step = format!("probe {} {}", probed.service, probed.path);
            self.setting.events.emit(Event::Step {
                step,
                state,
                note: Some(note),
            });
        }
        match self.probes.iter().find(|probed| !probed.passed()) {
            None => Ok(()),
            Some(bad) => Err(Stop::failed(format!(
                "probe of {} {}: {} of {} requests were answered well, and {} are needed; the last bad one: {}",
                bad.service,
                bad.path,
                bad.good,
                bad.made,
                bad.need,
                bad.problem.as_deref().unwrap_or("none")
            ))),
        }
    }

    fn succeed(mut self, previous: Option<&Record>) -> Result<Report, Error> {
        let target = self.setting.target;
        self.record.outcome = Outcome::Succeeded { at: now() };
        target.record(&self.record)?;
        target.write_journal(None)?;
        super::prune::prune(target, self.setting.options.keep)?;
        Ok(Report {
            addresses: addresses(target, &self.record)?,
            release: self.record.release.id,
            previous: previous.map(|record| record.release.id.clone()),
            changed: true,
            probes: self.probes,
        })
    }

    /// Goes back to `previous` if a service was touched, and says what stands.
    fn fail(mut self, stop: Stop, previous: Option<Record>) -> Error {
        let step = self
            .journal
            .current
            .as_ref()
            .map_or_else(|| "probes".to_owned(), Step::to_string);
        let reason = match stop {
            Stop::Target(target::Error::Cancelled) => return Error::Interrupted { step },
            Stop::Target(error) => Reason {
                message: error.to_string(),
                lines: Vec::new(),
            },
            Stop::Failed(reason) => reason,
        };
        if let Some(step) = &self.journal.current {
            self.say(step, StepState::Failed, Some(reason.message.clone()));
        }
        let release = self.record.release.id.clone();
        let back = previous
            .filter(|previous| self.touched && !self.journal.rollback && previous.release.id != release);
        let back = back.map(|previous| (previous.release.id.clone(), self.go_back(previous)));
        self.record_failure(&reason, matches!(back, Some((_, Ok(())))));
        let reason = Box::new(reason);
        let stands = match back {
            Some((to, Ok(()))) => {
                let migration = self.record.release.migration;
                let moved = migration.filter(|migration| migration.before != migration.after);
                let schema = moved.and_then(|migration| migration.after);
                return Error::RolledBack {
                    release,
                    step,
                    reason,
                    to,
                    schema,
                };
            }
            Some((to, Err(why))) => format!("going back to {to} failed too: {why}"),
            None if self.journal.rollback => "it stands where it stopped".to_owned(),
            None if self.touched => {
                "it stands where it stopped, because there is no release to go back to".to_owned()
            }
            None => "no service was touched".to_owned(),
        };
        Error::Stands {
            release,
            step,
            reason,
            stands,
        }
    }

    fn record_failure(&mut self, reason: &Reason, rolled_back: bool) {
        self.record.outcome = Outcome::Failed {
            at: now(),
            reason: reason.message.clone(),
            rolled_back,
        };
        let target = self.setting.target;
        let recorded = target
            .record(&self.record)
            .and_then(|()| target.write_journal(None));
        if let Err(error) = recorded {
            let message = format!("the failure could not be recorded: {error}");
            self.setting.events.warn(message);
        }
    }

    /// The previous release by the same steps, without the lock's being given up.
    fn go_back(&self, previous: Record) -> Result<(), String> {
        let to = previous.release.id.clone();
        self.setting.events.warn(format!("going back to {to}"));
        let target = self.setting.target;
        let undone = || -> Result<(), Stop> {
            let observed = target.observe()?;
            let proposal = Proposal::new(target, &previous, &observed, None, None)?;
            let mut rollout = Rollout {
                setting: self.setting,
                record: previous.clone(),
                contents: self.contents,
                journal: Journal {
                    release: to.clone(),
                    previous: Some(self.record.release.id.clone()),
                    done: Vec::new(),
                    current: None,
                    rollback: true,
                    ..self.journal.clone()
                },
                touched: false,
                probes: Vec::new(),
            };
            rollout.go(&proposal)?;
            rollout.record.began = now();
            rollout.record.outcome = Outcome::Succeeded { at: now() };
            Ok(target.record(&rollout.record)?)
        };
        undone().map_err(|stop| match stop {
            Stop::Failed(reason) => reason.message,
            Stop::Target(error) => error.to_string(),
        })
    }
}

/// Where each service answers that can be reached from here.
fn addresses(target: &dyn Target, record: &Record) -> Result<BTreeMap<String, String>, target::Error> {
    let mut addresses = BTreeMap::new();
    for name in record.stack.services.keys() {
        let endpoint = target.endpoint(name, record)?;
        addresses.extend(endpoint.map(|endpoint| (name.clone(), endpoint.base)));
    }
    Ok(addresses)
}

/// The newest release that ran as it should.
fn succeeded(history: &[Record]) -> Option<&Record> {
    history.iter().find(|record| record.outcome.succeeded())
}

fn verdict(step: &Step, proposal: &Proposal, observed: &Observed) -> Verdict {
    let judge = |service: &String, extent| {
        let seen = observed.services.get(service);
        match proposal.specs.get(service) {
            Some(spec) => watch::judge(seen, spec, extent),
            None => Verdict::Done,
        }
    };
    match step {
        Step::Put { .. } | Step::Migrate { .. } => Verdict::Done,
        Step::Canary { service } => judge(service, Extent::Canary),
        Step::Roll { service } => judge(service, Extent::Whole),
        Step::Remove { service } => match observed.services.get(service) {
            None => Verdict::Done,
            Some(service) => Verdict::Waiting(format!("{} to go", service.tasks.len())),
        },
    }
}

impl Problem {
    /// A problem of the configuration.
    pub fn user(message: impl Into<String>) -> Problem {
        Problem {
            fault: Fault::User,
            message: message.into(),
        }
    }

    /// A problem of the surroundings.
    pub fn environment(message: impl Into<String>) -> Problem {
        Problem {
            fault: Fault::Environment,
            message: message.into(),
        }
    }
}
