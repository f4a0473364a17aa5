//! Debian packages (`deb(5)`): an `ar` of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! The tree holds `control/` and `data/`. Maintainer scripts are kept as files, and never run. The outer
//! format is read here, as a package uses little of it: three members with short names, in a fixed order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::builder::{Builder, Whole};
use super::tar::{self, Dialect, Kind};
use super::{ArchiveError, Unpacked, Unpacking, decompress, read_error};
use crate::tree::TreePath;

const MAGIC: &[u8] = b"!<arch>\n";

pub(super) fn unpack(unpacking: &Unpacking<'_>, input: File) -> Result<Unpacked, ArchiveError> {
    let mut input = BufReader::new(input);
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).map_err(read_error)?;
    let version = next_member(&mut input, "debian-binary", &[""])?;
    if magic != MAGIC || !version.starts_with("2.") {
        return Err(malformed("debian-binary"));
    }
    let mut builder = Builder::new(unpacking.entries);
    let mut budget = unpacking.budget;
    for directory in ["control", "data"] {
        let size = member_size(
            &mut input,
            &format!("{directory}.tar"),
            &["", ".gz", ".xz", ".zst"],
        )?;
        let prefix = directory.parse::<TreePath>().map_err(super::bad_name)?;
        builder.directory(&prefix)?;
        let dialect = Dialect {
            prefix,
            strip: unpacking.strip,
            kind: Kind::Package,
        };
        let mut member = (&mut input).take(size);
        let content = decompress(&mut member).map_err(read_error)?;
        let mut content = super::Budgeted {
            inner: content,
            left: budget,
            cancel: unpacking.cancel,
        };
        tar::read(unpacking, &mut content, &dialect, &mut builder)?;
        budget = content.left;
        drop(content);
        finish_member(&mut member, size)?;
    }
    let (root, metadata) = builder.finish(unpacking.store, Whole::Packages)?;
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

/// A member's content, as text of at most 64 bytes.
fn next_member(input: &mut impl BufRead, name: &str, endings: &[&str]) -> Result<String, ArchiveError> {
    let size = member_size(input, name, endings)?;
    if size > 64 {
        return Err(malformed(name));
    }
    let mut text = String::new();
    let mut member = input.take(size);
    member.read_to_string(&mut text).map_err(read_error)?;
    finish_member(&mut member, size)?;
    Ok(text)
}

/// Reads a member's header (`ar(5)`: name, time, uid, gid, mode, size, in columns), and gives its size. Its
/// name must be `name` and one of `endings`.
fn member_size(input: &mut impl Read, name: &str, endings: &[&str]) -> Result<u64, ArchiveError> {
    let mut header = [0; 60];
    input
        .read_exact(&mut header)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed(name),
            _ => read_error(error),
        })?;
    let column = |from: usize, to: usize| {
        std::str::from_utf8(&header[from..to])
            .unwrap_or_default()
            .trim_end()
    };
    // GNU ar ends names with a slash; dpkg does not.
    let ending = column(0, 16).trim_end_matches('/').strip_prefix(name);
    if &header[58..] != b"`\n" || !ending.is_some_and(|ending| endings.contains(&ending)) {
        return Err(malformed(name));
    }
    column(48, 58).parse().map_err(|_| malformed(name))
}

/// Skips what is left of a member, and the byte that keeps the next one at an even offset.
fn finish_member<R: Read>(member: &mut io::Take<R>, size: u64) -> Result<(), ArchiveError> {
    io::copy(member, &mut io::sink()).map_err(read_error)?;
    member.set_limit(size % 2);
    io::copy(member, &mut io::sink()).map_err(read_error)?;
    Ok(())
}

fn malformed(member: &str) -> ArchiveError {
    ArchiveError::Malformed(format!(
        "not a Debian package: its `{member}` is not where it belongs"
    ))
}
