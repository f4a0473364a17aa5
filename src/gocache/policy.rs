//! Which actions read the cache, which add to it, and under which keys.
//!
//! Go names what it compiles by a hash over everything that it reads: sources, flags, and the same of every import. So an
//! entry is right if nothing but Go's own compiler made it. An action adds entries only where skep sees for itself that
//! nothing else can run in it: the command is `go build` with flags that start no program, without cgo, and the inputs
//! have no program in any place where Go looks for one. What a recipe says of an action counts for nothing.
//!
//! The compiler is trusted for what is compiled by itself alone: a key begins with the digest of the toolchain's tree.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use crate::action::{Action, Command};
use crate::digest::{Digest, Fingerprint};
use crate::store::{Error, Store};
use crate::tree::{Directories as _, Directory, Node, TreePath, ops};

use super::index::{self, INDEX};
use super::protocol::Id;

/// The domain of keys in the store.
const KEYS: &str = "skep 1 go compile cache key";

/// Of a Go's version, what its features depend on: `1.24`.
type Version = (u32, u32);

/// The first Go that asks a `GOCACHEPROG`.
const FIRST: Version = (1, 24);

/// Each Go whose names of indexes are known.
const INDEXED: RangeInclusive<Version> = FIRST..=(1, 27);

/// So many bytes of a body tell whether it is Go's index.
pub(super) const PREFIX: usize = INDEX.len();

/// `VERSION` of a distribution is a line or two.
const MAX_VERSION: u64 = 4 << 10;

/// What one action may do.
#[derive(Debug)]
pub(super) struct Policy {
    toolchain: Digest,
    at: TreePath,
    /// What the toolchain calls itself.
    go: String,
    version: Version,
    writes: bool,
    /// The trees of modules and of packages among the sources, by the names that Go gives to their indexes.
    scoped: HashMap<Id, Digest>,
}

/// The names of the indexes of distributions, each read once.
#[derive(Debug, Default)]
pub(super) struct Distributions(Mutex<HashMap<Digest, Arc<HashSet<Id>>>>);

impl Policy {
    /// What `action` may do, whose Go distribution is at `toolchain`; `None` if there is none, or if its environment names
    /// a cache of its own.
    pub fn of(store: &Store, action: &Action, toolchain: &TreePath) -> Result<Option<Policy>, Error> {
        if action.command.env.contains_key("GOCACHEPROG") {
            return Ok(None);
        }
        let Some(Node::Directory(digest)) = lookup(store, &action.input_root, toolchain)? else {
            return Ok(None);
        };
        let Some((go, version)) = version(store, &digest)? else {
            return Ok(None);
        };
        let root = store.load(&action.input_root)?;
        let scoped = match INDEXED.contains(&version) {
            true => scoped(store, &go, action, toolchain)?,
            false => HashMap::new(),
        };
        Ok(Some(Policy {
            toolchain: digest,
            at: toolchain.clone(),
            go,
            version,
            writes: only_compiles(&action.command, &root, toolchain),
            scoped,
        }))
    }

    /// The version of a Go that asks no cache.
    pub fn too_old(&self) -> Option<String> {
        let (major, minor) = self.version;
        (self.version < FIRST).then(|| format!("{major}.{minor}"))
    }

    /// Whether the action may index packages.
    pub fn indexes(&self) -> bool {
        INDEXED.contains(&self.version)
    }

    /// The store's key for an id of Go's.
    pub fn key(&self, id: &Id) -> Fingerprint {
        let mut hasher = Fingerprint::hasher(KEYS);
        hasher.update(self.toolchain.to_string().as_bytes());
        hasher.update(id);
        if let Some(tree) = self.scoped.get(id) {
            hasher.update(tree.to_string().as_bytes());
        }
        hasher.finish()
    }

    /// Whether the action adds to the cache.
    pub fn adds(&self) -> bool {
        self.writes
    }

    /// Whether a body that begins with `start`, and that Go calls `id`, is kept for other actions.
    pub fn may_store(&self, id: &Id, start: &[u8], store: &Store, known: &Distributions) -> bool {
        self.writes
            && (!start.starts_with(INDEX)
                || self.scoped.contains_key(id)
                || known.of(self, store).is_ok_and(|names| names.contains(id)))
    }
}

