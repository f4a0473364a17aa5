//! Sources: pinned bytes from package registries and addresses, unpacked into trees.
//!
//! The one part of skep that uses the network to build. It runs nothing that it fetches, and keeps nothing
//! whose content is not what was pinned. Which registry has a package is in the ecosystems' own
//! configuration ([`config`]), how a package's address is made in [`registry`]; bytes come through
//! [`http`], are checked by [`verify`] and unpacked by [`archive`]. [`debian`] resolves lock files.

mod archive;
mod config;
mod credentials;
mod debian;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod index;
mod registry;
mod source;
mod verify;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use archive::{ArchiveError, Limits as ArchiveLimits, UnpackedLayer, unpack_layer};
pub use debian::LockError;
pub use error::Error;
pub use http::Failure;
pub use registry::Registries;

use archive::{Limits, Unpacked};
use config::Host;
use http::{Http, Policy, Request, redact};
use registry::{Candidate, Locator, blocking};
use source::Source;
use verify::Download;

use crate::cancel::Cancel;
use crate::event::{Direction, Event, Events};
use crate::lock::{DebianLock, DebianRequest};
use crate::plan::{Fetch, Unpack};
use crate::store::Store;
use crate::tree::Tree;

/// An event for every so many bytes.
const PROGRESS: u64 = 256 << 10;

/// What a fetcher has to know of the project.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The project's root: its own `.npmrc` counts, and clients are asked there.
    pub project: PathBuf,
    /// `[registries]` of skep.toml.
    pub registries: Registries,
    /// Whether the network may not be used.
    pub offline: bool,
}

/// Fetches into a store. Share it between tasks; at most 16 downloads run at once, 8 from one host.
pub struct Fetcher {
    store: Arc<Store>,
    http: Http,
    locator: Locator,
    offline: bool,
    events: Events,
}

impl Fetcher {
    /// A fetcher that reads the configuration of this machine when it first needs it.
    pub fn new(store: Arc<Store>, settings: Settings, events: Events) -> Result<Fetcher, Error> {
        let host = Host::current(&settings.project);
        Fetcher::with(store, settings, events, host, Policy::default())
    }

    fn with(
        store: Arc<Store>,
        settings: Settings,
        events: Events,
        host: Host,
        policy: Policy,
    ) -> Result<Fetcher, Error> {
        Ok(Fetcher {
            store,
            http: Http::new(policy)?,
            locator: Locator::new(host, settings.registries),
            offline: settings.offline,
            events,
        })
    }

    /// The tree of a fetch: from the first source that has what was pinned. A source that fails is passed
    /// over with a warning. `label` names the action in events and errors.
    ///
    /// At most 2 GiB are downloaded, and 8 GiB unpacked.
    pub async fn fetch(&self, label: &str, fetch: &Fetch, cancel: &Cancel) -> Result<Tree, Error> {
        if self.offline {
            return Err(Error::Offline {
                sources: fetch.sources.clone(),
            });
        }
        let mut failures = Vec::new();
        for source in &fetch.sources {
            match self.fetch_source(label, source, fetch, cancel).await {
                Ok(tree) => {
                    for failure in failures {
                        self.events
                            .warn(format!("passed over a source of `{label}`: {failure}"));
                    }
                    return Ok(tree);
                }
                Err(error) if error.is_final() => return Err(error),
                Err(error) => failures.push(error),
            }
        }
        match failures.len() {
            1 => Err(failures.remove(0)),
            _ => Err(Error::AllSources {
                label: label.to_owned(),
                failures,
            }),
        }
    }

    /// The packages that answer a request, from the metadata of a mirror's `main`. See [`debian`] for what
    /// is trusted.
    pub async fn lock_debian(&self, request: &DebianRequest, cancel: &Cancel) -> Result<DebianLock, Error> {
        if self.offline {
            return Err(Error::Offline {
                sources: vec![format!("a mirror of {}", request.suite)],
            });
        }
        debian::lock(
            &self.locator,
            &self.http,
            &self.store,
            &self.events,
            request,
            cancel,
        )
        .await
    }

