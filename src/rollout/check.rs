//! What is asked inside the target while services roll, by commands in a service's image: what nobody sees from here, such
//! as how many connections a database has, or whether each node reaches it. A bad answer is a warning, and stops nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use super::history::{Check, Record};
use super::mask::Mask;
use super::migrate;
use super::run::Setting;
use super::target::{Error, Observed, Place, Task, TaskState, now};
use crate::event::{Event, StepState};

/// Names of its tasks begin so.
const PREFIX: &str = "check-";
/// Tasks that run at the same time.
const AT_ONCE: usize = 8;
/// Lines at the end of what a task printed that are looked at.
const LINES: usize = 100;

/// What came of a check, on one node if it is asked on each.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// Its name.
    pub check: String,
    /// The node's name.
    pub node: Option<String>,
    /// How often it was answered.
    pub answers: u32,
    /// The highest number that it printed, if it is asked for one.
    pub highest: Option<u64>,
    /// What was wrong last, if anything was.
    pub problem: Option<String>,
}

/// A check, and where it is asked.
#[derive(Clone, Debug)]
struct Question {
    check: String,
    place: Option<Place>,
}

impl Question {
    /// What it and its answers are known by: the check and the node's id, for nodes may share a name.
    fn key(&self) -> (String, Option<String>) {
        (
            self.check.clone(),
            self.place.as_ref().map(|place| place.id.clone()),
        )
    }
}

/// A question that a task answers.
struct Asked {
    question: Question,
    task: String,
    began: Instant,
}

/// A number if the check wants one, and what is wrong.
#[derive(Default)]
struct Answer {
    number: Option<u64>,
    problem: Option<String>,
}

impl Answer {
    fn bad(problem: String) -> Answer {
        Answer {
            number: None,
            problem: Some(problem),
        }
    }
}

