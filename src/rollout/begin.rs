//! How a rollout begins: with a new release, an earlier one, or one that somebody else left half-way. Looks first, and
//! touches nothing where there is nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check;
use super::error::{Error, Stop};
use super::history::{Journal, Outcome, Record};
use super::migrate::{self, Once};
use super::proposal::{Effect, Proposal};
use super::run::{Contents, Report, Rollout, Setting, addresses, succeeded};
use super::seen::Seen;
use super::target::{Fault, Lock, Observed, Problem, Step, Target, now};
use crate::release::ReleaseId;

/// Which way a rollout goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To a new release.
    Forward,
    /// To one of the history.
    Back,
    /// On with one that somebody left half-way.
    On,
}

/// What is seen before a rollout, and what it would do.
struct Outlook {
    observed: Observed,
    history: Vec<Record>,
    journal: Option<Journal>,
    previous: Option<Record>,
    attempt: Option<String>,
    proposal: Proposal,
}

impl<'a> Rollout<'a> {
    /// What rolling out `record` would change.
    pub fn propose(setting: &Setting<'_>, record: &Record) -> Result<Proposal, Error> {
        let outlook = Outlook::new(setting.target, record, Way::Forward)?;
        let mut proposal = outlook.proposal;
        proposal.problems = setting.target.preflight(record, &outlook.observed)?;
        Ok(proposal)
    }

    /// What was changed on the target since `record`, which ran last, was rolled out.
    pub fn drift(setting: &Setting<'_>, record: &Record) -> Result<Proposal, Error> {
        Ok(Outlook::new(setting.target, record, Way::Back)?.proposal)
    }

    /// Replaces every replica of a service by what it is.
    pub fn restart(setting: &Setting<'_>, record: &Record, service: &str) -> Result<(), Error> {
        let target = setting.target;
        let _lock = target.lock(&setting.options.owner, false)?;
        if let Some(journal) = target.journal()? {
            return Err(Error::HalfWay {
                release: journal.release,
            });
        }
        let outlook = Outlook::new(target, record, Way::Back)?;
        outlook.refuse_frozen(target)?;
        let service = service.to_owned();
        let mut proposal = outlook.proposal;
        proposal.stages = vec![
            vec![Step::Restart {
                service: service.clone(),
            }],
            vec![Step::Settle { service }],
        ];
        let journal = Journal::new(setting, record, Some(record), false);
        let contents = Contents::default();
        let mut rollout = Rollout::new(setting, record.clone(), &contents, journal);
        let done = rollout.go_without_probes(&proposal);
        target.write_journal(None)?;
        done.map_err(|stop| rollout.stands(stop))
    }

