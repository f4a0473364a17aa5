//! Small steps on the file system that all of the store shares. Knows paths, not digests.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps};

use super::error::{Error, io as failed};
use super::{MTIME, SANDBOX_UID};

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A store must belong to whoever uses it: files of others look different in a sandbox.
pub(super) fn check_owner(root: &Path) -> Result<(), Error> {
    let owner = fs::metadata(root).map_err(failed("read", root))?.uid();
    let user = rustix::process::geteuid().as_raw();
    match owner == user {
        true => Ok(()),
        false => Err(Error::Owner {
            root: root.to_owned(),
            owner,
            user,
        }),
    }
}

/// A directory with the mode 0755 whatever the umask says; it may be there already.
pub(super) fn create_dir(path: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => chmod(path, 0o755),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(failed("create", path)(source)),
    }
}

pub(super) fn chmod(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("change", path))
}

/// Gives what a sandbox may see to the uid that it runs as.
pub(super) fn give_to_sandbox(path: &Path) -> Result<(), Error> {
    match is_root() {
        true => std::os::unix::fs::lchown(path, Some(SANDBOX_UID), Some(SANDBOX_UID))
            .map_err(failed("change", path)),
        false => Ok(()),
    }
}

/// Sets the modification time to the constant, which sets the change time to now.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    let time = Timespec {
        tv_sec: MTIME,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// When the inode last changed, by the kernel's clock.
pub(super) fn changed(metadata: &fs::Metadata) -> SystemTime {
    let nanos = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
    let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
}

/// The names in a directory, sorted; none if it is not there. A name that is not UTF-8 is not ours, and is
/// shown with replacement characters.
pub(super) fn list(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("read", path)(source)),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("read", path))?;
    names.sort();
    Ok(names)
}

/// The files of a two-level area such as `blobs`, as (hex, path).
pub(super) fn list_fanned(area: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found = Vec::new();
    for shard in list(area)? {
        let shard_path = area.join(&shard);
        if shard_path.is_dir() {
            for name in list(&shard_path)? {
                let path = shard_path.join(&name);
                found.push((name, path));
            }
        } else {
            found.push((shard, shard_path));
        }
    }
    Ok(found)
}

/// `area/ab/<hex>`.
pub(super) fn fanned(area: &str, hex: &str) -> PathBuf {
    PathBuf::from(area).join(&hex[..2]).join(hex)
}

/// Renames a finished file to its place, whose parent may have to be made.
pub(super) fn rename_into(from: &Path, to: &Path) -> Result<(), Error> {
    match fs::rename(from, to) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            create_dir(to.parent().expect("places in the store have parents"))?;
            fs::rename(from, to).map_err(failed("write", to))
        }
        other => other.map_err(failed("write", to)),
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(source)),
        _ => Ok(()),
    }
}

/// Paths longer than this are moved up before they are removed: an action may nest directories deeper than
/// any path may be long.
const LONG_PATH: usize = 2_000;

/// Removes whatever stands at `path`, directories without permissions and of any depth included.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    let mut pending = vec![path.to_owned()];
    let mut moved = 0;
    while let Some(next) = pending.last().cloned() {
        let directory = fs::symlink_metadata(&next).is_ok_and(|metadata| metadata.is_dir());
        if !directory {
            remove_file(&next)?;
            pending.pop();
            continue;
        }
        if next.as_os_str().len() > path.as_os_str().len() + LONG_PATH {
            chmod(&next, 0o700)?;
            moved += 1;
            let nearer = path.join(format!(".skep-moved-{moved}"));
            fs::rename(&next, &nearer).map_err(failed("remove", &next))?;
            // The top stays on the stack, and is read again once everything above it is gone.
            pending.pop();
            continue;
        }
        match fs::remove_dir(&next) {
            Ok(()) => drop(pending.pop()),
            Err(source) if source.kind() == io::ErrorKind::NotFound => drop(pending.pop()),
            Err(source) if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
                chmod(&next, 0o700)?;
                let entries = fs::read_dir(&next).map_err(failed("remove", &next))?;
                for entry in entries {
                    pending.push(entry.map_err(failed("remove", &next))?.path());
                }
            }
            Err(source) => return Err(failed("remove", &next)(source)),
        }
    }
    Ok(())
}

/// A file that is only there to be locked.
pub(super) fn open_lock(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o644)
        .open(path)
        .map_err(failed("open", path))
}

/// Waits for a lock on `path`; it is released when the file is dropped.
pub(super) fn lock(path: &Path, operation: FlockOperation) -> Result<File, Error> {
    let file = open_lock(path)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation))
        .map_err(|errno| failed("lock", path)(errno.into()))?;
    Ok(file)
}

/// Takes a lock if nobody holds it.
pub(super) fn try_lock(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}
