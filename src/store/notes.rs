//! Small records about projects, such as which key a label had. They may be lost at any time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Error, io as failed};
use super::{Store, disk};
use crate::digest::Fingerprint;

impl Store {
    /// The record of this kind about the project at `project`, if there is one.
    pub fn note(&self, kind: &str, project: &Path) -> Result<Option<Vec<u8>>, Error> {
        let path = self.note_path(kind, project);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path)(source)),
        }
    }

    /// Replaces a record. Of two writers at once, one wins.
    pub fn set_note(&self, kind: &str, project: &Path, bytes: &[u8]) -> Result<(), Error> {
        let new = self.lease.fresh();
        fs::write(&new, bytes).map_err(failed("write", &new))?;
        disk::rename_into(&new, &self.note_path(kind, project))
    }

    fn note_path(&self, kind: &str, project: &Path) -> PathBuf {
        let name = Fingerprint::of("skep 1 project path", project.as_os_str().as_encoded_bytes());
        self.root
            .join("notes")
            .join(format!("{}.{kind}", &name.hex()[..32]))
    }
}
