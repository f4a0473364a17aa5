//! A client of a supervisor: one blocking connection, one request at a time.

use std::io::{self, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::place::Place;
use super::protocol::{self, Hello, Reply, Request};
use super::spec::ServiceSpec;
use super::state::{State, Task};
use super::{Error, roots};
use crate::cancel::Cancel;
use crate::network::{Protocol, listen, send_listener};
use crate::store::Store;

/// How long the supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether the supervisor has ended.
const TICK: Duration = Duration::from_millis(10);

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    directory: PathBuf,
}

impl Client {
    /// Connects to the supervisor of a state directory; `None` if there is none.
    pub(super) fn connect(directory: &Path) -> Result<Option<Client>, Error> {
        let failed = |source| Error::at(directory, source);
        let opened = match std::fs::File::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        // The address of a socket is short, and the directory's path may not be.
        let path = format!("/proc/self/fd/{}/control.sock", opened.as_raw_fd());
        let stream = match UnixStream::connect(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            stream => stream.map_err(failed)?,
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let reader = BufReader::new(stream.try_clone().map_err(failed)?);
        let mut client = Client {
            stream,
            reader,
            directory: directory.to_owned(),
        };
        // One that ends right now hangs up instead.
        let hello: Hello = match protocol::receive(&mut client.reader) {
            Ok(Some(hello)) => hello,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match hello.protocol == protocol::VERSION {
            true => Ok(Some(client)),
            false => Err(Error::Protocol { running: hello.skep }),
        }
    }

    /// Keeps a version of a secret. A version never changes: the same name with other content is refused.
    pub fn put_secret(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.done(&Request::PutSecret {
            name: name.to_owned(),
            content: BASE64.encode(content),
        })
    }

    /// Keeps a version of a config, as [`Client::put_secret`] does.
    pub fn put_config(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.done(&Request::PutConfig {
            name: name.to_owned(),
            content: BASE64.encode(content),
        })
    }

    /// Forgets a version of a secret. One that is in use is refused, one that is gone is not.
    pub fn delete_secret(&mut self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.done(&Request::DeleteSecret { name })
    }

    /// Forgets a version of a config, as [`Client::delete_secret`] does.
    pub fn delete_config(&mut self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.done(&Request::DeleteConfig { name })
    }

    /// Listens on a port of the host's loopback address and hands it over, unless that was done. To be done
    /// before the service that publishes it is put, or later: until then it has no listener, and
    /// [`State::ports`] says so. It is given back when the service that published it is gone or no longer
    /// does, and when the supervisor ends.
    pub fn publish(&mut self, port: u16) -> Result<(), Error> {
        if let Reply::Go = self.ask(&Request::Publish { port })? {
            let listener = match listen(port, Protocol::Tcp) {
                Ok(listener) => listener,
                Err(error) => {
                    // The supervisor waits for it on this connection: a new one is for what follows.
                    self.reconnect()?;
                    return Err(error.into());
                }
            };
            send_listener(&self.stream, &listener, "").map_err(|error| self.failed(error))?;
            match self.receive()? {
                Reply::Done => {}
                other => return Err(unexpected(other)),
            }
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), Error> {
        *self = Client::connect(&self.directory)?.ok_or(Error::Gone)?;
        Ok(())
    }

    /// Says how a service should be: at most `hold` replicas with this spec if it is given, all of them if not.
    /// Returns as soon as it is kept; [`Client::observe`] tells how far it is. What is so already stays
    /// untouched, but what was given up or paused is tried again. The image's tree is made ready in the store.
    pub fn put(
        &mut self,
        store: &Store,
        service: &str,
        spec: &ServiceSpec,
        replicas: u32,
        hold: Option<u32>,
    ) -> Result<(), Error> {
        roots::prepare(store, &spec.root)?;
        self.done(&Request::Put {
            service: service.to_owned(),
            spec: Box::new(spec.clone()),
            replicas,
            hold,
        })
    }

    /// Says that a service should be gone; it may be already.
    pub fn remove(&mut self, service: &str) -> Result<(), Error> {
        let service = service.to_owned();
        self.done(&Request::Remove { service })
    }

    /// Runs a program once, for at most `timeout`. A task of that name that runs, or has run, is left as it is;
    /// one with another spec is an error. What it prints is in the logs, as that of a service.
    pub fn run_task(
        &mut self,
        store: &Store,
        name: &str,
        spec: &ServiceSpec,
        timeout: Duration,
    ) -> Result<(), Error> {
        roots::prepare(store, &spec.root)?;
        self.done(&Request::RunTask {
            name: name.to_owned(),
            spec: Box::new(spec.clone()),
            timeout,
        })
    }

    /// How a task is, if there was one of that name. The last 64 that ended are remembered.
    pub fn task(&mut self, name: &str) -> Result<Option<Task>, Error> {
        let name = name.to_owned();
        match self.ask(&Request::Task { name })? {
            Reply::Task(task) => Ok(task),
            other => Err(unexpected(other)),
        }
    }

    /// Ends a task, if it runs. It is gone when [`Client::task`] says so.
    pub fn stop_task(&mut self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.done(&Request::StopTask { name })
    }

    /// How everything is.
    pub fn observe(&mut self) -> Result<State, Error> {
        match self.ask(&Request::Observe)? {
            Reply::State(state) => Ok(*state),
            other => Err(unexpected(other)),
        }
    }

    /// Stops everything for good and waits until nothing is left but logs, and volumes unless they are to go.
    pub fn stop(mut self, store: &Store, volumes: bool, cancel: &Cancel) -> Result<(), Error> {
        match self.done(&Request::Stop { volumes }) {
            // With nothing to stop it may end before its answer is sent.
            Ok(()) | Err(Error::Gone) => {}
            Err(error) => return Err(error),
        }
        let place = Place::at(&self.directory);
        while place.is_held().map_err(|error| self.failed(error))? {
            if cancel.is_raised() {
                return Err(Error::Cancelled);
            }
            std::thread::sleep(TICK);
        }
        // It goes last: one that was killed meanwhile has left it.
        match place.path("desired.json").exists() {
            true => Err(Error::Gone),
            false => roots::unregister(store, &self.directory),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), Error> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        protocol::send(&self.stream, request).map_err(|error| self.failed(error))?;
        self.receive()
    }

    fn receive(&mut self) -> Result<Reply, Error> {
        match protocol::receive(&mut self.reader) {
            Ok(Some(Reply::Refused(reason))) => Err(Error::Refused(reason)),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Error::Gone),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match error.kind() {
            BrokenPipe | ConnectionReset => Error::Gone,
            _ => Error::at(&self.directory, error),
        }
    }
}

fn unexpected(reply: Reply) -> Error {
    Error::Refused(format!("an unexpected reply: {reply:?}"))
}
