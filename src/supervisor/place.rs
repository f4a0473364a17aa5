//! The state directory of one preview, as files.
//!
//! | path                        | what it is                                                       |
//! |-----------------------------|------------------------------------------------------------------|
//! | `desired.json`              | what should run, replaced as a whole                             |
//! | `supervisor.lock`           | locked while a supervisor lives; its process id                   |
//! | `control.sock`              | where it listens                                                 |
//! | `logs/<service>.log`, `.1`  | what containers print, and what they printed before that         |
//! | `volumes/<name>/`           | what stays                                                       |
//! | `containers/<container>/`   | what a container writes elsewhere; goes with it                   |
//! | `secrets/`, `configs/`      | their content, by the name of the version                         |

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::Error;
use super::reconcile::Desired;
use crate::store::remove_tree;

/// Directories in it.
const DIRECTORIES: [&str; 5] = ["logs", "volumes", "containers", "secrets", "configs"];

/// What is put by name and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A secret.
    Secret,
    /// A config.
    Config,
}

impl Kind {
    fn directory(self) -> &'static str {
        match self {
            Kind::Secret => "secrets",
            Kind::Config => "configs",
        }
    }

    /// What a person calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::Config => "config",
        }
    }
}

/// A state directory.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// The one at `path`; nothing is made.
    pub(super) fn at(path: &Path) -> Place {
        Place(path.to_owned())
    }

    /// The path of something in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where a volume is.
    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.0.join("volumes").join(name)
    }

    /// Where a container keeps what it writes.
    pub(super) fn container(&self, name: &str) -> PathBuf {
        self.0.join("containers").join(name)
    }

    /// Makes the directories in it, as the supervisor.
    pub(super) fn lay_out(&self) -> io::Result<()> {
        for name in DIRECTORIES {
            create_dir(&self.path(name))?;
        }
        Ok(())
    }

    /// What should run; `None` if nobody ever said.
    pub(super) fn desired(&self) -> io::Result<Option<Desired>> {
        match fs::read(self.path("desired.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces what should run, so that after a power cut there is the old or the new.
    pub(super) fn save(&self, desired: &[u8]) -> io::Result<()> {
        self.replace(&self.path("desired.json"), desired)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = self.path("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().expect("files are in directories"))?.sync_all()
    }

    /// The lock of whoever is the supervisor; `None` if somebody else has it.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        let path = self.path("supervisor.lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true);
        let file = file.mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a supervisor lives, or is being started.
    pub(super) fn is_held(&self) -> io::Result<bool> {
        let file = match File::open(self.path("supervisor.lock")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Keeps a version. One that is there stays as it is: whether it has the same content.
    pub(super) fn put(&self, kind: Kind, name: &str, content: &[u8]) -> io::Result<bool> {
        let path = self.path(kind.directory()).join(name);
        match fs::read(&path) {
            Ok(known) => Ok(known == content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.replace(&path, content)?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// A version's content.
    pub(super) fn get(&self, kind: Kind, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(kind.directory()).join(name))
    }

    /// Forgets a version, which may be gone already.
    pub(super) fn delete(&self, kind: Kind, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(kind.directory()).join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The names of the versions that are there.
    pub(super) fn names(&self, kind: Kind) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let entries = match fs::read_dir(self.path(kind.directory())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries?,
        };
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    /// Removes what containers of an earlier supervisor left.
    pub(super) fn clean(&self) -> io::Result<()> {
        empty(&self.path("containers"))
    }

    /// Removes everything but logs; and volumes, with the secrets that what is in them may need, only if told.
    pub(super) fn forget(&self, volumes: bool) -> io::Result<()> {
        let stays: &[&str] = if volumes {
            &[]
        } else {
            &["volumes", "secrets", "configs"]
        };
        let goes = ["containers", "volumes", "secrets", "configs"];
        for name in goes.iter().filter(|name| !stays.contains(name)) {
            empty(&self.path(name))?;
        }
        match fs::remove_file(self.path("desired.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The names of the versions of secrets or configs in a state directory, whether its supervisor lives or not.
pub fn versions(directory: &Path, kind: Kind) -> Result<BTreeSet<String>, Error> {
    let place = Place::at(directory);
    place
        .names(kind)
        .map_err(|error| Error::at(&place.path(kind.directory()), error))
}

/// The content of a version in a state directory; `None` if it is not there.
pub fn content(directory: &Path, kind: Kind, name: &str) -> Result<Option<Vec<u8>>, Error> {
    match Place::at(directory).get(kind, name) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::at(&directory.join(kind.directory()), error)),
    }
}

/// A directory for this user alone; it may be there.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        remove_tree(&entry?.path()).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_version_never_changes_and_can_be_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        assert!(place.put(Kind::Secret, "key_1", b"one").unwrap());
        assert!(place.put(Kind::Secret, "key_1", b"one").unwrap());
        assert!(!place.put(Kind::Secret, "key_1", b"two").unwrap());
        assert_eq!(place.get(Kind::Secret, "key_1").unwrap(), b"one");
        assert_eq!(
            place.names(Kind::Secret).unwrap(),
            BTreeSet::from(["key_1".to_owned()])
        );
        assert!(place.names(Kind::Config).unwrap().is_empty());
        place.delete(Kind::Secret, "key_1").unwrap();
        place.delete(Kind::Secret, "key_1").unwrap();
        assert!(place.names(Kind::Secret).unwrap().is_empty());
    }

    #[test]
    fn other_accounts_read_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        place.save(b"{}").unwrap();
        place.put(Kind::Secret, "key", b"one").unwrap();
        let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o077;
        for name in DIRECTORIES.into_iter().chain(["secrets/key", "desired.json"]) {
            assert_eq!(mode(name), 0, "{name}");
        }
    }

    #[test]
    fn one_supervisor_has_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        assert!(!place.is_held().unwrap());
        let lock = place.lock().unwrap().unwrap();
        assert!(place.lock().unwrap().is_none() && place.is_held().unwrap());
        drop(lock);
        assert!(place.lock().unwrap().is_some());
    }

    #[test]
    fn what_is_forgotten_leaves_volumes_unless_told() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::at(directory.path());
        place.lay_out().unwrap();
        place.save(b"{}").unwrap();
        for path in [
            place.volume("data"),
            place.container("api.1.1"),
            place.path("secrets/key"),
        ] {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }
        place.forget(false).unwrap();
        assert!(place.volume("data").exists() && !place.container("api.1.1").exists());
        assert!(place.path("secrets/key").exists() && !place.path("desired.json").exists());
        place.forget(true).unwrap();
        assert!(!place.volume("data").exists() && !place.path("secrets/key").exists());
    }
}
