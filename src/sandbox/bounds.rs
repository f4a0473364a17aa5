//! How much an action may use while it runs. What its recipe does not bound follows the machine, and is no part
//! of any key.

use std::fs;
use std::io;
use std::path::Path;

use crate::action::Limits;

/// What a bound is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Bound {
    /// Memory of all processes, and what stands in `/tmp` and `/dev/shm`.
    Memory,
    /// Disk below outputs and writable directories.
    Disk,
    /// Bytes of all files of the outputs.
    Output,
    /// Files, directories and links below outputs and writable directories, or in `/tmp`.
    Entries,
    /// Directories in each other, below an output or a writable directory.
    Depth,
}

impl Bound {
    /// What an action did that went past the bound `limit`, and what raises it.
    pub(super) fn passed(self, limit: u64) -> String {
        let (did, name) = match self {
            Bound::Memory => (
                "used more than {} bytes of memory, files in /tmp included",
                "memory",
            ),
            Bound::Disk => ("used more than {} bytes of disk", "disk"),
            Bound::Output => ("wrote more than {} bytes of output", "max_output"),
            Bound::Entries => ("made more than {} files and directories", "max_entries"),
            Bound::Depth => ("nested more than {} directories", ""),
        };
        let did = did.replace("{}", &limit.to_string());
        match name {
            "" => did,
            name => format!("{did}; a larger `{name}` of its action allows more"),
        }
    }
}

/// The bounds of one run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Bounds {
    pub memory: u64,
    pub disk: u64,
    pub output: u64,
    pub entries: u64,
}

impl Bounds {
    /// Those of an action whose outputs are on the file system of `store`.
    pub(super) fn new(limits: &Limits, store: &Path) -> io::Result<Bounds> {
        let memory = match limits.memory {
            Some(memory) => memory,
            None => most_of(machine_memory()),
        };
        let disk = match limits.disk {
            Some(disk) => disk,
            None => {
                let disk = rustix::fs::statvfs(store)?;
                most_of(disk.f_bavail.saturating_mul(disk.f_frsize))
            }
        };
        Ok(Bounds {
            memory,
            disk,
            output: limits.max_output,
            entries: limits.max_entries,
        })
    }

    pub(super) fn limit(&self, bound: Bound) -> u64 {
        match bound {
            Bound::Memory => self.memory,
            Bound::Disk => self.disk,
            Bound::Output => self.output,
            Bound::Entries => self.entries,
            Bound::Depth => crate::tree::TreePath::MAX_DEPTH as u64,
        }
    }
}

/// Three quarters: the rest is for skep, and for what else runs.
fn most_of(all: u64) -> u64 {
    all / 4 * 3
}

/// The machine's memory and swap, or what a control group leaves of it.
fn machine_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let unit = u64::from(machine.mem_unit.max(1));
    let all = (machine.totalram + machine.totalswap).saturating_mul(unit);
    // In a container these are the container's own.
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let groups = files
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    groups.fold(all, u64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_bounds_count_and_others_follow_the_machine() {
        let limits = Limits {
            memory: Some(1 << 20),
            ..Limits::default()
        };
        let bounds = Bounds::new(&limits, Path::new("/")).unwrap();
        assert_eq!(bounds.memory, 1 << 20);
        assert_eq!(bounds.output, limits.max_output);
        let free = rustix::fs::statvfs("/").unwrap();
        assert!(bounds.disk <= free.f_blocks * free.f_frsize);
        let default = Bounds::new(&Limits::default(), Path::new("/")).unwrap();
        assert!(default.memory > 64 << 20 && default.memory < machine_memory());
    }

    #[test]
    fn a_failure_names_the_bound() {
        insta::assert_snapshot!(Bound::Memory.passed(1024), @"used more than 1024 bytes of memory, files in /tmp included; a larger `memory` of its action allows more");
        insta::assert_snapshot!(Bound::Depth.passed(128), @"nested more than 128 directories");
    }
}