    /// Runs a command once, in the image and with the settings of a service; its exit code. Its lines are events.
    pub fn once(
        setting: &Setting<'_>,
        record: &Record,
        service: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<i32, Error> {
        let name = format!("run-{}", now().format("%Y%m%d%H%M%S%3f"));
        let one = Once {
            name: name.clone(),
            service,
            command,
            timeout,
            loud: Some(service),
        };
        let done = migrate::once(setting, record, &one);
        let code = setting
            .target
            .observe()?
            .tasks
            .get(&name)
            .and_then(|task| task.exit_code);
        setting.target.stop_task(&name)?;
        match (done, code) {
            (Ok(_), _) => Ok(0),
            (Err(Stop::Failed(_)), Some(code)) => Ok(code),
            (Err(Stop::Failed(reason)), None) => Err(Error::Endless {
                message: reason.message,
            }),
            (Err(Stop::Target(error)), _) => Err(error.into()),
        }
    }

    /// Makes the target be `record`. `contents` has the versions that the target may lack.
    pub fn run(setting: &'a Setting<'a>, record: Record, contents: &'a Contents) -> Result<Report, Error> {
        Rollout::start(setting, record, contents, Way::Forward)
    }

    /// Makes the target be `record` again, a release of its history. Nothing migrates.
    pub fn back(setting: &'a Setting<'a>, record: Record) -> Result<Report, Error> {
        static NONE: Contents = Contents(BTreeMap::new());
        Rollout::start(setting, record, &NONE, Way::Back)
    }

    /// Finishes the rollout that somebody left half-way, who died. `contents` finds what the target may still lack.
    pub fn resume<E: From<Error>>(
        setting: &'a Setting<'a>,
        contents: impl FnOnce(&Record) -> Result<Contents, E>,
    ) -> Result<Report, E> {
        let target = setting.target;
        let lock = target.lock(&setting.options.owner, true).map_err(Error::from)?;
        let (journal, record) = half_way(target)?;
        let way = if journal.rollback { Way::Back } else { Way::On };
        let contents = contents(&record)?;
        Ok(Rollout::locked(setting, record, &contents, way, lock)?)
    }

    /// Undoes the rollout that somebody left half-way, who died.
    pub fn abort<E: From<Error>>(setting: &'a Setting<'a>) -> Result<Report, E> {
        let target = setting.target;
        let lock = target.lock(&setting.options.owner, true).map_err(Error::from)?;
        let (journal, mut record) = half_way(target)?;
        let history = target.history().map_err(Error::from)?;
        let Some(previous) = before(&journal, &history).cloned() else {
            let release = journal.release;
            return Err(Error::NoPrevious { release }.into());
        };
        let observed = target.observe().map_err(Error::from)?;
        let attempts = format!("migrate-{}-", record.release.id);
        for (name, task) in &observed.tasks {
            if name.starts_with(&attempts) && task.exit_code.is_none() {
                target.stop_task(name).map_err(Error::from)?;
            }
        }
        // One that ran before is not worse for not having been gone back to: see `given_up`.
        if previous.release.id != record.release.id && journal.ran.is_none() {
            record.outcome = Outcome::Failed {
                at: now(),
                reason: format!("aborted by {}", setting.options.owner),
                rolled_back: true,
            };
            target.record(&record).map_err(Error::from)?;
        }
        let contents = Contents::default();
        Ok(Rollout::locked(setting, previous, &contents, Way::Back, lock)?)
    }

    fn start(
        setting: &'a Setting<'a>,
        record: Record,
        contents: &'a Contents,
        way: Way,
    ) -> Result<Report, Error> {
        let target = setting.target;
        // Nothing to do needs no lock, and writes nothing. What cannot be seen now may be so because nobody brings a
        // preview back that died, which whoever has the lock does.
        if let Ok(outlook) = Outlook::new(target, &record, way)
            && outlook.is_settled(&record, way)
        {
            return outlook.unchanged(target, record);
        }
        let lock = target.lock(&setting.options.owner, false)?;
        Rollout::locked(setting, record, contents, way, lock)
    }

    fn locked(
        setting: &Setting<'_>,
        mut record: Record,
        contents: &Contents,
        way: Way,
        _lock: Box<dyn Lock>,
    ) -> Result<Report, Error> {
        let target = setting.target;
        let outlook = Outlook::new(target, &record, way)?;
        if outlook.is_settled(&record, way) {
            return outlook.unchanged(target, record);
        }
        if let Some(seen) = &setting.options.seen
            && let Some(what) = seen.difference(&Seen::new(&outlook.observed, &outlook.history))
        {
            return Err(Error::Changed { what });
        }
        outlook.refuse_frozen(target)?;
        let mut problems = target.preflight(&record, &outlook.observed)?;
        if !setting.options.stateful && way == Way::Forward {
            problems.extend(outlook.stateful());
        }
        if !problems.is_empty() {
            let release = record.release.id;
            return Err(Error::Problems { release, problems });
        }
        check::clean(setting, &outlook.observed)?;
        let mut journal = Journal::new(setting, &record, outlook.previous.as_ref(), way == Way::Back);
        record.outcome = Outcome::Pending;
        record.began = now();
        if outlook.attempt.is_none() && record.release.migration.is_none() {
            record.release.migration = migrate::unchanged(outlook.previous.as_ref());
        }
        match outlook.journal {
            // Whoever goes on has the same to go back to as whoever began.
            Some(begun) if begun.release == journal.release => {
                journal.previous = begun.previous;
                journal.ran = journal.ran.or(begun.ran);
            }
            Some(begun) => given_up(target, &begun, outlook.history)?,
            None => {}
        }
        Rollout::new(setting, record, contents, journal).carry_out(&outlook.proposal, outlook.previous)
    }
}

impl Journal {
    fn new(setting: &Setting<'_>, record: &Record, previous: Option<&Record>, rollback: bool) -> Journal {
        Journal {
            release: record.release.id.clone(),
            previous: previous.map(|record| record.release.id.clone()),
            owner: setting.options.owner.clone(),
            began: now(),
            done: Vec::new(),
            current: None,
            rollback,
            ran: record.outcome.ran(),
        }
    }
}

impl Outlook {
    fn refuse_frozen(&self, target: &dyn Target) -> Result<(), Error> {
        match target.frozen()? {
            Some(freeze) => Err(Error::Frozen {
                by: freeze.by,
                reason: freeze.reason,
            }),
            None => Ok(()),
        }
    }

