//! The graph: nodes, what depends on what, and what people call them. Looks into no node but for its inputs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use indexmap::IndexSet;

use super::{Location, Node};
use crate::platform::{Arch, Platform};
use crate::tree::TreePath;

/// A node's place in its plan. Ids grow from inputs to outputs: a node refers to smaller ids only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NodeId(u32);

impl NodeId {
    /// The index into a table of all nodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Something that a person names: an image on its platforms.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// The [`Node::Index`] over all platforms.
    pub index: NodeId,
    /// The [`Node::Image`] of each platform.
    pub platforms: BTreeMap<Platform, NodeId>,
}

/// The nodes, and what people name: all that evaluation yields.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Graph {
    /// The nodes; each refers to earlier ones.
    pub nodes: Vec<Node>,
    /// The targets by name.
    pub targets: BTreeMap<String, Target>,
    /// Where recipes declare nodes.
    pub places: BTreeMap<NodeId, Location>,
}

/// The graph, its targets, and a label for each action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    nodes: Vec<Node>,
    labels: Vec<Option<String>>,
    targets: BTreeMap<String, Target>,
    places: BTreeMap<NodeId, Location>,
}

impl Plan {
    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The files of the project that actions use as secrets.
    pub fn secrets(&self) -> BTreeSet<TreePath> {
        let runs = self.nodes.iter().filter_map(|node| match node {
            Node::Run(run) => Some(run),
            _ => None,
        });
        runs.flat_map(|run| run.secrets.values().map(|secret| secret.file.clone()))
            .collect()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The targets by name.
    pub fn targets(&self) -> &BTreeMap<String, Target> {
        &self.targets
    }

    /// An action's label, such as `api@linux/arm64:go_build`; `None` for other nodes.
    pub fn label(&self, id: NodeId) -> Option<&str> {
        self.labels[id.index()].as_deref()
    }

    /// Where a recipe declares an image or a layer; `None` for other nodes. It is in no key.
    pub fn place(&self, id: NodeId) -> Option<&Location> {
        self.places.get(&id)
    }

    /// The label of the first action that needs `id`, directly or through other nodes, for errors about nodes
    /// that have no label of their own.
    pub fn first_user(&self, id: NodeId) -> Option<&str> {
        let mut needing = BTreeSet::from([id]);
        for later in id.index() + 1..self.nodes.len() {
            if self.nodes[later]
                .inputs()
                .iter()
                .any(|input| needing.contains(input))
            {
                if let Some(label) = self.labels[later].as_deref() {
                    return Some(label);
                }
                needing.insert(NodeId(later as u32));
            }
        }
        None
    }

    /// The action called `label`.
    pub fn find(&self, label: &str) -> Option<NodeId> {
        let index = self
            .labels
            .iter()
            .position(|here| here.as_deref() == Some(label))?;
        Some(NodeId(index as u32))
    }

    /// The nodes whose values `id` needs on `host`.
    pub fn needs(&self, id: NodeId, host: Arch) -> Vec<NodeId> {
        match self.node(id) {
            Node::ByHost(branches) => branches.get(&host).copied().into_iter().collect(),
            node => node.inputs(),
        }
    }

    /// The actions that `roots` may need on `host`, in an order in which inputs come first.
    pub fn reachable(&self, roots: &[NodeId], host: Arch) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = roots.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut seen[id.index()], true) {
                stack.extend(self.needs(id, host));
            }
        }
        (0..self.nodes.len() as u32)
            .map(NodeId)
            .filter(|id| seen[id.index()])
            .collect()
    }
}

/// Puts a plan together. Equal nodes become one, so that two targets share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: IndexSet<Node>,
    targets: BTreeMap<String, Target>,
    places: BTreeMap<NodeId, Location>,
}

impl Builder {
    /// The most nodes a plan may have.
    pub const MAX_NODES: usize = 4_000_000;

    /// Starts with an empty plan.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Adds a node, or finds the equal one that is there.
    pub fn add(&mut self, node: Node) -> NodeId {
        let (index, _) = self.nodes.insert_full(node);
        assert!(index < Self::MAX_NODES, "a plan of more than 4,000,000 nodes");
        NodeId(index as u32)
    }

    /// Adds a node that a recipe declares at `place`; of equal nodes, the first place counts.
    pub fn add_at(&mut self, node: Node, place: Option<Location>) -> NodeId {
        let id = self.add(node);
        if let Some(place) = place {
            self.places.entry(id).or_insert(place);
        }
        id
    }

    /// Adds a target; gives it back if there is one of that name.
    pub fn add_target(&mut self, name: &str, target: Target) -> Result<(), Target> {
        match self.targets.contains_key(name) {
            true => Err(target),
            false => {
                self.targets.insert(name.to_owned(), target);
                Ok(())
            }
        }
    }

