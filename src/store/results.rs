//! Action results by key. A result counts only while all that it names is here.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::{Error, io as failed};
use super::{Store, disk};
use crate::action::ActionResult;
use crate::digest::{Digest, Hasher};
use crate::tree::{Directories as _, Node};

/// What was found complete, in which generation of the store.
#[derive(Debug, Default)]
pub(super) struct Complete {
    generation: Option<u64>,
    keys: HashSet<Digest>,
    trees: HashSet<Digest>,
}

impl Store {
    /// The result of the action `key`, if it ran and everything that its result names is here. Collection
    /// spares it for as long as this store is open.
    pub fn result(&self, key: &Digest) -> Result<Option<ActionResult>, Error> {
        let path = self.action_path(key);
        let result = {
            let _sweep = self.rely_on_content()?;
            let Ok(bytes) = fs::read(&path) else {
                return Ok(None);
            };
            let Some(result) = open_envelope(&key.hex(), &bytes) else {
                disk::remove_file(&path)?;
                return Ok(None);
            };
            disk::touch(&path).map_err(failed("write", &path))?;
            result
        };
        let complete = match self.is_doubtful() {
            true => self.is_sound(&result)?,
            false => self.is_complete(key, &result)?,
        };
        if complete {
            return Ok(Some(result));
        }
        disk::remove_file(&path)?;
        Ok(None)
    }

    /// Records what the action `key` gave. What it names must be in the store.
    pub fn publish(&self, key: &Digest, result: &ActionResult) -> Result<(), Error> {
        let new = self.lease.fresh();
        fs::write(&new, seal_envelope(key, result)).map_err(failed("write", &new))?;
        disk::touch(&new).map_err(failed("write", &new))?;
        self.replace_by(&new, &self.action_path(key))?;
        self.remember_complete(key)?;
        self.sync_sometimes()
    }

    pub(super) fn action_path(&self, key: &Digest) -> PathBuf {
        self.root.join(disk::fanned("actions", &key.hex()))
    }

    /// Takes note, for every process, that content has gone.
    pub(super) fn next_generation(&self) -> Result<(), Error> {
        let next = self.generation() + 1;
        self.replace(&self.root.join("generation"), next.to_string().as_bytes())?;
        // All of them: where the number was lost, it starts over.
        for name in disk::list(&self.root)? {
            if name.starts_with("complete.") {
                self.discard(&self.root.join(name))?;
            }
        }
        Ok(())
    }

    fn generation(&self) -> u64 {
        let text = fs::read_to_string(self.root.join("generation")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn complete_path(&self, generation: u64) -> PathBuf {
        self.root.join(format!("complete.{generation}"))
    }

    fn is_complete(&self, key: &Digest, result: &ActionResult) -> Result<bool, Error> {
        let generation = self.generation();
        {
            let mut complete = self.complete.lock().expect("never poisoned");
            if complete.generation != Some(generation) {
                *complete = self.load_complete(generation);
            }
            if complete.keys.contains(key) {
                return Ok(true);
            }
        }
        let Some(trees) = self.walk_complete(result)? else {
            return Ok(false);
        };
        let mut complete = self.complete.lock().expect("never poisoned");
        if complete.generation == Some(generation) {
            complete.trees.extend(trees);
        }
        drop(complete);
        self.remember_complete(key)?;
        Ok(true)
    }

    /// Whether all that `result` names is here, without trusting what was found earlier.
    pub(super) fn names_present(&self, result: &ActionResult) -> Result<bool, Error> {
        self.complete.lock().expect("never poisoned").trees.clear();
        Ok(self.walk_complete(result)?.is_some())
    }

    /// If all that `result` names is here: its directories, as far as they were not known to be complete.
    fn walk_complete(&self, result: &ActionResult) -> Result<Option<HashSet<Digest>>, Error> {
        let mut blobs = result.metadata.iter().chain(&result.log);
        if !blobs.all(|blob| self.has(blob)) {
            return Ok(None);
        }
        let mut seen = HashSet::new();
        let mut pending: Vec<Digest> = result.outputs.values().copied().collect();
        while let Some(root) = pending.pop() {
            let known = self
                .complete
                .lock()
                .expect("never poisoned")
                .trees
                .contains(&root);
            if known || !seen.insert(root) {
                continue;
            }
            let directory = match self.load(&root) {
                Ok(directory) => directory,
                Err(error) if error.is_lost_content() => return Ok(None),
                Err(error) => return Err(error),
            };
            for (_, node) in directory.iter() {
                match node {
                    Node::Directory(digest) => pending.push(*digest),
                    Node::File { digest, .. } if !self.has(digest) => return Ok(None),
                    Node::File { .. } | Node::Symlink(_) => {}
                }
            }
        }
        Ok(Some(seen))
    }

    fn load_complete(&self, generation: u64) -> Complete {
        let bytes = fs::read_to_string(self.complete_path(generation)).unwrap_or_default();
        Complete {
            generation: Some(generation),
            // A torn line is no key.
            keys: bytes.lines().filter_map(|line| line.parse().ok()).collect(),
            trees: HashSet::new(),
        }
    }

    fn remember_complete(&self, key: &Digest) -> Result<(), Error> {
        let mut complete = self.complete.lock().expect("never poisoned");
        let generation = self.generation();
        if complete.generation != Some(generation) {
            *complete = self.load_complete(generation);
        }
        if complete.keys.insert(*key) {
            let path = self.complete_path(generation);
            let append = |path: &Path| {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                file.write_all(format!("{key}\n").as_bytes())
            };
            if append(&path).is_err() {
                self.discard(&path)?;
                append(&path).map_err(failed("write", &path))?;
            }
        }
        Ok(())
    }
}

/// A checksum of the key and the encoded result, then the encoded result: the file of one key is no result of
/// another, wherever it was copied to.
fn seal_envelope(key: &Digest, result: &ActionResult) -> Vec<u8> {
    let encoded = result.encode();
    let mut bytes = checksum(&key.hex(), &encoded);
    bytes.extend(encoded);
    bytes
}

/// The result in a file whose name is `hex`.
pub(super) fn open_envelope(hex: &str, bytes: &[u8]) -> Option<ActionResult> {
    let (found, encoded) = bytes.split_at_checked(65)?;
    (found == checksum(hex, encoded)).then(|| ActionResult::decode(encoded).ok())?
}

fn checksum(hex: &str, encoded: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new();
    hasher.update(hex.as_bytes());
    hasher.update(encoded);
    format!("{}\n", hasher.finish().hex()).into_bytes()
}
