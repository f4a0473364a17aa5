//! Starts a supervisor, from outside and as its first steps inside. The starter tells it its process id, as the
//! host sees it, and is told when it is ready.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::containers::Containers;
use super::driver::Driver;
use super::place::Place;
use super::{Error, protocol, roots, server, threads};
use crate::container::{Detached, detach};
use crate::store::{SANDBOX_UID, Store};

/// The first argument of a supervisor. The second is its directory, for whoever looks at the processes.
const ARGUMENT: &str = "supervise-preview";

/// Where a supervisor, and the stubs of its containers, have the state directory: from the store's root, which
/// they stand in. Outside of their mount namespace it is empty.
const MOUNT: &str = "preview";

/// How long a supervisor that somebody else starts may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a supervisor says to its starter.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready,
    /// There is one already.
    Taken,
    Failed(String),
}

/// Connects to the supervisor of the state directory `directory`; starts one if there is none, which goes on
/// with what the last one kept. Two that start one at once get the same. `program` is a program that begins
/// with [`crate::container::init_if_asked`] and [`run_if_asked`], such as `/proc/self/exe`.
pub fn start(program: &Path, directory: &Path, store: &Store) -> Result<Client, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(client) = Client::connect(directory)? {
            return Ok(client);
        }
        match launch(program, directory, store)? {
            Answer::Ready => {}
            // The other one may not listen yet, or be about to end.
            Answer::Taken if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Answer::Taken => {
                return Err(Error::Start(
                    "another one holds the lock, and does not answer".to_owned(),
                ));
            }
            Answer::Failed(reason) => return Err(Error::Start(reason)),
        }
    }
}

/// Connects to the supervisor of a state directory; `None` if there is none.
pub fn connect(directory: &Path) -> Result<Option<Client>, Error> {
    Client::connect(directory)
}

fn launch(program: &Path, directory: &Path, store: &Store) -> Result<Answer, Error> {
    let failed = |error| Error::at(directory, error);
    let opened = open(directory).map_err(failed)?;
    let place = Place::at(directory);
    // Before anything is looked at: from now on, collection spares what is named there.
    roots::register(store, directory)?;
    let desired = place
        .desired()
        .map_err(|error| Error::at(&place.path("desired.json"), error))?;
    for tree in desired.map(|desired| desired.trees()).unwrap_or_default() {
        match roots::prepare(store, &tree) {
            // What is lost cannot be started, and that is seen at the replica.
            Err(Error::Store(error)) if error.is_lost_content() => {}
            other => other?,
        }
    }
    let log_path = place.path("supervisor.log");
    let mut options = OpenOptions::new();
    let log = options.create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(|error| Error::at(&log_path, error))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let shown = directory.display().to_string();
    let pid = detach(&Detached {
        stub: program,
        program,
        arguments: &[ARGUMENT, &shown],
        directory: store.root(),
        stdin: Some(theirs.as_fd()),
        log: log.as_fd(),
        mounts: &[(&opened, Path::new(MOUNT))],
        descriptors: &[],
    })?;
    drop(theirs);
    let answer = protocol::send(&ours, &pid.as_raw_pid())
        .and_then(|()| protocol::receive::<Answer>(&mut BufReader::new(ours)));
    match answer {
        Ok(Some(answer)) => Ok(answer),
        _ => Err(Error::Start(format!(
            "it ended without saying why; see {}",
            log_path.display()
        ))),
    }
}

/// The state directory, made if it is missing, belongs to whoever the supervisor will be.
fn open(directory: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(directory, Some(SANDBOX_UID), Some(SANDBOX_UID))?;
    }
    directory.canonicalize()
}

/// If this process was started to be a supervisor, is that and does not return. To be called early, while
/// there is one thread.
pub fn run_if_asked() {
    if std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == ARGUMENT)
    {
        std::process::exit(match supervise() {
            Ok(()) => 0,
            Err(_) => 1,
        });
    }
}

/// The supervisor's life. An error is for when its starter has gone.
fn supervise() -> io::Result<()> {
    let starter = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut reader = BufReader::new(starter.try_clone()?);
    let pid: u32 = protocol::receive(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    drop(reader);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let place = Place::at(Path::new(MOUNT));
    let lock = match place.lock() {
        Ok(Some(lock)) => lock,
        Ok(None) => return protocol::send(&starter, &Answer::Taken),
        Err(error) => return protocol::send(&starter, &Answer::Failed(error.to_string())),
    };
    match prepare(&place, &lock, pid) {
        Err(reason) => protocol::send(&starter, &Answer::Failed(reason)),
        Ok(supervisor) => {
            protocol::send(&starter, &Answer::Ready)?;
            drop(starter);
            supervisor.run(&place)
        }
    }
}

/// A supervisor that is ready.
struct Prepared {
    driver: Driver<Containers>,
    messages: std::sync::mpsc::Receiver<super::driver::Message>,
    sender: std::sync::mpsc::Sender<super::driver::Message>,
    listener: UnixListener,
}

fn prepare(place: &Place, mut lock: &File, pid: u32) -> Result<Prepared, String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("cannot {what}: {error}")
    };
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{pid}"))
        .map_err(failed("write the lock"))?;
    place.lay_out().map_err(failed("make directories"))?;
    place
        .clean()
        .map_err(failed("remove what earlier containers left"))?;
    let socket = place.path("control.sock");
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove the old socket")(error));
        }
        _ => {}
    }
    let (sender, messages) = channel();
    // The network first: it needs a process with one thread.
    let containers = Containers::new(place.clone(), sender.clone())?;
    let driver = Driver::new(place.clone(), containers, pid).map_err(failed("read what should run"))?;
    let listener = UnixListener::bind(&socket).map_err(failed("listen"))?;
    Ok(Prepared {
        driver,
        messages,
        sender,
        listener,
    })
}

impl Prepared {
    fn run(mut self, place: &Place) -> io::Result<()> {
        let (listener, sender) = (self.listener, self.sender);
        threads::spawn("server", move || server::serve(&listener, &sender))?;
        let ended = self.driver.run(&self.messages);
        fs::remove_file(place.path("control.sock"))?;
        if ended.forget {
            place.forget(ended.volumes)?;
        }
        Ok(())
    }
}
