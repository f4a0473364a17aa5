//! The work tree that is theirs: which files it has, and what they hold. Never writes into it.
//!
//! A project's files are the names that git tracks, and untracked ones that the repository's own ignore
//! files do not exclude; the user's global excludes do not count, because another machine has others. The
//! content is the work tree's. Without git, all files count that no `.gitignore` excludes.

mod cache;
mod git;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

pub use git::{Revision, revision, tracked};

use crate::digest::Digest;
use crate::plan::Source;
use crate::store::{self, Lost, Store};
use crate::tree::{Node, TreePath, is_indirect, link_stays_inside, links, ops};
use cache::StatCache;

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project is a git work tree, and there is no git.
    #[error("`{}` is a git work tree, and git does not start: {source}; install git", project.display())]
    NoGit {
        /// The project.
        project: PathBuf,
        /// Why git does not start.
        source: io::Error,
    },
    /// Git failed.
    #[error("`git {command}` failed in `{}`: {message}", project.display())]
    Git {
        /// What was asked.
        command: String,
        /// Where.
        project: PathBuf,
        /// What git said.
        message: String,
    },
    /// A pattern is none.
    #[error("`{pattern}` is not a glob pattern: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern matches nothing, which is most often a spelling mistake.
    #[error(
        "no file of the project matches `{pattern}` below `{root}`; untracked files that an ignore file excludes do not count"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// Where it was looked for; `.` for the project's root.
        root: String,
    },
    /// A file that no tree can hold.
    #[error("`{path}` {problem}")]
    Refused {
        /// The file, from the project's root.
        path: TreePath,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The files do not make a tree.
    #[error(transparent)]
    Tree(#[from] ops::Error<store::Error>),
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Store(error) | Error::Tree(ops::Error::Directories(error)) => error.lost(),
            _ => Vec::new(),
        }
    }
}

/// The names of a project's files, as they were when it was listed.
#[derive(Debug)]
pub struct WorkTree {
    project: PathBuf,
    files: BTreeSet<TreePath>,
    untracked: BTreeSet<TreePath>,
    unreadable: Vec<String>,
    secrets: BTreeSet<TreePath>,
    cache: Mutex<StatCache>,
}

impl WorkTree {
    /// Lists the files of the project at `project`.
    pub fn list(project: &Path, store: &Store) -> Result<WorkTree, Error> {
        let mut tree = WorkTree {
            project: project.to_owned(),
            files: BTreeSet::new(),
            untracked: BTreeSet::new(),
            unreadable: Vec::new(),
            secrets: BTreeSet::new(),
            cache: Mutex::new(StatCache::load(store, project)),
        };
        if git::is_work_tree(project) {
            let names = git::list(project)?;
            names.tracked.iter().for_each(|name| tree.add(name, false));
            names.untracked.iter().for_each(|name| tree.add(name, true));
        } else {
            tree.walk()?;
        }
        Ok(tree)
    }

    /// This work tree, in which the content of `secrets` must not be taken into a store.
    #[must_use]
    pub fn with_secrets(mut self, secrets: BTreeSet<TreePath>) -> WorkTree {
        self.secrets = secrets;
        self
    }

    /// Files that are in the work tree only, and would be missing in another clone.
    pub fn untracked(&self) -> &BTreeSet<TreePath> {
        &self.untracked
    }

    /// Names that were passed over because no tree can hold them.
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// The files that `source` takes, by their paths from its root.
    pub fn select(&self, source: &Source) -> Result<BTreeMap<TreePath, TreePath>, Error> {
        let include = globs(&source.include)?;
        let exclude = globs(&source.exclude)?;
        let mut matched = vec![false; source.include.len()];
        let mut selected = BTreeMap::new();
        let beginnings: BTreeSet<TreePath> = source
            .include
            .iter()
            .map(|pattern| source.root.concat(&literal_beginning(pattern)))
            .collect();
        for file in beginnings.iter().flat_map(|beginning| self.below(beginning)) {
            let Some(path) = file.strip_prefix(&source.root) else {
                continue;
            };
            let text = path.to_string();
            let hits = include.matches(&text);
            if hits.is_empty() || exclude.is_match(&text) || !self.exists(file) {
                continue;
            }
            hits.into_iter().for_each(|hit| matched[hit] = true);
            selected.insert(path, file.clone());
        }
        match matched.iter().position(|hit| !hit) {
            None => Ok(selected),
            Some(index) => Err(Error::NoMatch {
                pattern: source.include[index].clone(),
                root: match source.root.is_root() {
                    true => ".".to_owned(),
                    false => source.root.to_string(),
                },
            }),
        }
    }