impl Distributions {
    fn of(&self, policy: &Policy, store: &Store) -> Result<Arc<HashSet<Id>>, Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = all.get(&policy.toolchain) {
            return Ok(Arc::clone(names));
        }
        let names = index::of_distribution(store, &policy.go, &policy.toolchain, &policy.at)?;
        let names = Arc::new(names);
        all.insert(policy.toolchain, Arc::clone(&names));
        Ok(names)
    }
}

/// What Go may index besides the distribution.
fn scoped(
    store: &Store,
    go: &str,
    action: &Action,
    toolchain: &TreePath,
) -> Result<HashMap<Id, Digest>, Error> {
    let mut scoped = HashMap::new();
    if let Some(at) = module_cache(&action.command)
        && let Some(Node::Directory(tree)) = lookup(store, &action.input_root, &at)?
    {
        scoped = index::of_modules(store, go, &tree, &at)?;
    }
    if let Some(name) = action.command.cwd.names().first() {
        let at = TreePath::root().join(name);
        if !toolchain.starts_with(&at)
            && let Some(Node::Directory(tree)) = lookup(store, &action.input_root, &at)?
        {
            scoped.extend(index::of_packages(store, go, &tree, &at)?);
        }
    }
    Ok(scoped)
}

/// Where the action has its module cache.
fn module_cache(command: &Command) -> Option<TreePath> {
    let path = command.env.get("GOMODCACHE")?;
    path.strip_prefix('/')?.parse().ok()
}

fn lookup(store: &Store, root: &Digest, path: &TreePath) -> Result<Option<Node>, Error> {
    match ops::lookup(store, root, path) {
        Ok(node) => Ok(node),
        Err(ops::Error::Directories(error)) => Err(error),
        // A file where a directory should be.
        Err(_) => Ok(None),
    }
}

/// What a distribution's `VERSION` says, such as `go1.25.5`, and the version in that.
fn version(store: &Store, toolchain: &Digest) -> Result<Option<(String, Version)>, Error> {
    let path = "VERSION".parse().expect("a plain path");
    let text = match lookup(store, toolchain, &path)? {
        Some(Node::File { digest, .. }) if digest.size() <= MAX_VERSION => store.read(&digest)?,
        _ => return Ok(None),
    };
    let text = String::from_utf8_lossy(&text);
    let go = text.lines().next().unwrap_or("").trim();
    Ok(parse_version(go).map(|version| (go.to_owned(), version)))
}

fn parse_version(text: &str) -> Option<Version> {
    let mut parts = text
        .strip_prefix("go")?
        .split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether nothing but the compiler of the distribution at `toolchain` can run in an action.
fn only_compiles(command: &Command, root: &Directory, toolchain: &TreePath) -> bool {
    is_plain_build(&command.argv, toolchain)
        && is_plain_environment(command, toolchain)
        && is_plain_layout(command, root, toolchain)
}

/// `go build` with flags that start no program and read no file whose content Go leaves out of its names.
fn is_plain_build(argv: &[String], toolchain: &TreePath) -> bool {
    let [program, verb, rest @ ..] = argv else {
        return false;
    };
    if *program != format!("/{toolchain}/bin/go") || verb != "build" {
        return false;
    }
    let mut rest = rest.iter();
    // Without it, a `git` that Go finds may run.
    let mut no_vcs = false;
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-o" => drop(rest.next()),
            "-buildvcs=false" => no_vcs = true,
            "-trimpath" | "-v" | "-mod=readonly" | "-mod=vendor" | "-mod=mod" => {}
            flag if flag.starts_with("-tags=") => {}
            flag if flag.starts_with("-ldflags=") => {
                if !are_plain_linker_flags(&flag["-ldflags=".len()..]) {
                    return false;
                }
            }
            flag if flag.starts_with('-') => return false,
            // Go's flags end with the first package.
            _ => break,
        }
    }
    no_vcs && rest.all(|package| !package.starts_with('-'))
}

