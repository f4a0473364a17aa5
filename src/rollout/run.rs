//! The model: takes the steps of a proposal, watches each, and goes back when one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::check::{Checked, Checks};
use super::error::{Error, Stop};
use super::history::{Journal, Outcome, Record};
use super::mask::Mask;
use super::migrate;
use super::probe::{self, Probed, Subject};
use super::proposal::Proposal;
use super::seen::Seen;
use super::target::{self, Endpoint, Kind, Observed, Replica, Spec, State, Step, Target, now};
use super::watch::{self, Extent, Reason, Verdict};
use crate::cancel::Cancel;
use crate::event::{Event, Events, StepState};
use crate::release::{ReleaseId, Version};

/// How long a replica that no node can take is given, before that is believed: one may be about to leave.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// Whether replicas may be replaced that keep files of their own on a node.
    pub stateful: bool,
    /// What the target has to be before anything changes, from a plan that was kept.
    pub seen: Option<Seen>,
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
    /// What was answered inside the target.
    pub checks: Vec<Checked>,
    /// Where services can be reached.
    pub addresses: BTreeMap<String, String>,
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
    checks: Checks<'a>,
    checked: Vec<Checked>,
    mask: Mask,
}

impl<'a> Rollout<'a> {
    pub(super) fn new(
        setting: &'a Setting<'a>,
        record: Record,
        contents: &'a Contents,
        journal: Journal,
    ) -> Rollout<'a> {
        let mask = Mask::new(&record.secret_env, &record.stack);
        Rollout {
            checks: Checks::new(setting, mask.clone()),
            checked: Vec::new(),
            mask,
            setting,
            record,
            contents,
            journal,
            touched: false,
            probes: Vec::new(),
        }
    }

    /// Takes the steps of `proposal`; goes back to `previous` if one fails that touched a service.
    pub(super) fn carry_out(
        mut self,
        proposal: &Proposal,
        previous: Option<Record>,
    ) -> Result<Report, Error> {
        let target = self.setting.target;
        if self.journal.rollback {
            // It counts as one that ran until the journal says that it is on its way.
            target.write_journal(Some(&self.journal))?;
            target.record(&self.record)?;
        } else {
            // A journal is about a release that is known.
            target.record(&self.record)?;
            target.write_journal(Some(&self.journal))?;
        }
        match self.go(proposal) {
            Ok(()) => self.succeed(previous.as_ref()),
            Err(stop) => Err(self.fail(stop, previous)),
        }
    }

    pub(super) fn go(&mut self, proposal: &Proposal) -> Result<(), Stop> {
        self.go_without_probes(proposal)?;
        self.checked = self.checks.finish(&self.record)?;
        self.probe()
    }

    pub(super) fn go_without_probes(&mut self, proposal: &Proposal) -> Result<(), Stop> {
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
        Ok(())
    }

    /// What is said of something that failed and is not undone.
    pub(super) fn stands(&self, stop: Stop) -> Error {
        let step = self.at();
        match stop {
            Stop::Target(target::Error::Cancelled) => Error::Interrupted { step },
            Stop::Target(error) => error.into(),
            Stop::Failed(reason) => Error::Stands {
                release: self.record.release.id.clone(),
                step,
                reason: Box::new(reason),
                stands: "it stands where it stopped".to_owned(),
            },
        }
    }

    /// What was done last.
    fn at(&self) -> String {
        let current = self.journal.current.as_ref();
        current.map_or_else(|| "probes".to_owned(), Step::to_string)
    }

    fn begin(&mut self, step: &Step) -> Result<(), Stop> {
        self.touched |= step.replaces() || matches!(step, Step::Remove { .. });
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
            Step::Network { .. }
            | Step::Stop { .. }
            | Step::Canary { .. }
            | Step::Roll { .. }
            | Step::Restart { .. }
            | Step::Settle { .. }
            | Step::Remove { .. } => Ok(target.apply(step, &self.record)?),
        }
    }

    /// Until every service of `stage` has come where it was sent.
    fn watch(&mut self, stage: &[Step], proposal: &Proposal) -> Result<(), Stop> {
        let deadline = Instant::now() + self.setting.options.timeout;
        let mut said = BTreeMap::new();
        let mut unplaced: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let observed = self.setting.target.observe()?;
            if !self.journal.rollback && stage.iter().any(Step::replaces) {
                self.checks.look(&self.record, &observed)?;
            }
            let mut waiting = Vec::new();
            note_unplaced(&observed, &mut unplaced);
            let patient = |replica: &Replica| {
                unplaced
                    .get(&replica.name)
                    .is_none_or(|since| since.elapsed() < PATIENCE)
            };
            for step in stage {
                match verdict(step, proposal, &observed, &patient) {
                    Verdict::Done => {}
                    Verdict::Waiting(why) => waiting.push(format!("{step}: {why}")),
                    Verdict::Failed(mut reason) => {
                        self.journal.current = Some(step.clone());
                        if let Some(replica) = &reason.replica
                            && reason.lines.is_empty()
                        {
                            let details = self.setting.target.details(replica);
                            if let Some(why) = details.why {
                                reason.message = format!("{} failed: {why}", replica.name);
                            }
                            reason.lines = details.lines;
                        }
                        reason.message = self.mask.apply(&reason.message).into_owned();
                        let mask = |line: &mut String| *line = self.mask.apply(line).into_owned();
                        reason.lines.iter_mut().for_each(mask);
                        return Err(Stop::Failed(reason));
                    }
                }
                self.show(step, proposal, &observed, &mut said);
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
            std::thread::sleep(self.setting.target.pace());
        }
    }

    /// Says how far a service is, whenever that is another word than before.
    fn show(
        &self,
        step: &Step,
        proposal: &Proposal,
        observed: &Observed,
        said: &mut BTreeMap<String, watch::Progress>,
    ) {
        let (Step::Canary { service } | Step::Roll { service }) = step else {
            return;
        };
        let (Some(seen), Some(spec)) = (observed.services.get(service), proposal.specs.get(service)) else {
            return;
        };
        let now = watch::progress(seen, spec);
        if said.get(service) != Some(&now) {
            let trouble = now.trouble.as_ref();
            self.setting.events.emit(Event::Watched {
                what: service.clone(),
                state: now.state.clone(),
                trouble: trouble.map(|trouble| self.mask.apply(trouble).into_owned()),
            });
            said.insert(service.clone(), now);
        }
    }

    fn probe(&mut self) -> Result<(), Stop> {
        if self.setting.options.skip_probes {
            return Ok(());
        }
        let mut subjects = Vec::new();
        for (service, probes) in &self.record.probes {
            let Some(endpoint) = endpoint(self.setting.target, service, &self.record)? else {
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
        self.record.probed.clone_from(&self.probes);
        target.record(&self.record)?;
        target.write_journal(None)?;
        super::prune::prune(target, self.setting.options.keep)?;
        Ok(Report {
            addresses: addresses(target, &self.record)?,
            release: self.record.release.id,
            previous: previous.map(|record| record.release.id.clone()),
            changed: true,
            probes: self.probes,
            checks: self.checked,
        })
    }

    /// Goes back to `previous` if a service was touched, and says what stands.
    fn fail(mut self, stop: Stop, previous: Option<Record>) -> Error {
        let step = self.at();
        let reason = match stop {
            Stop::Target(target::Error::Cancelled) => {
                self.checks.abandon();
                return Error::Interrupted { step };
            }
            // Somebody took this over, and goes on from here.
            Stop::Target(error @ target::Error::Locked { .. }) => return error.into(),
            Stop::Target(error) => Reason::new(error.to_string()),
            Stop::Failed(reason) => match self.setting.target.write_journal(Some(&self.journal)) {
                // What it failed at is what somebody did who took this over.
                Err(error @ target::Error::Locked { .. }) => return error.into(),
                _ => reason,
            },
        };
        if let Some(step) = &self.journal.current {
            self.say(step, StepState::Failed, Some(reason.message.clone()));
        }
        self.checks.abandon();
        let release = self.record.release.id.clone();
        let broke = self.has_broken_the_schema();
        let back = previous
            .filter(|_| !broke)
            .filter(|previous| self.touched && !self.journal.rollback && previous.release.id != release);
        let back = match back.map(|previous| (previous.release.id.clone(), self.go_back(previous))) {
            Some((_, Err(Stop::Target(error @ target::Error::Locked { .. })))) => return error.into(),
            back => back.map(|(to, undone)| (to, undone.map_err(Stop::message))),
        };
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
            None if broke => {
                "it stands where it stopped, because what ran before cannot do with the schema as it is now"
                    .to_owned()
            }
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

    /// Whether the schema is another one now, which what ran before cannot do with.
    fn has_broken_the_schema(&self) -> bool {
        let breaking = self
            .record
            .migrate
            .as_ref()
            .is_some_and(|migrate| migrate.breaking);
        let moved = self
            .record
            .release
            .migration
            .filter(|migration| migration.before != migration.after);
        breaking && moved.is_some()
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
    fn go_back(&self, previous: Record) -> Result<(), Stop> {
        let to = previous.release.id.clone();
        self.setting.events.warn(format!("going back to {to}"));
        let target = self.setting.target;
        let observed = target.observe()?;
        let proposal = Proposal::new(target, &previous, &observed, &[], None)?;
        let journal = Journal {
            release: to,
            previous: Some(self.record.release.id.clone()),
            done: Vec::new(),
            current: None,
            rollback: true,
            ran: previous.outcome.ran(),
            ..self.journal.clone()
        };
        let mut rollout = Rollout::new(self.setting, previous, self.contents, journal);
        rollout.go(&proposal)?;
        rollout.record.began = now();
        rollout.record.outcome = Outcome::Succeeded { at: now() };
        rollout.record.probed.clone_from(&rollout.probes);
        Ok(target.record(&rollout.record)?)
    }
}

/// Where probes find a service.
fn endpoint(target: &dyn Target, service: &str, record: &Record) -> Result<Option<Endpoint>, target::Error> {
    match record.addresses.get(service) {
        Some(base) => Ok(Some(Endpoint {
            base: base.trim_end_matches('/').to_owned(),
            connect: None,
        })),
        None => target.endpoint(service, record),
    }
}

/// Remembers since when replicas have no node.
fn note_unplaced(observed: &Observed, since: &mut BTreeMap<String, Instant>) {
    let tasks = observed.services.values().flat_map(|service| &service.tasks);
    let names: BTreeSet<&String> = tasks
        .filter(|task| task.state == State::Unplaced)
        .map(|task| &task.name)
        .collect();
    since.retain(|name, _| names.contains(name));
    for name in names {
        since.entry(name.clone()).or_insert_with(Instant::now);
    }
}

/// Where each service answers that can be reached from here.
pub(super) fn addresses(
    target: &dyn Target,
    record: &Record,
) -> Result<BTreeMap<String, String>, target::Error> {
    let mut addresses = BTreeMap::new();
    for name in record.stack.services.keys() {
        let endpoint = endpoint(target, name, record)?;
        addresses.extend(endpoint.map(|endpoint| (name.clone(), endpoint.base)));
    }
    Ok(addresses)
}

/// The newest release that ran as it should.
pub(super) fn succeeded(history: &[Record]) -> Option<&Record> {
    history.iter().find(|record| record.outcome.succeeded())
}

fn verdict(
    step: &Step,
    proposal: &Proposal,
    observed: &Observed,
    patient: &dyn Fn(&Replica) -> bool,
) -> Verdict {
    let judge = |service: &String, extent| {
        let seen = observed.services.get(service);
        match proposal.specs.get(service) {
            Some(spec) => watch::judge(seen, spec, extent, patient),
            None => Verdict::Done,
        }
    };
    match step {
        Step::Put { .. } | Step::Migrate { .. } | Step::Network { .. } => Verdict::Done,
        Step::Stop { service } => match observed.services.get(service) {
            Some(service) if !service.tasks.is_empty() => {
                let why = service.tasks.iter().find_map(|task| task.reason.as_ref());
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                Verdict::Waiting(format!("{} to go{why}", service.tasks.len()))
            }
            _ => Verdict::Done,
        },
        Step::Restart { service } => match observed.services.get(service) {
            Some(seen) => {
                let spec = Spec {
                    revision: seen.revision.clone(),
                    task: seen.task.clone(),
                    replicas: seen.replicas,
                    ..Spec::default()
                };
                watch::judge(Some(seen), &spec, Extent::Whole, patient)
            }
            None => Verdict::Failed(Reason::new("it is gone")),
        },
        Step::Settle { service } => match observed.services.get(service) {
            Some(service) if service.unsettled => Verdict::Waiting("not settled".to_owned()),
            _ => Verdict::Done,
        },
        Step::Canary { service } => judge(service, Extent::Canary),
        Step::Roll { service } => judge(service, Extent::Whole),
        Step::Remove { service } => match observed.services.get(service) {
            None => Verdict::Done,
            Some(service) => Verdict::Waiting(format!("{} to go", service.tasks.len())),
        },
    }
}
