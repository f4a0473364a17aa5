//! Events as a person or a program wants to see them: a live view on a terminal, plain lines into a pipe,
//! or lines of JSON. All of it goes to stderr.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use super::terminal::{self, Bar, Bars, printable, printed};
use crate::event::{Direction, Event, Events, Outcome, Pushed, StepState};

/// A fetch that took less is not worth a line in a pipe.
const SHORT_FETCH: Duration = Duration::from_secs(5);

/// How often a pipe is told how far a service is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Actions shown at one time.
const MAX_SHOWN: usize = 8;

/// Where events of this run are shown.
#[derive(Clone)]
pub(super) struct Renderer(Arc<Mutex<State>>);

struct State {
    view: View,
    began: Instant,
    counts: Counts,
}

enum View {
    Live(Live),
    Lines(Watched),
    Json,
    Quiet,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    planned: usize,
    cached: usize,
    ran: usize,
    failed: usize,
    stopped: usize,
    bytes_in: u64,
    bytes_out: u64,
    pushed: [usize; 3],
}

/// What a terminal shows while something runs.
struct Live {
    bars: Bars,
    summary: Bar,
    running: BTreeMap<String, Bar>,
    /// The step of a rollout that is under way.
    step: Option<String>,
    watched: Watched,
}

/// What was said last of each service that is waited for.
#[derive(Default)]
struct Watched(BTreeMap<String, (Option<String>, Instant)>);

impl Watched {
    /// Whether to say more of a service, and remembers that it was: trouble at once, and how far it is after `every`.
    fn takes(&mut self, what: &str, trouble: Option<&str>, every: Duration) -> bool {
        let due = match self.0.get(what) {
            Some((before, at)) => before.as_deref() != trouble || at.elapsed() >= every,
            None => true,
        };
        if due {
            self.0
                .insert(what.to_owned(), (trouble.map(str::to_owned), Instant::now()));
        }
        due
    }
}

impl Renderer {
    pub(super) fn new(json: bool, quiet: bool) -> Renderer {
        let view = match (json, quiet) {
            (true, _) => View::Json,
            (false, true) => View::Quiet,
            (false, false) if terminal::is_live() => View::Live(Live::new()),
            (false, false) => View::Lines(Watched::default()),
        };
        Renderer(Arc::new(Mutex::new(State {
            view,
            began: Instant::now(),
            counts: Counts::default(),
        })))
    }

    /// The sink of this run's events.
    pub(super) fn events(&self) -> Events {
        let state = Arc::clone(&self.0);
        Events::new(move |event| state.lock().expect("never poisoned").take(&event))
    }

    /// Says something beside the result, unless nobody wants to hear it.
    pub(super) fn say(&self, line: &str) {
        let state = self.0.lock().expect("never poisoned");
        if !matches!(state.view, View::Json | View::Quiet) {
            terminal::say(line);
        }
    }

    /// Clears the live view, and sums up what ran since the last time.
    pub(super) fn finish(&self) {
        self.0.lock().expect("never poisoned").finish();
    }
}

impl State {
    fn take(&mut self, event: &Event) {
        self.counts.add(event);
        match &mut self.view {
            View::Json => terminal::say_json(event),
            View::Quiet => {}
            View::Lines(watched) => {
                if let Event::Watched { what, trouble, .. } = event
                    && !watched.takes(what, trouble.as_deref(), PROGRESS)
                {
                    return;
                }
                if let Some(line) = line(event) {
                    terminal::say(line);
                }
            }
            View::Live(live) => live.take(event, &self.counts),
        }
    }

    fn finish(&mut self) {
        if let View::Live(live) = &mut self.view {
            live.clear();
        }
        let silent = matches!(self.view, View::Json | View::Quiet);
        let counts = std::mem::take(&mut self.counts);
        if !silent && let Some(summary) = counts.summary(self.began.elapsed()) {
            terminal::say(summary);
        }
    }
}

impl Counts {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Planned { actions } => self.planned = *actions,
            Event::Finished { outcome, .. } => match outcome {
                Outcome::Cached => self.cached += 1,
                Outcome::Ran => self.ran += 1,
                Outcome::Failed => self.failed += 1,
                Outcome::Stopped => self.stopped += 1,
            },
            Event::Transferred { direction, bytes, .. } => match direction {
                Direction::In => self.bytes_in += bytes,
                Direction::Out => self.bytes_out += bytes,
            },
            Event::Pushed { how, .. } => match how {
                Pushed::Present => self.pushed[0] += 1,
                Pushed::Mounted => self.pushed[1] += 1,
                Pushed::Uploaded => self.pushed[2] += 1,
            },
            Event::Started { .. }
            | Event::Warning { .. }
            | Event::Step { .. }
            | Event::Watched { .. }
            | Event::Line { .. }
            | Event::Compiled { .. } => {}
        }
    }

    fn summary(&self, elapsed: Duration) -> Option<String> {
        let mut parts = Vec::new();
        if self.planned > 0 {
            parts.push(format!(
                "{} actions: {} ran, {} cached",
                self.planned, self.ran, self.cached
            ));
        }
        parts.extend((self.failed > 0).then(|| format!("{} failed", self.failed)));
        parts.extend((self.stopped > 0).then(|| format!("{} stopped", self.stopped)));
        parts.extend((self.bytes_in > 0).then(|| format!("{} fetched", HumanBytes(self.bytes_in))));
        if self.pushed.iter().sum::<usize>() > 0 {
            let [present, mounted, uploaded] = self.pushed;
            parts.push(format!(
                "blobs: {uploaded} sent, {mounted} mounted, {present} there"
            ));
            parts.push(format!("{} sent", HumanBytes(self.bytes_out)));
        }
        (!parts.is_empty()).then(|| format!("{}, in {}", parts.join(", "), seconds(elapsed)))
    }
}

