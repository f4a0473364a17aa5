//! For tests: directories in memory.

use std::cell::RefCell;
use std::collections::HashMap;

use super::{Directories, Directory};
use crate::digest::Digest;

/// Directories by digest.
#[derive(Default)]
pub(super) struct Memory(RefCell<HashMap<Digest, Vec<u8>>>);

impl Directories for Memory {
    type Error = String;

    fn load(&self, digest: &Digest) -> Result<Directory, String> {
        let blobs = self.0.borrow();
        let bytes = blobs.get(digest).ok_or_else(|| format!("missing {digest}"))?;
        Directory::decode(bytes).map_err(|error| error.to_string())
    }

    fn save(&self, directory: &Directory) -> Result<Digest, String> {
        let bytes = directory.encode();
        let digest = Digest::of(&bytes);
        self.0.borrow_mut().insert(digest, bytes);
        Ok(digest)
    }
}
