//! What stands below directories, while others write there.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::tree::TreePath;

/// How many entries are read between two looks at the clock.
const BATCH: usize = 128;

/// How much it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of all files of outputs.
    pub output: u64,
    /// Bytes that everything takes on the disk.
    pub blocks: u64,
    /// Files, directories and whatever else has a name.
    pub entries: u64,
    /// Whether directories are nested deeper than in any tree.
    pub too_deep: bool,
}

/// A look at all directories, in as many parts as it takes. What vanishes meanwhile counts or not.
pub(super) struct Walk {
    /// The directories that were not begun, and whether they are outputs.
    left: Vec<(Dir, bool)>,
    /// The way to where the walk is.
    open: Vec<Dir>,
    in_output: bool,
    pub usage: Usage,
}

impl Walk {
    pub(super) fn new(outputs: &[OwnedFd], writable: &[OwnedFd]) -> Walk {
        let outputs = outputs.iter().map(|directory| (directory, true));
        let all = outputs.chain(writable.iter().map(|directory| (directory, false)));
        Walk {
            left: all
                .filter_map(|(directory, output)| Some((Dir::read_from(directory).ok()?, output)))
                .collect(),
            open: Vec::new(),
            in_output: false,
            usage: Usage::default(),
        }
    }

    /// Walks until the end, or until `deadline`. Whether it is the end.
    pub(super) fn go_on(&mut self, deadline: Instant) -> bool {
        loop {
            for _ in 0..BATCH {
                if !self.step() {
                    return true;
                }
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// Takes one entry. `false` if there is none left.
    fn step(&mut self) -> bool {
        let depth = self.open.len();
        let Some(here) = self.open.last_mut() else {
            let Some((directory, in_output)) = self.left.pop() else {
                return false;
            };
            self.in_output = in_output;
            self.open.push(directory);
            return true;
        };
        let Some(Ok(entry)) = here.read() else {
            self.open.pop();
            return true;
        };
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return true;
        }
        let Ok(parent) = here.fd() else { return true };
        let Ok(stat) = rustix::fs::statat(parent, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            return true;
        };
        self.usage.entries += 1;
        self.usage.blocks += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if self.in_output => {
                self.usage.output += u64::try_from(stat.st_size).unwrap_or(0);
            }
            FileType::Directory if depth >= TreePath::MAX_DEPTH => self.usage.too_deep = true,
            FileType::Directory => {
                let child = below(parent, entry.file_name());
                self.open.extend(child);
            }
            _ => {}
        }
        true
    }
}

fn below(parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let child: OwnedFd = rustix::fs::openat(parent, name, flags, Mode::empty()).ok()?;
    Dir::read_from(child.as_fd()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    /// What stands below an output and below a writable directory, and in how many parts that was seen.
    fn measure(output: &Path, writable: &Path, slice: Duration) -> (Usage, usize) {
        let open = |path: &Path| [OwnedFd::from(File::open(path).unwrap())];
        let mut walk = Walk::new(&open(output), &open(writable));
        let mut parts = 1;
        while !walk.go_on(Instant::now() + slice) {
            parts += 1;
        }
        (walk.usage, parts)
    }

    #[test]
    fn everything_below_counts() {
        let directory = tempfile::tempdir().unwrap();
        let [output, writable] = ["out", "over"].map(|name| directory.path().join(name));
        fs::create_dir_all(output.join("a/b")).unwrap();
        fs::create_dir(&writable).unwrap();
        for file in [output.join("a/b/file"), writable.join("file")] {
            fs::write(file, [1; 5000]).unwrap();
        }
        std::os::unix::fs::symlink("/", output.join("link")).unwrap();
        let (usage, _) = measure(&output, &writable, Duration::from_secs(60));
        assert_eq!((usage.entries, usage.output, usage.too_deep), (5, 5000, false));
        assert!(usage.blocks >= 10_000);
    }

    #[test]
    fn a_walk_goes_on_where_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        for n in 0..3 * BATCH {
            fs::create_dir(directory.path().join(n.to_string())).unwrap();
        }
        let (usage, parts) = measure(directory.path(), directory.path(), Duration::ZERO);
        assert_eq!(usage.entries, 6 * BATCH as u64);
        assert!(parts > 6, "{parts}");
    }

    #[test]
    fn depth_is_bounded() {
        let [directory, empty] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let make = |depth: usize| fs::create_dir_all(directory.path().join("d/".repeat(depth))).unwrap();
        let deep = || {
            measure(directory.path(), empty.path(), Duration::from_secs(60))
                .0
                .too_deep
        };
        make(TreePath::MAX_DEPTH - 1);
        assert!(!deep());
        make(TreePath::MAX_DEPTH);
        assert!(deep());
    }
}