impl Live {
    fn new() -> Live {
        let bars = Bars::new();
        let summary = bars.add("{spinner} [{elapsed}] {msg}", Duration::from_millis(120), None);
        Live {
            bars,
            summary,
            running: BTreeMap::new(),
            step: None,
            watched: Watched::default(),
        }
    }

    fn take(&mut self, event: &Event, counts: &Counts) {
        match event {
            Event::Started { label } if self.running.len() < MAX_SHOWN => {
                let tick = Duration::from_millis(500);
                let bar = self.bars.add("  {wide_msg} {elapsed}", tick, Some(&self.summary));
                bar.show(label);
                self.running.insert(label.clone(), bar);
            }
            Event::Finished { label, .. } => {
                if let Some(bar) = self.running.remove(label) {
                    bar.clear();
                }
            }
            Event::Warning { .. } | Event::Step { .. } | Event::Line { .. } => self.print(event),
            // What ails a replica stays on the screen; how far all of them are is shown in place.
            Event::Watched { what, trouble, .. } => {
                let is_news = self.watched.takes(what, trouble.as_deref(), Duration::MAX);
                if is_news && trouble.is_some() {
                    self.print(event);
                }
            }
            _ => {}
        }
        if let Event::Step { step, state, .. } = event {
            self.step = (*state == StepState::Began).then(|| step.clone());
        }
        if let Some(step) = &self.step {
            match event {
                Event::Watched { state, .. } => {
                    self.summary.show(&format!("{step}: {state}"));
                }
                Event::Step { .. } => self.summary.show(step),
                _ => {}
            }
            return;
        }
        let done = counts.cached + counts.ran + counts.failed + counts.stopped;
        let mut message = format!("{done}/{} actions, {} cached", counts.planned, counts.cached);
        if counts.bytes_in > 0 {
            message += &format!(", {} in", HumanBytes(counts.bytes_in));
        }
        if counts.bytes_out > 0 {
            message += &format!(", {} out", HumanBytes(counts.bytes_out));
        }
        self.summary.show(&message);
    }

    fn print(&self, event: &Event) {
        if let Some(line) = line(event) {
            self.bars.say(line);
        }
    }

    fn clear(&mut self) {
        for (_, bar) in std::mem::take(&mut self.running) {
            bar.clear();
        }
        self.summary.clear();
    }
}

/// One event as a line; `None` for what is not worth one.
fn line(event: &Event) -> Option<String> {
    match event {
        Event::Finished {
            label, outcome, wall, ..
        } => {
            let (label, wall_text) = (printable(label), seconds(*wall));
            match outcome {
                Outcome::Cached | Outcome::Stopped => None,
                Outcome::Ran if label.contains(":fetch ") && *wall < SHORT_FETCH => None,
                Outcome::Ran => Some(format!("ran {label} in {wall_text}")),
                Outcome::Failed => Some(format!("failed {label} after {wall_text}")),
            }
        }
        Event::Warning { message } => {
            let lines: Vec<String> = message.lines().map(printable).collect();
            Some(format!("warning: {}", lines.join("\n  ")))
        }
        Event::Step { step, state, note } => {
            let note = note
                .as_ref()
                .map(|note| format!(": {}", printable(note)))
                .unwrap_or_default();
            match state {
                StepState::Began => None,
                StepState::Done => Some(format!("done {}{note}", printable(step))),
                StepState::Failed => Some(format!("failed {}{note}", printable(step))),
            }
        }
        Event::Watched { what, state, trouble } => {
            let trouble = trouble
                .as_ref()
                .map(|trouble| format!("; {}", printable(trouble)));
            let trouble = trouble.unwrap_or_default();
            Some(format!("  {} {}{trouble}", printable(what), printable(state)))
        }
        Event::Line { of, line } => Some(format!("  {} | {}", printable(of), printed(line))),
        Event::Planned { .. }
        | Event::Started { .. }
        | Event::Compiled { .. }
        | Event::Transferred { .. }
        | Event::Pushed { .. } => None,
    }
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}
