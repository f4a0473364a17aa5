//! A tree as a tar archive whose bytes depend on nothing but the tree and its metadata.
//!
//! GNU format; entries in the order of their paths, parents first; owner 0:0 and modes 0755 or 0644 unless the
//! metadata says otherwise; no names of owners; every time is [`crate::store::MTIME`].

use std::collections::HashMap;
use std::io::{self, Write};

use super::Error;
use crate::store::{MTIME, Store};
use crate::tree::{Attributes, Metadata, Node, Tree, TreePath, ops};

/// Writes the archive of `tree`, and its end.
pub(super) fn write<W: Write>(store: &Store, tree: &Tree, to: W) -> Result<W, Error> {
    let metadata = match &tree.metadata {
        None => Metadata::default(),
        Some(digest) => {
            Metadata::decode(&store.read(digest)?).map_err(|source| Error::Metadata(*digest, source))?
        }
    };
    let attributes: HashMap<&TreePath, &Attributes> = metadata.0.iter().collect();
    let mut entries = Vec::new();
    ops::walk(store, &tree.root, &mut |path, node| {
        entries.push((path.clone(), node.clone()))
    })?;
    let mut builder = tar::Builder::new(to);
    builder.mode(tar::HeaderMode::Deterministic);
    let defaults = Attributes::default();
    for (path, node) in &entries {
        let attributes = attributes.get(path).copied().unwrap_or(&defaults);
        entry(store, &mut builder, path, node, attributes)?;
    }
    builder.into_inner().map_err(Error::Write)
}

fn entry<W: Write>(
    store: &Store,
    builder: &mut tar::Builder<W>,
    path: &TreePath,
    node: &Node,
    attributes: &Attributes,
) -> Result<(), Error> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(attributes.uid.unwrap_or(0).into());
    header.set_gid(attributes.gid.unwrap_or(0).into());
    header.set_mtime(MTIME.cast_unsigned());
    header.set_size(0);
    let mut mode = |default| header.set_mode(attributes.mode.unwrap_or(default));
    match node {
        Node::Directory(_) => {
            mode(0o755);
            header.set_entry_type(tar::EntryType::Directory);
            builder
                .append_data(&mut header, format!("{path}/"), io::empty())
                .map_err(Error::Write)
        }
        Node::Symlink(target) => {
            header.set_mode(0o777);
            header.set_entry_type(tar::EntryType::Symlink);
            let target = attributes.target.as_ref().unwrap_or(target);
            builder
                .append_link(&mut header, path.to_string(), target)
                .map_err(Error::Write)
        }
        Node::File { digest, executable } => {
            mode(if *executable { 0o755 } else { 0o644 });
            if let Some(original) = &attributes.hard_link {
                header.set_entry_type(tar::EntryType::Link);
                let linked = builder.append_link(&mut header, path.to_string(), original.to_string());
                return linked.map_err(Error::Write);
            }
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(digest.size());
            let mut reader = store.reader(digest)?;
            let written = builder.append_data(&mut header, path.to_string(), &mut reader);
            written.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => Error::Store(reader.error(error)),
                _ => Error::Write(error),
            })
        }
    }
}
