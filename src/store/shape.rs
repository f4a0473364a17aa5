//! What a materialized tree looks like without reading a file of it: one fingerprint over everything that `stat`
//! says of it and that stays the same while nothing writes to it. Not the change time: each further hard link to
//! an inode sets it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat};

use super::MTIME;
use crate::digest::Fingerprint;
use crate::tree::TreePath;

const CONTEXT: &str = "skep 1 materialized tree";

/// Bytes of directory entries that are read at once.
const BUFFER: usize = 32 << 10;

/// The fingerprint of the directory at `path` with all that is in it: names, types, modes, owners, sizes and inode
/// numbers. `None` if it cannot be read, or if a modification time is not [`MTIME`]: then it is no tree as skep
/// materializes it.
pub(super) fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let root = open(CWD, path).ok()?;
    let mut bytes = Vec::new();
    describe(&rustix::fs::fstat(&root).ok()?, &mut bytes)?;
    let below = directory(root.as_fd(), 0, &mut Vec::with_capacity(BUFFER))?;
    bytes.extend(below.hex().bytes());
    Some(Fingerprint::of(CONTEXT, &bytes))
}

fn open(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn directory(at: BorrowedFd<'_>, depth: usize, buffer: &mut Vec<u8>) -> Option<Fingerprint> {
    if depth > TreePath::MAX_DEPTH {
        return None;
    }
    let mut names = Vec::new();
    let mut entries = RawDir::new(at, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    // The order of a listing is the file system's.
    names.sort();
    let mut bytes = Vec::with_capacity(names.len() * 64);
    for name in &names {
        let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        bytes.extend(name.to_bytes_with_nul());
        describe(&stat, &mut bytes)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let below = open(at, name).ok()?;
            bytes.extend(directory(below.as_fd(), depth + 1, buffer)?.hex().bytes());
        }
    }
    Some(Fingerprint::of(CONTEXT, &bytes))
}

fn describe(stat: &Stat, bytes: &mut Vec<u8>) -> Option<()> {
    if stat.st_mtime != MTIME || stat.st_mtime_nsec != 0 {
        return None;
    }
    // The size of a directory is the file system's affair.
    let size = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 0,
        _ => stat.st_size,
    };
    for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(stat.st_ino.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    Some(())
}
