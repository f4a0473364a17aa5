//! `/proc` of a sandbox: its own processes, and a few files of constant content that programs size themselves
//! by. Nothing in it is the host's but what the kernel shows in the directory of each process.
//!
//! | name                               | what an action sees                                      |
//! |------------------------------------|----------------------------------------------------------|
//! | `<pid>`, `self`, `thread-self`     | its own processes; process 1 is not among them            |
//! | `cpuinfo`, `stat`                  | as many processors as it may use, without their names and times |
//! | `meminfo`                          | the memory that the action may use, or the same everywhere |
//! | `loadavg`, `uptime`                | zeroes                                                   |
//! | `mounts`, `net`                    | the kernel's links to those of the process               |
//!
//! The kernel's `subset=pid` leaves only the first row. It hides names when they are looked up, so those that
//! are looked up before it is set, and held, stay: constant files because something is mounted on them, and
//! links because process 1 keeps them open. A `subset=pid` from the start would leave no place to mount on.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount_remount};

use super::mounts;
use super::refusal::{During as _, Result};

/// Links of the kernel's into the directory of the process that follows them.
const LINKS: [&str; 2] = ["mounts", "net"];

/// Bytes of memory that `meminfo` shows where an action declares no bound. Node takes a quarter of it for its heap,
/// and 4 GiB at most.
pub(super) const MEMORY: u64 = 16 << 30;

/// Mounts it at `at`, an empty directory that can be written; it shows `memory` bytes. The calling process must
/// outlive every other one that sees it.
pub(super) fn mount(at: &Path, memory: u64) -> Result<()> {
    let step = || "mount /proc".to_owned();
    let mut files = Vec::new();
    for (name, content) in constant_files(memory) {
        // Under the mount that follows, where nothing else can be seen.
        let path = at.join(name);
        fs::write(&path, content).during(step)?;
        files.push((
            name,
            mounts::detached(&path, mounts::INPUT | libc::MOUNT_ATTR_NOEXEC)?,
        ));
    }
    mounts::proc(at)?;
    for (name, file) in &files {
        mounts::attach(file, &at.join(name)).during(step)?;
    }
    for name in LINKS {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link: OwnedFd = rustix::fs::open(at.join(name), flags, Mode::empty()).during(step)?;
        // Open for as long as this process lives.
        let _ = link.into_raw_fd();
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount_remount(at, flags, c"subset=pid,hidepid=ptraceable").during(|| "hide the host in /proc".to_owned())
}

fn constant_files(memory: u64) -> [(&'static str, String); 5] {
    let set = rustix::thread::sched_getaffinity(None);
    let processors = set.map_or(1, |set| set.count().max(1));
    [
        ("cpuinfo", cpuinfo(processors)),
        ("loadavg", "0.00 0.00 0.00 1/1 1\n".to_owned()),
        ("meminfo", meminfo(memory >> 10)),
        ("stat", stat(processors)),
        ("uptime", "0.00 0.00\n".to_owned()),
    ]
}

fn cpuinfo(processors: u32) -> String {
    (0..processors).fold(String::new(), |mut text, n| {
        let arch = std::env::consts::ARCH;
        let _ = write!(text, "processor\t: {n}\nmodel name\t: {arch}\n\n");
        text
    })
}

fn stat(processors: u32) -> String {
    let times = "0 0 0 0 0 0 0 0 0 0";
    let mut text = format!("cpu  {times}\n");
    for n in 0..processors {
        let _ = writeln!(text, "cpu{n} {times}");
    }
    let boot = crate::store::MTIME;
    text + &format!(
        "intr 0\nctxt 0\nbtime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0\n"
    )
}

fn meminfo(memory: u64) -> String {
    let lines = [
        ("MemTotal", memory),
        ("MemFree", memory),
        ("MemAvailable", memory),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Shmem", 0),
        ("SReclaimable", 0),
    ];
    lines.into_iter().fold(String::new(), |mut text, (name, size)| {
        let _ = writeln!(text, "{:<16}{size:>8} kB", format!("{name}:"));
        text
    })
}