    /// The file `path`, or the files below it. A path's files stand together in the set's order.
    fn below<'a>(&'a self, path: &'a TreePath) -> impl Iterator<Item = &'a TreePath> {
        self.files
            .range(path.clone()..)
            .take_while(move |file| file.starts_with(path))
    }

    /// Takes the files of `source` into the store, and gives the digest of their tree.
    pub fn ingest(&self, source: &Source, store: &Store) -> Result<Digest, Error> {
        let mut entries = Vec::new();
        for (path, file) in self.select(source)? {
            let node = self.read(&path, &file, store)?;
            entries.push((path, node));
        }
        tree(store, entries)
    }

    /// The digest of all files together but secret ones: the name of a state that no commit has.
    pub fn state(&self, store: &Store) -> Result<Digest, Error> {
        let mut entries = Vec::new();
        for file in self
            .files
            .difference(&self.secrets)
            .filter(|file| self.exists(file))
        {
            entries.push((file.clone(), self.read(file, file, store)?));
        }
        tree(store, entries)
    }

    /// Keeps what was learned of unchanged files for the next run.
    pub fn remember(&self, store: &Store) -> Result<(), Error> {
        let cache = self.cache.lock().expect("never poisoned");
        Ok(cache.save(store, &self.project)?)
    }

    fn add(&mut self, name: &[u8], untracked: bool) {
        let path = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<TreePath>().ok());
        match path {
            Some(path) => {
                if untracked {
                    self.untracked.insert(path.clone());
                }
                self.files.insert(path);
            }
            None => self.unreadable.push(String::from_utf8_lossy(name).into_owned()),
        }
    }

    fn walk(&mut self) -> Result<(), Error> {
        let walk = ignore::WalkBuilder::new(&self.project)
            .hidden(false)
            .parents(false)
            .ignore(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .follow_links(false)
            .build();
        let project = self.project.clone();
        for entry in walk {
            let entry = entry.map_err(|error| Error::Io {
                path: project.clone(),
                source: io::Error::other(error),
            })?;
            let inside = entry.path().strip_prefix(&project).expect("entries are below");
            let directory = entry.file_type().is_some_and(|kind| kind.is_dir());
            if !directory && !inside.as_os_str().is_empty() {
                self.add(inside.as_os_str().as_encoded_bytes(), false);
            }
        }
        Ok(())
    }

    /// Whether a name that git knows is still in the work tree.
    fn exists(&self, file: &TreePath) -> bool {
        fs::symlink_metadata(self.on_disk(file)).is_ok()
    }

    fn on_disk(&self, file: &TreePath) -> PathBuf {
        git::on_disk(&self.project, file.to_string().as_bytes())
    }

    fn read(&self, path: &TreePath, file: &TreePath, store: &Store) -> Result<Node, Error> {
        let on_disk = self.on_disk(file);
        let failed = |source| Error::Io {
            path: on_disk.clone(),
            source,
        };
        let refused = |problem: String| Error::Refused {
            path: file.clone(),
            problem,
        };
        if self.secrets.contains(file) {
            return Err(refused(
                "is a secret, and a source would put it into the store; exclude it".to_owned(),
            ));
        }
        let metadata = fs::symlink_metadata(&on_disk).map_err(failed)?;
        if metadata.is_symlink() {
            let target = fs::read_link(&on_disk).map_err(failed)?;
            return match target.to_str() {
                Some(target) if link_stays_inside(path, target) => Ok(Node::Symlink(target.to_owned())),
                _ => Err(refused(format!(
                    "is a symlink to `{}`, which leaves the source",
                    target.display()
                ))),
            };
        }
        if metadata.is_dir() {
            return Err(refused(
                "is a git submodule, which a source cannot hold; exclude it".to_owned(),
            ));
        }
        if !metadata.is_file() {
            return Err(refused("is no file, directory or symlink".to_owned()));
        }
        Ok(Node::File {
            digest: self.digest(&on_disk, store)?,
            executable: metadata.mode() & 0o100 != 0,
        })
    }

    fn digest(&self, on_disk: &Path, store: &Store) -> Result<Digest, Error> {
        let failed = |source| Error::Io {
            path: on_disk.to_owned(),
            source,
        };
        let mut file = File::open(on_disk).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let key = cache::fingerprint(on_disk, &metadata);
        let known = self.cache.lock().expect("never poisoned").get(&key);
        if let Some(digest) = known
            && store.keep(&digest)?
        {
            return Ok(digest);
        }
        let mut writer = store.writer()?;
        io::copy(&mut file, &mut writer).map_err(|source| match source.kind() {
            // Reading needs no space; it is the store that has none left.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::Store(store::Error::Full(store.root().to_owned()))
            }
            _ => failed(source),
        })?;
        let digest = writer.finish()?;
        self.cache
            .lock()
            .expect("never poisoned")
            .insert(key, &metadata, digest);
        Ok(digest)
    }
}

