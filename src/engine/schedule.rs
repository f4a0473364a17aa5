//! Which node is evaluated when: inputs first, computing and fetching each within its own bound.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Engine, Failure, Fault};
use crate::cancel::Cancel;
use crate::event::Event;
use crate::plan::{Node, NodeId};
use crate::tree::Tree;

/// Nodes that wait for a worker, the first in the plan first.
#[derive(Default)]
struct Ready {
    compute: BTreeSet<NodeId>,
    fetch: BTreeSet<NodeId>,
}

struct State {
    ready: Ready,
    /// How many inputs of a node have no value yet.
    waiting: Vec<usize>,
    values: Vec<Option<Tree>>,
    /// Nodes that are neither done nor known to be out of reach.
    left: usize,
    running: usize,
    failures: Vec<(NodeId, Failure)>,
}

struct Schedule<'a> {
    engine: &'a Engine<'a>,
    state: Mutex<State>,
    /// Where workers of each kind wait for a node, and where the end is waited for. Whoever takes a node wakes one
    /// more while there are others, so that no crowd wakes for each.
    compute: Condvar,
    fetch: Condvar,
    over: Condvar,
    /// Stops this build; raised when the user asks for it, or when something failed.
    stop: Cancel,
    /// The nodes that need a node's value.
    dependents: Vec<Vec<NodeId>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Compute,
    Fetch,
}

pub(super) fn run(engine: &Engine<'_>, roots: &[NodeId]) -> Result<Vec<Tree>, Vec<Failure>> {
    let schedule = Schedule::new(engine, roots);
    std::thread::scope(|scope| {
        for _ in 0..engine.options.jobs.max(1) {
            scope.spawn(|| schedule.work(Kind::Compute));
        }
        for _ in 0..engine.options.fetches.max(1) {
            scope.spawn(|| schedule.work(Kind::Fetch));
        }
        schedule.watch();
    });
    let mut state = schedule.state.into_inner().expect("workers ended well");
    if engine.cancel.is_raised() && state.left > 0 && state.failures.is_empty() {
        return Err(vec![*Failure::of(
            "build",
            Fault::Cancelled,
            "interrupted".to_owned(),
        )]);
    }
    if !state.failures.is_empty() {
        state.failures.sort_by_key(|(id, _)| *id);
        return Err(state.failures.into_iter().map(|(_, failure)| failure).collect());
    }
    let value = |id: &NodeId| state.values[id.index()].expect("nothing failed");
    Ok(roots.iter().map(value).collect())
}

impl<'a> Schedule<'a> {
    fn new(engine: &'a Engine<'a>, roots: &[NodeId]) -> Schedule<'a> {
        let needed = engine.plan.reachable(roots, engine.options.host);
        let actions = needed
            .iter()
            .filter(|id| engine.plan.label(**id).is_some())
            .count();
        engine.events.emit(Event::Planned { actions });
        let mut state = State {
            ready: Ready::default(),
            waiting: vec![0; engine.plan.len()],
            values: vec![None; engine.plan.len()],
            left: needed.len(),
            running: 0,
            failures: Vec::new(),
        };
        let mut dependents = vec![Vec::new(); engine.plan.len()];
        for id in needed {
            let inputs = engine.plan.needs(id, engine.options.host);
            let inputs: BTreeSet<NodeId> = inputs.into_iter().collect();
            state.waiting[id.index()] = inputs.len();
            for input in &inputs {
                dependents[input.index()].push(id);
            }
            if inputs.is_empty() {
                state.ready.push(engine.plan.node(id), id);
            }
        }
        Schedule {
            engine,
            state: Mutex::new(state),
            compute: Condvar::new(),
            fetch: Condvar::new(),
            over: Condvar::new(),
            stop: Cancel::default(),
            dependents,
        }
    }

    /// Passes the user's wish to stop on to what runs, until nothing runs any more.
    fn watch(&self) {
        let mut state = self.lock();
        while !state.is_over(&self.stop) {
            if self.engine.cancel.is_raised() {
                self.stop.raise();
            }
            let waited = self.over.wait_timeout(state, Duration::from_millis(50));
            state = waited.expect("workers do not panic while they hold it").0;
        }
        self.wake(&state);
    }

    /// Wakes whom there is something to do for.
    fn wake(&self, state: &State) {
        if state.is_over(&self.stop) {
            self.compute.notify_all();
            self.fetch.notify_all();
            self.over.notify_all();
            return;
        }
        if !state.ready.compute.is_empty() {
            self.compute.notify_one();
        }
        if !state.ready.fetch.is_empty() {
            self.fetch.notify_one();
        }
    }

    fn work(&self, kind: Kind) {
        let mut state = self.lock();
        loop {
            if state.is_over(&self.stop) {
                return;
            }
            let next = (!self.stop.is_raised()).then(|| state.ready.pop(kind)).flatten();
            let Some(id) = next else {
                let changed = match kind {
                    Kind::Compute => &self.compute,
                    Kind::Fetch => &self.fetch,
                };
                let waited = changed.wait(state);
                state = waited.expect("workers do not panic while they hold it");
                continue;
            };
            state.running += 1;
            self.wake(&state);
            drop(state);
            let running = Running(self);
            let value_of = |id: NodeId| self.lock().values[id.index()].expect("inputs come first");
            let outcome = self.engine.evaluate(id, &value_of, &self.stop);
            state = self.lock();
            match outcome {
                Ok(value) => self.done(&mut state, id, value),
                Err(failure) => self.failed(&mut state, id, *failure),
            }
            state.running -= 1;
            std::mem::forget(running);
            self.wake(&state);
        }
    }

    fn done(&self, state: &mut State, id: NodeId, value: Tree) {
        state.values[id.index()] = Some(value);
        state.left -= 1;
        for dependent in &self.dependents[id.index()] {
            let waiting = &mut state.waiting[dependent.index()];
            *waiting -= 1;
            if *waiting == 0 {
                state.ready.push(self.engine.plan.node(*dependent), *dependent);
            }
        }
    }

    fn failed(&self, state: &mut State, id: NodeId, failure: Failure) {
        let serious = matches!(failure.fault, Fault::LostContent(_) | Fault::Cancelled);
        // What was stopped because something else failed is no failure of its own.
        if !(failure.fault == Fault::Cancelled && self.stop.is_raised()) {
            state.failures.push((id, failure));
        }
        if serious || !self.engine.options.keep_going {
            self.stop.raise();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("workers do not panic while they hold it")
    }
}

impl State {
    fn is_over(&self, stop: &Cancel) -> bool {
        let idle = self.ready.compute.is_empty() && self.ready.fetch.is_empty();
        self.running == 0 && (self.left == 0 || idle || stop.is_raised())
    }
}

impl Ready {
    fn push(&mut self, node: &Node, id: NodeId) {
        match node {
            Node::Fetch(_) => self.fetch.insert(id),
            _ => self.compute.insert(id),
        };
    }

    fn pop(&mut self, kind: Kind) -> Option<NodeId> {
        match kind {
            Kind::Compute => self.compute.pop_first(),
            Kind::Fetch => self.fetch.pop_first(),
        }
    }
}

/// Lets the others end when a worker panics, so that the panic comes to light instead of a silence.
struct Running<'a>(&'a Schedule<'a>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.stop.raise();
        let mut state = self.0.lock();
        state.running -= 1;
        self.0.wake(&state);
    }
}
