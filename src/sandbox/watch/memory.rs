//! How much memory the processes of a sandbox take, and its file systems in memory.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;

use super::super::sys;
use super::Bound;

/// File systems in memory that an action can write.
const IN_MEMORY: [&str; 2] = ["/tmp", "/dev/shm"];

/// Where to look. Only after the root of the sandbox was entered, of which this process is told by nothing but
/// its own root.
pub(super) struct Memory {
    outside: u64,
    /// The device of shared memory without a name in any file system.
    nameless: u64,
}

/// Bytes of processes.
#[derive(Clone, Copy, Default)]
struct Resident {
    /// Their own.
    own: u64,
    /// What they map of files in memory.
    shared: u64,
}

impl Memory {
    pub(super) fn new() -> io::Result<Memory> {
        let nameless = rustix::fs::memfd_create(c"device", MemfdFlags::CLOEXEC)?;
        Ok(Memory {
            outside: rustix::fs::stat("/")?.st_dev,
            nameless: rustix::fs::fstat(nameless)?.st_dev,
        })
    }

    pub(super) fn is_entered(&self) -> bool {
        rustix::fs::stat("/").is_ok_and(|root| root.st_dev != self.outside)
    }

    /// Whether all of it is `limit` or more. What processes share is counted once, if that decides.
    pub(super) fn is_past(&self, limit: u64) -> bool {
        let processes = processes();
        let files = in_memory() + self.nameless(&processes) + sys::shared_segments().unwrap_or(0);
        let past = |look: fn(&Path) -> Option<Resident>| {
            let mut all = Resident::default();
            for process in &processes {
                let one = look(process).unwrap_or_default();
                all.own += one.own;
                all.shared += one.shared;
            }
            // What is mapped is most often in one of the files.
            all.own + all.shared.max(files) >= limit
        };
        past(resident) && past(proportional)
    }

    /// Bytes of files that have no name and that a process holds open.
    fn nameless(&self, processes: &[PathBuf]) -> u64 {
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for process in processes {
            let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
                continue;
            };
            for descriptor in descriptors.flatten() {
                let Ok(stat) = rustix::fs::stat(descriptor.path()) else {
                    continue;
                };
                if stat.st_dev == self.nameless && seen.insert(stat.st_ino) {
                    bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                }
            }
        }
        bytes
    }
}

/// What has no room left of the file systems in memory.
pub(super) fn full() -> Option<Bound> {
    let systems = IN_MEMORY.iter().filter_map(|at| rustix::fs::statvfs(*at).ok());
    let mut full = systems.filter_map(|system| match (system.f_bfree, system.f_ffree) {
        (0, _) => Some(Bound::Memory),
        (_, 0) => Some(Bound::Entries),
        _ => None,
    });
    full.next()
}

fn in_memory() -> u64 {
    let systems = IN_MEMORY.iter().filter_map(|at| rustix::fs::statvfs(*at).ok());
    systems
        .map(|system| (system.f_blocks - system.f_bfree) * system.f_frsize)
        .sum()
}

/// The processes of the sandbox, but for process 1, which is skep's own.
fn processes() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_process =
        |name: &std::ffi::OsStr| name != "1" && name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let entries = entries.flatten().filter(|entry| is_process(&entry.file_name()));
    entries.map(|entry| entry.path()).collect()
}

/// What a process takes, with all that it shares with others; cheap.
fn resident(process: &Path) -> Option<Resident> {
    let fields = read(&process.join("status"))?;
    Some(Resident {
        own: fields(&["RssAnon", "VmSwap"]),
        shared: fields(&["RssShmem"]),
    })
}

/// What a process takes, with its share of what it has with others. The kernel looks at each page.
fn proportional(process: &Path) -> Option<Resident> {
    let fields = read(&process.join("smaps_rollup"))?;
    Some(Resident {
        own: fields(&["Pss_Anon", "SwapPss"]),
        shared: fields(&["Pss_Shmem"]),
    })
}

/// The sum of some fields of a file of the kernel, in bytes. `None` if the process is gone.
fn read(path: &Path) -> Option<impl Fn(&[&str]) -> u64 + use<>> {
    let text = fs::read_to_string(path).ok()?;
    Some(move |names: &[&str]| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let wanted = lines.filter(|(name, _)| names.contains(name));
        let sizes = wanted.filter_map(|(_, size)| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        sizes.sum::<u64>() << 10
    })
}
