//! What happens once content turns out to be lost: nothing that a result names is trusted any more by this process,
//! so that whatever else is damaged is found before it is used, and made again with it.

use std::collections::HashSet;

use super::Store;
use super::blobs::Soundness;
use super::error::Error;
use crate::action::ActionResult;
use crate::digest::Digest;
use crate::tree::{Directories as _, Node};

/// An error behind which may be lost content.
pub trait Lost {
    /// The content that is lost: making it again may help.
    fn lost(&self) -> Vec<Digest>;
}

impl Lost for Error {
    fn lost(&self) -> Vec<Digest> {
        match self {
            Error::Missing(digest) | Error::Corrupt(digest) => vec![*digest],
            _ => Vec::new(),
        }
    }
}

/// What this process found lost.
#[derive(Debug, Default)]
pub(super) struct Found {
    content: HashSet<Digest>,
    /// Directories below which everything was hashed since.
    sound: HashSet<Digest>,
}

impl Store {
    /// Takes note that `lost` could not be read. From now on this process hashes what a result names before it
    /// returns the result, and every process looks again which results are complete. Whether that is news: content
    /// that is lost for the second time will not come back by making it once more.
    fn distrust(&self, lost: &[Digest]) -> Result<bool, Error> {
        let is_news = {
            let mut found = self.lost.lock().expect("never poisoned");
            found.sound.clear();
            let before = found.content.len();
            found.content.extend(lost);
            found.content.len() > before
        };
        if is_news {
            self.next_generation()?;
        }
        Ok(is_news)
    }

    /// Does `work`; where it meets lost content, gives that to `again`, and does it once more, which finds no result
    /// any more that names it. Each time other content has to be lost, so this comes to an end.
    pub fn until_whole<T, E: Lost>(
        &self,
        again: impl Fn(&[Digest]),
        mut work: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let error = match work() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let lost = error.lost();
            match self.distrust(&lost) {
                Ok(true) => again(&lost),
                _ => return Err(error),
            }
        }
    }

    pub(super) fn is_doubtful(&self) -> bool {
        !self.lost.lock().expect("never poisoned").content.is_empty()
    }

    /// Whether everything that `result` names is here and holds what it should; all that does not is forgotten.
    pub(super) fn is_sound(&self, result: &ActionResult) -> Result<bool, Error> {
        let (mut complete, mut damaged) = (true, Vec::new());
        let mut check = |digest: &Digest| -> Result<bool, Error> {
            let path = self.blob_path(digest);
            let soundness = self.soundness(&path, digest, 0o644)?;
            complete &= soundness == Soundness::Sound;
            damaged.extend((soundness == Soundness::Damaged).then_some(path));
            Ok(soundness == Soundness::Sound)
        };
        for digest in result.metadata.iter().chain(&result.log) {
            check(digest)?;
        }
        let (mut seen, mut files) = (HashSet::new(), HashSet::new());
        let mut pending: Vec<Digest> = result.outputs.values().copied().collect();
        while let Some(root) = pending.pop() {
            let known = self.lost.lock().expect("never poisoned").sound.contains(&root);
            let is_empty = root.size() == 0;
            if known || is_empty || !seen.insert(root) || !check(&root)? {
                continue;
            }
            for (_, node) in self.load(&root)?.iter() {
                match node {
                    Node::Directory(digest) => pending.push(*digest),
                    Node::File { digest, .. } if files.insert(*digest) => drop(check(digest)?),
                    Node::File { .. } | Node::Symlink(_) => {}
                }
            }
        }
        if !damaged.is_empty() {
            self.forget(&damaged)?;
        }
        if complete {
            let mut found = self.lost.lock().expect("never poisoned");
            found.sound.extend(seen);
        }
        Ok(complete)
    }
}
