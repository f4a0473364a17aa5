//! A project into images: evaluates its recipes, and has the engine build what was asked for with the hands
//! that this machine has. Prints nothing, and pushes nothing.

pub mod evaluate;
mod hands;
mod record;
mod select;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::assemble;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::engine::{Engine, Failure, Options};
use crate::event::Events;
use crate::fetch::{self, Fetcher, Settings};
use crate::image::{Image, Index};
use crate::plan::Plan;
use crate::platform::{Arch, Platform};
use crate::project::Project;
use crate::recipe::{self, Evaluated, Purpose};
use crate::source::{self, WorkTree};
use crate::store::{self, Lost, Store};
use crate::tree::{Tree, TreePath};

use hands::Hands;
pub use hands::sandbox_program;
pub use record::{Recorded, find_recorded};
use select::Selection;
pub use select::Unknown;

/// Fetches at one time; they wait more than they work.
const FETCHES: usize = 16;

/// What every operation on a project needs.
#[derive(Clone)]
pub struct Setting {
    /// The project.
    pub project: Project,
    /// Where content and results are.
    pub store: Arc<Store>,
    /// Who wants to know.
    pub events: Events,
    /// Raised to stop.
    pub cancel: Cancel,
    /// Actions at one time, at least 1.
    pub jobs: usize,
    /// Whether the network may not be used.
    pub offline: bool,
}

/// What to build.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Targets, targets on a platform (`api@linux/arm64`) and actions, by label; all targets if empty.
    pub names: Vec<String>,
    /// The platforms of targets that are named without one; all of the target's if empty.
    pub platforms: Vec<Platform>,
    /// Whether to go on with what does not depend on a failed action.
    pub keep_going: bool,
}

/// What was built of one target.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The index over all of the target's platforms, if all were asked for.
    pub index: Option<Index>,
    /// Its images, those that were asked for.
    pub images: BTreeMap<Platform, Image>,
}

/// What was built.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// Images by target.
    pub images: BTreeMap<String, BuiltImage>,
    /// Trees of the actions that were asked for, by label.
    pub actions: BTreeMap<String, Tree>,
}

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    /// A name that no recipe declares.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The project's files cannot be listed.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// Actions failed.
    #[error("{} failed", counted(.0.len(), "action"))]
    Failed(Vec<Failure>),
    /// Something cannot be fetched or locked.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A record of an image cannot be read.
    #[error(transparent)]
    Assemble(#[from] assemble::Error),
    /// It was no longer waited for.
    #[error("interrupted")]
    Interrupted,
    /// A thread for the network cannot be started, or a lock file cannot be written.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Evaluates the project's recipes.
pub fn plan(setting: &Setting) -> Result<Plan, Error> {
    Ok(evaluated(setting, Purpose::Build)?.plan)
}

fn evaluated(setting: &Setting, purpose: Purpose) -> Result<Evaluated, Error> {
    let (project, bounds) = (&setting.project.root, evaluate::Bounds::default());
    evaluate::start(&sandbox_program(), project, purpose, &setting.events, bounds)?.finish(&setting.cancel)
}

/// Builds what `request` names.
pub fn build(setting: &Setting, request: &Request) -> Result<Built, Error> {
    let plan = plan(setting)?;
    let selection = Selection::new(&plan, request)?;
    let sources = WorkTree::list(&setting.project.root, &setting.store)?.with_secrets(plan.secrets());
    warn_of_untracked(setting, &sources);
    let record = record::Record::new(setting);
    let events = record.listen(&setting.events);
    let runtime = runtime()?;
    let hands = Hands::new(setting, &events, runtime.handle())?;
    let options = Options {
        jobs: setting.jobs,
        fetches: FETCHES,
        keep_going: request.keep_going,
        host: Arch::HOST,
    };
    let engine = Engine {
        plan: &plan,
        store: &setting.store,
        sources: &sources,
        runner: &hands,
        events: &events,
        cancel: &setting.cancel,
        options: &options,
    };
    let built = setting.until_whole(|| {
        let values = engine.build(selection.roots()).map_err(Error::Failed)?;
        selection.read(&setting.store, &values)
    });
    sources.remember(&setting.store)?;
    record.save(match &built {
        Err(Error::Failed(failures)) => failures,
        _ => &[],
    })?;
    setting.store.sync()?;
    built
}

impl Setting {
    /// Does `work`, and does it again when content that a result names turns out to be lost: every verb that
    /// builds, and reads what was built, does both in here. See [`Store::until_whole`].
    pub fn until_whole<T, E: Lost>(&self, work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let again = |lost: &[Digest]| {
            for digest in lost {
                self.events.warn(format!(
                    "blob {digest} was lost or damaged in the store, and is made again"
                ));
            }
        };
        self.store.until_whole(again, work)
    }
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Failed(failures) => failures.iter().filter_map(Failure::lost).collect(),
            Error::Source(error) => error.lost(),
            Error::Store(error) => error.lost(),
            Error::Assemble(error) => error.lost(),
            _ => Vec::new(),
        }
    }
}

fn warn_of_untracked(setting: &Setting, sources: &WorkTree) {
    const SHOWN: usize = 5;
    for name in sources.unreadable() {
        setting.events.warn(format!(
            "passed over the file `{name}`: its name is not UTF-8, or no valid path"
        ));
    }
    let untracked = sources.untracked();
    if untracked.is_empty() {
        return;
    }
    let mut names: Vec<String> = untracked
        .iter()
        .take(SHOWN)
        .map(|path| format!("`{path}`"))
        .collect();
    names.extend((untracked.len() > SHOWN).then(|| format!("and {} more", untracked.len() - SHOWN)));
    setting.events.warn(format!(
        "{} not tracked by git, and would be missing in another clone: {}",
        if untracked.len() == 1 {
            "1 file is".to_owned()
        } else {
            format!("{} files are", untracked.len())
        },
        names.join(", ")
    ));
}

/// Refreshes the lock files that recipes name, and gives those that changed.
pub fn lock(setting: &Setting) -> Result<Vec<TreePath>, Error> {
    let evaluated = evaluated(setting, Purpose::Lock)?;
    let fetcher = fetcher(setting, &setting.events)?;
    let runtime = runtime()?;
    let mut changed = Vec::new();
    for lock in &evaluated.locks {
        let answer = runtime.block_on(fetcher.lock_debian(&lock.request, &setting.cancel))?;
        let path = setting.project.root.join(lock.file.to_string());
        let text = answer.to_toml();
        if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        replace_file(&path, &text)?;
        changed.push(lock.file.clone());
    }
    Ok(changed)
}

/// Writes beside the file and renames, so that it is the old one or the new one.
pub fn replace_file(path: &std::path::Path, text: &str) -> Result<(), Error> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".skep-{}", std::process::id()));
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(|source| Error::Io {
        what: format!("write `{}`", path.display()),
        source,
    })
}

fn fetcher(setting: &Setting, events: &Events) -> Result<Fetcher, fetch::Error> {
    let settings = Settings {
        project: setting.project.root.clone(),
        registries: setting.project.config.registries.clone(),
        offline: setting.offline,
    };
    Fetcher::new(Arc::clone(&setting.store), settings, events.clone())
}

/// Threads for the network.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.map_err(|source| Error::Io {
        what: "start threads for the network".to_owned(),
        source,
    })
}
