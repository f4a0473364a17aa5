//! Small steps on the file system that all of the store shares. Knows paths, not digests.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::{Error, io as failed};
use super::remove::remove_tree;
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

/// A directory that only this user may enter, whatever the umask. It may be there already, and is closed then;
/// a file in its place is removed.
pub(super) fn create_closed(path: &Path) -> Result<(), Error> {
    create_with(path, 0o700)?;
    set_access(path, 0o700, None)
}

/// Like [`create_closed`]; as root, the uid of sandboxes may pass through to what is bound for it.
pub(super) fn create_passage(path: &Path) -> Result<(), Error> {
    create_with(path, 0o700)?;
    match is_root() {
        true => set_access(path, 0o710, Some(SANDBOX_UID)),
        false => set_access(path, 0o700, None),
    }
}

/// Gives a passage its permissions again, if it is there.
pub(super) fn mend_passage(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        true => create_passage(path),
        false => Ok(()),
    }
}

/// The directory that `to` lies in, as a passage. A new one is made beside `from`, so that in its place it is never
/// seen without its permissions: not by another thread, and not after a kill.
fn create_parent(from: &Path, to: &Path) -> Result<(), Error> {
    let parent = to.parent().expect("places in the store have parents");
    let mut name = from.as_os_str().to_owned();
    name.push(".parent");
    let new = PathBuf::from(name);
    create_passage(&new)?;
    // Never over another one, even an empty one: a thread may be about to write into that.
    if rustix::fs::renameat_with(CWD, &new, CWD, parent, RenameFlags::NOREPLACE).is_err() {
        remove_tree(&new)?;
        create_passage(parent)?;
    }
    Ok(())
}

/// A new directory of a materialized tree, with the mode 0755 whatever the umask.
pub(super) fn create_tree(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(path)
        .map_err(failed("create", path))?;
    chmod(path, 0o755)
}

fn create_with(path: &Path, mode: u32) -> Result<(), Error> {
    let create = || fs::DirBuilder::new().mode(mode).create(path);
    match create() {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
                return Ok(());
            }
            remove_tree(path)?;
            create().map_err(failed("create", path))
        }
        other => other.map_err(failed("create", path)),
    }
}

fn set_access(path: &Path, mode: u32, group: Option<u32>) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(path).map_err(failed("read", path))?;
    if let Some(group) = group
        && metadata.gid() != group
    {
        std::os::unix::fs::lchown(path, None, Some(group)).map_err(failed("change", path))?;
    }
    match metadata.mode() & 0o7777 == mode {
        true => Ok(()),
        false => chmod(path, mode),
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

/// Whether nothing wrote to a file, or changed the entries of a directory, since it was touched.
pub(super) fn is_untouched(metadata: &fs::Metadata) -> bool {
    metadata.mtime() == MTIME && metadata.mtime_nsec() == 0
}

/// Whether a file belongs to the uid that sandboxes run as.
pub(super) fn is_given(metadata: &fs::Metadata) -> bool {
    let user = rustix::process::geteuid();
    metadata.uid()
        == if user.is_root() {
            SANDBOX_UID
        } else {
            user.as_raw()
        }
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

/// Renames a finished file to its place, whose parent may have to be made, over what is there.
pub(super) fn rename_into(from: &Path, to: &Path) -> Result<(), Error> {
    let rename = || fs::rename(from, to);
    match rename() {
        Err(source) if lacks_parent(source.kind()) => {
            create_parent(from, to)?;
            rename().map_err(failed("write", to))
        }
        other => other.map_err(failed("write", to)),
    }
}

/// Renames a finished file or directory to its place, whose parent may have to be made, unless something is
/// there: then it stays where it is, and the answer is false.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<bool, Error> {
    let rename = || match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag. A directory replaces none that holds something.
        Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(from)?.is_dir() {
            true => fs::rename(from, to),
            false => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        },
        other => Ok(other?),
    };
    let renamed = match rename() {
        Err(source) if lacks_parent(source.kind()) => {
            create_parent(from, to)?;
            rename()
        }
        other => other,
    };
    match renamed {
        Ok(()) => Ok(true),
        Err(source) if is_occupied(source.kind()) => Ok(false),
        Err(source) => Err(failed("write", to)(source)),
    }
}

/// Whether the parent may be missing, no directory, or without the permissions that it should have.
fn lacks_parent(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(kind, NotFound | NotADirectory | PermissionDenied)
}

fn is_occupied(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Removes a file that may be gone already, and whatever else stands in its place.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() == io::ErrorKind::IsADirectory => remove_tree(path),
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(source)),
        _ => Ok(()),
    }
}

/// A file that is only there to be locked.
pub(super) fn open_lock(path: &Path) -> Result<File, Error> {
    let open = || {
        let mut options = OpenOptions::new();
        options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
    };
    match open() {
        Err(source) if source.kind() == io::ErrorKind::IsADirectory => {
            remove_tree(path)?;
            open().map_err(failed("open", path))
        }
        other => other.map_err(failed("open", path)),
    }
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
