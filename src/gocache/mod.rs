//! Go's compile cache for actions, out of the store: the other end of `GOCACHEPROG`. It makes actions faster, is in no key,
//! and knows nothing of plans or images.
//!
//! Inside the sandbox, `go` starts skep's own program, which [relays](relay) to a socket; all of the protocol is spoken out
//! here, and what comes in is taken for hostile. What `go` may read is linked, blob by blob, into a directory of that one
//! action, which it sees read-only at [`MOUNT`]. An entry's key holds the digest of the whole toolchain, so that compilers
//! that differ in a byte share nothing. [`policy`] says which actions add to the cache; the others read.

mod flights;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod index;
mod policy;
mod protocol;
mod relay;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::action::Action;
use crate::digest::Fingerprint;
use crate::event::{Event, Events};
use crate::sandbox::Beside;
use crate::store::{self, Compiled, SANDBOX_UID, Scratch, Store};
use crate::tree::TreePath;

use flights::Flights;
use policy::{Distributions, Policy};
pub use relay::relay_if_asked;
use server::Server;

/// Where an action sees what is linked for it, the socket and the program that relays.
const MOUNT: &str = crate::sandbox::BESIDE;

/// A cache on another machine, which is asked for what this one has not, and offered what this one makes. It can be slow or
/// gone: an action is never wrong for it.
pub trait Upstream: Send + Sync + fmt::Debug {
    /// What stands under `key`, with its bytes in `store`.
    fn fetch(&self, key: &Fingerprint, store: &Store) -> Option<Compiled>;

    /// Takes a copy of a new entry, whose bytes are in `store`, now or later.
    fn offer(&self, key: &Fingerprint, compiled: &Compiled, store: &Store);
}

/// The compile cache of this machine.
#[derive(Debug)]
pub struct GoCache {
    store: Arc<Store>,
    /// This program, such as `/proc/self/exe`, which calls [`relay_if_asked`] first.
    exe: PathBuf,
    upstream: Option<Arc<dyn Upstream>>,
    flights: Flights,
    distributions: Distributions,
    /// Whether a Go that is too old has been spoken of.
    warned: AtomicBool,
}

/// What came of an action that was offered the cache.
#[derive(Debug)]
pub struct Served<T> {
    /// What the action's run gave.
    pub value: T,
    /// Why the cache may have made it fail: its helper was killed, or spoke no sense.
    pub trouble: Option<String>,
}

impl GoCache {
    /// The cache in `store`.
    pub fn new(store: Arc<Store>, exe: PathBuf, upstream: Option<Arc<dyn Upstream>>) -> GoCache {
        GoCache {
            store,
            exe,
            upstream,
            flights: Flights::default(),
            distributions: Distributions::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// Calls `run`, and serves the cache to the action meanwhile. `toolchain` is where the action has its Go distribution.
    /// `run` gets what the sandbox needs, or `None` where there is no cache: for a Go before 1.24, and where the toolchain is
    /// not a directory of the inputs.
    pub fn serve<T>(
        &self,
        action: &Action,
        toolchain: &TreePath,
        label: &str,
        events: &Events,
        run: impl FnOnce(Option<&Beside>) -> T,
    ) -> Result<Served<T>, store::Error> {
        let alone = |value| Served { value, trouble: None };
        let Some(policy) = Policy::of(&self.store, action, toolchain)? else {
            return Ok(alone(run(None)));
        };
        if let Some(version) = policy.too_old() {
            if !self.warned.swap(true, Ordering::Relaxed) {
                events.warn(format!(
                    "Go {version} compiles from an empty cache each time; Go 1.24 and later use skep's"
                ));
            }
            return Ok(alone(run(None)));
        }
        let scratch = self.store.scratch()?;
        let listener = self.prepare(&scratch)?;
        let beside = Beside {
            directory: scratch.relative().to_owned(),
            env: environment(action, &policy),
        };
        let server = Server::new(self, &policy, scratch.path());
        let value = server.during(&listener, || run(Some(&beside)));
        let (counts, trouble) = server.finish();
        events.emit(Event::Compiled {
            label: label.to_owned(),
            found: counts.found,
            missing: counts.missing,
            stored: counts.stored,
        });
        Ok(Served { value, trouble })
    }

    /// The program and the socket in the action's directory.
    fn prepare(&self, scratch: &Scratch) -> Result<UnixListener, store::Error> {
        let directory = scratch.path();
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| store::Error::Io { what, path, source }
        };
        let program = self.store.program(&self.exe)?;
        let helper = directory.join(relay::PROGRAM);
        fs::hard_link(&program, &helper).map_err(failed("write", &helper))?;
        let opened = fs::File::open(directory).map_err(failed("read", directory))?;
        // A socket's path is short; a store's may be long.
        let short = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(relay::SOCKET);
        let socket = directory.join(relay::SOCKET);
        let listener = UnixListener::bind(short).map_err(failed("create", &socket))?;
        if rustix::process::geteuid().is_root() {
            let owner = Some(SANDBOX_UID);
            std::os::unix::fs::chown(&socket, owner, owner).map_err(failed("change", &socket))?;
        }
        Ok(listener)
    }
}

/// What the action's environment has besides. Of a Go whose names for its index of packages are not known, none could be
/// shared, and making it each time takes longer than doing without.
fn environment(action: &Action, policy: &Policy) -> BTreeMap<String, String> {
    let helper = format!("{MOUNT}/{} {}", relay::PROGRAM, relay::ARGUMENT);
    let mut environment = BTreeMap::from([("GOCACHEPROG".to_owned(), helper)]);
    if !policy.indexes() {
        let set = action.command.env.get("GODEBUG");
        let before = set.map(|set| format!("{set},")).unwrap_or_default();
        environment.insert("GODEBUG".to_owned(), format!("{before}goindex=0"));
    }
    environment
}

#[cfg(test)]
mod tests;
