//! What containers print, as lines in files of bounded size: the side that writes. A line is
//! `<time> <service>.<slot> <stdout|stderr> <text>`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::place::Place;
use super::state::Stamp;

/// A file that is longer becomes the old one.
const MAX_FILE: u64 = 8 << 20;

/// A longer line becomes several, in bytes.
const MAX_LINE: usize = 16 << 10;

/// So many files; the oldest go. Tasks have one each.
const MAX_FILES: usize = 256;

/// How many lines of each container are at hand, and how much of each, in bytes.
const TAIL: (usize, usize) = (20, 400);

/// Which of its two streams a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The files of all services.
#[derive(Debug)]
pub(super) struct Logs {
    place: Place,
    files: Mutex<BTreeMap<String, Arc<Mutex<Log>>>>,
}

impl Logs {
    pub(super) fn new(place: Place) -> Logs {
        Logs {
            place,
            files: Mutex::default(),
        }
    }

    /// Where a container's lines go.
    pub(super) fn printer(&self, service: &str, slot: u32) -> Printer {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let log = files.entry(service.to_owned()).or_insert_with(|| {
            let path = self.place.path("logs").join(format!("{service}.log"));
            // Too many of them are no reason not to run.
            let _ = prune(&self.place.path("logs"));
            Arc::new(Mutex::new(Log { path, file: None }))
        });
        Printer {
            log: log.clone(),
            of: format!("{service}.{slot}"),
            pending: [Vec::new(), Vec::new()],
            tail: Arc::default(),
        }
    }
}

/// Removes the files that were not written for the longest time, above their number.
fn prune(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let surplus = files.len().saturating_sub(MAX_FILES);
    files[..surplus]
        .iter()
        .try_for_each(|(_, path)| fs::remove_file(path))
}

/// The file of one service, and its length.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<(File, u64)>,
}

impl Log {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let (mut file, length) = match self.file.take() {
            Some((file, length)) if length < MAX_FILE => (file, length),
            Some(_) => {
                fs::rename(&self.path, self.path.with_extension("log.1"))?;
                (self.open()?, 0)
            }
            None => {
                let file = self.open()?;
                let length = file.metadata()?.len();
                (file, length)
            }
        };
        file.write_all(line)?;
        self.file = Some((file, length + line.len() as u64));
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(&self.path)
    }
}

/// The last lines of a container, for whoever observes it.
pub(super) type Tail = Arc<Mutex<VecDeque<String>>>;

/// Takes what one container writes, and keeps it as lines.
#[derive(Debug)]
pub(super) struct Printer {
    log: Arc<Mutex<Log>>,
    of: String,
    /// What is not a whole line yet, of each stream.
    pending: [Vec<u8>; 2],
    tail: Tail,
}

impl Printer {
    pub(super) fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// Takes bytes in.
    pub(super) fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let pending = &mut self.pending[stream as usize];
            let room = MAX_LINE - pending.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let (line, rest, whole) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..], true),
                None => {
                    let end = room.min(bytes.len());
                    (&bytes[..end], &bytes[end..], end == room)
                }
            };
            pending.extend(line);
            bytes = rest;
            if whole {
                self.flush(stream);
            }
        }
    }

    /// The container has ended: what is left is a line.
    pub(super) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.pending[stream as usize].is_empty() {
                self.flush(stream);
            }
        }
    }

    fn flush(&mut self, stream: Stream) {
        let pending = std::mem::take(&mut self.pending[stream as usize]);
        let text = String::from_utf8_lossy(&pending);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        let line = format!("{} {} {} {text}\n", Stamp::now(), self.of, stream.name());
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not stop the container; the next line tries to open the file again.
        let _ = log.write(line.as_bytes());
        drop(log);
        let (lines, length) = TAIL;
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(text[..text.floor_char_boundary(length)].to_owned());
        if tail.len() > lines {
            tail.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_files() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        let logs = Logs::new(place.clone());
        for number in 0..MAX_FILES + 20 {
            let mut printer = logs.printer(&format!("task-{number}"), 0);
            printer.take(Stream::Stdout, b"line\n");
        }
        let names: Vec<_> = fs::read_dir(place.path("logs")).unwrap().collect();
        assert_eq!(names.len(), MAX_FILES + 1);
        let last = format!("logs/task-{}.log", MAX_FILES + 19);
        assert!(place.path(&last).exists());
    }
}
