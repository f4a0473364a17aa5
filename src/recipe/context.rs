//! What the primitives of one evaluation share: the plan that grows, the project's files, and the locks.

use std::cell::RefCell;
use std::path::Path;

use starlark::any::ProvidesStaticType;
use starlark::eval::Evaluator;

use crate::event::Events;
use crate::lock::LockRequest;
use crate::plan::{Builder, Node, NodeId, TreeExpr};
use crate::source;
use crate::tree::TreePath;

use super::{error, library};

/// What evaluation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Purpose {
    /// A plan: lock files must answer what recipes ask.
    Build,
    /// New lock files: those that are there are not read, and count as empty.
    Lock,
}

/// Files that evaluation reads are at most this long.
const MAX_FILE: u64 = 64 << 20;

/// Handed to every primitive through the evaluator.
#[derive(ProvidesStaticType)]
pub(super) struct Context<'a> {
    pub project: &'a Path,
    pub purpose: Purpose,
    pub events: &'a Events,
    pub builder: RefCell<Builder>,
    pub locks: RefCell<Vec<LockRequest>>,
}

impl<'a> Context<'a> {
    pub fn new(project: &'a Path, purpose: Purpose, events: &'a Events) -> Context<'a> {
        Context {
            project,
            purpose,
            events,
            builder: RefCell::default(),
            locks: RefCell::default(),
        }
    }

    /// The context that [`super::evaluate`] put into the evaluator.
    pub fn of<'e>(eval: &Evaluator<'_, 'e, '_>) -> &'e Context<'e> {
        eval.extra
            .and_then(|extra| extra.downcast_ref())
            .expect("every evaluator has it")
    }

    pub fn add(&self, node: Node) -> NodeId {
        self.builder.borrow_mut().add(node)
    }

    /// Adds a node whose place in the project's files errors name.
    pub fn add_at(&self, node: Node, eval: &Evaluator<'_, '_, '_>) -> NodeId {
        self.builder.borrow_mut().add_at(node, error::users_call(eval))
    }

    pub fn add_expr(&self, expr: TreeExpr) -> NodeId {
        self.add(Node::Tree(expr))
    }

    /// The text of a file: of the project by its path from the root, or `@skep//…` of the library.
    pub fn read_text(&self, path: &str) -> anyhow::Result<String> {
        if let Some(file) = path.strip_prefix(library::PREFIX) {
            let text =
                library::file(file).ok_or_else(|| anyhow::anyhow!("the library has no file `{path}`"))?;
            return Ok(text.to_owned());
        }
        let bytes = self.read(&path.parse()?)?;
        String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("`{path}` is not UTF-8 text"))
    }

    /// The content of a file of the project.
    pub fn read(&self, file: &TreePath) -> anyhow::Result<Vec<u8>> {
        Ok(source::read_file(self.project, file, MAX_FILE)?)
    }
}