    /// All that was added.
    pub fn graph(self) -> Graph {
        Graph {
            nodes: self.nodes.into_iter().collect(),
            targets: self.targets,
            places: self.places,
        }
    }

    /// The finished plan.
    pub fn finish(self) -> Plan {
        self.graph().plan()
    }
}

impl Graph {
    /// The plan, with a label for each action: the first target and platform that reaches it in alphabetical order
    /// gives its name, and a number tells actions of one name apart.
    pub fn plan(self) -> Plan {
        let mut labels = Labels {
            nodes: &self.nodes,
            labels: vec![None; self.nodes.len()],
            seen: vec![false; self.nodes.len()],
            used: HashMap::new(),
        };
        for (name, target) in &self.targets {
            let scopes = target
                .platforms
                .iter()
                .map(|(platform, id)| (format!("{name}@{platform}"), *id));
            for (scope, root) in scopes.chain([(name.clone(), target.index)]) {
                labels.give_below(root, &scope);
            }
        }
        Plan {
            labels: labels.labels,
            nodes: self.nodes,
            targets: self.targets,
            places: self.places,
        }
    }
}

struct Labels<'a> {
    nodes: &'a [Node],
    labels: Vec<Option<String>>,
    /// What was looked at, with all that is below it: an earlier scope has named that.
    seen: Vec<bool>,
    used: HashMap<String, usize>,
}

impl Labels<'_> {
    fn give_below(&mut self, root: NodeId, scope: &str) {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut self.seen[id.index()], true) {
                continue;
            }
            let node = &self.nodes[id.index()];
            if let Some(mnemonic) = node.mnemonic() {
                let detail = match node {
                    Node::Fetch(fetch) => fetch.sources.first().map_or("", String::as_str),
                    _ => "",
                };
                let base = match detail {
                    "" => format!("{scope}:{mnemonic}"),
                    detail => format!("{scope}:{mnemonic} {detail}"),
                };
                let count = self.used.entry(base.clone()).or_insert(0);
                *count += 1;
                self.labels[id.index()] = Some(match *count {
                    1 => base,
                    n => format!("{base}.{n}"),
                });
            }
            stack.extend(node.inputs().into_iter().rev());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Archive, Config, Fetch, ImageSpec, Unpack};
    use super::*;

    fn fetch(source: &str) -> Node {
        Node::Fetch(Fetch {
            sources: vec![source.to_owned()],
            integrity: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            unpack: Unpack::Archive {
                format: Archive::Tar,
                strip: 1,
                executable: vec![],
            },
        })
    }

    #[test]
    fn equal_nodes_are_one_and_labels_are_stable() {
        let mut builder = Builder::new();
        let one = builder.add(fetch("pkg:npm/a@1"));
        assert_eq!(builder.add(fetch("pkg:npm/a@1")), one);
        let platform: Platform = "linux/arm64".parse().unwrap();
        let layers: Vec<_> = [one, builder.add(fetch("pkg:npm/b@1"))]
            .map(|id| builder.add(Node::Layer(id)))
            .into();
        let image = builder.add(Node::Image(Box::new(ImageSpec {
            platform,
            layers,
            config: Config::default(),
        })));
        let index = builder.add(Node::Index(BTreeMap::from([(platform, image)])));
        let target = Target {
            index,
            platforms: BTreeMap::from([(platform, image)]),
        };
        builder.add_target("api", target.clone()).unwrap();
        assert!(builder.add_target("api", target).is_err());

        let plan = builder.finish();
        let labels: Vec<_> = (0..plan.len())
            .filter_map(|n| plan.label(NodeId(n as u32)))
            .collect();
        assert_eq!(
            labels,
            [
                "api@linux/arm64:fetch pkg:npm/a@1",
                "api@linux/arm64:fetch pkg:npm/b@1",
                "api@linux/arm64:layer",
                "api@linux/arm64:layer.2",
                "api@linux/arm64:image",
                "api:index",
            ]
        );
        assert_eq!(plan.find("api:index"), Some(index));
        assert_eq!(plan.reachable(&[image], Arch::HOST).len(), 5);
    }

    #[test]
    fn a_host_needs_its_own_branch_only() {
        let mut builder = Builder::new();
        let branches = [("pkg:npm/a@1", Arch::Amd64), ("pkg:npm/b@1", Arch::Arm64)];
        let branches: BTreeMap<_, _> = branches
            .into_iter()
            .map(|(source, arch)| (arch, builder.add(fetch(source))))
            .collect();
        let either = builder.add(Node::ByHost(branches.clone()));
        let plan = builder.finish();
        assert_eq!(
            plan.reachable(&[either], Arch::Arm64),
            [branches[&Arch::Arm64], either]
        );
    }
}
