//! Debian packages (`deb(5)`): an `ar` of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! The tree holds `control/` and `data/`. Maintainer scripts are kept as files, and never run.

use std::fs::File;
use std::io::{BufReader, Read};

use super::builder::Builder;
use super::tar::{self, Dialect};
use super::{ArchiveError, Unpacked, Unpacking, decompress, read_error};
use crate::tree::TreePath;

pub(super) fn unpack(unpacking: &Unpacking<'_>, input: File) -> Result<Unpacked, ArchiveError> {
    let mut archive = ar::Archive::new(BufReader::new(input));
    let mut builder = Builder::new(unpacking.entries);
    let mut budget = unpacking.budget;
    for expected in ["debian-binary", "control.tar", "data.tar"] {
        let mut member = match archive.next_entry() {
            Some(member) => member.map_err(read_error)?,
            None => return Err(malformed(expected)),
        };
        // GNU ar ends names with a slash; dpkg does not.
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        if expected == "debian-binary" {
            let mut version = String::new();
            let mut bounded = (&mut member).take(64);
            bounded.read_to_string(&mut version).map_err(read_error)?;
            if name != expected || !version.starts_with("2.") {
                return Err(malformed("debian-binary"));
            }
            continue;
        }
        let rest = name.strip_prefix(expected);
        if !rest.is_some_and(|rest| ["", ".gz", ".xz", ".zst"].contains(&rest)) {
            return Err(malformed(expected));
        }
        let directory = expected
            .trim_end_matches(".tar")
            .parse::<TreePath>()
            .map_err(super::bad_name)?;
        builder.directory(&directory)?;
        let dialect = Dialect {
            prefix: directory,
            strip: unpacking.strip,
            faithful: true,
        };
        let content = decompress(BufReader::new(member)).map_err(read_error)?;
        let mut content = super::Budgeted {
            inner: content,
            left: budget,
            cancel: unpacking.cancel,
        };
        tar::read(unpacking, &mut content, &dialect, &mut builder)?;
        budget = content.left;
    }
    let (root, metadata) = builder.finish(unpacking.store, false)?;
    let metadata = match metadata.is_empty() {
        true => None,
        false => Some(unpacking.store.put(&metadata.encode())?),
    };
    Ok(Unpacked {
        root,
        metadata,
        listing: Vec::new(),
    })
}

fn malformed(member: &str) -> ArchiveError {
    ArchiveError::Malformed(format!(
        "not a Debian package: its `{member}` is not where it belongs"
    ))
}
