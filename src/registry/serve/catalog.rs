//! What belongs to which repository, as small files in the store's directory `registry`.
//!
//! Content is the store's; here is only what was pushed or mounted where. Files come to be by writing
//! elsewhere and renaming; one that a power cut left torn counts as absent. Several processes may serve and
//! collect at once: who looks and then changes something holds the lock.
//!
//! | path                                  | what it is                                             |
//! |---------------------------------------|--------------------------------------------------------|
//! | `repositories/<name, / as %>/`        | a repository; no name holds a `%`                      |
//! | `…/blobs/<hex>`                       | a blob that was pushed or mounted there, as its digest |
//! | `…/manifests/<hex>`                   | a manifest with what it names, as json                 |
//! | `…/tags/<tag>`                        | the digest that a tag names                            |
//! | `lock`                                | held by who changes something                          |

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use crate::digest::Digest;
use crate::registry::address::{Name, Tag};
use crate::store::{self, Store};

/// A blob that no manifest names is spared for so long after it came, or was asked for: its manifest may be on
/// the way.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why the embedded registry cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It has no access control, so it serves this machine alone.
    #[error("the embedded registry serves this machine alone: `{0}` is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The port is taken, or not allowed.
    #[error("the embedded registry cannot listen on `{address}`: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A record cannot be read or written.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Record {
        /// What was tried, such as `read`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A manifest of a repository, with what may be asked of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    pub digest: Digest,
    pub media_type: String,
    /// Configs and layers.
    pub blobs: Vec<Digest>,
    /// Manifests of an index.
    pub children: Vec<Digest>,
    /// What it refers to, which need not be there: hexadecimal, or `algorithm:encoded` if that is no SHA-256.
    pub subject: Option<String>,
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

/// The records. Every call blocks.
#[derive(Clone)]
pub(super) struct Catalog {
    store: Arc<Store>,
}

/// All content that repositories of the store at `root` hold, for collection to spare: manifests, what they
/// name, and blobs that came or were asked for within a day. Records of other blobs are removed.
pub fn collect(root: &Path) -> Result<Vec<Digest>, ServeError> {
    let mut found = BTreeSet::new();
    let repositories = repositories(root);
    if !repositories.is_dir() {
        return Ok(Vec::new());
    }
    let _lock = lock(root)?;
    for repository in list(&repositories)? {
        let at = repositories.join(repository);
        let mut named = BTreeSet::new();
        for hex in list(&at.join("manifests"))? {
            if let Some(record) = read::<Record>(&at.join("manifests").join(hex))? {
                found.insert(record.digest);
                found.extend(record.children);
                named.extend(record.blobs);
            }
        }
        let is_named: BTreeSet<String> = named.iter().map(Digest::hex).collect();
        for hex in list(&at.join("blobs"))? {
            let path = at.join("blobs").join(&hex);
            if is_young(&path) {
                found.extend(read::<Digest>(&path)?);
            } else if !is_named.contains(&hex) {
                remove(&path)?;
            }
        }
        found.extend(named);
    }
    Ok(found.into_iter().collect())
}

fn is_young(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    // One from the future has no age.
    modified.is_ok_and(|modified| modified.elapsed().unwrap_or_default() < GRACE)
}

impl Catalog {
    pub(super) fn new(store: Arc<Store>) -> Catalog {
        Catalog { store }
    }

    /// Whether anything was ever pushed there.
    pub(super) fn has_repository(&self, name: &Name) -> bool {
        self.repository(name).is_dir()
    }

    /// A blob of a repository that is still in the store.
    pub(super) fn blob(&self, name: &Name, hex: &str) -> Result<Option<Digest>, ServeError> {
        let recorded = read::<Digest>(&self.path(name, "blobs", hex))?;
        Ok(recorded.filter(|digest| digest.hex() == hex && self.store.has(digest)))
    }

    /// Like [`Catalog::blob`], for whoever asks whether a blob is here to name it soon: it is spared as if it
    /// had come now.
    pub(super) fn promise_blob(&self, name: &Name, hex: &str) -> Result<Option<Digest>, ServeError> {
        let _lock = lock(self.store.root())?;
        let Some(digest) = self.blob(name, hex)? else {
            return Ok(None);
        };
        let path = self.path(name, "blobs", hex);
        let renewed = File::options().write(true).open(&path);
        renewed
            .and_then(|record| record.set_modified(SystemTime::now()))
            .map_err(|source| ServeError::record("write", &path, source))?;
        Ok(self.store.keep(&digest)?.then_some(digest))
    }

    /// Records that a blob of the store belongs to a repository; `false` if the store has lost it.
    pub(super) fn add_blob(&self, name: &Name, digest: &Digest) -> Result<bool, ServeError> {
        let _lock = lock(self.store.root())?;
        let is_here = self.store.keep(digest)?;
        if is_here {
            self.write(&self.path(name, "blobs", &digest.hex()), digest)?;
        }
        Ok(is_here)
    }

    pub(super) fn remove_blob(&self, name: &Name, hex: &str) -> Result<bool, ServeError> {
        let _lock = lock(self.store.root())?;
        remove(&self.path(name, "blobs", hex))
    }

