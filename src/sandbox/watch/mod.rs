//! Looks how much an action uses while it runs, from the process outside of its pid namespace, and says which
//! bound it went past. Looks often while that is cheap: one look takes a tenth of the time at most.

mod disk;
mod memory;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};

use super::bounds::{Bound, Bounds};
use super::spec::Spec;
use disk::Walk;
use memory::Memory;

/// How often to look, if looking takes no time.
const TICK: Duration = Duration::from_millis(100);

/// How long until a second look at memory, which decides.
const AGAIN: Duration = Duration::from_millis(20);

/// How long one look at directories takes at most; the next one goes on where it ended.
const SLICE: Duration = Duration::from_millis(20);

/// When to look next.
struct Pace(Instant);

impl Pace {
    fn new() -> Pace {
        Pace(Instant::now() + TICK)
    }

    /// Runs `look` if it is time.
    fn take<T>(&mut self, look: impl FnOnce() -> T) -> Option<T> {
        let began = Instant::now();
        if began < self.0 {
            return None;
        }
        let seen = look();
        let now = Instant::now();
        self.0 = now + TICK.max((now - began) * 9);
        Some(seen)
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Looks at memory.
pub(super) struct MemoryWatch {
    bounds: Bounds,
    memory: Memory,
    pace: Pace,
    /// Whether the last look was past the bound. One alone may be of a child that shares its parent's memory until
    /// it becomes a program.
    suspect: bool,
}

impl MemoryWatch {
    /// To be made before the root of the sandbox is entered.
    pub(super) fn new(spec: &Spec) -> io::Result<MemoryWatch> {
        Ok(MemoryWatch {
            bounds: spec.bounds.clone(),
            memory: Memory::new()?,
            pace: Pace::new(),
            suspect: false,
        })
    }

    /// How long until there is something to do.
    pub(super) fn left(&self) -> Duration {
        self.pace.left()
    }

    /// The bound that was passed, if it is time to look and one was.
    pub(super) fn look(&mut self) -> Option<Bound> {
        let (memory, limit) = (&self.memory, self.bounds.memory);
        let passed = self.pace.take(|| memory.is_entered() && memory.is_past(limit))?;
        if passed && self.suspect {
            return Some(Bound::Memory);
        }
        self.suspect = passed;
        if passed {
            self.pace = Pace(Instant::now() + AGAIN);
        }
        None
    }

    /// What an action that failed may have failed for: a file system in memory that has no room.
    pub(super) fn full(&self) -> Option<Bound> {
        match self.memory.is_entered() {
            true => memory::full(),
            false => None,
        }
    }
}

/// Looks at outputs and writable directories.
pub(super) struct DiskWatch {
    bounds: Bounds,
    outputs: Vec<OwnedFd>,
    writable: Vec<OwnedFd>,
    /// What was seen of them since the first one was begun.
    walk: Option<Walk>,
    pace: Pace,
}

impl DiskWatch {
    /// To be made where the paths of `spec` lead.
    pub(super) fn new(spec: &Spec) -> io::Result<DiskWatch> {
        let open = |path: &std::path::PathBuf| -> io::Result<OwnedFd> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
        };
        Ok(DiskWatch {
            bounds: spec.bounds.clone(),
            outputs: spec.outputs.iter().map(open).collect::<io::Result<_>>()?,
            writable: spec.uppers.iter().map(open).collect::<io::Result<_>>()?,
            walk: None,
            pace: Pace::new(),
        })
    }

    /// How long until there is something to do.
    pub(super) fn left(&self) -> Duration {
        self.pace.left()
    }

    /// The bound that was passed, if it is time to look and one was.
    pub(super) fn look(&mut self) -> Option<Bound> {
        let DiskWatch {
            bounds,
            outputs,
            writable,
            walk,
            pace,
        } = self;
        pace.take(|| {
            let walking = walk.get_or_insert_with(|| Walk::new(outputs, writable));
            let is_complete = walking.go_on(Instant::now() + SLICE);
            let passed = past(bounds, walking);
            if is_complete {
                *walk = None;
            }
            passed
        })?
    }
}

fn past(bounds: &Bounds, walk: &Walk) -> Option<Bound> {
    let usage = &walk.usage;
    let passed = [
        (usage.entries > bounds.entries, Bound::Entries),
        (usage.blocks > bounds.disk, Bound::Disk),
        (usage.output > bounds.output, Bound::Output),
        (usage.too_deep, Bound::Depth),
    ];
    passed.into_iter().find_map(|(is, bound)| is.then_some(bound))
}
