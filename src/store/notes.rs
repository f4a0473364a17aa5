//! Small records about projects, such as which key a label had. They may be lost at any time.

use std::fs;
use std::path::{Path, PathBuf};

use super::Store;
use super::error::Error;
use crate::digest::Fingerprint;

impl Store {
    /// The record of this kind about the project at `project`; `None` if it is lost, or cannot be read.
    pub fn note(&self, kind: &str, project: &Path) -> Option<Vec<u8>> {
        fs::read(self.note_path(kind, project)).ok()
    }

    /// Replaces a record. Of two writers at once, one wins.
    pub fn set_note(&self, kind: &str, project: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.replace(&self.note_path(kind, project), bytes)
    }

    fn note_path(&self, kind: &str, project: &Path) -> PathBuf {
        let name = Fingerprint::of("skep 1 project path", project.as_os_str().as_encoded_bytes());
        self.root
            .join("notes")
            .join(format!("{}.{kind}", &name.hex()[..32]))
    }
}
