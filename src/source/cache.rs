//! Digests of files that have not changed since they were last read, told by their stat.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Fingerprint};
use crate::store::{self, Store};

/// A file that changed within this time of being read may change again without its times moving.
const RACY: Duration = Duration::from_secs(2);

/// Digests by fingerprint: what was known at the start, and what this run saw.
#[derive(Debug, Default)]
pub(super) struct StatCache {
    known: HashMap<String, Digest>,
    current: HashMap<String, Digest>,
}

const KIND: &str = "stat";

impl StatCache {
    pub(super) fn load(store: &Store, project: &Path) -> StatCache {
        let bytes = store.note(KIND, project).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let line = |line: &str| {
            let (fingerprint, digest) = line.split_once(' ')?;
            Some((fingerprint.to_owned(), digest.parse().ok()?))
        };
        StatCache {
            known: text.lines().filter_map(line).collect(),
            current: HashMap::new(),
        }
    }

    /// Keeps what this run saw, if that is anything new.
    pub(super) fn save(&self, store: &Store, project: &Path) -> Result<(), store::Error> {
        if self.current.keys().all(|key| self.known.contains_key(key)) {
            return Ok(());
        }
        let mut lines: Vec<String> = self
            .known
            .iter()
            .filter(|(key, _)| self.current.contains_key(key.as_str()))
            .chain(
                self.current
                    .iter()
                    .filter(|(key, _)| !self.known.contains_key(key.as_str())),
            )
            .map(|(key, digest)| format!("{key} {digest}\n"))
            .collect();
        lines.sort();
        store.set_note(KIND, project, lines.concat().as_bytes())
    }

    pub(super) fn get(&mut self, key: &str) -> Option<Digest> {
        let digest = *self.known.get(key)?;
        self.current.insert(key.to_owned(), digest);
        Some(digest)
    }

    /// Takes note of a digest, unless the file is too young to be told by its times.
    pub(super) fn insert(&mut self, key: String, metadata: &Metadata, digest: Digest) {
        let changed = [
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        ];
        let settled = changed.into_iter().all(|(seconds, nanos)| {
            let since = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
            let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since);
            age.is_ok_and(|age| age > RACY)
        });
        if settled {
            self.current.insert(key, digest);
        }
    }
}

/// What tells a file's content without reading it.
pub(super) fn fingerprint(path: &Path, metadata: &Metadata) -> String {
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    bytes.push(0);
    let numbers = [
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime().cast_unsigned(),
        metadata.mtime_nsec().cast_unsigned(),
        metadata.ctime().cast_unsigned(),
        metadata.ctime_nsec().cast_unsigned(),
    ];
    bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
    Fingerprint::of("skep 1 source stat", &bytes).hex()
}
