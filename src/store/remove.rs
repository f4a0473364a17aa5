//! Removal of whatever stands at a path, of any depth and size, by directory descriptors: in time that is linear
//! in the number of entries, with few descriptors, and stopped half-way when asked. Most of it happens in a
//! thread of its own, so that nothing waits for it that does not have to.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::error::{Error, io as failed};
use crate::cancel::Cancel;

/// Entries that are removed between two looks at whether to stop.
const STRIDE: usize = 512;

/// Bytes of directory entries that are read at once.
const BUFFER: usize = 32 << 10;

/// How often a directory is listed again that was not empty after everything in it was removed.
const MAX_AGAIN: usize = 100;

/// Removes whatever stands at `path`, directories without permissions and of any depth included.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    remove_unless(path, &|| false).map(drop)
}

/// Like [`remove_tree`], until `stop` says so: whether all of it is gone.
pub(super) fn remove_unless(path: &Path, stop: &dyn Fn() -> bool) -> Result<bool, Error> {
    let remove = || -> io::Result<bool> {
        match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(true),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = rustix::fs::openat(CWD, parent, PLACE, Mode::empty())?;
        remove_directory(parent, &CString::new(name.as_bytes())?, stop)
    };
    remove().map_err(failed("remove", path))
}

/// How directories are opened that are only passed through.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory on the way down.
struct Level {
    name: CString,
    id: (u64, u64),
    /// Directories in it that are still to be removed.
    below: Vec<CString>,
}

fn remove_directory(parent: OwnedFd, name: &CStr, stop: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let top = id(&parent)?;
    let mut levels: Vec<Level> = Vec::new();
    // The directory of the last level: one descriptor, however deep it is.
    let mut at = parent;
    let mut next = Some(name.to_owned());
    let mut again = 0;
    loop {
        if stop() {
            return Ok(false);
        }
        if let Some(name) = next.take()
            && let Some(directory) = open_to_empty(at.as_fd(), &name)?
        {
            let below = remove_files(directory.as_fd(), &mut buffer, stop)?;
            let id = id(&directory)?;
            levels.push(Level { name, id, below });
            at = directory;
        }
        let Some(level) = levels.last_mut() else {
            return Ok(true);
        };
        if let Some(below) = level.below.pop() {
            next = Some(below);
            continue;
        }
        let name = levels.pop().map(|level| level.name).unwrap_or_default();
        let parent = rustix::fs::openat(&at, "..", PLACE, Mode::empty())?;
        if id(&parent)? != levels.last().map_or(top, |level| level.id) {
            return Err(io::Error::other("a directory was moved while it was removed"));
        }
        match rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A listing may pass over entries while others are removed.
            Err(Errno::NOTEMPTY | Errno::EXIST) if again < MAX_AGAIN => {
                again += 1;
                next = Some(name);
            }
            Err(errno) => return Err(errno.into()),
        }
        at = parent;
    }
}

fn id(directory: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens a directory, and takes the permissions to empty it; `None` if it is gone, or was none and is gone now.
fn open_to_empty(at: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(at, name, flags, Mode::empty());
    let opened = match open() {
        Err(Errno::ACCESS) => {
            let place = rustix::fs::openat(at, name, PLACE | OFlags::NOFOLLOW, Mode::empty())?;
            take_permission(&place)?;
            open()
        }
        other => other,
    };
    match opened {
        Ok(directory) => {
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
            if !mode.contains(Mode::RWXU) {
                rustix::fs::fchmod(&directory, Mode::RWXU)?;
            }
            Ok(Some(directory))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            rustix::fs::unlinkat(at, name, AtFlags::empty())?;
            Ok(None)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Changes the mode of what a descriptor names that is open for no use: `fchmod` refuses those.
fn take_permission(place: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::RWXU)?)
}

/// Removes all but the directories, whose names it gives.
fn remove_files(
    directory: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    stop: &dyn Fn() -> bool,
) -> io::Result<Vec<CString>> {
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut below = Vec::new();
    let mut removed = 0_usize;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            below.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => below.push(name.to_owned()),
            Err(errno) => return Err(errno.into()),
        }
        removed += 1;
        if removed.is_multiple_of(STRIDE) && stop() {
            break;
        }
    }
    Ok(below)
}

/// A thread that removes what it is given. What this process made is waited for at the end; what a
/// dead process left is only removed as long as there is something else to wait for.
#[derive(Debug)]
pub(super) struct Remover {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    closing: AtomicBool,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct State {
    own: Vec<PathBuf>,
    left: Vec<PathBuf>,
    busy: bool,
}

impl Remover {
    /// One that leaves things where they are once `cancel` is raised.
    pub(super) fn new(cancel: Cancel) -> Remover {
        let queue = Queue {
            cancel,
            ..Queue::default()
        };
        Remover {
            queue: Arc::new(queue),
            thread: Mutex::default(),
        }
    }