    fn new(target: &dyn Target, record: &Record, way: Way) -> Result<Outlook, Error> {
        let observed = target.observe()?;
        let history = target.history()?;
        let journal = target.journal()?;
        let previous = succeeded(&history).cloned();
        let attempt = match way {
            Way::Back => None,
            Way::Forward => migrate::needed(record, previous.as_ref(), &observed)
                .then(|| migrate::name(record, &observed)),
            Way::On => attempt(record, previous.as_ref(), &observed, journal.as_ref()),
        };
        let proposal = Proposal::new(target, record, &observed, &history, attempt.as_deref())?;
        Ok(Outlook {
            observed,
            history,
            journal,
            previous,
            attempt,
            proposal,
        })
    }

    /// Whether the target is what it is to be, and nothing is left half-way.
    fn is_settled(&self, record: &Record, way: Way) -> bool {
        let newest = self.history.first().map(|newest| &newest.release.id);
        self.proposal.is_empty()
            && self.journal.is_none()
            && self.previous.as_ref().is_some_and(|previous| {
                newest == Some(&previous.release.id)
                    && (way == Way::Back || previous.release.runs_like(&record.release))
                    && previous.probes == record.probes
            })
    }

    /// What comes of a release that runs already. What the target cannot change shows in no change of a service, and
    /// is not passed over in silence.
    fn unchanged(self, target: &dyn Target, record: Record) -> Result<Report, Error> {
        let problems = target.preflight(&record, &self.observed)?;
        if !problems.is_empty() {
            let release = record.release.id;
            return Err(Error::Problems { release, problems });
        }
        let addresses = addresses(target, &record)?;
        let release = self
            .previous
            .map_or(record.release.id, |previous| previous.release.id);
        Ok(Report {
            previous: Some(release.clone()),
            release,
            changed: false,
            probes: Vec::new(),
            checks: Vec::new(),
            addresses,
        })
    }

    /// Services whose replicas would be replaced although they keep files on a node.
    fn stateful(&self) -> impl Iterator<Item = Problem> + '_ {
        let changes = self.proposal.changes.iter();
        let stateful = changes.filter(|change| change.stateful && change.effect == Effect::Replace);
        stateful.map(|change| Problem {
            fault: Fault::Refused,
            message: format!(
                "`{}` is STATEFUL: it keeps files on a node, and its replicas would be replaced; `--stateful` says that they may",
                change.service
            ),
        })
    }
}

/// The rollout that is under way, and its release.
fn half_way(target: &dyn Target) -> Result<(Journal, Record), Error> {
    let journal = target.journal()?.ok_or(Error::NothingBegun)?;
    let mut history = target.history()?.into_iter();
    let record = history.find(|record| record.release.id == journal.release);
    Ok((journal, record.ok_or(Error::NothingBegun)?))
}

/// Another rollout takes the place of `begun`: a release that it was on its way back to ran before, and is as good as it was.
fn given_up(target: &dyn Target, begun: &Journal, history: Vec<Record>) -> Result<(), Error> {
    let mut history = history.into_iter();
    let record = history.find(|record| record.release.id == begun.release && !record.outcome.succeeded());
    if let (Some(mut record), Some(at)) = (record, begun.ran) {
        record.ran_at(at);
        target.record(&record)?;
    }
    Ok(())
}

/// What ran before the rollout that is under way. One that is on its way back from a release that failed or was given up
/// goes there already.
fn before<'a>(journal: &Journal, history: &'a [Record]) -> Option<&'a Record> {
    let of = |id: &ReleaseId| history.iter().find(|record| record.release.id == *id);
    let previous = journal.previous.as_ref().and_then(of)?;
    match journal.rollback && !previous.outcome.succeeded() {
        true => of(&journal.release),
        false => Some(previous),
    }
}

/// The attempt of a migration that a rollout was at: whoever goes on adopts it, running or over. `None` where it was
/// done.
fn attempt(
    record: &Record,
    previous: Option<&Record>,
    observed: &Observed,
    journal: Option<&Journal>,
) -> Option<String> {
    let task_of = |step: &Step| match step {
        Step::Migrate { task } => Some(task.clone()),
        _ => None,
    };
    let journal = journal?;
    if journal.done.iter().any(|step| task_of(step).is_some()) {
        return None;
    }
    let adopted = journal.current.as_ref().and_then(task_of).filter(|task| {
        let failed = |task: &super::target::TaskState| task.exit_code.is_some_and(|code| code != 0);
        !observed.tasks.get(task).is_some_and(failed)
    });
    adopted.or_else(|| migrate::needed(record, previous, observed).then(|| migrate::name(record, observed)))
}
