//! Tar, plain or compressed: POSIX ustar and pax, and GNU's long names.
//!
//! Headers are read one by one and not through the crate's own handling of extensions, which would hold a
//! hostile "long name" of any length in memory, and which takes sizes that pax headers contradict.

use std::fs::File;
use std::io::{BufReader, Read};

use ::tar::{EntryType, PaxExtensions};

use super::builder::{Builder, Whole};
use super::{ArchiveError, Unpacked, Unpacking, decompress, keep, normalize, place, read_error, shown, utf8};
use crate::tree::{Attributes, TreePath, link_inside, link_stays_inside};

/// The longest content of an extension header; a path has at most 4,096 bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// What an entry may be in one kind of archive.
pub(super) struct Dialect {
    /// Where the entries go in the tree.
    pub prefix: TreePath,
    /// Leading components to drop.
    pub strip: usize,
    /// What is kept and what is refused.
    pub kind: Kind,
}

/// What a tar is, and so what may be in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sources of something: contents, and who may execute them.
    Plain,
    /// A part of a Debian package: modes, owners, hard links and absolute symlinks are kept as metadata.
    Package,
    /// A layer of an image. In addition, it may be empty, its names may begin with `/`, its symlinks lead where
    /// they like, and its devices and FIFOs are passed over: no ordinary user could make them.
    Layer,
}

impl Dialect {
    fn is_faithful(&self) -> bool {
        self.kind != Kind::Plain
    }

    /// Where an entry goes; `None` if it has no more components than are dropped.
    fn place(&self, name: &str) -> Result<Option<TreePath>, ArchiveError> {
        let name = match self.kind {
            Kind::Layer => name.trim_start_matches('/'),
            _ => name,
        };
        place(name, &self.prefix, self.strip)
    }
}

pub(super) fn unpack(unpacking: &Unpacking<'_>, input: File) -> Result<Unpacked, ArchiveError> {
    let mut builder = Builder::new(unpacking.entries);
    let dialect = Dialect {
        prefix: TreePath::root(),
        strip: unpacking.strip,
        kind: Kind::Plain,
    };
    let content = decompress(BufReader::new(input)).map_err(read_error)?;
    let mut content = unpacking.budgeted(content);
    read(unpacking, &mut content, &dialect, &mut builder)?;
    let (root, _) = builder.finish(unpacking.store, Whole::Tree)?;
    Ok(Unpacked {
        root,
        metadata: None,
        listing: Vec::new(),
    })
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    sparse: bool,
}

/// Reads all entries of a tar stream into `builder`.
pub(super) fn read(
    unpacking: &Unpacking<'_>,
    content: &mut dyn Read,
    dialect: &Dialect,
    builder: &mut Builder,
) -> Result<(), ArchiveError> {
    let mut archive = ::tar::Archive::new(content);
    let mut extensions = Extensions::default();
    let mut seen = false;
    for entry in archive.entries().map_err(read_error)?.raw(true) {
        let mut entry = entry.map_err(read_error)?;
        seen = true;
        if !extensions.read(&mut entry)? {
            add(
                unpacking,
                &mut entry,
                std::mem::take(&mut extensions),
                dialect,
                builder,
            )?;
        }
    }
    match seen || dialect.kind == Kind::Layer {
        true => Ok(()),
        // A file of anything else reads as a tar without entries if it starts with zeros.
        false => Err(ArchiveError::Malformed("it holds nothing".to_owned())),
    }
}

