//! Who runs actions on this machine: the sandbox, the fetcher, and the builtins of images.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Setting;
use crate::action::ActionResult;
use crate::assemble;
use crate::digest::Fingerprint;
use crate::engine::{Fault, Job, RunError, Runner};
use crate::event::Events;
use crate::fetch::{self, ArchiveError, Fetcher};
use crate::gocache::GoCache;
use crate::plan::{Fetch, Node, Run};
use crate::sandbox::{self, Sandbox};
use crate::source;
use crate::store::{IngestError, Store};
use crate::tree::TreePath;

/// The longest secret.
const MAX_SECRET: u64 = 1 << 20;

/// The program that becomes the first process of a sandbox: this one.
pub fn sandbox_program() -> PathBuf {
    "/proc/self/exe".into()
}

pub(super) struct Hands {
    project: PathBuf,
    store: Arc<Store>,
    sandbox: Sandbox,
    go: GoCache,
    events: Events,
    fetcher: Fetcher,
    network: tokio::runtime::Handle,
}

impl Hands {
    pub(super) fn new(
        setting: &Setting,
        events: &Events,
        network: &tokio::runtime::Handle,
    ) -> Result<Hands, fetch::Error> {
        Ok(Hands {
            project: setting.project.root.clone(),
            store: Arc::clone(&setting.store),
            sandbox: Sandbox::new(Arc::clone(&setting.store), sandbox_program()),
            go: GoCache::new(Arc::clone(&setting.store), sandbox_program(), None),
            events: events.clone(),
            fetcher: super::fetcher(setting, events)?,
            network: network.clone(),
        })
    }

    fn fetch(&self, job: &Job<'_>, fetch: &Fetch) -> Result<ActionResult, RunError> {
        let tree = self
            .network
            .block_on(self.fetcher.fetch(job.label, fetch, job.cancel));
        let tree = tree.map_err(|error| failed(fetch_fault(&error), &error, None))?;
        Ok(ActionResult {
            outputs: BTreeMap::from([(TreePath::root(), tree.root)]),
            metadata: tree.metadata,
            ..Default::default()
        })
    }

    fn run_in_sandbox(&self, job: &Job<'_>, run: &Run) -> Result<ActionResult, RunError> {
        let secrets = self.secrets(run)?;
        let request = sandbox::Request {
            action: job.action,
            units: job.units,
            secrets: &secrets,
        };
        let outcome = match &run.compile_cache {
            Some(toolchain) => self.run_with_cache(job, &request, toolchain)?,
            None => self.sandbox.run(&request, job.cancel),
        };
        let outcome = outcome.map_err(|error| failed(sandbox_fault(&error), &error, error.log()))?;
        Ok(ActionResult {
            exit_code: outcome.exit_code,
            outputs: outcome.outputs,
            metadata: None,
            log: outcome.log,
            wall: outcome.wall,
        })
    }

    /// Layers and images that no engine could use are none.
    fn assemble(&self, job: &Job<'_>) -> Result<ActionResult, assemble::Error> {
        match job.node {
            Node::Layer(_) => assemble::check_layer(&self.store, &job.action.input_root)?,
            Node::Image(image) => assemble::check_image(&self.store, &job.action.input_root, image)?,
            _ => {}
        }
        assemble::run_builtin(&self.store, job.action)
    }

    /// Runs an action that has a compiler's cache, and once more without if it failed and the cache may be why.
    fn run_with_cache(
        &self,
        job: &Job<'_>,
        request: &sandbox::Request<'_>,
        toolchain: &TreePath,
    ) -> Result<Result<sandbox::Outcome, sandbox::Error>, RunError> {
        let served = self
            .go
            .serve(job.action, toolchain, job.label, &self.events, |beside| {
                self.sandbox.run_with(request, beside, job.cancel)
            });
        let served = served.map_err(|error| failed(Fault::of_store(&error), &error, None))?;
        match (&served.value, served.trouble) {
            (Ok(outcome), Some(trouble)) if outcome.exit_code != 0 => {
                self.events.warn(format!(
                    "{} lost its compile cache ({trouble}), and is run again without one",
                    job.label
                ));
                Ok(self.sandbox.run(request, job.cancel))
            }
            _ => Ok(served.value),
        }
    }

    /// The content of an action's secrets, which must still be what the key says.
    fn secrets(&self, run: &Run) -> Result<BTreeMap<TreePath, Vec<u8>>, RunError> {
        let mut secrets = BTreeMap::new();
        for (at, secret) in &run.secrets {
            let content = source::read_file(&self.project, &secret.file, MAX_SECRET)
                .map_err(|error| failed(Fault::Project, &error, None))?;
            if Fingerprint::of("skep 1 secret version", &content) != secret.fingerprint {
                let message = format!(
                    "the secret `{}` changed during the build; run it again",
                    secret.file
                );
                return Err(failed(Fault::Project, &message, None));
            }
            secrets.insert(at.clone(), content);
        }
        Ok(secrets)
    }
}

impl Runner for Hands {
    fn run(&self, job: &Job<'_>) -> Result<ActionResult, RunError> {
        match job.node {
            Node::Fetch(fetch) => self.fetch(job, fetch),
            Node::Run(run) => self.run_in_sandbox(job, run),
            _ => self
                .assemble(job)
                .map_err(|error| failed(assemble_fault(&error), &error, None)),
        }
    }
}

fn failed(fault: Fault, message: &impl ToString, log: Option<crate::digest::Digest>) -> RunError {
    RunError {
        fault,
        message: message.to_string(),
        log,
    }
}

fn fetch_fault(error: &fetch::Error) -> Fault {
    match error {
        fetch::Error::Cancelled => Fault::Cancelled,
        fetch::Error::Store(error) => Fault::of_store(error),
        fetch::Error::Archive {
            error: ArchiveError::Store(error),
            ..
        } => Fault::of_store(error),
        fetch::Error::Source { .. } | fetch::Error::Mismatch { .. } | fetch::Error::Archive { .. } => {
            Fault::Project
        }
        _ => Fault::Environment,
    }
}

fn sandbox_fault(error: &sandbox::Error) -> Fault {
    use crate::tree::ops;
    match error {
        sandbox::Error::Cancelled => Fault::Cancelled,
        sandbox::Error::Store(error) => Fault::of_store(error),
        sandbox::Error::Tree(ops::Error::Directories(error)) => Fault::of_store(error),
        sandbox::Error::Tree(_) | sandbox::Error::NotWritable(_) | sandbox::Error::NoSecret(_) => {
            Fault::Project
        }
        sandbox::Error::Output { source, .. } => match &**source {
            IngestError::Store(error) => Fault::of_store(error),
            _ => Fault::Action,
        },
        sandbox::Error::TimedOut { .. }
        | sandbox::Error::LogTooLong { .. }
        | sandbox::Error::Exceeded { .. }
        | sandbox::Error::NoProgram { .. } => Fault::Action,
        sandbox::Error::Refused { .. } | sandbox::Error::Lost | sandbox::Error::Io(_) => Fault::Environment,
    }
}

fn assemble_fault(error: &assemble::Error) -> Fault {
    match error {
        assemble::Error::Store(error) => Fault::of_store(error),
        assemble::Error::Tree(_) | assemble::Error::Unfit(_) => Fault::Project,
        _ => Fault::Environment,
    }
}