/// The content of one file of the project at `project`, whether git knows it or not. Neither the file nor a
/// directory on the way to it may be a symlink that leads out of the project. At most `max` bytes.
pub fn read_file(project: &Path, file: &TreePath, max: u64) -> Result<Vec<u8>, Error> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let on_disk = git::on_disk(project, file.to_string().as_bytes());
    let failed = |source| Error::Io {
        path: on_disk.clone(),
        source,
    };
    let root = File::open(project).map_err(failed)?;
    let opened = rustix::fs::openat2(
        &root,
        file.to_string(),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    );
    let refused = |problem: String| Error::Refused {
        path: file.clone(),
        problem,
    };
    let opened = match opened {
        Err(rustix::io::Errno::XDEV) => {
            return Err(refused("is a symlink that leaves the project".to_owned()));
        }
        other => File::from(other.map_err(|errno| failed(errno.into()))?),
    };
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(refused("is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    opened.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > max {
        true => Err(refused(format!("is larger than {max} bytes"))),
        false => Ok(bytes),
    }
}

/// The tree of `entries`, whose links stay inside of it.
fn tree(store: &Store, entries: Vec<(TreePath, Node)>) -> Result<Digest, Error> {
    let indirect: Vec<(TreePath, String)> = entries
        .iter()
        .filter_map(|(path, node)| match node {
            Node::Symlink(target) if is_indirect(target) => Some((path.clone(), target.clone())),
            _ => None,
        })
        .collect();
    let root = ops::collect(store, entries)?;
    links::check_indirect(store, &root, &indirect)?;
    Ok(root)
}

/// What every path has in front that `pattern` matches: its names until the first with a letter that is not itself.
fn literal_beginning(pattern: &str) -> TreePath {
    let special = |name: &&str| !name.contains(['*', '?', '[', ']', '{', '}', '\\']);
    let literal: Vec<&str> = pattern.split('/').take_while(special).collect();
    literal.join("/").parse().unwrap_or_default()
}

/// Compiled patterns: `*` and `?` stay in a directory, `**` does not.
pub fn globs(patterns: &[String]) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    let failed = |pattern: &str, error: globset::Error| Error::Pattern {
        pattern: pattern.to_owned(),
        problem: error.kind().to_string(),
    };
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| failed(pattern, error))?);
    }
    set.build().map_err(|error| failed(&patterns.join(", "), error))
}

#[cfg(test)]
mod tests;
