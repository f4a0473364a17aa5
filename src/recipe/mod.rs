//! Recipes into a plan: pure evaluation of Starlark. The only module that knows the language.
//!
//! Reads recipes, lock files and what else recipes name of the project; runs nothing, asks no network, and
//! never looks into a source that a plan only refers to. What is known of Go, Node or Debian is not here but
//! in the rule library (`recipes/`), which recipes load as `@skep//….star`. It bounds its steps; memory and
//! time are bounded by the process that evaluates ([`Trail`]).

mod context;
mod decode;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod graph;
mod image;
mod library;
mod lockfile;
mod nesting;
mod trail;
mod tree;
mod value;

#[cfg(test)]
mod go_tests;
#[cfg(test)]
mod library_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use starlark::PrintHandler;
use starlark::codemap::FileSpanRef;
use starlark::environment::{FrozenModule, Globals, GlobalsBuilder, LibraryExtension, Module};
use starlark::eval::{BeforeStmtFunc, Evaluator, ReturnFileLoader};
use starlark::syntax::{AstModule, Dialect};

pub use context::Purpose;
pub use error::Error;
pub use trail::{Trail, WORDS, Words};

use crate::event::Events;
use crate::lock::LockRequest;
use crate::plan::{Graph, Plan};
use context::Context;

/// The recipe that evaluation starts with, in the project's root.
pub const ROOT_RECIPE: &str = "skep.star";

/// Calls and turns of loops in one file and all that it calls.
const MAX_STEPS: u64 = 10_000_000;
/// Functions that may be called inside each other.
const MAX_DEPTH: usize = 256;
/// Bytes of values in one file. What one expression makes is only bounded by the process: see [`Trail`].
const MAX_HEAP: usize = 1 << 30;

/// What a project's recipes come to.
#[derive(Debug)]
pub struct Evaluated {
    /// The graph and its targets.
    pub plan: Plan,
    /// The locks that recipes read.
    pub locks: Vec<LockRequest>,
}

/// Evaluates the project at `project`, from its [`ROOT_RECIPE`]. What recipes print becomes warnings.
pub fn evaluate(project: &Path, purpose: Purpose, events: &Events) -> Result<Evaluated, Error> {
    let words = Words::default();
    let (graph, locks) = evaluate_on(&Trail::new(&words, &|_| {}), project, purpose, events)?;
    let plan = graph.plan();
    Ok(Evaluated { plan, locks })
}

/// The same on a trail, and without labels: for a process of its own, whose end [`explain`] explains.
pub fn evaluate_on(
    trail: &Trail<'_>,
    project: &Path,
    purpose: Purpose,
    events: &Events,
) -> Result<(Graph, Vec<LockRequest>), Error> {
    let context = Context::new(project, purpose, events);
    let mut loader = Loader {
        context: &context,
        trail,
        globals: globals(),
        done: HashMap::new(),
        begun: Vec::new(),
        loading: Vec::new(),
    };
    loader.load(ROOT_RECIPE)?;
    Ok((context.builder.into_inner().graph(), context.locks.into_inner()))
}

/// The error `message` at the last statement that `words` name, of the files that were `begun`, in their order.
pub fn explain(message: &str, project: &Path, begun: &[String], words: [u64; WORDS]) -> Error {
    let (quiet, builder) = (Events::none(), Purpose::Build);
    let context = Context::new(project, builder, &quiet);
    let text = |file: &str| context.read_text(file).unwrap_or_default();
    let mut places = words.iter().filter_map(|word| {
        let (file, offset) = trail::place(*word)?;
        Some((begun.get(file)?, offset))
    });
    let Some((file, offset)) = places.next() else {
        return Error::new(format!("{ROOT_RECIPE}: {message}"));
    };
    let error = Error::in_text(message, file, &text(file), offset);
    let inner = places
        .next()
        .map(|(file, offset)| error::location_in(file, &text(file), offset));
    let through = inner
        .filter(|inner| error.at.as_ref() != Some(inner))
        .into_iter()
        .collect();
    Error { through, ..error }
}

fn globals() -> Globals {
    use LibraryExtension::{Filter, Json, Map, Partial, Print, SetType, StructType, Typing};
    let extensions = [StructType, Map, Filter, Partial, Print, Json, Typing, SetType];
    GlobalsBuilder::extended_by(&extensions)
        .with(graph::primitives)
        .with(image::primitives)
        .with(lockfile::primitives)
        .build()
}

fn dialect() -> Dialect {
    Dialect {
        enable_top_level_stmt: true,
        enable_f_strings: true,
        enable_load_reexport: false,
        ..Dialect::Extended
    }
}

