//! What a package of a Go module is compiled of, found by its imports, so that an edit elsewhere in the module leaves it as
//! it was. Takes too much rather than too little: files for any platform count, and where in doubt, so does all of the tree.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::store::{Error, Store};
use crate::tree::{Directories as _, Directory, Node, TreePath, ops};

/// The files of a package and of all that it imports from its own module.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// It cannot be told.
    All,
    /// Files in these directories but tests, all files below the others, and `go.mod` and `go.sum`.
    Some {
        packages: BTreeSet<TreePath>,
        embedding: BTreeSet<TreePath>,
    },
}

impl Sources {
    /// Whether the file at `path` is one of them.
    pub fn have(&self, path: &TreePath) -> bool {
        let Sources::Some { packages, embedding } = self else {
            return true;
        };
        let Some((directory, name)) = path.split_last() else {
            return false;
        };
        let name = name.as_str();
        (directory.is_root() && (name == "go.mod" || name == "go.sum"))
            || (packages.contains(&directory) && !name.ends_with("_test.go"))
            || embedding.iter().any(|above| path.starts_with(above))
    }
}

/// The sources of the package in the directory `package` of the module at `root`.
pub(super) fn sources(store: &Store, root: &Digest, package: &TreePath) -> Result<Sources, Error> {
    let top = store.load(root)?;
    let Some(module) = module_path(store, &top)? else {
        return Ok(Sources::All);
    };
    let (mut packages, mut embedding) = (BTreeSet::new(), BTreeSet::new());
    let mut pending = vec![package.clone()];
    while let Some(directory) = pending.pop() {
        if !packages.insert(directory.clone()) {
            continue;
        }
        let found = match ops::lookup(store, root, &directory) {
            Ok(Some(Node::Directory(digest))) => store.load(&digest)?,
            Err(ops::Error::Directories(error)) => return Err(error),
            // Go says best what is missing. A link to a directory is not followed here.
            Ok(_) | Err(_) => return Ok(Sources::All),
        };
        // A module inside this one has names of its own.
        if !directory.is_root() && found.get("go.mod").is_some() {
            return Ok(Sources::All);
        }
        let Some(reads) = read(store, &found)? else {
            return Ok(Sources::All);
        };
        if reads.embeds {
            embedding.insert(directory);
        }
        for import in reads.imports {
            let rest = match import.strip_prefix(&module) {
                Some("") => Some(""),
                Some(rest) => rest.strip_prefix('/'),
                None => None,
            };
            pending.extend(rest.and_then(|rest| rest.parse().ok()));
        }
    }
    Ok(Sources::Some { packages, embedding })
}

/// The module's path; `None` where packages may come from elsewhere than this module and its requirements.
fn module_path(store: &Store, top: &Directory) -> Result<Option<String>, Error> {
    let Some(Node::File { digest, .. }) = top.get("go.mod") else {
        return Ok(None);
    };
    if top.get("vendor").is_some() || top.get("go.work").is_some() {
        return Ok(None);
    }
    let text = store.read(digest)?;
    let text = String::from_utf8_lossy(&text);
    let lines = || {
        text.lines()
            .map(|line| line.split("//").next().unwrap_or("").trim())
    };
    let is_local = |line: &str| {
        let to = line.split_once("=>").map_or("", |(_, to)| to.trim());
        to.starts_with(['.', '/', '"', '`'])
    };
    if lines().any(is_local) {
        return Ok(None);
    }
    let module = lines().find_map(|line| line.strip_prefix("module")?.strip_prefix([' ', '\t']));
    let module = module.map(|path| path.trim().trim_matches(['"', '`']).to_owned());
    Ok(module.filter(|path| !path.is_empty() && !path.contains([' ', '('])))
}

#[derive(Default)]
struct Reads {
    imports: BTreeSet<String>,
    embeds: bool,
}

