//! From a node whose inputs are known to the exact action that is looked up and run.

use std::collections::BTreeSet;

use super::trees;
use crate::action::{Action, Command};
use crate::digest::Digest;
use crate::plan::{Node, NodeId, Plan, Run};
use crate::platform::Arch;
use crate::store::Store;
use crate::tree::{Tree, TreePath};

/// The environment of every sandboxed action; a run may add to it and override it.
pub const ENVIRONMENT: [(&str, &str); 6] = [
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("PATH", "/usr/bin:/bin"),
    ("SOURCE_DATE_EPOCH", "315532800"),
    ("TMPDIR", "/tmp"),
    ("TZ", "UTC"),
];

/// The action that makes the value of `node`, which must be an action node.
pub(super) fn action(
    store: &Store,
    node: &Node,
    value_of: &dyn Fn(NodeId) -> Tree,
) -> Result<Action, trees::Error> {
    let template = node.template().expect("the node is an action");
    let placed = template
        .inputs
        .iter()
        .map(|(at, id)| trees::select(store, value_of(*id), &TreePath::root(), at))
        .collect::<Result<Vec<_>, _>>()?;
    let inputs = trees::merge(store, placed.into_iter())?;
    match (template.builtin, template.run) {
        (Some(mut argv), _) => {
            // Attributes matter to what is packed, not to what is run.
            argv.extend(inputs.metadata.map(|metadata| format!("metadata={metadata}")));
            Ok(Action::builtin(argv, inputs.root))
        }
        (None, Some(run)) => Ok(Action {
            command: command(run),
            input_root: inputs.root,
        }),
        (None, None) => unreachable!("a template is a builtin or a run"),
    }
}

fn command(run: &Run) -> Command {
    let mut env: std::collections::BTreeMap<String, String> = ENVIRONMENT
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    env.extend(run.env.clone());
    Command {
        argv: run.argv.clone(),
        env,
        cwd: run.cwd.clone(),
        outputs: run.outputs.clone(),
        writable: run.writable.clone(),
        secrets: run
            .secrets
            .iter()
            .map(|(at, secret)| (at.clone(), secret.fingerprint))
            .collect(),
        limits: run.limits.clone(),
    }
}

/// The roots of the trees below `id` that came to be as a whole: sources, fetches and outputs.
pub(super) fn units(
    plan: &Plan,
    id: NodeId,
    host: Arch,
    value_of: &dyn Fn(NodeId) -> Tree,
) -> BTreeSet<Digest> {
    let below = plan
        .reachable(&[id], host)
        .into_iter()
        .filter(|below| *below != id);
    let whole = below.filter(|id| !matches!(plan.node(*id), Node::Tree(_) | Node::ByHost(_)));
    let mut units: BTreeSet<Digest> = whole.map(|id| value_of(id).root).collect();
    units.remove(&Digest::of(b""));
    units
}