fn add<R: Read>(
    unpacking: &Unpacking<'_>,
    entry: &mut ::tar::Entry<'_, R>,
    extensions: Extensions,
    dialect: &Dialect,
    builder: &mut Builder,
) -> Result<(), ArchiveError> {
    if extensions.size.is_some_and(|size| size != entry.size()) {
        return Err(ArchiveError::Malformed("two sizes for one entry".to_owned()));
    }
    let mut attributes = Attributes::default();
    if dialect.is_faithful() {
        attributes.uid = owner(extensions.uid, entry.header().uid())?;
        attributes.gid = owner(extensions.gid, entry.header().gid())?;
    }
    let header_path = || entry.header().path_bytes().into_owned();
    let name = utf8(extensions.path.unwrap_or_else(header_path))?;
    let kind = entry.header().entry_type();
    if dialect.kind == Kind::Layer && matches!(kind, EntryType::Char | EntryType::Block | EntryType::Fifo) {
        return Ok(());
    }
    refuse_kind(&name, kind, extensions.sparse)?;
    let Some(path) = dialect.place(&name)? else {
        return Ok(());
    };
    let header_link = || entry.header().link_name_bytes().unwrap_or_default().into_owned();
    let target = utf8(extensions.link.unwrap_or_else(header_link))?;
    let mode = entry.header().mode().map_err(read_error)? & 0o7777;
    match kind {
        EntryType::Directory => {
            builder.directory(&path)?;
            attributes.mode = Some(mode).filter(|mode| dialect.is_faithful() && *mode != 0o755);
            builder.attributes(&path, attributes);
        }
        EntryType::Symlink => add_symlink(builder, &path, &target, dialect, attributes)?,
        EntryType::Link => {
            let to = dialect.place(&target)?.ok_or_else(|| ArchiveError::Link {
                name: shown(&name),
                target: shown(&target),
                reason: "is a hard link to something that is left out",
            })?;
            builder.hard_link(&path, &to, dialect.is_faithful())?;
        }
        _ => {
            let executable = mode & 0o111 != 0 || unpacking.executable.is_match(path.to_string());
            let digest = keep(unpacking.store, entry)?;
            builder.file(&path, digest, executable)?;
            let default = if executable { 0o755 } else { 0o644 };
            attributes.mode = Some(mode).filter(|mode| dialect.is_faithful() && *mode != default);
            builder.attributes(&path, attributes);
        }
    }
    Ok(())
}

/// The number of an owner, if it is not root's.
fn owner(from_pax: Option<u32>, from_header: std::io::Result<u64>) -> Result<Option<u32>, ArchiveError> {
    let id = match from_pax {
        Some(id) => id,
        None => u32::try_from(from_header.map_err(read_error)?)
            .map_err(|_| ArchiveError::Malformed("an owner's number has more than 32 bits".to_owned()))?,
    };
    Ok(Some(id).filter(|id| *id != 0))
}

fn add_symlink(
    builder: &mut Builder,
    path: &TreePath,
    target: &str,
    dialect: &Dialect,
    mut attributes: Attributes,
) -> Result<(), ArchiveError> {
    // Inside the package's own root, not only inside the tree that the package is a part of.
    let inner = path.strip_prefix(&dialect.prefix).unwrap_or_default();
    let refused = |reason| ArchiveError::Link {
        name: path.to_string(),
        target: shown(target),
        reason,
    };
    if link_stays_inside(&inner, target) {
        builder.symlink(path, target)?;
    } else {
        match dialect.kind {
            _ if target.is_empty() || target.contains('\0') => return Err(refused("leads nowhere")),
            Kind::Layer => {}
            Kind::Package if target.starts_with('/') => drop(normalize(target.trim_start_matches('/'))?),
            Kind::Package | Kind::Plain => return Err(refused("leaves the archive")),
        }
        builder.symlink(path, &link_inside(&inner, target))?;
        attributes.target = Some(target.to_owned());
    }
    builder.attributes(path, attributes);
    Ok(())
}

impl Extensions {
    /// Takes an extension header in; `false` if `entry` is none.
    fn read<R: Read>(&mut self, entry: &mut ::tar::Entry<'_, R>) -> Result<bool, ArchiveError> {
        let kind = entry.header().entry_type();
        let known = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !known {
            return Ok(false);
        }
        if entry.size() > MAX_EXTENSION {
            return Err(ArchiveError::TooLarge("1 MiB in one extension header".to_owned()));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(read_error)?;
        if kind.is_gnu_longname() {
            self.path = Some(until_nul(bytes));
        } else if kind.is_gnu_longlink() {
            self.link = Some(until_nul(bytes));
        } else if kind.is_pax_local_extensions() {
            self.read_pax(&bytes)?;
        }
        // Global headers say nothing of paths and sizes in archives that exist: commit ids, comments.
        Ok(true)
    }

    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let malformed = || ArchiveError::Malformed("a malformed pax header".to_owned());
        for extension in PaxExtensions::new(bytes) {
            let extension = extension.map_err(read_error)?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
            let id = || {
                number()
                    .and_then(|id| u32::try_from(id).ok())
                    .ok_or_else(malformed)
            };
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number().ok_or_else(malformed)?),
                b"uid" => self.uid = Some(id()?),
                b"gid" => self.gid = Some(id()?),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

fn refuse_kind(name: &str, kind: EntryType, sparse: bool) -> Result<(), ArchiveError> {
    let kind = match kind {
        _ if sparse => "a sparse file",
        EntryType::Regular | EntryType::Continuous => return Ok(()),
        EntryType::Directory | EntryType::Symlink | EntryType::Link => return Ok(()),
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a FIFO",
        EntryType::GNUSparse => "a sparse file",
        _ => "of an unknown kind",
    };
    Err(ArchiveError::Kind {
        name: shown(name),
        kind,
    })
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