/// What the files of a directory import; `None` if one of them cannot be read, or includes files from elsewhere.
fn read(store: &Store, directory: &Directory) -> Result<Option<Reads>, Error> {
    let mut reads = Reads::default();
    for (name, node) in directory.iter() {
        let name = name.as_str();
        let digest = match node {
            Node::File { digest, .. } => digest,
            // Go follows links to files.
            Node::Symlink(_) => return Ok(None),
            Node::Directory(_) => continue,
        };
        if name.ends_with(".go") && !name.ends_with("_test.go") {
            let text = store.read(digest)?;
            reads.embeds |= text.windows(EMBED.len()).any(|window| window == EMBED);
            match imports(&text) {
                Some(imports) => reads.imports.extend(imports),
                None => return Ok(None),
            }
        } else if (name.ends_with(".s") || name.ends_with(".h"))
            && includes_from_elsewhere(&store.read(digest)?)
        {
            return Ok(None);
        }
    }
    Ok(Some(reads))
}

const EMBED: &[u8] = b"//go:embed";

/// Whether an assembly file includes one of another directory.
fn includes_from_elsewhere(text: &[u8]) -> bool {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| {
            line.trim_start()
                .strip_prefix('#')?
                .trim_start()
                .strip_prefix("include")
        })
        .any(|included| included.contains('/'))
}

/// The paths that a Go file imports (Go specification, "Import declarations"); `None` if it does not begin as one.
fn imports(text: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = Words(text.strip_prefix('\u{feff}').unwrap_or(text));
    if words.next()? != "package" {
        return None;
    }
    words.next()?;
    let mut imports = Vec::new();
    let mut word = words.next();
    while word == Some("import") {
        word = words.next();
        let grouped = word == Some("(");
        if grouped {
            word = words.next();
        }
        loop {
            if grouped && word == Some(")") {
                word = words.next();
                break;
            }
            // A name, a dot or nothing comes before the path.
            if !word?.starts_with(['"', '`']) {
                word = words.next();
            }
            let path = word?.strip_prefix(['"', '`'])?;
            imports.push(path[..path.len().checked_sub(1)?].to_owned());
            word = words.next();
            if !grouped {
                break;
            }
        }
    }
    Some(imports)
}

