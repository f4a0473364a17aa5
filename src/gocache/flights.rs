//! What actions are compiling right now: of several that miss one entry at the same time, one compiles it and the others
//! wait for that. An action that compiles a package has asked for all that this takes, so no two wait for each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Fingerprint;

/// How long an action waits for another one's entry before it compiles that itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often one that waits looks whether its own action has ended.
const TICK: Duration = Duration::from_millis(50);

/// Entries that are being made, by the number of the action that makes each.
#[derive(Debug, Default)]
pub(super) struct Flights {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    actions: u64,
    makers: HashMap<Fingerprint, u64>,
}

/// One action's part in it; what it had begun is free for others when this is dropped.
#[derive(Debug)]
pub(super) struct Flight<'a> {
    flights: &'a Flights,
    action: u64,
}

impl Flights {
    /// The part of a new action.
    pub fn join(&self) -> Flight<'_> {
        let mut state = self.lock();
        state.actions += 1;
        Flight {
            flights: self,
            action: state.actions,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight<'_> {
    /// Whether this action is to make what stands under `key`: not while another one does.
    pub fn begin(&self, key: Fingerprint) -> bool {
        *self.flights.lock().makers.entry(key).or_insert(self.action) == self.action
    }

    /// What was begun is there.
    pub fn land(&self, key: &Fingerprint) {
        self.flights.lock().makers.remove(key);
        self.flights.changed.notify_all();
    }

    /// Waits while another action makes what stands under `key`, unless `over` or for too long.
    pub fn wait(&self, key: &Fingerprint, over: &AtomicBool) {
        let began = Instant::now();
        let mut state = self.flights.lock();
        while state.makers.get(key).is_some_and(|maker| *maker != self.action)
            && began.elapsed() < PATIENCE
            && !over.load(Ordering::SeqCst)
        {
            let waited = self.flights.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut state = self.flights.lock();
        state.makers.retain(|_, maker| *maker != self.action);
        self.flights.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_makes_and_the_others_wait_until_it_is_there_or_given_up() {
        let flights = Flights::default();
        let key = |text: &str| Fingerprint::of("test", text.as_bytes());
        let (one, two) = (flights.join(), flights.join());
        assert!(one.begin(key("a")) && one.begin(key("b")) && two.begin(key("c")));
        assert!(one.begin(key("a")), "it asks again");
        assert!(!two.begin(key("a")) && !two.begin(key("b")));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| two.wait(&key("a"), &over));
            std::thread::sleep(TICK * 3);
            assert!(!waiting.is_finished());
            one.land(&key("a"));
            waiting.join().unwrap();
            let waiting = scope.spawn(|| two.wait(&key("b"), &over));
            drop(one);
            waiting.join().unwrap();
            assert!(two.begin(key("b")));
        });
        // An action that ends waits for nothing.
        over.store(true, Ordering::SeqCst);
        flights.join().wait(&key("c"), &over);
    }
}
