//! The command line: arguments in, data to stdout, everything else to stderr, an exit code that says whose
//! fault it was. One file per verb; the operations behind them are plain functions that print nothing.

mod build;
mod deploy;
mod export;
mod failure;
mod gc;
mod lint;
mod lock;
mod log;
mod offline;
mod operate;
mod push;
mod registry;
mod render;
mod status;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::build::Setting;
use crate::cancel::Cancel;
use crate::project::Project;
use crate::store::Store;
use failure::{Failure, Kind};
use render::Renderer;

/// Builds a project's container images hermetically, without Docker, and pushes them by digest.
#[derive(Debug, Parser)]
#[command(name = "skep", version, max_term_width = 100)]
struct Arguments {
    /// Work on the project in DIR instead of the current directory
    #[arg(short = 'C', value_name = "DIR", global = true)]
    directory: Option<PathBuf>,
    /// Write the result to stdout as JSON, and events to stderr as lines of JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Run at most N actions at one time [default: the number of processors]
    #[arg(short, long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Use no network: what is not in the store is an error that names it
    #[arg(long, global = true)]
    offline: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build images, and print their digests
    Build(build::Arguments),
    /// Push images: only what the registry lacks, the tag last
    Push(push::Arguments),
    /// Write an image as an OCI layout, for every other tool
    Export(export::Arguments),
    /// Build what an environment runs, and roll it out
    Release(deploy::Release),
    /// Release to this machine: `skep release preview`
    Preview(deploy::Preview),
    /// Make an environment run the images of a release, with its configuration as it is now
    Rollout(deploy::Rollout),
    /// Show what a rollout would change; nothing is touched
    Plan(deploy::Plan),
    /// Show what is known to go wrong with an environment before it does
    Lint(lint::Arguments),
    /// Show what an environment runs
    Status(status::Status),
    /// Show what the services of an environment print
    Logs(status::Logs),
    /// Show the releases that an environment ran
    History(status::History),
    /// Make an environment run an earlier release again
    Rollback(deploy::Rollback),
    /// Finish a rollout that was left half-way, by somebody who died
    Resume(operate::Named),
    /// Undo a rollout that was left half-way, by somebody who died
    Abort(operate::Named),
    /// Record what a script deployed, so that a rollout has something to go back to
    Adopt(operate::Named),
    /// Show what was changed by hand since the last rollout
    Drift(operate::Drift),
    /// Replace every replica of a service, and change nothing else
    Restart(operate::Restart),
    /// Run a command once, in the image and with the settings of a service
    Run(operate::Run),
    /// Forbid changes, or allow them again
    Freeze(operate::Freeze),
    /// Show and revoke versions of secrets
    Secret(operate::Secret),
    /// Stop everything that a preview runs
    Down(deploy::Down),
    /// Serve the embedded registry on loopback, out of the store, until interrupted
    Registry(registry::Arguments),
    /// Show what an action printed, and the command that repeats it
    Log(log::Arguments),
    /// Refresh the lock files that recipes name
    Lock,
    /// Remove what was not used for the longest time from the store
    Gc(gc::Arguments),
    /// Read everything in the store, and forget what is damaged
    Fsck,
}

/// What all verbs share.
struct Context {
    directory: PathBuf,
    json: bool,
    jobs: usize,
    offline: bool,
    cancel: Cancel,
    renderer: Renderer,
}

/// Runs the program on this process's arguments.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        terminal::say(format!(
            "skep: a bug in skep: {panic}\nplease report it with the command that you ran"
        ));
    }));
    match std::panic::catch_unwind(run) {
        Ok(code) => code,
        Err(_) => ExitCode::from(Kind::Bug.exit_code()),
    }
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                Kind::User.exit_code()
            } else {
                0
            });
        }
    };
    let cancel = Cancel::default();
    interrupts(cancel.clone());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let context = Context {
        directory: arguments.directory.unwrap_or_else(|| ".".into()),
        json: arguments.json,
        jobs: arguments.jobs.map_or(processors, usize::from),
        offline: arguments.offline,
        renderer: Renderer::new(arguments.json, arguments.quiet),
        cancel,
    };
    let done = match arguments.verb {
        Verb::Build(arguments) => build::run(&context, arguments),
        Verb::Push(arguments) => push::run(&context, arguments),
        Verb::Release(arguments) => deploy::release(&context, &arguments),
        Verb::Preview(arguments) => deploy::preview(&context, &arguments),
        Verb::Rollout(arguments) => deploy::rollout(&context, arguments),
        Verb::Plan(arguments) => deploy::plan(&context, arguments),
        Verb::Lint(arguments) => lint::run(&context, &arguments),
        Verb::Rollback(arguments) => deploy::rollback(&context, &arguments),
        Verb::Resume(arguments) => operate::resume(&context, &arguments),
        Verb::Abort(arguments) => operate::abort(&context, &arguments),
        Verb::Adopt(arguments) => operate::adopt(&context, &arguments),
        Verb::Drift(arguments) => operate::drift(&context, &arguments),
        Verb::Restart(arguments) => operate::restart(&context, &arguments),
        Verb::Run(arguments) => operate::run(&context, &arguments),
        Verb::Freeze(arguments) => operate::freeze(&context, &arguments),
        Verb::Secret(arguments) => operate::secret(&context, &arguments),
        Verb::Down(arguments) => deploy::down(&context, &arguments),
        Verb::Status(arguments) => status::status(&context, &arguments),
        Verb::History(arguments) => status::history(&context, &arguments),
        Verb::Logs(arguments) => status::logs(&context, &arguments),
        Verb::Registry(arguments) => registry::run(&context, &arguments),
        Verb::Export(arguments) => export::run(&context, arguments),
        Verb::Log(arguments) => log::run(&context, &arguments),
        Verb::Lock => lock::run(&context),
        Verb::Gc(arguments) => gc::run(&context, &arguments),
        Verb::Fsck => gc::fsck(&context),
    };
    context.renderer.finish();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// The first Ctrl-C asks everything to stop; the second one does not wait for it.
fn interrupts(cancel: Cancel) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if cancel.is_raised() {
                    std::process::exit(Kind::Interrupted.exit_code().into());
                }
                cancel.raise();
            }
        });
    });
}

impl Context {
    fn project(&self) -> Result<Project, Failure> {
        Ok(Project::open(&self.directory)?)
    }

    /// The store: `$SKEP_STORE`, or `skep` in the user's cache directory.
    fn store(&self) -> Result<Arc<Store>, Failure> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
        let root = variable("SKEP_STORE").or_else(|| Some(cache()?.join("skep")));
        let root = root.ok_or_else(|| {
            Failure::new(
                Kind::Environment,
                "nothing says where the store is: neither SKEP_STORE, XDG_CACHE_HOME nor HOME is set",
            )
        })?;
        Ok(Arc::new(Store::open_cancellable(&root, self.cancel.clone())?))
    }

    fn setting(&self) -> Result<Setting, Failure> {
        Ok(Setting {
            project: self.project()?,
            store: self.store()?,
            events: self.renderer.events(),
            cancel: self.cancel.clone(),
            jobs: self.jobs,
            offline: self.offline,
        })
    }
}