/// The checks of one rollout.
pub(super) struct Checks<'a> {
    setting: &'a Setting<'a>,
    mask: Mask,
    /// Whether questions were made of the checks.
    began: bool,
    /// Whether nothing is asked twice any more.
    ending: bool,
    /// When which question is asked.
    due: Vec<(Instant, Question)>,
    running: Vec<Asked>,
    made: usize,
    answers: BTreeMap<(String, Option<String>), Checked>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(setting: &'a Setting<'a>, mask: Mask) -> Checks<'a> {
        Checks {
            setting,
            mask,
            began: false,
            ending: false,
            due: Vec::new(),
            running: Vec::new(),
            made: 0,
            answers: BTreeMap::new(),
        }
    }

    /// Hears what was answered, and asks what is due. To be called again and again while services roll.
    pub(super) fn look(&mut self, record: &Record, observed: &Observed) -> Result<(), Error> {
        if record.checks.is_empty() {
            return Ok(());
        }
        if !self.began {
            self.began = true;
            self.due = self.questions(record)?;
        }
        self.hear(record, observed)?;
        self.ask(record)
    }

    /// Waits until every question has an answer, and those that are asked again theirs; says what came of them.
    pub(super) fn finish(&mut self, record: &Record) -> Result<Vec<Checked>, Error> {
        self.ending = true;
        let answers = &self.answers;
        self.due
            .retain(|(_, question)| !answers.contains_key(&question.key()));
        while !(self.due.is_empty() && self.running.is_empty()) {
            if self.setting.cancel.is_raised() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(self.setting.target.pace());
            let observed = self.setting.target.observe()?;
            self.look(record, &observed)?;
        }
        let checked: Vec<Checked> = std::mem::take(&mut self.answers).into_values().collect();
        checked.iter().for_each(|checked| self.say(checked));
        Ok(checked)
    }

    /// Tells tasks that run to end. They are removed by whoever rolls out next: they may take their time, and nobody waits
    /// for what they say.
    pub(super) fn abandon(&mut self) {
        for asked in self.running.drain(..) {
            let _ = self.setting.target.end_task(&asked.task);
        }
    }

    fn questions(&self, record: &Record) -> Result<Vec<(Instant, Question)>, Error> {
        let mut questions = Vec::new();
        for (name, check) in &record.checks {
            let mut places = Vec::new();
            if check.each_node {
                let known = self.setting.target.places(&check.service, record)?;
                places.extend(known.into_iter().map(Some));
            }
            if places.is_empty() {
                places.push(None);
            }
            let now = Instant::now();
            questions.extend(places.into_iter().map(|place| {
                let check = name.clone();
                (now, Question { check, place })
            }));
        }
        Ok(questions)
    }

    fn ask(&mut self, record: &Record) -> Result<(), Error> {
        let now = Instant::now();
        for (at, question) in std::mem::take(&mut self.due) {
            if at > now || self.running.len() >= AT_ONCE {
                self.due.push((at, question));
                continue;
            }
            let check = &record.checks[&question.check];
            self.made += 1;
            let task = Task {
                name: format!("{PREFIX}{}-{}", stamp(), self.made),
                service: check.service.clone(),
                command: check.command.clone(),
                timeout: check.timeout,
                place: question.place.as_ref().map(|place| place.id.clone()),
            };
            match self.setting.target.start_task(&task, record) {
                Ok(()) => self.running.push(Asked {
                    question,
                    task: task.name,
                    began: now,
                }),
                Err(error) => {
                    let answer = Answer::bad(format!("cannot be asked: {}", bearable(error)?));
                    self.take(check, question, now, answer);
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, record: &Record, observed: &Observed) -> Result<(), Error> {
        for asked in std::mem::take(&mut self.running) {
            let check = &record.checks[&asked.question.check];
            let (target, state) = (self.setting.target, observed.tasks.get(&asked.task));
            let (answer, done) = match state.filter(|state| state.exit_code.is_some()) {
                Some(state) => {
                    let answer = self.answer(check, &asked.task, state)?;
                    (answer, target.stop_task(&asked.task))
                }
                None if asked.began.elapsed() >= check.timeout => {
                    let why = state.and_then(|state| state.reason.as_ref());
                    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                    let answer = Answer::bad(format!("no answer after {} s{why}", check.timeout.as_secs()));
                    // Removed by whoever rolls out next: see `abandon`.
                    (answer, target.end_task(&asked.task))
                }
                None => {
                    self.running.push(asked);
                    continue;
                }
            };
            if let Err(error) = done {
                bearable(error)?;
            }
            self.take(check, asked.question, asked.began, answer);
        }
        Ok(())
    }

    /// What a task says that has ended. Its log is read only for that: an engine may take its time to find it.
    fn answer(&self, check: &Check, task: &str, state: &TaskState) -> Result<Answer, Error> {
        let failure = migrate::failure(state);
        if failure.is_none() && check.at_most.is_none() {
            return Ok(Answer::default());
        }
        let lines = match migrate::lines(self.setting, task, Some(LINES)) {
            Ok(lines) => lines,
            Err(error) => return Ok(Answer::bad(format!("cannot be heard: {}", bearable(error)?))),
        };
        if let Some(why) = failure {
            let last = lines.iter().rev().find(|line| !line.trim().is_empty());
            let last = last.map(|line| format!(": {line}")).unwrap_or_default();
            return Ok(Answer::bad(format!("{why}{last}")));
        }
        let Some(most) = check.at_most else {
            return Ok(Answer::default());
        };
        let number = lines.iter().rev().find_map(|line| migrate::last_number(line));
        let problem = match number {
            Some(number) if number > most => Some(format!("{number}, and {most} are the most")),
            Some(_) => None,
            None => Some("it printed no number".to_owned()),
        };
        Ok(Answer { number, problem })
    }

    /// Keeps an answer, warns of one that is worse than those before, and asks again later if the check says so.
    fn take(&mut self, check: &Check, question: Question, asked: Instant, answer: Answer) {
        let before = self.answers.entry(question.key()).or_insert(Checked {
            check: question.check.clone(),
            node: question.place.as_ref().map(|place| place.name.clone()),
            ..Checked::default()
        });
        let is_worse = before.problem.is_none() || answer.number > before.highest;
        before.answers += 1;
        before.highest = before.highest.max(answer.number);
        if let Some(problem) = answer.problem {
            let problem = self.mask.apply(&problem).into_owned();
            if is_worse {
                let message = format!("check {}: {problem}", subject(before));
                self.setting.events.warn(message);
            }
            before.problem = Some(problem);
        }
        if let Some(every) = check.every.filter(|_| !self.ending) {
            self.due.push((asked + every, question));
        }
    }

    fn say(&self, checked: &Checked) {
        let highest = checked.highest.map(|number| format!("{number} at most"));
        self.setting.events.emit(Event::Step {
            step: format!("check {}", subject(checked)),
            state: match checked.problem {
                None => StepState::Done,
                Some(_) => StepState::Failed,
            },
            note: highest.or_else(|| checked.problem.clone()),
        });
    }
}

/// Removes tasks that a rollout left behind which died, or did not wait for. One that cannot be removed, as on a node
/// that is away, is a warning.
pub(super) fn clean(setting: &Setting<'_>, observed: &Observed) -> Result<(), Error> {
    let left = observed.tasks.keys().filter(|name| name.starts_with(PREFIX));
    for name in left {
        if let Err(error) = setting.target.stop_task(name) {
            let why = bearable(error)?;
            setting
                .events
                .warn(format!("`{name}` was asked earlier, and stays: {why}"));
        }
    }
    Ok(())
}

fn subject(checked: &Checked) -> String {
    match &checked.node {
        Some(node) => format!("{} on {node}", checked.check),
        None => checked.check.clone(),
    }
}

/// What makes one rollout's tasks others than those of the one before.
fn stamp() -> String {
    now().format("%Y%m%d%H%M%S%3f").to_string()
}

/// Why something about a check did not work; what ends the rollout itself goes on up.
fn bearable(error: Error) -> Result<String, Error> {
    match error {
        Error::Cancelled | Error::Locked { .. } => Err(error),
        error => Ok(error.to_string()),
    }
}