    /// Removes something that this process has no use for any more.
    pub(super) fn remove(&self, path: PathBuf) {
        self.queue.lock().own.push(path);
        self.start();
    }

    /// Removes something that a dead process left.
    pub(super) fn remove_left(&self, path: PathBuf) {
        self.queue.lock().left.push(path);
        self.start();
    }

    /// Waits until everything is gone, or until cancelled.
    pub(super) fn finish(&self) {
        let mut state = self.queue.lock();
        while !state.is_idle() && !self.queue.cancel.is_raised() {
            let waited = self.queue.changed.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the thread, after what this process made is gone.
    pub(super) fn close(&self) {
        {
            // Under the lock, so that the thread does not start to wait in between.
            let _state = self.queue.lock();
            self.queue.closing.store(true, Ordering::SeqCst);
            self.queue.changed.notify_all();
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        // What came too late for the thread.
        self.queue.work();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.queue.cancel.is_raised()
    }

    fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if self.queue.closing.load(Ordering::SeqCst) {
            drop(thread);
            return self.queue.work();
        }
        if thread.is_none() {
            let queue = Arc::clone(&self.queue);
            let started = std::thread::Builder::new()
                .name("remover".to_owned())
                .spawn(move || queue.work());
            *thread = started.ok();
        }
        self.queue.changed.notify_all();
    }
}

impl State {
    fn is_idle(&self) -> bool {
        !self.busy && self.own.is_empty() && self.left.is_empty()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes until it is closed and nothing of this process is left.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            let closing = self.closing.load(Ordering::SeqCst);
            let own = state.own.pop();
            let is_own = own.is_some();
            let next = own.or_else(|| (!closing).then(|| state.left.pop()).flatten());
            let Some(path) = next else {
                if closing {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy = true;
            drop(state);
            let stop = || self.cancel.is_raised() || (!is_own && self.closing.load(Ordering::SeqCst));
            // What cannot be removed is left to the next process, which may say why.
            let _ = remove_unless(&path, &stop);
            state = self.lock();
            state.busy = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// `depth` nested directories, made without long paths.
    fn nest(at: &Path, depth: usize) {
        let mut directory = rustix::fs::openat(CWD, at, PLACE, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&directory, "deep", Mode::RWXU).unwrap();
            directory = rustix::fs::openat(&directory, "deep", PLACE, Mode::empty()).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&directory, "file", flags, Mode::RUSR).unwrap();
    }

    #[test]
    fn directories_deeper_than_any_path_go_in_one_pass() {
        const DEPTH: usize = 2_000;
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        nest(&top, DEPTH);
        let looked = Cell::new(0);
        let count = || {
            looked.set(looked.get() + 1);
            false
        };
        assert!(remove_unless(&top, &count).unwrap());
        assert!(!top.exists());
        // Once on the way down, and once on the way up.
        assert!(looked.get() <= 2 * (DEPTH + 2), "{}", looked.get());
    }

    #[test]
    fn removal_stops_when_asked_and_goes_on_later() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        for n in 0..3 * STRIDE {
            fs::write(top.join(n.to_string()), "").unwrap();
        }
        let looked = Cell::new(0);
        let second = || {
            looked.set(looked.get() + 1);
            looked.get() > 1
        };
        assert!(!remove_unless(&top, &second).unwrap());
        let left = fs::read_dir(&top).unwrap().count();
        assert_eq!(left, 2 * STRIDE);
        assert!(remove_unless(&top, &|| false).unwrap());
        assert!(!top.exists());
    }

    #[test]
    fn nothing_outside_is_touched_and_nothing_inside_resists() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("closed/inner")).unwrap();
        fs::write(top.join("closed/inner/file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
        std::os::unix::fs::symlink("..", top.join("closed/up")).unwrap();
        for (path, mode) in [("closed/inner", 0o000), ("closed", 0o500), ("", 0o000)] {
            fs::set_permissions(top.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists() && outside.join("file").exists());
        remove_tree(&top).unwrap();
        remove_tree(&outside.join("file/nothing")).unwrap();
        std::os::unix::fs::symlink(&outside, &top).unwrap();
        remove_tree(&top).unwrap();
        assert!(fs::symlink_metadata(&top).is_err() && outside.exists());
    }

    #[test]
    fn what_others_left_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (own, left) = (directory.path().join("own"), directory.path().join("left"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&left).unwrap();
        let remover = Remover::new(Cancel::default());
        remover.queue.lock().left.push(left.clone());
        remover.queue.lock().own.push(own.clone());
        remover.close();
        assert!(!own.exists() && left.exists());

        let remover = Remover::new(Cancel::default());
        remover.remove_left(left.clone());
        remover.finish();
        assert!(!left.exists());

        let cancel = Cancel::default();
        cancel.raise();
        fs::create_dir(&own).unwrap();
        let remover = Remover::new(cancel);
        remover.remove(own.clone());
        remover.finish();
        remover.close();
        assert!(own.exists(), "an interrupt leaves it for later");
    }
}
