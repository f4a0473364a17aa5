//! Whether bytes are what was pinned: hashes of a file, of the files in a zip, and of a tree.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha512};

use super::http::Sink;
use crate::digest::{Digest, Hasher};
use crate::plan::Integrity;

/// A file that is hashed while it is written.
pub(super) struct Download {
    path: PathBuf,
    file: File,
    sha256: Hasher,
    /// Only where it is asked for: it costs as much again.
    sha512: Option<Sha512>,
    progress: Box<dyn Fn(u64) + Send>,
}

impl Download {
    /// A new file at `path`; `progress` is told how many bytes came.
    pub(super) fn create(
        path: &Path,
        integrity: &Integrity,
        progress: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Download> {
        Ok(Download {
            path: path.to_owned(),
            file: File::create(path)?,
            sha256: Hasher::new(),
            sha512: matches!(integrity, Integrity::Sha512(_)).then(Sha512::new),
            progress: Box::new(progress),
        })
    }

    /// The file's hash in the form of `integrity`; `None` where that is not a hash of the file.
    pub(super) fn hash(&self, integrity: &Integrity) -> Option<Integrity> {
        match integrity {
            Integrity::Sha256(_) => Some(Integrity::Sha256(self.sha256.clone().finish().hex())),
            Integrity::Sha512(_) => {
                let hash = self.sha512.clone().unwrap_or_default().finalize();
                Some(Integrity::Sha512(STANDARD.encode(hash)))
            }
            Integrity::H1(_) | Integrity::Tree(_) => None,
        }
    }
}

impl Sink for Download {
    fn restart(&mut self) -> io::Result<()> {
        self.file = File::create(&self.path)?;
        self.sha256 = Hasher::new();
        self.sha512 = self.sha512.take().map(|_| Sha512::new());
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        (self.progress)(bytes.len() as u64);
        Ok(())
    }
}

/// What the unpacked content has in the form of `integrity`; `None` where that is a hash of the file.
///
/// `listing` names every file as `h1` does: as the zip that held it, or `go.mod`.
pub(super) fn hash_content(
    integrity: &Integrity,
    root: &Digest,
    listing: &[(String, Digest)],
) -> Option<Integrity> {
    match integrity {
        Integrity::Tree(_) => Some(Integrity::Tree(*root)),
        Integrity::H1(_) => Some(Integrity::H1(h1(listing))),
        Integrity::Sha256(_) | Integrity::Sha512(_) => None,
    }
}

/// `golang.org/x/mod/sumdb/dirhash.Hash1`: over the sorted names, a line for each with its SHA-256.
pub(super) fn h1(files: &[(String, Digest)]) -> String {
    let mut lines: Vec<_> = files
        .iter()
        .map(|(name, digest)| (name.as_str(), digest.hex()))
        .collect();
    lines.sort();
    let mut hash = Sha256::new();
    for (name, hex) in lines {
        hash.update(format!("{hex}  {name}\n"));
    }
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h1_is_the_hash_of_sorted_lines() {
        let file = |name: &str| (name.to_owned(), Digest::of(name.as_bytes()));
        let both = h1(&[file("b"), file("a")]);
        assert_eq!(both, h1(&[file("a"), file("b")]));
        let lines = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n\
                     3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  b\n";
        assert_eq!(both, STANDARD.encode(Sha256::digest(lines)));
    }

    #[test]
    fn a_restarted_download_forgets_what_came() {
        let dir = tempfile::tempdir().unwrap();
        let pinned: Integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(b"whole")))
            .parse()
            .unwrap();
        let mut download = Download::create(&dir.path().join("x"), &pinned, |_| {}).unwrap();
        download.take(b"wh").unwrap();
        assert_ne!(download.hash(&pinned).as_ref(), Some(&pinned));
        download.restart().unwrap();
        download.take(b"whole").unwrap();
        assert_eq!(download.hash(&pinned), Some(pinned));
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"whole");
    }
}