/// Loads each file once, and those that it loads before it.
struct Loader<'a> {
    context: &'a Context<'a>,
    trail: &'a Trail<'a>,
    globals: Globals,
    done: HashMap<String, FrozenModule>,
    /// The files, in the order in which they were begun.
    begun: Vec<String>,
    /// The files that are being loaded, the outermost first.
    loading: Vec<String>,
}

impl Loader<'_> {
    fn load(&mut self, file: &str) -> Result<(), Error> {
        let text = self
            .context
            .read_text(file)
            .map_err(|error| Error::new(error.to_string()))?;
        let nested = nesting::check(&text);
        let longest = nested.map_err(|deep| Error::in_text(deep.message, file, &text, deep.offset))?;
        self.begun.push(file.to_owned());
        self.trail.begin(file, longest);
        let ast = AstModule::parse(file, text, &dialect()).map_err(|error| Error::of(&error))?;
        self.loading.push(file.to_owned());
        let mut names = Vec::new();
        for load in ast.loads() {
            let path = resolve(file, load.module_id).map_err(|message| Error::at(message, &load.span))?;
            if let Some(start) = self.loading.iter().position(|loading| *loading == path) {
                let mut cycle = self.loading[start..].to_vec();
                cycle.push(path);
                return Err(Error::at(
                    format!("files load each other in a circle: {}", cycle.join(" → ")),
                    &load.span,
                ));
            }
            if !self.done.contains_key(&path) {
                self.load(&path).map_err(|error| match error.at {
                    None => Error::at(error.message, &load.span),
                    Some(_) => error,
                })?;
            }
            names.push((load.module_id.to_owned(), path));
        }
        let module = self.run(file, ast, &names)?;
        self.loading.pop();
        self.done.insert(file.to_owned(), module);
        Ok(())
    }

    fn run(&self, file: &str, ast: AstModule, names: &[(String, String)]) -> Result<FrozenModule, Error> {
        let modules = names
            .iter()
            .map(|(name, path)| (name.as_str(), &self.done[path]))
            .collect();
        let loader = ReturnFileLoader { modules: &modules };
        let printer = Printer {
            context: self.context,
            file,
        };
        let note = |span: FileSpanRef<'_>, _: bool, _: &mut Evaluator<'_, '_, '_>| {
            self.trail.note(span.file.filename(), span.span.begin().get());
        };
        Module::with_temp_heap(|module| {
            {
                let mut eval = Evaluator::new(&module);
                eval.set_loader(&loader);
                eval.set_print_handler(&printer);
                eval.set_max_callstack_size(MAX_DEPTH)?;
                eval.set_max_tick_count(MAX_STEPS)?;
                eval.set_max_heap_size(MAX_HEAP)?;
                eval.extra = Some(self.context);
                // Hidden in its documentation, and what the crate's own debugger stands on.
                eval.before_stmt_for_dap(BeforeStmtFunc::Fn(&note));
                eval.eval_module(ast, &self.globals)?;
            }
            Ok(module.freeze()?)
        })
        .map_err(|error: starlark::Error| match Error::of(&error) {
            // A bound that was reached has no place of its own.
            Error {
                at: None, message, ..
            } => explain(&message, self.context.project, &self.begun, self.trail.words()),
            error => error,
        })
    }
}

/// The file that `load(name)` in `file` means.
fn resolve(file: &str, name: &str) -> Result<String, String> {
    let expected = "expected `//dir/file.star` from the project's root, `:file.star` beside this file, or `@skep//file.star`";
    if !name.ends_with(".star") {
        return Err(format!("`{name}` is no recipe: {expected}"));
    }
    if name.starts_with(library::PREFIX) {
        return Ok(name.to_owned());
    }
    let (prefix, directory) = match file.strip_prefix(library::PREFIX) {
        Some(rest) => (library::PREFIX, rest),
        None => ("", file),
    };
    let directory = directory.rsplit_once('/').map_or("", |(directory, _)| directory);
    let path = match (name.strip_prefix("//"), name.strip_prefix(':')) {
        (Some(rest), _) => rest.to_owned(),
        (_, Some(beside)) if directory.is_empty() => beside.to_owned(),
        (_, Some(beside)) => format!("{directory}/{beside}"),
        (None, None) => return Err(format!("`{name}` is no recipe: {expected}")),
    };
    let path: crate::tree::TreePath = path.parse().map_err(|error| format!("{error}"))?;
    Ok(format!("{prefix}{path}"))
}

/// What a recipe prints is for the person who runs it.
struct Printer<'a> {
    context: &'a Context<'a>,
    file: &'a str,
}

impl PrintHandler for Printer<'_> {
    fn println(&self, text: &str) -> starlark::Result<()> {
        self.context.events.warn(format!("{} prints: {text}", self.file));
        Ok(())
    }
}
