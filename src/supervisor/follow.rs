//! What containers printed, as lines from files: the side that reads, from outside of the supervisor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::logs::Stream;

/// A line that a container printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was taken in: RFC 3339 with milliseconds, in UTC. Sorts as text.
    pub at: String,
    /// Which replica, `<service>.<slot>`; the slot of a task is 0.
    pub of: String,
    /// Where it was printed to.
    pub stream: Stream,
    /// What.
    pub text: String,
}

/// Reads the lines of some services, and then those that come later.
#[derive(Debug)]
pub struct LogReader {
    directory: PathBuf,
    /// The services to read; all of them if none is named.
    services: Vec<String>,
    /// How far each file was read.
    files: BTreeMap<PathBuf, Followed>,
    /// How many lines of each service the first reading gives.
    tail: Option<usize>,
}

#[derive(Debug)]
struct Followed {
    file: File,
    inode: u64,
    /// What is not a whole line yet.
    pending: Vec<u8>,
}

/// A reader of the logs under the state directory `directory`, of the `services` named, or of all. The first
/// reading gives the last `tail` lines of each, or all that there are.
pub fn logs(directory: &Path, services: &[String], tail: Option<usize>) -> LogReader {
    LogReader {
        directory: directory.join("logs"),
        services: services.to_owned(),
        files: BTreeMap::new(),
        tail,
    }
}

impl LogReader {
    /// The lines that came since the last reading, oldest first; at first, those that are there. A service of
    /// which nothing is there yet has none. Follow by reading again every 100 ms or so: what is rotated away
    /// twice between two readings, more than 8 MiB of it, is lost.
    pub fn read(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for path in self.paths()? {
            let first = !self.files.contains_key(&path);
            let mut found = self.lines_of(&path)?;
            if let (true, Some(tail)) = (first, self.tail) {
                let surplus = found.len().saturating_sub(tail);
                found.drain(..surplus);
            }
            lines.extend(found);
        }
        // Files that appear later are new, and are read from the start.
        self.tail = None;
        lines.sort_by(|a, b| a.at.cmp(&b.at));
        Ok(lines)
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        if !self.services.is_empty() {
            let names = self.services.iter();
            return Ok(names
                .map(|name| self.directory.join(format!("{name}.log")))
                .collect());
        }
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            paths.extend(path.extension().is_some_and(|it| it == "log").then_some(path));
        }
        Ok(paths)
    }

    fn lines_of(&mut self, path: &Path) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        let Some(followed) = self.files.get_mut(path) else {
            let old = path.with_extension("log.1");
            // The newer one first: between the two it may become the older one, and is then read once.
            let newer = open(path)?;
            let older = open(&old)?;
            let same = |one: &Followed| newer.as_ref().is_some_and(|new| new.inode == one.inode);
            if let Some(mut older) = older.filter(|older| !same(older)) {
                older.lines(&mut lines)?;
            }
            if let Some(mut newer) = newer {
                newer.lines(&mut lines)?;
                self.files.insert(path.to_owned(), newer);
            }
            return Ok(lines);
        };
        // Whatever was written before the file was replaced is there when the new one is seen.
        let newer = open(path)?.filter(|newer| newer.inode != followed.inode);
        followed.lines(&mut lines)?;
        if let Some(mut newer) = newer {
            newer.lines(&mut lines)?;
            *followed = newer;
        }
        Ok(lines)
    }
}

fn open(path: &Path) -> io::Result<Option<Followed>> {
    match File::open(path) {
        Ok(file) => Ok(Some(Followed {
            inode: file.metadata()?.ino(),
            file,
            pending: Vec::new(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Followed {
    fn lines(&mut self, into: &mut Vec<LogLine>) -> io::Result<()> {
        self.file.read_to_end(&mut self.pending)?;
        let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let rest = self.pending.split_off(end + 1);
        let whole = std::mem::replace(&mut self.pending, rest);
        into.extend(String::from_utf8_lossy(&whole).lines().filter_map(parse));
        Ok(())
    }
}

fn parse(line: &str) -> Option<LogLine> {
    let mut parts = line.splitn(4, ' ');
    let (at, of, stream) = (parts.next()?, parts.next()?, parts.next()?);
    Some(LogLine {
        at: at.to_owned(),
        of: of.to_owned(),
        stream: match stream {
            "stderr" => Stream::Stderr,
            _ => Stream::Stdout,
        },
        text: parts.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::logs::Logs;
    use crate::supervisor::place::Place;

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        let mut printer = Logs::new(place).printer("api", 2);
        printer.take(Stream::Stdout, b"one\ntw");
        printer.take(Stream::Stderr, b"other\r\n");
        printer.take(Stream::Stdout, b"o\n\n");
        printer.take(Stream::Stderr, &[b'x'; 20_000]);
        let mut reader = logs(directory.path(), &[], None);
        let lines = reader.read().unwrap();
        assert_eq!(texts(&lines)[..4], ["one", "other", "two", ""]);
        assert_eq!((lines[4].text.len(), lines[4].stream), (16 << 10, Stream::Stderr));
        assert_eq!(lines[0].of, "api.2");
        printer.finish();
        assert_eq!(reader.read().unwrap()[0].text.len(), 20_000 - (16 << 10));
        assert_eq!(printer.tail().lock().unwrap().len(), 6);
    }

    #[test]
    fn the_last_lines_are_given_and_then_what_comes_across_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        let logs_of = Logs::new(place);
        let mut printer = logs_of.printer("api", 1);
        for number in 0..10 {
            printer.take(Stream::Stdout, format!("{number}\n").as_bytes());
        }
        let mut reader = logs(
            directory.path(),
            &["api".to_owned(), "absent".to_owned()],
            Some(2),
        );
        assert_eq!(texts(&reader.read().unwrap()), ["8", "9"]);
        assert!(reader.read().unwrap().is_empty());
        // Two rotations: all of it is read as long as it is read in between.
        let line = [&[b'y'; 8_000][..], b"\n"].concat();
        let mut read = 0;
        for part in 0..5 {
            for _ in 0..500 {
                printer.take(Stream::Stdout, &line);
            }
            printer.take(Stream::Stdout, format!("part {part}\n").as_bytes());
            let lines = reader.read().unwrap();
            assert_eq!(lines.last().unwrap().text, format!("part {part}"));
            read += lines.len();
        }
        assert_eq!(read, 5 * 501);
        let sizes = ["api.log", "api.log.1"].map(|name| {
            let path = directory.path().join("logs").join(name);
            fs::metadata(path).unwrap().len()
        });
        assert!(sizes.iter().all(|size| *size <= (8 << 20) + 9_000), "{sizes:?}");
        let older = logs(directory.path(), &[], Some(10_000)).read().unwrap();
        assert!(older.len() > 1_000);
    }
}
