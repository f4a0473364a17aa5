//! What a tree cannot say and a layer must: modes, owners, and absolute link targets.
//!
//! A [`Metadata`] travels beside a tree as a blob of canonical JSON. Paths it does not mention have the
//! defaults of [`Attributes`].

use std::collections::BTreeMap;

use super::TreePath;

/// The attributes of one path in a layer that differ from the default: owner 0:0, directories and
/// executables 0755, files 0644, a symlink's target as the tree has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attributes {
    /// Permission bits, at most 0o7777.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The target that a package or layer gave a symlink that is absolute or leads above the root; the tree holds
    /// the same link made relative ([`super::link_inside`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// An earlier path of the same tree with which this file shares its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_link: Option<TreePath>,
}

/// Attributes by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Metadata(pub BTreeMap<TreePath, Attributes>);

impl Metadata {
    /// Whether every path has the defaults; such metadata is not stored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The canonical encoding: compact JSON, sorted by path component.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always encode")
    }

    /// Reads [`Metadata::encode`]'s form; unknown keys are refused.
    pub fn decode(bytes: &[u8]) -> Result<Metadata, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The entries at or below `path`, moved to below `at`.
    #[must_use]
    pub fn select(&self, path: &TreePath, at: &TreePath) -> Metadata {
        let moved = |entry: &TreePath| Some(at.concat(&entry.strip_prefix(path)?));
        let entries = self.0.iter().filter_map(|(entry, attributes)| {
            let attributes = Attributes {
                hard_link: attributes.hard_link.as_ref().and_then(moved),
                ..attributes.clone()
            };
            Some((moved(entry)?, attributes))
        });
        Metadata(entries.collect())
    }

    /// Adds `other`, whose entries win where both have one.
    pub fn extend(&mut self, other: Metadata) {
        self.0.extend(other.0);
    }

    /// Keeps the entries that `keep` accepts; a hard link to a dropped path becomes a file of its own.
    pub fn retain(&mut self, keep: impl Fn(&TreePath) -> bool) {
        self.0.retain(|path, _| keep(path));
        for attributes in self.0.values_mut() {
            if attributes.hard_link.as_ref().is_some_and(|target| !keep(target)) {
                attributes.hard_link = None;
            }
        }
    }
}