/// The words at the beginning of a Go file: names, strings with their quotes, and single marks; no blanks, comments or `;`.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            self.0 = self.0.trim_start_matches([' ', '\t', '\r', '\n', ';']);
            self.0 = if let Some(comment) = self.0.strip_prefix("//") {
                comment.split_once('\n')?.1
            } else if let Some(comment) = self.0.strip_prefix("/*") {
                comment.split_once("*/")?.1
            } else {
                break;
            };
        }
        let first = self.0.chars().next()?;
        let length = match first {
            '"' | '`' => self.0[1..].find(first)? + 2,
            letter if letter.is_alphanumeric() || letter == '_' => self
                .0
                .find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
                .unwrap_or(self.0.len()),
            mark => mark.len_utf8(),
        };
        let (word, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Name;

    /// A module whose files have these contents.
    fn module(files: &[(&str, &str)]) -> (tempfile::TempDir, Store, Digest) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let mut root = Digest::of(b"");
        for (path, content) in files {
            let node = Node::File {
                digest: store.put(content.as_bytes()).unwrap(),
                executable: false,
            };
            root = ops::insert(&store, &root, &path.parse().unwrap(), &node).unwrap();
        }
        (directory, store, root)
    }

    const MOD: (&str, &str) = (
        "go.mod",
        "// A module.\nmodule example.com/m // its path\n\ngo 1.25\n",
    );

    /// Of `files`, those that `./cmd/a` is compiled of; `None` for all.
    fn kept(files: &[(&str, &str)]) -> Option<Vec<String>> {
        let (_directory, store, root) = module(files);
        let sources = sources(&store, &root, &"cmd/a".parse().unwrap()).unwrap();
        if sources == Sources::All {
            return None;
        }
        let names = files.iter().map(|(path, _)| (*path).to_owned());
        Some(
            names
                .filter(|path| sources.have(&path.parse().unwrap()))
                .collect(),
        )
    }

    #[test]
    fn a_package_is_compiled_of_what_it_imports() {
        let files = [
            MOD,
            ("go.sum", ""),
            ("root.go", "package m\n"),
            (
                "cmd/a/main.go",
                "package main\nimport (\n\t\"fmt\"\n\tx \"example.com/m/x\"\n)\n",
            ),
            ("cmd/a/main_test.go", "package main\nimport \"example.com/m/y\"\n"),
            ("cmd/a/default.pgo", ""),
            ("cmd/a/testdata/x", ""),
            ("cmd/b/main.go", "package main\nimport \"example.com/m/y\"\n"),
            (
                "x/x.go",
                "package x\nimport _ \"example.com/m/x/deep\"; import \"example.com/mother\"\n",
            ),
            ("x/x_windows.go", "package x\nimport . `example.com/m/w`\n"),
            ("x/asm.s", "#include \"textflag.h\"\n"),
            (
                "x/deep/deep.go",
                "// Package deep.\npackage deep; /* no */ import \"example.com/m\"\n",
            ),
            ("w/w.go", "package w\n"),
            ("y/y.go", "package y\n"),
        ];
        assert_eq!(
            kept(&files).unwrap(),
            [
                "go.mod",
                "go.sum",
                "root.go",
                "cmd/a/main.go",
                "cmd/a/default.pgo",
                "x/x.go",
                "x/x_windows.go",
                "x/asm.s",
                "x/deep/deep.go",
                "w/w.go"
            ]
        );
    }

    #[test]
    fn a_package_that_embeds_files_keeps_all_that_is_below() {
        let main = "package main\nimport _ \"embed\"\n//go:embed static\nvar static string\n";
        let files = [
            MOD,
            ("cmd/a/main.go", main),
            ("cmd/a/static/x_test.go", ""),
            ("cmd/b/x", ""),
        ];
        assert_eq!(
            kept(&files).unwrap(),
            ["go.mod", "cmd/a/main.go", "cmd/a/static/x_test.go"]
        );
    }

    #[test]
    fn where_it_cannot_be_told_all_of_the_tree_stays() {
        let main = ("cmd/a/main.go", "package main\nimport \"example.com/m/x\"\n");
        let local = "module example.com/m\nreplace (\n\texample.com/n => ../n\n)\n";
        for files in [
            vec![main],
            vec![MOD, main, ("vendor/modules.txt", "")],
            vec![MOD, main, ("go.work", "")],
            vec![("go.mod", local), main],
            vec![("go.mod", "go 1.25\n"), main],
            vec![MOD, main, ("x/go.mod", "module example.com/m/x\n")],
            vec![MOD, main, ("x/x.s", "# include \"../y/y.h\"\n")],
            vec![MOD, main, ("x/x.h", "#include \"y/y.h\"\n")],
            vec![MOD, main],
            vec![MOD, ("cmd/a/main.go", "not go")],
            vec![MOD, ("cmd/a/main.go", "package main\nimport (\n\"x")],
        ] {
            assert_eq!(kept(&files), None, "{files:?}");
        }
    }

    #[test]
    fn a_link_among_the_files_may_lead_anywhere() {
        let (_directory, store, root) = module(&[MOD, ("cmd/a/main.go", "package main\n")]);
        let link = Node::Symlink("../b/b.go".to_owned());
        let at = TreePath::root()
            .join(&Name::new("cmd").unwrap())
            .join(&Name::new("a").unwrap())
            .join(&Name::new("b.go").unwrap());
        let root = ops::insert(&store, &root, &at, &link).unwrap();
        let found = sources(&store, &root, &"cmd/a".parse().unwrap()).unwrap();
        assert_eq!(found, Sources::All);
    }

    #[test]
    fn imports_are_read_as_the_specification_writes_them() {
        let of = |text: &str| imports(text.as_bytes());
        let found = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("package p"), found(&[]));
        assert_eq!(
            of("\u{feff}//go:build x\n\n/* a\n */package p\nvar x = \"y\""),
            found(&[])
        );
        assert_eq!(
            of(
                "package p;import\"a\";import b`c`\nimport (d \"e\";. \"f\"\n_ \"g\" // h\n)\nimport ()\nfunc f() {}"
            ),
            found(&["a", "c", "e", "f", "g"])
        );
        assert_eq!(of("package p\nimport C \"C\"\nconst x = 1"), found(&["C"]));
        assert_eq!(of("package p\nimport x"), None);
        assert_eq!(of(""), None);
    }
}