/// Whether the linker does its work alone: `-extld` and its like name a program.
fn are_plain_linker_flags(text: &str) -> bool {
    // Anything else begins with a pattern of packages.
    if !text.trim().is_empty() && !text.trim().starts_with('-') {
        return false;
    }
    let Some(words) = quoted_words(text) else {
        return false;
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-s" | "-w" => {}
            "-X" => drop(words.next()),
            word if word.starts_with("-X=") || word.starts_with("-buildid=") => {}
            _ => return false,
        }
    }
    true
}

/// Words as Go splits them: at blanks, and a word that begins with a quote ends with the same one; nothing is escaped.
fn quoted_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\n', '\r']);
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '\'' | '"' => rest[1..].split_once(first)?,
            _ => match rest.find([' ', '\t', '\n', '\r']) {
                Some(end) => rest.split_at(end),
                None => (rest, ""),
            },
        };
        words.push(word.to_owned());
        rest = after.trim_start_matches([' ', '\t', '\n', '\r']);
    }
    Some(words)
}

/// Variables that choose what is compiled, and no program: Go has all of them in its names.
const FREE: [&str; 17] = [
    "GO111MODULE",
    "GO386",
    "GOAMD64",
    "GOARCH",
    "GOARM",
    "GOARM64",
    "GOCACHE",
    "GOMODCACHE",
    "GONOSUMDB",
    "GOOS",
    "GOPPC64",
    "GOPROXY",
    "GORISCV64",
    "GOSUMDB",
    "LANG",
    "SOURCE_DATE_EPOCH",
    "TZ",
];

fn is_plain_environment(command: &Command, toolchain: &TreePath) -> bool {
    let is = |name: &str, value: &str| command.env.get(name).is_some_and(|found| found == value);
    is("CGO_ENABLED", "0")
        // Nor another version of itself, out of the modules.
        && is("GOTOOLCHAIN", "local")
        && command.env.iter().all(|(name, value)| match (name.as_str(), value.as_str()) {
            ("CGO_ENABLED" | "GOTOOLCHAIN", _) => true,
            // Where Go looks for its own settings, for programs, and for room.
            ("HOME" | "TMPDIR", "/tmp") | ("PATH", "/usr/bin:/bin") | ("GOENV" | "GOWORK", "off") => true,
            ("GOFLAGS", "" | "-mod=readonly" | "-mod=vendor" | "-mod=mod") => true,
            ("GOROOT", root) => root == format!("/{toolchain}"),
            (name, _) => FREE.contains(&name),
        })
}

/// Directories in which the kernel, the loader or `PATH` find programs and their settings.
const SYSTEM: [&str; 12] = [
    "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "tmp", "usr",
];

