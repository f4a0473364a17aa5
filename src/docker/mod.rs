//! A blocking client of the Swarm API of Docker engines, which knows nothing of releases and prints nothing.
//!
//! An [`Engine`] talks to one manager at a time, over its socket here or over the user's own ssh, and goes on
//! to the next one when that does not answer. Reading is tried again for [`PATIENCE`]; a write never is, since
//! nobody knows whether it was carried out: the client reconnects and returns [`Error::Unreachable`], and
//! whoever wrote looks and decides.
//!
//! Contents of secrets and passwords are in no error and in no `Debug`.

mod address;
mod containers;
mod error;
mod link;
mod list;
mod logs;
mod objects;
mod outside;
mod services;
mod ssh;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bollard::Docker;
use tokio::runtime::Runtime;

use crate::cancel::Cancel;
use crate::retry;

pub use address::{Address, AddressError};
pub use containers::{Container, Unhealthy};
pub use error::Error;
pub use link::Options;
pub use logs::{LogLine, LogOptions, Stream};
pub use objects::{SecretSpec, config_content, data};
pub use outside::{Sshd, addresses_of, answering, is_here, sshd};
pub use services::{Inventory, RegistryAuth};

use error::Trouble;
use link::{ANSWER_LIMIT, Link};

/// For how long a request that changes nothing is tried again, with one manager after the other.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer is still waited for after the run was stopped.
const GRACE: Duration = Duration::from_secs(5);
/// The pause after the managers were tried in vain for the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// After so long without an answer, a write first asks whether the manager is still there.
const SILENCE: Duration = Duration::from_secs(20);

/// Narrows a list: names of filters and values, as `("label", "a=b")`. Labels must all be there; values of
/// another filter are alternatives. By `name`, an engine finds what begins so.
pub type Filters<'a> = &'a [(&'a str, &'a str)];

/// A Swarm, through whichever of its managers answers.
///
/// After the [`Cancel`] that it was made with was raised, requests still work, so that a lock can be released;
/// but nothing is waited for and nothing is tried again.
#[derive(Debug)]
pub struct Engine {
    managers: Vec<Address>,
    options: Options,
    cancel: Cancel,
    /// The manager in use. Whoever reconnects holds the lock meanwhile.
    link: Mutex<Arc<Link>>,
    runtime: Runtime,
}

/// What one round over the managers came to.
type Reasons = Vec<(Address, String)>;

impl Engine {
    /// Connects to the first of `managers` that answers and manages a swarm.
    ///
    /// # Errors
    ///
    /// [`Error::NotAManager`] if every engine is reached and none manages a swarm, [`Error::Unreachable`]
    /// otherwise; both name each address with its reason.
    pub fn connect(managers: Vec<Address>, cancel: Cancel) -> Result<Engine, Error> {
        Engine::connect_with(managers, Options::default(), cancel)
    }

    /// The same as [`Engine::connect`], with a say in how ssh is used.
    ///
    /// # Errors
    ///
    /// As [`Engine::connect`].
    pub fn connect_with(managers: Vec<Address>, options: Options, cancel: Cancel) -> Result<Engine, Error> {
        // One thread keeps connections going; callers wait on their own.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("docker")
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        let link = runtime.block_on(round(&managers, 0, &options, &cancel))?;
        Ok(Engine {
            managers,
            options,
            cancel,
            link: Mutex::new(Arc::new(link)),
            runtime,
        })
    }

    /// The manager in use.
    pub fn address(&self) -> Address {
        self.managers[self.link().at].clone()
    }

    /// The version of the API that is spoken, as `1.41`.
    pub fn api_version(&self) -> String {
        self.link().docker.client_version().to_string()
    }

