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

/// The roots of the trees that the inputs of `id` are put together from, each of which came to be as a whole:
/// sources, fetches and outputs. It does not look behind these, so that all actions of a plan together take
/// time in proportion to their inputs; and what an action sees depends on its inputs alone, and not on what
/// happens to be behind them.
pub(super) fn units(
    plan: &Plan,
    id: NodeId,
    host: Arch,
    value_of: &dyn Fn(NodeId) -> Tree,
) -> BTreeSet<Digest> {
    let (mut seen, mut units) = (BTreeSet::new(), BTreeSet::new());
    let mut stack = plan.needs(id, host);
    while let Some(id) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        match plan.node(id) {
            Node::Tree(_) | Node::ByHost(_) => stack.extend(plan.needs(id, host)),
            _ => drop(units.insert(value_of(id).root)),
        }
    }
    units.remove(&Digest::of(b""));
    units
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::{Builder, TreeExpr};

    fn run(inputs: &[NodeId]) -> Node {
        Node::Run(Box::new(Run {
            mnemonic: "run".into(),
            argv: vec!["/run".into()],
            env: BTreeMap::new(),
            cwd: TreePath::root(),
            inputs: inputs.iter().map(|id| (TreePath::root(), *id)).collect(),
            outputs: BTreeSet::new(),
            writable: BTreeSet::new(),
            secrets: BTreeMap::new(),
            compile_cache: None,
            limits: crate::action::Limits::default(),
        }))
    }

    fn value(id: NodeId) -> Tree {
        Tree {
            root: Digest::of(id.index().to_string().as_bytes()),
            metadata: None,
        }
    }

    #[test]
    fn units_are_what_inputs_are_put_together_from() {
        let mut builder = Builder::new();
        let first = builder.add(run(&[]));
        let second = builder.add(run(&[first]));
        let other = builder.add(Node::Layer(second));
        let either = builder.add(Node::ByHost(BTreeMap::from([
            (Arch::Amd64, second),
            (Arch::Arm64, other),
        ])));
        let merged = builder.add(Node::Tree(TreeExpr::Merge(vec![either, other])));
        let last = builder.add(run(&[merged]));
        let plan = builder.finish();
        let units = |id, host| units(&plan, id, host, &value);
        assert_eq!(units(first, Arch::Amd64), BTreeSet::new());
        let both = BTreeSet::from([second, other].map(|id| value(id).root));
        assert_eq!(units(last, Arch::Amd64), both);
        assert_eq!(units(last, Arch::Arm64), BTreeSet::from([value(other).root]));
    }

    #[test]
    fn units_of_a_whole_plan_take_linear_time() {
        const ACTIONS: usize = 2_000;
        let (mut builder, mut chain) = (Builder::new(), Vec::new());
        for _ in 0..ACTIONS {
            let id = builder.add(run(&chain[chain.len().saturating_sub(2)..]));
            chain.push(id);
        }
        let (plan, looked) = (builder.finish(), Cell::new(0));
        let value_of = |id| {
            looked.set(looked.get() + 1);
            value(id)
        };
        for id in &chain {
            units(&plan, *id, Arch::HOST, &value_of);
        }
        // Each looks at its two inputs, and the first two have fewer.
        assert_eq!(looked.get(), 2 * ACTIONS - 3);
    }
}