/// Whether the action sees the toolchain, its sources, its modules and its outputs, and nothing besides.
fn is_plain_layout(command: &Command, root: &Directory, toolchain: &TreePath) -> bool {
    let first = |path: &TreePath| path.names().first().map(|name| name.as_str().to_owned());
    let modules = module_cache(command);
    let mut places: Vec<String> = [Some(toolchain), Some(&command.cwd), modules.as_ref()]
        .into_iter()
        .flatten()
        .filter_map(first)
        .collect();
    places.retain(|place| !SYSTEM.contains(&place.as_str()));
    let known = |name: &str| places.iter().any(|place| place == name);
    let apart = |path: &TreePath| {
        first(path).is_some_and(|name| !SYSTEM.contains(&name.as_str()))
            && !path.starts_with(toolchain)
            && !toolchain.starts_with(path)
    };
    command.writable.is_empty()
        && command.secrets.is_empty()
        && command.outputs.iter().all(apart)
        && root
            .iter()
            .all(|(name, node)| matches!(node, Node::Directory(_)) && known(name.as_str()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn action() -> (Command, Directory) {
        let text = |text: &str| text.to_owned();
        let argv = [
            "/go/bin/go",
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags=-s -w -X 'main.version=a b' -buildid=",
            "-tags=x,y",
            "-o",
            "/out/",
            "./cmd/...",
        ];
        let env = [
            ("CGO_ENABLED", "0"),
            ("GOARCH", "arm64"),
            ("GOCACHE", "/tmp/go-build"),
            ("GOFLAGS", "-mod=readonly"),
            ("GOMODCACHE", "/mod"),
            ("GOROOT", "/go"),
            ("GOTOOLCHAIN", "local"),
            ("HOME", "/tmp"),
            ("PATH", "/usr/bin:/bin"),
        ];
        let mut command = Action::builtin(argv.map(text).into(), Digest::of(b"")).command;
        command.env = BTreeMap::from(env.map(|(name, value)| (text(name), text(value))));
        command.cwd = "src".parse().unwrap();
        command.outputs.insert("out".parse().unwrap());
        let directory = Node::Directory(Digest::of(b""));
        let names =
            ["go", "mod", "src"].map(|name| (crate::tree::Name::new(name).unwrap(), directory.clone()));
        (command, names.into_iter().collect())
    }

    fn plain(command: &Command, root: &Directory) -> bool {
        only_compiles(command, root, &"go".parse().unwrap())
    }

    #[test]
    fn an_index_is_shared_by_actions_that_have_what_it_was_made_of() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let of = |module: &str, source: &str, version: &str| {
            let files = [
                ("go/VERSION", version),
                ("go/src/fmt/print.go", "package fmt"),
                ("mod/example.com/x@v1.0.0/x.go", module),
                ("src/a.go", source),
            ];
            let root = files.iter().fold(Digest::of(b""), |root, (path, content)| {
                let digest = store.put(content.as_bytes()).unwrap();
                let node = Node::File {
                    digest,
                    executable: false,
                };
                ops::insert(&store, &root, &path.parse().unwrap(), &node).unwrap()
            });
            let (command, _) = action();
            let action = Action {
                command,
                ..Action::builtin(Vec::new(), root)
            };
            Policy::of(&store, &action, &"go".parse().unwrap())
                .unwrap()
                .unwrap()
        };
        let id = |text: &str| -> Id {
            use sha2::Digest as _;
            sha2::Sha256::digest(format!("go1.25.5{text}")).into()
        };
        let package = |module: &str, at: &str, file: &str, size: usize| {
            let file = format!("file {file} 1980-01-01 00:00:00 +0000 UTC {size}");
            id(&format!(
                "modroot {module}\npackage go1.25.5 go index v2 {at}\n{file}\n"
            ))
        };
        let library = package("/go/src", "/go/src/fmt", "print.go", 11);
        let module = id("module index go1.25.5 go index v2 /mod/example.com/x@v1.0.0\n");
        let own = package("/src", "/src", "a.go", 9);
        let one = of("package x", "package a", "go1.25.5\n");
        let other = of("package y", "package b", "go1.25.5\n");
        let names = Distributions::default();
        for policy in [&one, &other] {
            let keeps = |id: &Id, start: &[u8]| policy.may_store(id, start, &store, &names);
            assert!(keeps(&library, INDEX) && keeps(&module, INDEX) && keeps(&own, INDEX));
            assert!(!keeps(&[0; 32], INDEX));
            assert!(keeps(&[0; 32], b"package"), "it is no index");
        }
        assert_eq!(one.key(&library), other.key(&library));
        assert_ne!(one.key(&module), other.key(&module));
        assert_ne!(one.key(&own), other.key(&own), "of the same size");
        let again = of("package x", "package a", "go1.25.5\n");
        assert_eq!(
            (one.key(&module), one.key(&own)),
            (again.key(&module), again.key(&own))
        );
        assert!(one.indexes() && !of("", "", "go1.28.0\n").indexes());
    }

    #[test]
    fn a_build_that_runs_the_compiler_alone_adds_to_the_cache() {
        let (command, root) = action();
        assert!(plain(&command, &root));
    }

    /// Whether it still adds to the cache after `change`.
    fn plain_after(change: impl FnOnce(&mut Command, &mut Directory)) -> bool {
        let (mut command, mut root) = action();
        change(&mut command, &mut root);
        plain(&command, &root)
    }

    #[test]
    fn flags_that_start_a_program_or_read_a_file_only_read() {
        for flag in [
            "-toolexec=/src/evil",
            "-toolexec",
            "--toolexec=/src/evil",
            "-overlay=/src/overlay.json",
            "-gcflags=-pgoprofile=/src/x",
            "-asmflags=-I/src",
            "-compiler=gccgo",
            "-buildmode=c-shared",
            "-modfile=/src/other.mod",
            "-pgo=/src/x",
            "-C",
            "-ldflags=-linkmode=external",
            "-ldflags=-extld=/src/evil",
            "-ldflags=-X a=b -extld /src/evil",
            "-ldflags=all=-extld=/src/evil",
            "-ldflags='-X' a=-extld=/src/evil",
            "-ldflags='-s",
        ] {
            let inserted = plain_after(|command, _| command.argv.insert(2, flag.to_owned()));
            assert!(!inserted, "{flag}");
            let appended = plain_after(|command, _| command.argv.push(flag.to_owned()));
            assert!(!appended, "{flag}");
        }
        for (n, word) in [
            (0, "/src/go"),
            (1, "test"),
            (1, "generate"),
            (1, "vet"),
            (3, "-v"),
        ] {
            assert!(
                !plain_after(|command, _| command.argv[n] = word.to_owned()),
                "{word}"
            );
        }
    }

    #[test]
    fn variables_that_name_a_program_or_a_setting_only_read() {
        for (name, value) in [
            ("CGO_ENABLED", "1"),
            ("GOFLAGS", "-toolexec=/src/evil"),
            ("GOTOOLCHAIN", "go1.99.0"),
            ("GOTOOLDIR", "/src/tools"),
            ("GOROOT", "/src/go"),
            ("GOENV", "/src/env"),
            ("GODEBUG", "goindex=1"),
            ("HOME", "/src"),
            ("XDG_CONFIG_HOME", "/src"),
            ("PATH", "/src/bin"),
            ("CC", "/src/evil"),
            ("LD_PRELOAD", "/src/evil.so"),
        ] {
            let set = plain_after(|command, _| drop(command.env.insert(name.to_owned(), value.to_owned())));
            assert!(!set, "{name}");
        }
        for name in ["CGO_ENABLED", "GOTOOLCHAIN"] {
            let unset = plain_after(|command, _| drop(command.env.remove(name)));
            assert!(!unset, "{name}");
        }
    }

    #[test]
    fn inputs_and_outputs_where_go_finds_programs_only_read() {
        let place = |root: &mut Directory, name: &str| {
            let name = crate::tree::Name::new(name).unwrap();
            root.insert(name, Node::Directory(Digest::of(b"")));
        };
        for name in ["usr", "bin", "etc", "lib64", "elsewhere"] {
            assert!(!plain_after(|_, root| place(root, name)), "{name}");
        }
        assert!(!plain_after(|command, root| {
            command.cwd = "usr/src".parse().unwrap();
            place(root, "usr");
        }));
        for output in ["go/bin", "usr/bin", "bin"] {
            let added = plain_after(|command, _| assert!(command.outputs.insert(output.parse().unwrap())));
            assert!(!added, "{output}");
        }
        assert!(!plain_after(|command, _| assert!(
            command.writable.insert("src".parse().unwrap())
        )));
        assert!(!plain_after(|command, _| {
            let secret = Fingerprint::of("test", b"");
            command.secrets.insert("go/x".parse().unwrap(), secret);
        }));
    }

    #[test]
    fn go_reads_quotes_so() {
        let words = |text| quoted_words(text);
        assert_eq!(
            words(" -a  '-b c' \"d'e\" f'g"),
            Some(["-a", "-b c", "d'e", "f'g"].map(str::to_owned).into())
        );
        assert_eq!(words("'a"), None);
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("go1.25.5\ntime 2025\n"), Some((1, 25)));
        assert_eq!(parse_version("go1.24rc1"), Some((1, 24)));
        assert_eq!(parse_version("go1.9"), Some((1, 9)));
        for text in ["", "devel go1.27", "go", "gox.1", "go1"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }
}
