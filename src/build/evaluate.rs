//! Evaluates recipes in a process of their own, which the kernel and a clock bound: what one expression of Starlark
//! takes, nothing in the language does.
//!
//! The process is this program under a hidden argument. It answers with lines of JSON, and notes in shared memory
//! where evaluation is, so that a process that died of a bound still tells the place.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::cancel::Cancel;
use crate::event::{Event, Events};
use crate::lock::LockRequest;
use crate::plan::{Graph, Node};
use crate::recipe::{self, Evaluated, Purpose, Trail, WORDS};
use crate::sandbox::privilege::limit_to;
use crate::sandbox::{sys, wire};

/// The only argument of such a process.
const ARGUMENT: &str = "evaluate-recipes";

/// Nodes in one line of an answer.
const BATCH: usize = 256;

/// How long a wait is before it looks for a reason to end.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What evaluation may take. A recipe describes work and does none: large projects take less than a second and
/// 100 MB, and a lock file of 200,000 lines takes a few seconds and less than 1 GB.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of memory, beside the stack.
    pub memory: u64,
    /// Bytes of stack. Values nest as deep as a recipe makes them, and what walks over them recurses.
    pub stack: u64,
    /// Time on a processor, in whole seconds: a busy machine changes nothing.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            memory: 2 << 30,
            stack: 256 << 20,
            time: Duration::from_secs(120),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Asked {
    purpose: Purpose,
    memory: u64,
    stack: u64,
    seconds: u64,
}

/// A line of the answer.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// A file is begun.
    Begun(String),
    Warning(String),
    Nodes(Vec<Node>),
    /// All nodes were sent; the graph has none of them.
    Done(Graph, Vec<LockRequest>),
    Failed(recipe::Error),
    Panicked(String),
}

/// An evaluation that runs. It is ended when this is dropped.
pub struct Evaluation<'a> {
    project: &'a Path,
    events: &'a Events,
    bounds: Bounds,
    child: Child,
    socket: UnixStream,
    words: File,
    begun: Vec<String>,
    graph: Graph,
}

/// Starts to evaluate the recipes of the project at `project`. `program` is one that begins with
/// [`evaluate_if_asked`], such as `/proc/self/exe`.
pub fn start<'a>(
    program: &Path,
    project: &'a Path,
    purpose: Purpose,
    events: &'a Events,
    bounds: Bounds,
) -> Result<Evaluation<'a>, Error> {
    let failed = |source: io::Error| Error::Io {
        what: "start the evaluation of recipes".to_owned(),
        source,
    };
    let words = rustix::fs::memfd_create("skep-evaluation", MemfdFlags::CLOEXEC);
    let words = File::from(words.map_err(|error| failed(error.into()))?);
    words.set_len(size_of::<recipe::Words>() as u64).map_err(failed)?;
    let (socket, theirs) = UnixStream::pair().map_err(failed)?;
    let child = Command::new(program)
        .arg(ARGUMENT)
        .current_dir(project)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let evaluation = Evaluation {
        project,
        events,
        bounds,
        child,
        socket,
        words,
        begun: Vec::new(),
        graph: Graph::default(),
    };
    let asked = Asked {
        purpose,
        memory: bounds.memory,
        stack: bounds.stack,
        seconds: bounds.time.as_secs(),
    };
    wire::send(&evaluation.socket, &asked, &[evaluation.words.as_fd()]).map_err(failed)?;
    Ok(evaluation)
}

impl Evaluation<'_> {
    /// Waits for what the recipes come to.
    pub fn finish(mut self, cancel: &Cancel) -> Result<Evaluated, Error> {
        let failed = |source: io::Error| Error::Io {
            what: "evaluate the recipes".to_owned(),
            source,
        };
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 256 << 10]);
        loop {
            if cancel.is_raised() {
                return Err(Error::Interrupted);
            }
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&TICK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let read = match (&self.socket).read(&mut chunk) {
                Ok(0) => return Err(self.ended(cancel).map_err(failed)?),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(self.ended(cancel).map_err(failed)?);
                }
                Err(error) => return Err(failed(error)),
            };
            let fresh = bytes.len();
            bytes.extend_from_slice(&chunk[..read]);
            let mut start = 0;
            while let Some(length) = bytes[start.max(fresh)..].iter().position(|byte| *byte == b'\n') {
                let end = start.max(fresh) + length;
                let answer =
                    serde_json::from_slice(&bytes[start..end]).map_err(|error| failed(error.into()))?;
                start = end + 1;
                if let Some(evaluated) = self.take(answer)? {
                    return Ok(evaluated);
                }
            }
            bytes.drain(..start);
        }
    }

    fn take(&mut self, answer: Answer) -> Result<Option<Evaluated>, Error> {
        match answer {
            Answer::Begun(file) => self.begun.push(file),
            Answer::Warning(message) => self.events.warn(message),
            Answer::Nodes(nodes) => self.graph.nodes.extend(nodes),
            Answer::Done(rest, locks) => {
                let nodes = std::mem::take(&mut self.graph.nodes);
                let plan = Graph { nodes, ..rest }.plan();
                return Ok(Some(Evaluated { plan, locks }));
            }
            Answer::Failed(error) => return Err(error.into()),
            Answer::Panicked(message) if is_of_memory(&message) => return Err(self.too_large().into()),
            Answer::Panicked(message) => panic!("while recipes were evaluated: {message}"),
        }
        Ok(None)
    }

    /// Why the process ended without an answer.
    fn ended(&mut self, cancel: &Cancel) -> io::Result<Error> {
        let status = self.child.wait()?;
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(1 << 16).read_to_string(&mut said);
        }
        let interrupts = [Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw);
        Ok(match status.signal() {
            _ if cancel.is_raised() => Error::Interrupted,
            Some(signal) if interrupts.contains(&signal) => Error::Interrupted,
            Some(signal) if signal == Signal::SEGV.as_raw() || said.contains("overflowed its stack") => {
                self.too_deep().into()
            }
            Some(signal) if signal == Signal::ABORT.as_raw() => self.too_large().into(),
            Some(signal) if signal == Signal::XCPU.as_raw() => self.too_long().into(),
            Some(signal) if signal == Signal::KILL.as_raw() => self
                .explain("evaluation was killed by the system, which may be out of memory")
                .into(),
            _ => self.lost(status, &said),
        })
    }

    fn lost(&self, status: ExitStatus, said: &str) -> Error {
        let said = said.trim_end();
        Error::Io {
            what: "evaluate the recipes".to_owned(),
            source: io::Error::other(format!("the process that does it ended with {status}: {said}")),
        }
    }

    fn too_deep(&self) -> recipe::Error {
        self.explain(
            "values or expressions nest too deep; what a loop puts into each other, it can put into one list",
        )
    }

    fn too_long(&self) -> recipe::Error {
        self.explain(&format!(
            "evaluation takes more than {} s; a recipe describes work and does none, so look for a loop without end",
            self.bounds.time.as_secs()
        ))
    }

    fn too_large(&self) -> recipe::Error {
        self.explain(&format!(
            "evaluation needs more than {} MiB of memory; a recipe describes work and does none, so look for a value \
             that grows",
            self.bounds.memory >> 20
        ))
    }

    fn explain(&self, message: &str) -> recipe::Error {
        let mut bytes = [0; size_of::<recipe::Words>()];
        // Nothing is known where they cannot be read.
        let _ = self.words.read_exact_at(&mut bytes, 0);
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        }
        recipe::explain(message, self.project, &self.begun, words)
    }
}

