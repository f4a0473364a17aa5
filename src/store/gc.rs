//! Collection under a byte budget, while builds run.
//!
//! A result and all that it names live and die together, and so do a compiler's entry and its blob. Spared are the content that the caller names, and
//! whatever is newer than the oldest lease of a living process: who relies on content touches it first,
//! under the shared sweep lock. The rest is kept from the most recently used result or entry on, until the budget is
//! reached. Removal happens in short turns under the exclusive lock, and looks at each file once more.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::error::Error;
use super::{Store, compiled, disk, durable, results};
use crate::digest::Digest;
use crate::tree::{Directories as _, Node, Tree};

/// Files removed in one turn.
const BATCH: usize = 500;

/// What collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    /// Results that are no longer known.
    pub results: usize,
    /// Entries of compilers that are no longer known.
    pub compiled: usize,
    /// Files of content removed.
    pub blobs: usize,
    /// Materialized trees removed.
    pub trees: usize,
    /// Bytes of content removed.
    pub freed: u64,
    /// Bytes of content that stayed.
    pub kept: u64,
}

/// Content that stays, by the hexadecimal names of its files.
#[derive(Default)]
struct Mark {
    blobs: HashSet<String>,
    bytes: u64,
}

impl Store {
    /// Removes the least recently used results and content above `budget` bytes. `spare` are blobs that
    /// must stay, such as what the embedded registry's tags and previews name.
    pub fn gc(&self, budget: u64, spare: &[Digest]) -> Result<GcReport, Error> {
        let bound = self.oldest_lease()? - durable::CLOCK_SLACK;
        let mut mark = Mark::default();
        mark.add(spare.iter().copied());
        let mut report = GcReport::default();
        let mut doomed = Vec::new();
        for (used, path) in self.by_recency()? {
            let named = self.named_by(&path, &mark);
            let bytes: u64 = named.iter().map(Digest::size).sum();
            let fits = doomed.is_empty() && mark.bytes + bytes <= budget;
            if used >= bound || fits {
                mark.add(named);
            } else {
                doomed.push(path);
            }
        }
        for batch in doomed.chunks(BATCH) {
            let _sweep = self.sweep()?;
            for path in batch {
                if is_older(path, bound) {
                    disk::remove_file(path)?;
                    match self.is_compiled(path) {
                        true => report.compiled += 1,
                        false => report.results += 1,
                    }
                } else {
                    let named = self.named_by(path, &mark);
                    mark.add(named);
                }
            }
        }
        // Trees last: removing a link is a change to the blob's inode, which would look used.
        for area in ["blobs", "exec", "trees"] {
            self.sweep_area(area, bound, &mark, &mut report)?;
        }
        for (name, path) in disk::list_fanned(&self.root.join("shapes"))? {
            let is_orphan = |root: Digest| !self.root.join(super::tree_place(&root)).exists();
            if Digest::from_hex(&name, 0).is_ok_and(is_orphan) {
                disk::remove_file(&path)?;
            }
        }
        if report.results + report.compiled + report.blobs > 0 {
            let _sweep = self.sweep()?;
            self.next_generation()?;
        }
        self.lease.finish_removal();
        Ok(report)
    }

    fn sweep(&self) -> Result<fs::File, Error> {
        disk::lock(&self.root.join("sweep.lock"), FlockOperation::LockExclusive)
    }

    /// Results and entries of compilers, the most recently used first.
    fn by_recency(&self) -> Result<Vec<(SystemTime, PathBuf)>, Error> {
        let mut found = Vec::new();
        for area in ["actions", "compiled"] {
            for (_, path) in disk::list_fanned(&self.root.join(area))? {
                if let Ok(metadata) = fs::metadata(&path) {
                    found.push((disk::changed(&metadata), path));
                }
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }

    fn is_compiled(&self, path: &Path) -> bool {
        path.starts_with(self.root.join("compiled"))
    }

    /// What a result or an entry names and `mark` does not have yet, as far as it is here: a result with a gap is a miss
    /// when it is next asked for.
    fn named_by(&self, path: &Path, mark: &Mark) -> HashSet<Digest> {
        let bytes = fs::read(path).unwrap_or_default();
        if self.is_compiled(path) {
            let digest = compiled::open(&bytes).map(|(_, entry)| entry.digest);
            let new = digest.filter(|digest| !mark.blobs.contains(&digest.hex()));
            return new.into_iter().collect();
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(result) = name.and_then(|name| results::open_envelope(name, &bytes)) else {
            return HashSet::new();
        };
        let is_new = |digest: &Digest| !mark.blobs.contains(&digest.hex());
        let mut named = self.below(result.outputs.values().copied(), is_new);
        named.extend(result.metadata.iter().chain(&result.log).copied().filter(is_new));
        named
    }

    /// Everything that `trees` are made of, as far as it is here: for [`Store::gc`] to spare.
    pub fn contents(&self, trees: &[Tree]) -> Vec<Digest> {
        let metadata = trees.iter().filter_map(|tree| tree.metadata);
        let roots = trees.iter().map(|tree| tree.root);
        let below = self.below(roots, |_| true);
        below.into_iter().chain(metadata).collect()
    }

    /// The directories `roots` and everything below that is new, as far as it is here.
    fn below(
        &self,
        roots: impl IntoIterator<Item = Digest>,
        is_new: impl Fn(&Digest) -> bool,
    ) -> HashSet<Digest> {
        let mut named = HashSet::new();
        let mut pending: Vec<Digest> = roots.into_iter().collect();
        while let Some(root) = pending.pop() {
            if !is_new(&root) || !named.insert(root) {
                continue;
            }
            let Ok(directory) = self.load(&root) else { continue };
            for (_, node) in directory.iter() {
                match node {
                    Node::Directory(digest) => pending.push(*digest),
                    Node::File { digest, .. } => named.extend(is_new(digest).then_some(*digest)),
                    Node::Symlink(_) => {}
                }
            }
        }
        named
    }

    fn sweep_area(
        &self,
        area: &str,
        bound: SystemTime,
        mark: &Mark,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let files = disk::list_fanned(&self.root.join(area))?;
        for batch in files.chunks(BATCH) {
            let _sweep = self.sweep()?;
            for (name, path) in batch {
                let Ok(metadata) = fs::symlink_metadata(path) else {
                    continue;
                };
                // A foreign file is not ours to remove; `fsck` names it.
                let ours = Digest::from_hex(name, 0).is_ok();
                let stays = !ours || mark.blobs.contains(name) || disk::changed(&metadata) >= bound;
                match (area, stays) {
                    ("trees", true) => {}
                    ("trees", false) => {
                        self.discard(path)?;
                        report.trees += 1;
                    }
                    (_, true) => report.kept += metadata.len(),
                    (_, false) => {
                        disk::remove_file(path)?;
                        report.blobs += 1;
                        report.freed += metadata.len();
                    }
                }
            }
        }
        Ok(())
    }
}

impl Mark {
    fn add(&mut self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            if self.blobs.insert(digest.hex()) {
                self.bytes += digest.size();
            }
        }
    }
}

fn is_older(path: &Path, bound: SystemTime) -> bool {
    fs::metadata(path).is_ok_and(|metadata| disk::changed(&metadata) < bound)
}
