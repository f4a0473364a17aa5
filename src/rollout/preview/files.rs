//! The files of a preview's state: what a rollout needs to remember beside what its supervisor keeps.
//!
//! | path                       | what it is                                                        |
//! |----------------------------|-------------------------------------------------------------------|
//! | `rollout.lock`             | locked by whoever changes the preview; who that is                |
//! | `journal.json`             | the rollout under way                                             |
//! | `history/<release>.json`   | releases that were rolled out here                                |
//! | `shown/<service>.json`     | the spec that a service was given last, for a person              |

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::rollout::target::{Error, Lock};

/// The longest file that is read back, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// A directory that only its owner can look into.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub directory: PathBuf,
}

/// Held until it is dropped, or its process dies.
struct Locked {
    _file: File,
}

impl Lock for Locked {}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let message = format!("cannot {what} `{}`", path.display());
    move |error| Error::Environment(format!("{message}: {error}"))
}

impl Files {
    pub(super) fn create(&self) -> Result<(), Error> {
        for directory in [self.directory.clone(), self.path("history"), self.path("shown")] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory);
            made.map_err(failed("create", &directory))?;
        }
        Ok(())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn lock(&self, owner: &str) -> Result<Box<dyn Lock>, Error> {
        self.create()?;
        let path = self.path("rollout.lock");
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let mut file = file.map_err(failed("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let written = file.set_len(0).and_then(|()| file.write_all(owner.as_bytes()));
                written.map_err(failed("write", &path))?;
                Ok(Box::new(Locked { _file: file }))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                let _ = (&mut file).take(1024).read_to_string(&mut owner);
                Err(Error::Locked { owner })
            }
            Err(errno) => Err(failed("lock", &path)(errno.into())),
        }
    }

    /// Reads a record; `None` if there is none, or if it is of a format that is no longer known.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file
                .take(MAX_FILE)
                .read_to_end(&mut bytes)
                .map_err(failed("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| {
            Error::Environment(format!(
                "`{}` is damaged, or of another version of skep: {error}; remove it",
                path.display()
            ))
        })
    }

    /// Replaces a record: the old one or the new one is there, whatever happens.
    pub(super) fn write<T: serde::Serialize>(&self, name: &str, record: &T) -> Result<(), Error> {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        let bytes = serde_json::to_vec_pretty(record).expect("plain data encodes");
        let written = || -> io::Result<()> {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&new, &path)
        };
        written().map_err(failed("write", &path))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Names of the records in a directory.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<String>, Error> {
        let path = self.path(directory);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names
            .filter(|name| name.ends_with(".json"))
            .map(|name| format!("{directory}/{name}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn records_are_there_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            directory: directory.path().join("state"),
        };
        assert_eq!(files.read::<u32>("journal.json").unwrap(), None);
        assert!(files.list("history").unwrap().is_empty());
        files.create().unwrap();
        files.write("history/a.json", &7).unwrap();
        assert_eq!(files.read("history/a.json").unwrap(), Some(7));
        assert_eq!(files.list("history").unwrap(), ["history/a.json"]);
        let mode = |name| fs::metadata(files.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("history"), mode("history/a.json")), (0o700, 0o600));
        fs::write(files.path("history/b.json"), "{").unwrap();
        let error = files.read::<u32>("history/b.json").unwrap_err().to_string();
        assert!(error.contains("is damaged, or of another version"), "{error}");
        files.remove("history/a.json").unwrap();
        files.remove("history/a.json").unwrap();
    }

    #[test]
    fn the_lock_is_held_once_and_names_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            directory: directory.path().to_owned(),
        };
        let held = files.lock("me@here").unwrap();
        let Err(Error::Locked { owner }) = files.lock("you@there") else {
            panic!("locked twice");
        };
        assert_eq!(owner, "me@here");
        drop(held);
        drop(files.lock("you@there").unwrap());
    }
}
