//! The lock of a stack: a label with its owner and a count that goes on while the owner lives. It is taken from an owner
//! whose process is gone from this machine at once, and from any other after a long look at a count that stands still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::state;
use crate::cancel::Cancel;
use crate::docker::Engine;
use crate::rollout::target::{self, Error};

/// The label that holds it.
const LOCK: &str = "skep.lock";
/// How often the count goes on in the time that it may stand still.
const BEATS: u32 = 6;

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    /// For a person.
    name: String,
    /// Since when, for a person.
    since: String,
    /// The machine since it was started, the process's namespace, the process and when it began.
    process: String,
    /// Goes on while the owner lives.
    beat: u64,
}

/// The lock that this process holds, if it does.
#[derive(Clone, Default)]
pub(super) struct Holding(Arc<Mutex<Option<String>>>);

impl Holding {
    fn set(&self, process: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }

    /// Refuses what is about to be changed if somebody took the lock over. Whoever holds none changes on its own
    /// account.
    pub(super) fn check(&self, engine: &Engine, stack: &str) -> Result<(), Error> {
        match self.process() {
            Some(_) => {
                let state = state::read(engine, stack)?;
                self.check_labels(&state.map(|state| state.labels).unwrap_or_default())
            }
            None => Ok(()),
        }
    }

    /// The same, of the state as it was read.
    pub(super) fn check_labels(&self, labels: &state::Labels) -> Result<(), Error> {
        let Some(process) = self.process() else {
            return Ok(());
        };
        match owner(labels) {
            Some(owner) if owner.process == process => Ok(()),
            Some(other) => Err(locked(&other)),
            None => Err(Error::Locked {
                owner: "somebody, who has ended it since".to_owned(),
            }),
        }
    }

    fn process(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn owner(labels: &state::Labels) -> Option<Owner> {
    serde_json::from_str(labels.get(LOCK)?).ok()
}

fn locked(owner: &Owner) -> Error {
    Error::Locked {
        owner: format!("{}, since {}", owner.name, owner.since),
    }
}

/// The lock, until it is dropped.
pub(super) struct Lock {
    engine: Arc<Engine>,
    stack: String,
    process: String,
    holding: Holding,
    beats: Option<(Sender<()>, JoinHandle<()>)>,
    lost: Arc<AtomicBool>,
}

impl target::Lock for Lock {}

/// What is needed to take the lock.
pub(super) struct Wanted<'a> {
    pub engine: &'a Arc<Engine>,
    pub stack: &'a str,
    pub owner: &'a str,
    /// For how long a count stands still before its owner is taken for dead.
    pub patience: Duration,
    pub holding: &'a Holding,
    pub cancel: &'a Cancel,
}

/// Takes the lock. True if it was somebody's who is dead.
pub(super) fn take(wanted: &Wanted<'_>, takeover: bool) -> Result<(Lock, bool), Error> {
    let mine = Owner {
        name: wanted.owner.to_owned(),
        since: target::now().format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        process: this_process(),
        beat: 0,
    };
    let mut dead: Option<Owner> = None;
    let was_somebodys = loop {
        let mut refused = None;
        let mut was_somebodys = false;
        state::change(wanted.engine, wanted.stack, &mut |labels| {
            let there = owner(labels);
            was_somebodys = there.is_some();
            match there {
                Some(owner) if !is_gone(&owner.process) && Some(&owner) != dead.as_ref() => {
                    refused = Some(owner);
                }
                _ => {
                    refused = None;
                    labels.insert(LOCK.to_owned(), state::json(&mine));
                }
            }
            Ok(())
        })?;
        match refused {
            None => break was_somebodys,
            Some(owner) if !takeover => return Err(locked(&owner)),
            Some(owner) => dead = Some(await_death(wanted, owner)?),
        }
    };
    wanted.holding.set(Some(mine.process.clone()));
    let lost = Arc::new(AtomicBool::new(false));
    let mut lock = Lock {
        engine: Arc::clone(wanted.engine),
        stack: wanted.stack.to_owned(),
        process: mine.process,
        holding: wanted.holding.clone(),
        beats: None,
        lost: Arc::clone(&lost),
    };
    lock.beats = Some(beats(&lock, wanted.patience / BEATS));
    Ok((lock, was_somebodys))
}

/// Looks at an owner for as long as it may be silent. It is the one who is dead, if nothing of it moved.
fn await_death(wanted: &Wanted<'_>, owner: Owner) -> Result<Owner, Error> {
    let began = Instant::now();
    while began.elapsed() < wanted.patience {
        if wanted.cancel.is_raised() {
            return Err(Error::Cancelled);
        }
        std::thread::sleep(Duration::from_millis(200));
        let state = state::read(wanted.engine, wanted.stack)?;
        match self::owner(&state.map(|state| state.labels).unwrap_or_default()) {
            Some(there) if there == owner => {}
            Some(alive) => return Err(locked(&alive)),
            None => break,
        }
    }
    Ok(owner)
}

/// Counts on, for as long as the lock is held.
fn beats(lock: &Lock, every: Duration) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel();
    let (engine, stack) = (Arc::clone(&lock.engine), lock.stack.clone());
    let (process, lost) = (lock.process.clone(), Arc::clone(&lock.lost));
    let count = move || {
        while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            // What cannot be reached now is tried again at the next beat; whoever writes notices before.
            let _ = state::change(&engine, &stack, &mut |labels| {
                match owner(labels) {
                    Some(mut owner) if owner.process == process => {
                        owner.beat += 1;
                        labels.insert(LOCK.to_owned(), state::json(&owner));
                    }
                    _ => lost.store(true, Ordering::Relaxed),
                }
                Ok(())
            });
        }
    };
    (stop, std::thread::spawn(count))
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.beats.take() {
            drop(stop);
            let _ = thread.join();
        }
        self.holding.set(None);
        if self.lost.load(Ordering::Relaxed) {
            return;
        }
        // One that cannot be given up now is taken for dead later.
        let _ = state::change(&self.engine, &self.stack, &mut |labels| {
            if owner(labels).is_some_and(|owner| owner.process == self.process) {
                labels.remove(LOCK);
            }
            Ok(())
        });
    }
}

/// This process, told from every other on every machine.
fn this_process() -> String {
    let id = std::process::id();
    format!("{}/{id}/{}", here(), began(id).unwrap_or_default())
}

/// This machine since it was started, and the namespace in which processes are counted.
fn here() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{}/{}", boot.trim(), namespace.display())
}

/// When a process began, in clock ticks since the machine did (proc(5), `/proc/PID/stat`, field 22).
fn began(id: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

/// Whether a process was one of this machine, and is not any more.
fn is_gone(process: &str) -> bool {
    let Some((place, began_then)) = process.rsplit_once('/') else {
        return false;
    };
    let Some((place, id)) = place.rsplit_once('/') else {
        return false;
    };
    place == here()
        && id
            .parse()
            .is_ok_and(|id| began(id).as_deref() != Some(began_then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_this_machine_does_not_have_it() {
        let own = this_process();
        assert!(!is_gone(&own), "{own}");
        assert!(is_gone(&format!("{own}0")));
        assert!(!is_gone(&format!("elsewhere/{own}")));
        assert!(!is_gone("nonsense"));
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let of_child = format!("{}/{}/{}", here(), child.id(), began(child.id()).unwrap());
        assert!(!is_gone(&of_child));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&of_child));
    }
}
