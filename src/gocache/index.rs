//! Go's index of packages, made safe to share. Go names an index by paths, sizes and times of files, and trusts the path of
//! a module's version to stand for its content. In a sandbox every time is the same, and what stands at a path is up to the
//! action: two contents may have one name.
//!
//! So this computes the names that Go gives (`moduleHash` and `dirHash` of `cmd/go/internal/modindex`, Go 1.24 to 1.26).
//! An index of the distribution is kept, since a key holds the digest of all of that. One of a module belongs to that
//! module's tree, and one of a package among the sources to its directory: both are in the key. Any other is not kept.
//! A Go that names them in another way finds none.

use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use super::protocol::Id;
use crate::digest::Digest;
use crate::store::{Error, Store};
use crate::tree::{Directories as _, Directory, Node, TreePath};

/// How the files of an index begin.
pub(super) const INDEX: &[u8] = b"go index v";

/// What Go puts into their names.
const VERSION: &str = "go index v2";

/// The time of every file in a sandbox, [`crate::store::MTIME`], as Go prints it where `TZ` is unset.
const TIME: &str = "1980-01-01 00:00:00 +0000 UTC";

/// The name of the index of each module below `modules`, the module cache at `at`, and the module's tree.
pub(super) fn of_modules(
    store: &Store,
    go: &str,
    modules: &Digest,
    at: &TreePath,
) -> Result<HashMap<Id, Digest>, Error> {
    let mut found = HashMap::new();
    let mut pending = vec![(*modules, at.clone())];
    while let Some((digest, path)) = pending.pop() {
        for (name, node) in store.load(&digest)?.iter() {
            let Node::Directory(tree) = node else { continue };
            let path = path.join(name);
            match name.as_str().contains('@') {
                true => drop(found.insert(module_id(go, &path), *tree)),
                false => pending.push((*tree, path)),
            }
        }
    }
    Ok(found)
}

/// The name of the index of each package below `root`, which stands at `at`, and its directory.
pub(super) fn of_packages(
    store: &Store,
    go: &str,
    root: &Digest,
    at: &TreePath,
) -> Result<HashMap<Id, Digest>, Error> {
    let mut found = HashMap::new();
    let mut pending = vec![(*root, at.clone(), at.clone())];
    while let Some((digest, path, module)) = pending.pop() {
        let directory = store.load(&digest)?;
        let module = match directory.get("go.mod") {
            Some(_) => path.clone(),
            None => module,
        };
        if let Some(id) = package_id(go, &module, &path, &directory) {
            found.insert(id, digest);
        }
        for (name, node) in directory.iter() {
            if let Node::Directory(below) = node {
                pending.push((*below, path.join(name), module.clone()));
            }
        }
    }
    Ok(found)
}

/// The names of the indexes of all packages below `src` of the distribution at `at`.
pub(super) fn of_distribution(
    store: &Store,
    go: &str,
    distribution: &Digest,
    at: &TreePath,
) -> Result<HashSet<Id>, Error> {
    let Some(Node::Directory(library)) = store.load(distribution)?.get("src").cloned() else {
        return Ok(HashSet::new());
    };
    let at = at.concat(&"src".parse().expect("a plain name"));
    Ok(of_packages(store, go, &library, &at)?.into_keys().collect())
}

/// What Go calls the index of a package: `dirHash`. It makes none of a directory with links.
fn package_id(go: &str, module: &TreePath, at: &TreePath, directory: &Directory) -> Option<Id> {
    let mut text = format!("{go}modroot /{module}\npackage {go} {VERSION} /{at}\n");
    for (name, node) in directory.iter() {
        match node {
            Node::Directory(_) => {}
            Node::File { digest, .. } => text += &format!("file {name} {TIME} {}\n", digest.size()),
            Node::Symlink(_) => return None,
        }
    }
    Some(Sha256::digest(text).into())
}

/// What Go calls the index of a module of its module cache: `moduleHash`.
fn module_id(go: &str, at: &TreePath) -> Id {
    Sha256::digest(format!("{go}module index {go} {VERSION} /{at}\n")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::ops;

    const GO: &str = "go1.25.5";

    fn tree(store: &Store, files: &[(&str, &str)]) -> Digest {
        files.iter().fold(Digest::of(b""), |root, (path, content)| {
            let node = Node::File {
                digest: store.put(content.as_bytes()).unwrap(),
                executable: false,
            };
            ops::insert(store, &root, &path.parse().unwrap(), &node).unwrap()
        })
    }

    fn id(text: &str) -> Id {
        Sha256::digest(format!("{GO}{text}")).into()
    }

    #[test]
    fn names_are_those_that_go_gives() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let go = tree(
            &store,
            &[
                ("VERSION", GO),
                ("src/go.mod", "module std"),
                ("src/cmd/go.mod", "module cmd"),
                ("src/fmt/print.go", "package fmt"),
                ("src/fmt/sub/x.go", ""),
                ("src/cmd/go/main.go", "package main"),
            ],
        );
        let found = of_distribution(&store, GO, &go, &"go".parse().unwrap()).unwrap();
        let file = |name: &str, size: u32| format!("file {name} 1980-01-01 00:00:00 +0000 UTC {size}\n");
        let package = |module: &str, at: &str, files: &str| {
            id(&format!(
                "modroot {module}\npackage {GO} go index v2 {at}\n{files}"
            ))
        };
        assert!(found.contains(&package("/go/src", "/go/src/fmt", &file("print.go", 11))));
        assert!(found.contains(&package("/go/src", "/go/src/fmt/sub", &file("x.go", 0))));
        assert!(found.contains(&package("/go/src/cmd", "/go/src/cmd/go", &file("main.go", 12))));
        assert!(!found.contains(&package("/go/src", "/go/src/fmt", &file("print.go", 12))));

        let module = tree(&store, &[("x.go", "package x")]);
        let modules = tree(
            &store,
            &[("example.com/x@v1.0.0/x.go", "package x"), ("cache/a/b", "")],
        );
        let found = of_modules(&store, GO, &modules, &"mod".parse().unwrap()).unwrap();
        let name = id(&format!(
            "module index {GO} go index v2 /mod/example.com/x@v1.0.0\n"
        ));
        assert_eq!(found, HashMap::from([(name, module)]));
    }
}
