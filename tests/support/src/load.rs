//! Requests to a published port while something goes on: a bounded stream of them, none of which may fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::get;

/// Fewer answers of a kind tell nothing.
const ENOUGH: usize = 5;
/// Threads that make requests.
const THREADS: u32 = 2;
/// From the end of a request to the next one of a thread: less than 100 a second in all.
const PAUSE: Duration = Duration::from_millis(10 * THREADS as u64);

/// A stream of requests, until it is finished or dropped.
pub struct Load {
    ended: Arc<AtomicBool>,
    made: Arc<Mutex<Made>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Made {
    /// How often the bodies of good answers came.
    answers: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Load {
    /// Begins to ask for `path` on a port of the loopback device.
    pub fn start(port: u16, path: &str) -> Load {
        let (ended, made) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Made>>::default());
        let threads = (0..THREADS).map(|_| {
            let (ended, made, path) = (Arc::clone(&ended), Arc::clone(&made), path.to_owned());
            std::thread::spawn(move || ask(port, &path, &ended, &made))
        });
        Load {
            threads: threads.collect(),
            ended,
            made,
        }
    }

    /// How many requests were answered with status 200 so far.
    pub fn answered(&self) -> usize {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.answers.values().sum()
    }

    /// Ends it, after making sure that no request failed and that no answer came only a few times; how often each came.
    #[track_caller]
    pub fn finish(mut self) -> BTreeMap<String, usize> {
        self.ended.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap();
        }
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        assert!(
            made.failures.is_empty(),
            "{} failed beside {:?}: {:#?}",
            made.failures.len(),
            made.answers,
            made.failures
        );
        let few = made.answers.values().any(|times| *times < ENOUGH);
        assert!(!few, "too few to tell: {:?}", made.answers);
        made.answers
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn ask(port: u16, path: &str, ended: &AtomicBool, made: &Mutex<Made>) {
    let began = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let answer = get(port, path);
        let mut made = made.lock().unwrap();
        match answer {
            Ok((200, body)) => *made.answers.entry(body).or_default() += 1,
            other => made
                .failures
                .push(format!("{other:?} after {:?}", began.elapsed())),
        }
        drop(made);
        std::thread::sleep(PAUSE);
    }
}
