//! Zip: wheels and Go modules. The central directory is what counts.

use std::fs::File;
use std::io::{BufReader, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::builder::{Builder, Whole};
use super::{ArchiveError, Unpacked, Unpacking, keep, place, read_error, shown, utf8};
use crate::digest::Digest;
use crate::tree::TreePath;

/// The longest target of a symlink.
const MAX_TARGET: u64 = 4096;

pub(super) fn unpack(unpacking: &Unpacking<'_>, input: File) -> Result<Unpacked, ArchiveError> {
    let mut archive = ZipArchive::new(BufReader::new(input)).map_err(zip_error)?;
    if archive.len() > unpacking.entries {
        return Err(ArchiveError::TooLarge("1,000,000 entries".to_owned()));
    }
    if archive.has_duplicate_names() {
        return Err(ArchiveError::Malformed("two entries have one name".to_owned()));
    }
    // Entries that share their bytes are how a small archive becomes a very large one.
    if archive.has_overlapping_entries().map_err(zip_error)? {
        return Err(ArchiveError::Malformed("entries overlap".to_owned()));
    }
    let mut builder = Builder::new(unpacking.entries);
    let mut listing = Vec::with_capacity(archive.len());
    let mut left = unpacking.budget;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(zip_error)?;
        let name = utf8(entry.name_raw().to_vec())?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        let mut content = super::Budgeted {
            inner: entry,
            left,
            cancel: unpacking.cancel,
        };
        let digest = match judge(&name, mode, unpacking.strip)? {
            Place::Directory(path) => {
                if let Some(path) = path {
                    builder.directory(&path)?;
                }
                Digest::of(b"")
            }
            Place::Symlink(path) => {
                let mut target = Vec::new();
                let mut bounded = (&mut content).take(MAX_TARGET + 1);
                bounded.read_to_end(&mut target).map_err(read_error)?;
                if target.len() as u64 > MAX_TARGET {
                    return Err(ArchiveError::TooLarge(
                        "4,096 bytes in the target of a symlink".to_owned(),
                    ));
                }
                let digest = Digest::of(&target);
                if let Some(path) = path {
                    builder.symlink(&path, &utf8(target)?)?;
                }
                digest
            }
            Place::File(path) => {
                let digest = keep(unpacking.store, &mut content)?;
                if let Some(path) = path {
                    let executable = mode & 0o111 != 0 || unpacking.executable.is_match(path.to_string());
                    builder.file(&path, digest, executable)?;
                }
                digest
            }
        };
        left = content.left;
        listing.push((name, digest));
    }
    let (root, _) = builder.finish(unpacking.store, Whole::Tree)?;
    Ok(Unpacked {
        root,
        metadata: None,
        listing,
    })
}

/// What an entry is, and where it goes: nowhere, where stripping leaves it out.
enum Place {
    Directory(Option<TreePath>),
    Symlink(Option<TreePath>),
    File(Option<TreePath>),
}

fn judge(name: &str, mode: u32, strip: usize) -> Result<Place, ArchiveError> {
    if name.contains('\n') {
        // It could pass for another line of what `h1` is the hash of.
        return Err(ArchiveError::Name {
            name: shown(name),
            reason: "a line break".to_owned(),
        });
    }
    let path = place(name, &TreePath::root(), strip)?.filter(|path| !path.is_root());
    // The upper bits are those of `st_mode` (`inode(7)`); 0 stands where the archive does not say.
    match mode & 0o170000 {
        _ if name.ends_with('/') => Ok(Place::Directory(path)),
        0o120000 => Ok(Place::Symlink(path)),
        0 | 0o100000 => Ok(Place::File(path)),
        _ => Err(ArchiveError::Kind {
            name: shown(name),
            kind: "neither a file, a directory nor a symlink",
        }),
    }
}

fn zip_error(error: ZipError) -> ArchiveError {
    match error {
        ZipError::Io(error) => read_error(error),
        error => ArchiveError::Malformed(error.to_string()),
    }
}