    async fn fetch_source(
        &self,
        label: &str,
        text: &str,
        fetch: &Fetch,
        cancel: &Cancel,
    ) -> Result<Tree, Error> {
        let source = Source::parse(text)?;
        let single = matches!(fetch.unpack, Unpack::File { .. });
        let candidates = self.locator.locate(&source, single).await?;
        let mut failures = Vec::new();
        for Candidate { place, strict } in &candidates {
            let error = match self.locator.resolve(place, &self.http, cancel).await {
                Ok(request) => match self.take(label, text, &request, fetch, cancel).await {
                    Ok(tree) => {
                        self.warn_of(label, &failures);
                        return Ok(tree);
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let stop = error.is_final() || (*strict && !error.is_absence());
            failures.push(error);
            if stop {
                break;
            }
        }
        // "Not found" is the least that can be said; what went wrong elsewhere is more to the point.
        let telling = failures
            .iter()
            .position(|failure| failure.is_final() || !failure.is_absence());
        match failures.is_empty() {
            false => Err(failures.swap_remove(telling.unwrap_or(0))),
            true => Err(Error::Source {
                text: text.to_owned(),
                reason: "no configured mirror has its suite".to_owned(),
            }),
        }
    }

    /// Says which candidates failed; that one does not have something is nothing to speak of.
    fn warn_of(&self, label: &str, failures: &[Error]) {
        for failure in failures.iter().filter(|failure| !failure.is_absence()) {
            self.events
                .warn(format!("passed over a mirror for `{label}`: {failure}"));
        }
    }

    /// Downloads, verifies, unpacks, and verifies again.
    async fn take(
        &self,
        label: &str,
        source: &str,
        request: &Request,
        fetch: &Fetch,
        cancel: &Cancel,
    ) -> Result<Tree, Error> {
        let url = redact(&request.url);
        let from = match source == url {
            true => url,
            false => format!("{source} from {url}"),
        };
        let mismatch = |got: String| Error::Mismatch {
            from: from.clone(),
            expected: fetch.integrity.to_string(),
            got,
        };
        let scratch = self.store.scratch()?;
        let path = scratch.path().join("file");
        let progress = Progress::new(self.events.clone(), label);
        let mut download = Download::create(&path, &fetch.integrity, move |bytes| progress.add(bytes))
            .map_err(|error| disk(&path, error))?;
        self.http.get(request, &mut download, cancel).await?;
        match download.hash(&fetch.integrity) {
            Some(got) if got != fetch.integrity => return Err(mismatch(got.to_string())),
            _ => drop(download),
        }

        let (store, unpack) = (Arc::clone(&self.store), fetch.unpack.clone());
        let cancelled = cancel.clone();
        let unpacked = blocking(move || {
            let unpacked = archive::unpack(&store, &path, &unpack, &Limits::default(), &cancelled);
            drop(scratch);
            unpacked
        })
        .await;
        let unpacked = unpacked.map_err(|error| match error {
            ArchiveError::Cancelled => Error::Cancelled,
            error => Error::Archive {
                from: from.clone(),
                error,
            },
        })?;
        let Unpacked {
            root,
            metadata,
            listing,
        } = &unpacked;
        match verify::hash_content(&fetch.integrity, root, listing) {
            Some(got) if got != fetch.integrity => Err(mismatch(got.to_string())),
            _ => Ok(Tree {
                root: *root,
                metadata: *metadata,
            }),
        }
    }
}

fn disk(path: &Path, error: std::io::Error) -> Error {
    Error::Disk {
        path: path.to_owned(),
        error,
    }
}

/// Sums small pieces up into events.
struct Progress {
    events: Events,
    label: String,
    pending: AtomicU64,
}

impl Progress {
    fn new(events: Events, label: &str) -> Progress {
        Progress {
            events,
            label: label.to_owned(),
            pending: AtomicU64::new(0),
        }
    }

    fn add(&self, bytes: u64) {
        if self.pending.fetch_add(bytes, Ordering::Relaxed) + bytes >= PROGRESS {
            self.flush();
        }
    }

    fn flush(&self) {
        let bytes = self.pending.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            self.events.emit(Event::Transferred {
                what: self.label.clone(),
                direction: Direction::In,
                bytes,
            });
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.flush();
    }
}
