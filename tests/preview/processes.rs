//! What runs of a preview, by what the kernel says: every process of it has the bench's directory in its
//! environment.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// A process of a preview.
#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    pub command: String,
}

fn all() -> impl Iterator<Item = (Pid, PathBuf)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((Pid::from_raw(pid)?, entry.path()))
    })
}

fn command(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Whether one is in a directory's bench. One that ended is in none.
fn is_of(process: &Path, bench: &Path) -> bool {
    let variable = [b"BENCH=", bench.as_os_str().as_bytes()].concat();
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|word| word == variable)
}

/// Every process of the bench in `bench`.
pub fn of(bench: &Path) -> Vec<Process> {
    let of = all().filter(|(_, process)| is_of(process, bench));
    of.map(|(pid, process)| Process {
        pid,
        command: command(&process),
    })
    .collect()
}

/// How many pid namespaces they are in beside ours: one of the supervisor, and one of each container.
pub fn worlds(bench: &Path) -> usize {
    let kind = |namespace: &PathBuf| namespace.as_os_str().as_bytes().starts_with(b"pid:");
    namespaces(bench)
        .iter()
        .filter(|namespace| kind(namespace))
        .count()
}

/// Every namespace that they are in and this process is not.
pub fn namespaces(bench: &Path) -> BTreeSet<PathBuf> {
    let of = |process: &Path| -> BTreeSet<PathBuf> {
        let links = fs::read_dir(process.join("ns")).into_iter().flatten().flatten();
        links.filter_map(|link| fs::read_link(link.path()).ok()).collect()
    };
    let processes = all().filter(|(_, process)| is_of(process, bench));
    let namespaces: BTreeSet<PathBuf> = processes.flat_map(|(_, process)| of(&process)).collect();
    &namespaces - &of(Path::new("/proc/self"))
}

/// Mounts that any process sees of anything in `bench`.
pub fn mounts(bench: &Path) -> BTreeSet<String> {
    let bench = bench.display().to_string();
    let mut mounts = BTreeSet::new();
    for (_, process) in all() {
        let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        mounts.extend(
            table
                .lines()
                .filter(|line| line.contains(&bench))
                .map(str::to_owned),
        );
    }
    mounts
}