/// Whether a panic says that memory could not be had: as the standard library, the arena of Starlark's values and
/// Starlark say it.
fn is_of_memory(panic: &str) -> bool {
    [
        "capacity overflow",
        "out of memory",
        "AlignedSize must not exceed",
    ]
    .iter()
    .any(|beginning| panic.starts_with(beginning))
}

impl Drop for Evaluation<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// If this process was started to evaluate recipes, does that and does not return. To be called early, while there
/// is one thread.
pub fn evaluate_if_asked() {
    if wire::is_asked(ARGUMENT) {
        std::process::exit(match serve() {
            Ok(()) => 0,
            Err(_) => 1,
        });
    }
}

/// The life of such a process. An error is for when its parent has gone.
fn serve() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let (socket, asked, descriptors) = wire::receive::<Asked>()?;
    let [words] = &descriptors[..] else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let words = sys::share_words::<WORDS>(words.as_fd())?;
    limit_to(Resource::Core, 0)?;
    limit_to(Resource::Data, asked.memory + asked.stack)?;
    // The kernel first sends a signal of its own for this, and kills a little later.
    let allowed = getrlimit(Resource::Cpu).maximum.unwrap_or(u64::MAX);
    let seconds = Rlimit {
        current: Some(asked.seconds.min(allowed)),
        maximum: Some((asked.seconds + 1).min(allowed)),
    };
    setrlimit(Resource::Cpu, seconds)?;
    // A panic is part of the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let project = std::env::current_dir()?;
    let answer = Arc::new(Mutex::new(BufWriter::with_capacity(256 << 10, socket)));
    let stack = usize::try_from(asked.stack).unwrap_or(usize::MAX);
    let evaluate = {
        let answer = Arc::clone(&answer);
        move || respond(&answer, &project, asked.purpose, words)
    };
    let thread = std::thread::Builder::new().stack_size(stack).spawn(evaluate)?;
    match thread.join() {
        Ok(sent) => sent,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            send(&answer, &Answer::Panicked(text.unwrap_or_default()), true)
        }
    }
}

type Writer = Mutex<BufWriter<UnixStream>>;

fn respond(answer: &Arc<Writer>, project: &Path, purpose: Purpose, words: &recipe::Words) -> io::Result<()> {
    // A parent that went away needs no answer.
    let begins = |file: &str| {
        let _ = send(answer, &Answer::Begun(file.to_owned()), true);
    };
    let warned = Arc::clone(answer);
    let events = Events::new(move |event| {
        if let Event::Warning { message } = event {
            let _ = send(&warned, &Answer::Warning(message), true);
        }
    });
    match recipe::evaluate_on(&Trail::new(words, &begins), project, purpose, &events) {
        Err(error) => send(answer, &Answer::Failed(error), true)?,
        Ok((mut graph, locks)) => {
            for nodes in std::mem::take(&mut graph.nodes).chunks(BATCH) {
                send(answer, &Borrowed::Nodes(nodes), false)?;
            }
            send(answer, &Answer::Done(graph, locks), true)?;
        }
    }
    // Nothing is left to do, and freeing all of it would take time.
    std::process::exit(0);
}

/// [`Answer::Nodes`] without a copy.
#[derive(Serialize)]
enum Borrowed<'a> {
    Nodes(&'a [Node]),
}

fn send(answer: &Writer, message: &impl Serialize, at_once: bool) -> io::Result<()> {
    let mut answer = answer.lock().map_err(|_| io::ErrorKind::BrokenPipe)?;
    serde_json::to_writer(&mut *answer, message)?;
    answer.write_all(b"\n")?;
    match at_once {
        true => answer.flush(),
        false => Ok(()),
    }
}
