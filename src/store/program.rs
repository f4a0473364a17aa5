//! The program that runs, as an executable file of the store, where a sandbox can see it. It is content like any other, of
//! which a note says the digest, so that it is read only once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Store;
use super::error::{Error, io as failed};
use crate::digest::Digest;

/// The kind of note that says which digest a program has.
const NOTE: &str = "program";

impl Store {
    /// A copy of the program at `exe`, such as `/proc/self/exe`, that any user may execute; an absolute path.
    pub fn program(&self, exe: &Path) -> Result<PathBuf, Error> {
        let metadata = fs::metadata(exe).map_err(failed("read", exe))?;
        let stamp = format!(
            "{} {} {} {}.{} {}.{}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        let note = self.note(NOTE, Path::new(&stamp)).unwrap_or_default();
        let known = String::from_utf8(note).ok().and_then(|text| text.parse().ok());
        if let Some(digest) = known {
            match self.executable(&digest) {
                Err(error) if error.is_lost_content() => {}
                other => return other,
            }
        }
        let digest = self.take_in(exe)?;
        self.set_note(NOTE, Path::new(&stamp), digest.to_string().as_bytes())?;
        self.executable(&digest)
    }

    fn take_in(&self, exe: &Path) -> Result<Digest, Error> {
        let mut file = File::open(exe).map_err(failed("read", exe))?;
        let mut writer = self.writer()?;
        io::copy(&mut file, &mut writer).map_err(failed("write", writer.path()))?;
        writer.finish()
    }
}