    /// The id of the swarm: the same whichever manager is asked.
    ///
    /// # Errors
    ///
    /// If no manager answers.
    pub fn swarm_id(&self) -> Result<String, Error> {
        let swarm = self.read(|docker| async move { docker.inspect_swarm().await })?;
        let nameless = || Error::Garbled("a swarm without an id".to_owned());
        swarm.id.ok_or_else(nameless)
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link.lock().unwrap_or_else(|lock| lock.into_inner()))
    }

    /// Carries out a request that changes nothing, and again where a manager does not answer.
    fn read<T, F>(&self, request: impl Fn(Docker) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        self.read_through(|link| request(link.docker.clone()))
    }

    /// The same, for a request that needs more of a link than the crate's client.
    fn read_through<T, F>(&self, request: impl Fn(Arc<Link>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut link = self.link();
        for attempt in 1.. {
            let trouble = match self
                .runtime
                .block_on(self.attempt(&link, request(Arc::clone(&link))))
            {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            let last = self.last(&link, trouble)?;
            if Instant::now() >= deadline {
                return Err(last);
            }
            if attempt > 1 {
                self.rest(attempt - 1)?;
            }
            link = self.reconnect(&link, deadline)?;
        }
        unreachable!("attempts end with an answer or in time")
    }

    /// Carries out a request that changes something, once.
    fn write<T, F>(&self, request: impl FnOnce(Docker) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        if self.link().silence() > SILENCE {
            // A connection that died while nobody looked costs a question, and not a write.
            self.swarm_id()?;
        }
        let link = self.link();
        let trouble = match self
            .runtime
            .block_on(self.attempt(&link, request(link.docker.clone())))
        {
            Ok(value) => return Ok(value),
            Err(trouble) => trouble,
        };
        let last = self.last(&link, trouble)?;
        // The caller will look: better over a connection that works. If there is none, looking says so.
        _ = self.reconnect(&link, Instant::now());
        Err(last)
    }

    /// One request to one manager, in bounded time.
    async fn attempt<T>(
        &self,
        link: &Link,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Trouble> {
        let stopped = async {
            while !self.cancel.is_raised() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            answer = request => {
                let answer = answer.map_err(Trouble::from);
                if !matches!(answer, Err(Trouble::Transport(_))) {
                    link.has_answered();
                }
                answer
            }
            () = tokio::time::sleep(ANSWER_LIMIT) => {
                Err(Trouble::Transport(format!("no answer within {} s", ANSWER_LIMIT.as_secs())))
            }
            () = stopped => Err(Trouble::Answer(Error::Cancelled)),
        }
    }

    /// The error for a request that another manager might have answered; other troubles are errors at once.
    fn last(&self, link: &Link, trouble: Trouble) -> Result<Error, Error> {
        let address = self.managers[link.at].clone();
        match trouble {
            Trouble::Answer(error) => Err(error),
            Trouble::NotAManager(reason) => Ok(Error::NotAManager {
                reasons: vec![(address, reason)],
            }),
            Trouble::Transport(reason) => {
                let reason = link::explained(reason, link.complaints());
                Ok(Error::Unreachable {
                    reasons: vec![(address, reason)],
                })
            }
        }
    }

    /// Replaces a link that broke: the managers in turn, beginning with the one after it, until `deadline` and
    /// at least once. Who comes second finds the link of who came first.
    fn reconnect(&self, broken: &Arc<Link>, deadline: Instant) -> Result<Arc<Link>, Error> {
        let mut link = self.link.lock().unwrap_or_else(|lock| lock.into_inner());
        if !Arc::ptr_eq(&link, broken) {
            return Ok(Arc::clone(&link));
        }
        for attempt in 1.. {
            let first = broken.at + 1;
            let found = self
                .runtime
                .block_on(round(&self.managers, first, &self.options, &self.cancel));
            match found {
                Ok(found) if found.swarm == broken.swarm => {
                    *link = Arc::new(found);
                    return Ok(Arc::clone(&link));
                }
                Ok(found) => return Err(self.another_swarm(&found, broken)),
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => self.rest(attempt)?,
            }
        }
        unreachable!("rounds end with a link or in time")
    }

    /// Two managers of different swarms in one list would make one release of two halves.
    fn another_swarm(&self, found: &Link, broken: &Link) -> Error {
        let (now, before) = (&self.managers[found.at], &self.managers[broken.at]);
        Error::Refused(format!(
            "`{now}` manages swarm {}, and `{before}` swarm {}: they are not managers of one swarm",
            found.swarm, broken.swarm
        ))
    }

    fn rest(&self, attempt: u32) -> Result<(), Error> {
        let pause = retry::pause(FIRST_PAUSE, attempt, None).min(PATIENCE / 10);
        // The timer is made where it runs.
        let rest = async { self.cancel.unless_raised(tokio::time::sleep(pause)).await };
        let rested = self.runtime.block_on(rest);
        rested.ok_or(Error::Cancelled)
    }
}

/// Tries each manager once, beginning with the one at `first`.
async fn round(
    managers: &[Address],
    first: usize,
    options: &Options,
    cancel: &Cancel,
) -> Result<Link, Error> {
    let mut reasons = Reasons::new();
    let mut managing = 0;
    for step in 0..managers.len() {
        let at = (first + step) % managers.len();
        let address = &managers[at];
        let opened = cancel.unless_raised(Link::open(at, address, options)).await;
        let reason = match opened.ok_or(Error::Cancelled)? {
            Ok(link) => return Ok(link),
            Err(Trouble::NotAManager(reason)) => {
                managing += 1;
                reason
            }
            Err(Trouble::Transport(reason)) => reason,
            Err(Trouble::Answer(error)) => error.to_string(),
        };
        reasons.push((address.clone(), reason));
    }
    Err(match managing == reasons.len() && managing > 0 {
        true => Error::NotAManager { reasons },
        false => Error::Unreachable { reasons },
    })
}