    /// A blob that any repository has.
    pub(super) fn find_blob(&self, hex: &str) -> Result<Option<Digest>, ServeError> {
        for directory in list(&repositories(self.store.root()))? {
            if let Ok(name) = directory.replace('%', "/").parse::<Name>()
                && let Some(digest) = self.blob(&name, hex)?
            {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// A manifest of a repository whose bytes are still in the store.
    pub(super) fn manifest(&self, name: &Name, hex: &str) -> Result<Option<Record>, ServeError> {
        let recorded = read::<Record>(&self.path(name, "manifests", hex))?;
        Ok(recorded.filter(|record| record.digest.hex() == hex && self.store.has(&record.digest)))
    }

    /// All manifests of a repository, by digest.
    pub(super) fn manifests(&self, name: &Name) -> Result<Vec<Record>, ServeError> {
        let mut found = Vec::new();
        for hex in list(&self.repository(name).join("manifests"))? {
            found.extend(self.manifest(name, &hex)?);
        }
        Ok(found)
    }

    /// Adds a manifest, and lets `tag` name it, unless something that it names is not in the repository:
    /// then that thing's `sha256:…` is the answer.
    pub(super) fn add_manifest(
        &self,
        name: &Name,
        tag: Option<&Tag>,
        record: &Record,
        bytes: &[u8],
    ) -> Result<Option<String>, ServeError> {
        let lock = lock(self.store.root())?;
        for blob in &record.blobs {
            let there = self.blob(name, &blob.hex())?;
            if there != Some(*blob) || !self.store.keep(blob)? {
                return Ok(Some(blob.oci()));
            }
        }
        for child in &record.children {
            let there = self.manifest(name, &child.hex())?;
            if there.is_none_or(|there| there.digest != *child) {
                return Ok(Some(child.oci()));
            }
        }
        self.store.put(bytes)?;
        self.write(&self.path(name, "manifests", &record.digest.hex()), record)?;
        if let Some(tag) = tag {
            self.write(&self.path(name, "tags", tag.as_str()), &record.digest)?;
        }
        drop(lock);
        // What is acknowledged survives a power cut.
        self.store.sync()?;
        Ok(None)
    }

    /// Removes a manifest, and the tags that name it.
    pub(super) fn remove_manifest(&self, name: &Name, hex: &str) -> Result<bool, ServeError> {
        let _lock = lock(self.store.root())?;
        for tag in self.tags(name)? {
            if self.tag(name, &tag)?.is_some_and(|digest| digest.hex() == hex) {
                remove(&self.path(name, "tags", tag.as_str()))?;
            }
        }
        remove(&self.path(name, "manifests", hex))
    }

    /// What a tag names.
    pub(super) fn tag(&self, name: &Name, tag: &Tag) -> Result<Option<Digest>, ServeError> {
        read(&self.path(name, "tags", tag.as_str()))
    }

    pub(super) fn remove_tag(&self, name: &Name, tag: &Tag) -> Result<bool, ServeError> {
        let _lock = lock(self.store.root())?;
        remove(&self.path(name, "tags", tag.as_str()))
    }

    /// The tags of a repository, sorted.
    pub(super) fn tags(&self, name: &Name) -> Result<Vec<Tag>, ServeError> {
        let names = list(&self.repository(name).join("tags"))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn repository(&self, name: &Name) -> PathBuf {
        repositories(self.store.root()).join(name.as_str().replace('/', "%"))
    }

    fn path(&self, name: &Name, area: &str, file: &str) -> PathBuf {
        self.repository(name).join(area).join(file)
    }

    fn write(&self, path: &Path, record: &impl serde::Serialize) -> Result<(), ServeError> {
        let failed = |source| ServeError::record("write", path, source);
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        let scratch = self.store.scratch()?;
        let new = scratch.path().join("record");
        fs::write(&new, bytes).map_err(failed)?;
        let parent = path.parent().expect("records are in directories");
        fs::create_dir_all(parent).map_err(failed)?;
        fs::rename(&new, path).map_err(failed)
    }
}

impl ServeError {
    fn record(what: &'static str, path: &Path, source: io::Error) -> ServeError {
        ServeError::Record {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

fn repositories(root: &Path) -> PathBuf {
    root.join("registry/repositories")
}

/// While this is held, nobody else changes records of the store at `root`, in whichever process.
fn lock(root: &Path) -> Result<File, ServeError> {
    let path = root.join("registry/lock");
    let failed = |source| ServeError::record("lock", &path, source);
    fs::create_dir_all(root.join("registry")).map_err(failed)?;
    let file = File::create(&path).map_err(failed)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

/// The names in a directory, sorted; none if it is not there.
fn list(path: &Path) -> Result<Vec<String>, ServeError> {
    let failed = |source| ServeError::record("read", path, source);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    names.sort();
    Ok(names)
}

/// A record; `None` if it is absent or torn.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ServeError> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServeError::record("read", path, source)),
    }
}

/// Removes a record; `false` if there was none.
fn remove(path: &Path) -> Result<bool, ServeError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ServeError::record("remove", path, source)),
    }
}
