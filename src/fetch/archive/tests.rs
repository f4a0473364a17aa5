//! Archives made here, sound and hostile, and what becomes of them.

use std::io::Write as _;

use ::tar::{EntryType, Header};
use ::zip::write::SimpleFileOptions;
use proptest::prelude::*;

use super::*;
use crate::tree::{Directories as _, Metadata, Node, links, ops};

struct Lab {
    dir: tempfile::TempDir,
    store: Store,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Lab { dir, store }
    }

    fn unpack_within(&self, bytes: &[u8], how: &Unpack, limits: &Limits) -> Result<Unpacked, ArchiveError> {
        let file = self.dir.path().join("archive");
        std::fs::write(&file, bytes).unwrap();
        unpack(&self.store, &file, how, limits, &Cancel::default())
    }

    fn unpack(&self, bytes: &[u8], format: Archive, strip: u32) -> Result<Unpacked, ArchiveError> {
        let how = Unpack::Archive {
            format,
            strip,
            executable: vec!["bin/*".into()],
        };
        self.unpack_within(bytes, &how, &Limits::default())
    }

    /// Every entry as a line: `path`, `path*` (executable), `path/` (empty directory), `path -> target`.
    fn list(&self, root: &Digest) -> String {
        let mut lines = Vec::new();
        ops::walk(&self.store, root, &mut |path, node| {
            lines.push(match node {
                Node::File { executable, .. } => format!("{path}{}", if *executable { "*" } else { "" }),
                Node::Symlink(target) => format!("{path} -> {target}"),
                Node::Directory(digest) if self.store.load(digest).unwrap().is_empty() => format!("{path}/"),
                Node::Directory(_) => return,
            });
        })
        .unwrap();
        lines.join("\n")
    }

    fn listed(&self, bytes: &[u8], format: Archive, strip: u32) -> Result<String, String> {
        let unpacked = self.unpack(bytes, format, strip);
        unpacked
            .map(|unpacked| self.list(&unpacked.root))
            .map_err(|error| error.to_string())
    }
}

/// What `tar` entries are made of: kind, name, link target, mode, content.
type Entry<'a> = (EntryType, &'a str, &'a str, u32, &'a [u8]);

fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    (EntryType::Regular, name, "", 0o644, content)
}

fn link<'a>(kind: EntryType, name: &'a str, target: &'a str) -> Entry<'a> {
    (kind, name, target, 0o777, b"")
}

/// Writes names as they are: the crate's own builder refuses hostile ones.
fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, target, mode, content) in entries {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn zip(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        match mode & 0o170000 {
            0o120000 => writer
                .add_symlink(*name, std::str::from_utf8(content).unwrap(), options)
                .unwrap(),
            _ if name.ends_with('/') => writer.add_directory(*name, options).unwrap(),
            _ => {
                writer.start_file(*name, options).unwrap();
                writer.write_all(content).unwrap();
            }
        }
    }
    writer.finish().unwrap().into_inner()
}

fn deb(data: &[Entry<'_>]) -> Vec<u8> {
    let control = tar(&[file("./control", b"Package: x\n")]);
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&control)),
        ("data.tar", tar(data)),
    ] {
        let header = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            100644,
            content.len()
        );
        bytes.extend(header.bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_tar_becomes_a_tree() {
    let lab = Lab::new();
    let bytes = tar(&[
        (
            EntryType::XGlobalHeader,
            "pax_global_header",
            "",
            0,
            b"18 comment=commit\n",
        ),
        (EntryType::Directory, "package/", "", 0o755, b""),
        file("package/./lib//index.js", b"1"),
        (EntryType::Regular, "package/run", "", 0o755, b"2"),
        file("package/bin/tool", b"3"),
        link(EntryType::Symlink, "package/lib/up", "../run"),
        link(EntryType::Link, "package/again", "package/run"),
        (EntryType::Directory, "package/lib", "", 0o755, b""),
        (EntryType::Directory, "package/empty", "", 0o700, b""),
        file("README", b"above"),
    ]);
    insta::assert_snapshot!(lab.listed(&bytes, Archive::Tar, 1).unwrap(), @r"
    again*
    bin/tool*
    empty/
    lib/index.js
    lib/up -> ../run
    run*
    ");
    let plain = lab.unpack(&bytes, Archive::Tar, 1).unwrap();
    assert_eq!(
        lab.unpack(&gzip(&bytes), Archive::Tar, 1).unwrap().root,
        plain.root
    );
    assert_eq!(plain.metadata, None);
}

#[test]
fn long_names_come_in_both_dialects() {
    let lab = Lab::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let pax = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        // The length counts its own digits: three of them here.
        format!("{}{rest}", rest.len() + 3)
    };
    let header = pax("path", &long);
    let bytes = tar(&[
        (EntryType::XHeader, "x", "", 0, header.as_bytes()),
        file("short", b"1"),
    ]);
    assert_eq!(lab.listed(&bytes, Archive::Tar, 0).unwrap(), long);
    let gnu = format!("{long}\0");
    let bytes = tar(&[
        (EntryType::GNULongName, "././@LongLink", "", 0, gnu.as_bytes()),
        file("short", b"1"),
    ]);
    assert_eq!(lab.listed(&bytes, Archive::Tar, 0).unwrap(), long);
}

#[test]
fn hostile_tars_are_refused() {
    let lab = Lab::new();
    let refused = |entries: &[Entry<'_>]| lab.listed(&tar(entries), Archive::Tar, 0).unwrap_err();
    insta::assert_snapshot!(refused(&[file("../x", b"")]), @"entry `../x`: `../x` is not a valid path: `.` and `..` are not allowed");
    insta::assert_snapshot!(refused(&[file("a/../../x", b"")]), @"entry `a/../../x`: `a/../../x` is not a valid path: `.` and `..` are not allowed");
    insta::assert_snapshot!(refused(&[file("/etc/x", b"")]), @"entry `/etc/x`: an absolute path");
    insta::assert_snapshot!(refused(&[link(EntryType::Symlink, "x", "/etc/passwd")]), @"link `x` -> `/etc/passwd` leaves the archive");
    insta::assert_snapshot!(refused(&[link(EntryType::Symlink, "a/x", "../../y")]), @"link `a/x` -> `../../y` leaves the archive");
    let chain =
        [("a", "."), ("up", "a/.."), ("x", "up/../etc")].map(|(at, to)| link(EntryType::Symlink, at, to));
    insta::assert_snapshot!(refused(&chain), @"link `up` -> `a/..` leaves the archive");
    insta::assert_snapshot!(refused(&chain[1..]), @"link `up` -> `a/..` leads through what the archive does not have, and up again");
    insta::assert_snapshot!(refused(&[link(EntryType::Symlink, "x", "y"), file("x/z", b"")]), @"two entries at `x`");
    insta::assert_snapshot!(refused(&[link(EntryType::Link, "x", "y"), file("y", b"")]), @"link `x` -> `y` is a hard link to something that is no earlier file");
    insta::assert_snapshot!(refused(&[link(EntryType::Link, "x", "../y")]), @"entry `../y`: `../y` is not a valid path: `.` and `..` are not allowed");
    insta::assert_snapshot!(refused(&[link(EntryType::Char, "null", "")]), @"entry `null` is a device, which is not unpacked");
    insta::assert_snapshot!(refused(&[link(EntryType::Fifo, "pipe", "")]), @"entry `pipe` is a FIFO, which is not unpacked");
    insta::assert_snapshot!(refused(&[file("x", b"1"), file("x", b"1")]), @"two entries at `x`");
    insta::assert_snapshot!(refused(&[file("x", b"1"), file("x/y", b"1")]), @"two entries at `x`");
    insta::assert_snapshot!(refused(&[file("a/Read", b""), file("a/read", b"")]), @"`a/Read` and `a/read` differ only in case");
    insta::assert_snapshot!(refused(&[]), @"not a sound archive: it holds nothing");
    let sparse = (EntryType::XHeader, "x", "", 0, &b"22 GNU.sparse.major=1\n"[..]);
    insta::assert_snapshot!(refused(&[sparse, file("x", b"")]), @"entry `x` is a sparse file, which is not unpacked");
    let size = (EntryType::XHeader, "x", "", 0, &b"9 size=9\n"[..]);
    insta::assert_snapshot!(refused(&[size, file("x", b"12345")]), @"not a sound archive: two sizes for one entry");
}

#[test]
fn names_that_are_not_utf8_are_refused() {
    let lab = Lab::new();
    let mut bytes = tar(&[file("x", b"")]);
    let mut header = Header::from_byte_slice(&bytes[..512]).clone();
    header.as_old_mut().name[0] = 0xff;
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    insta::assert_snapshot!(lab.listed(&bytes, Archive::Tar, 0).unwrap_err(), @"entry `\u{fffd}`: not UTF-8");
}

#[test]
fn bombs_are_stopped() {
    let lab = Lab::new();
    let how = |format| Unpack::Archive {
        format,
        strip: 0,
        executable: vec![],
    };
    let limits = Limits {
        bytes: 100_000,
        entries: 10,
        ratio: 1000,
        floor: 0,
    };
    let zeros = vec![0; 200_000];
    let many: Vec<_> = (0..11).map(|n| format!("d/f{n}")).collect();
    let entries: Vec<_> = many.iter().map(|name| file(name, b"")).collect();
    for (bytes, format) in [
        (gzip(&tar(&[file("x", &zeros)])), Archive::Tar),
        (zip(&[("x", 0o644, &zeros)]), Archive::Zip),
        (
            zip(&[("x", 0o644, &zeros[..60_000]), ("y", 0o644, &zeros[..60_000])]),
            Archive::Zip,
        ),
        (deb(&[file("x", &zeros)]), Archive::Deb),
        (tar(&entries), Archive::Tar),
        (tar(&[file("1/2/3/4/5/6/7/8/9/10/11", b"")]), Archive::Tar),
    ] {
        let error = lab.unpack_within(&bytes, &how(format), &limits).unwrap_err();
        assert!(matches!(error, ArchiveError::TooLarge(_)), "{error}");
    }
    // 1 MiB of zeros come to 1 KiB of gzip.
    let bomb = gzip(&tar(&[file("x", &vec![0; 1 << 20])]));
    let limits = Limits {
        ratio: 10,
        floor: 1000,
        ..Limits::default()
    };
    let error = lab.unpack_within(&bomb, &how(Archive::Tar), &limits).unwrap_err();
    insta::assert_snapshot!(error, @"it unpacks to more than it may: 8 GiB, and 1,000 times its own size");
}

#[test]
fn an_extension_header_is_not_read_without_bound() {
    let lab = Lab::new();
    let long = vec![b'x'; 2 << 20];
    let bytes = tar(&[(EntryType::GNULongName, "x", "", 0, &long), file("x", b"")]);
    insta::assert_snapshot!(lab.listed(&bytes, Archive::Tar, 0).unwrap_err(), @"it unpacks to more than 1 MiB in one extension header");
}

#[test]
fn a_zip_becomes_a_tree_and_a_listing() {
    let lab = Lab::new();
    let bytes = zip(&[
        ("a.b/c@v1.0.0/go.mod", 0o644, b"module a.b/c\n"),
        ("a.b/c@v1.0.0/bin/tool", 0o644, b"2"),
        ("a.b/c@v1.0.0/run", 0o755, b"3"),
        ("a.b/c@v1.0.0/sub/", 0o755, b""),
        ("a.b/c@v1.0.0/link", 0o120777, b"run"),
        ("above", 0o644, b"4"),
    ]);
    let unpacked = lab.unpack(&bytes, Archive::Zip, 2).unwrap();
    insta::assert_snapshot!(lab.list(&unpacked.root), @r"
    bin/tool*
    go.mod
    link -> run
    run*
    sub/
    ");
    let (name, digest) = &unpacked.listing[0];
    assert_eq!(
        (name.as_str(), *digest),
        ("a.b/c@v1.0.0/go.mod", Digest::of(b"module a.b/c\n"))
    );
    assert_eq!(unpacked.listing.len(), 6);
}

#[test]
fn hostile_zips_are_refused() {
    let lab = Lab::new();
    let refused = |bytes: &[u8]| lab.listed(bytes, Archive::Zip, 0).unwrap_err();
    insta::assert_snapshot!(refused(&zip(&[("../x", 0o644, b"")])), @"entry `../x`: `../x` is not a valid path: `.` and `..` are not allowed");
    insta::assert_snapshot!(refused(&zip(&[("l", 0o120777, b"/etc/passwd")])), @"link `l` -> `/etc/passwd` leaves the archive");
    insta::assert_snapshot!(refused(&zip(&[("l", 0o120777, b"../x")])), @"link `l` -> `../x` leaves the archive");
    insta::assert_snapshot!(refused(&zip(&[("README", 0o644, b""), ("ReadMe", 0o644, b"")])), @"`README` and `ReadMe` differ only in case");
    insta::assert_snapshot!(refused(&zip(&[("a\nb", 0o644, b"")])), @r"entry `a\nb`: a line break");

    // The writer refuses a second entry of one name: one of the same length is renamed in the bytes.
    let twins = zip(&[("one", 0o644, b"1"), ("two", 0o644, b"2")]);
    let renamed = replace(&twins, b"two", b"one");
    insta::assert_snapshot!(refused(&renamed), @"not a sound archive: two entries have one name");
    let absolute = replace(&zip(&[("xetc", 0o644, b"")]), b"xetc", b"/etc");
    insta::assert_snapshot!(refused(&absolute), @"entry `/etc`: an absolute path");
    let flipped = replace(&zip(&[("x", 0o644, b"")]), b"PK\x05\x06", b"PK\x05\x07");
    assert!(refused(&flipped).starts_with("not a sound archive: "));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() - from.len() + 1 {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
        }
    }
    bytes
}

#[test]
fn a_package_keeps_what_a_tree_cannot_say() {
    let lab = Lab::new();
    let bytes = deb(&[
        (EntryType::Directory, "./", "", 0o755, b""),
        (EntryType::Directory, "./tmp/", "", 0o1777, b""),
        (EntryType::Regular, "./usr/bin/su", "", 0o4755, b"su"),
        link(EntryType::Symlink, "./etc/mtab", "/proc/mounts"),
        link(EntryType::Symlink, "./etc/root", "/"),
        link(EntryType::Symlink, "./usr/lib64", "lib"),
        file("./usr/share/z", b"shared"),
        link(EntryType::Link, "./usr/share/a", "./usr/share/z"),
        file("./usr/share/E/x", b""),
        file("./usr/share/e/x", b""),
    ]);
    let unpacked = lab.unpack(&bytes, Archive::Deb, 0).unwrap();
    insta::assert_snapshot!(lab.list(&unpacked.root), @r"
    control/control
    data/etc/mtab -> ../proc/mounts
    data/etc/root -> ..
    data/tmp/
    data/usr/bin/su*
    data/usr/lib64 -> lib
    data/usr/share/E/x
    data/usr/share/a
    data/usr/share/e/x
    data/usr/share/z
    ");
    let metadata = Metadata::decode(&lab.store.read(&unpacked.metadata.unwrap()).unwrap()).unwrap();
    let lines: Vec<_> = metadata
        .0
        .iter()
        .map(|(path, it)| format!("{path} {}", serde_json::to_string(it).unwrap()))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    data/etc/mtab {"target":"/proc/mounts"}
    data/etc/root {"target":"/"}
    data/tmp {"mode":1023}
    data/usr/bin/su {"mode":2541}
    data/usr/share/z {"hard_link":"data/usr/share/a"}
    "#);
}

#[test]
fn links_that_others_decide_are_plain_in_a_package_and_as_they_were_in_an_image() {
    let lab = Lab::new();
    let links = [
        ("./usr/here", "share/../lib"),
        ("./usr/out", "a/../../lib"),
        ("./usr/through", "m/../lib"),
        ("./usr/a", ".."),
    ];
    let mut entries = vec![file("./usr/share/x", b"")];
    entries.extend(links.map(|(at, to)| link(EntryType::Symlink, at, to)));
    let unpacked = lab.unpack(&deb(&entries), Archive::Deb, 0).unwrap();
    links::check_links(&lab.store, &unpacked.root).unwrap();
    let target = |at: &str| match ops::lookup(&lab.store, &unpacked.root, &at.parse().unwrap()).unwrap() {
        Some(Node::Symlink(target)) => target,
        other => panic!("{other:?}"),
    };
    assert_eq!(target("data/usr/here"), "share/../lib");
    assert_eq!(target("data/usr/out"), "../lib");
    assert_eq!(target("data/usr/through"), "../usr/lib");
    let metadata = Metadata::decode(&lab.store.read(&unpacked.metadata.unwrap()).unwrap()).unwrap();
    let kept = |at: &str| {
        metadata
            .0
            .get(&at.parse().unwrap())
            .and_then(|known| known.target.clone())
    };
    assert_eq!(kept("data/usr/here"), None);
    assert_eq!(kept("data/usr/out").as_deref(), Some("a/../../lib"));
    assert_eq!(kept("data/usr/through").as_deref(), Some("m/../lib"));
}

#[test]
fn hostile_packages_are_refused() {
    let lab = Lab::new();
    let refused = |bytes: &[u8]| lab.listed(bytes, Archive::Deb, 0).unwrap_err();
    insta::assert_snapshot!(refused(&deb(&[link(EntryType::Symlink, "./x", "../control/y")])), @"link `data/x` -> `../control/y` leaves the archive");
    insta::assert_snapshot!(refused(&deb(&[link(EntryType::Symlink, "./x", "/../y")])), @"entry `../y`: `../y` is not a valid path: `.` and `..` are not allowed");
    insta::assert_snapshot!(refused(&deb(&[link(EntryType::Block, "./x", "")])), @"entry `./x` is a device, which is not unpacked");
    insta::assert_snapshot!(refused(&tar(&[file("x", b"")])), @"not a sound archive: not a Debian package: its `debian-binary` is not where it belongs");
    let swapped = replace(&deb(&[]), b"control.tar", b"comtrol.tar");
    insta::assert_snapshot!(refused(&swapped), @"not a sound archive: not a Debian package: its `control.tar` is not where it belongs");
}

impl Lab {
    fn layer(&self, bytes: &[u8]) -> Result<UnpackedLayer, ArchiveError> {
        let path = self.dir.path().join("layer");
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        unpack_layer(&self.store, file, &Limits::default(), &Cancel::default())
    }
}

#[test]
fn a_layer_is_read_as_other_tools_write_it() {
    let lab = Lab::new();
    let bytes = tar(&[
        (EntryType::Directory, "./", "", 0o755, b""),
        (EntryType::Directory, "tmp/", "", 0o1777, b""),
        (EntryType::Regular, "/usr/bin/su", "", 0o4755, b"su"),
        link(EntryType::Link, "usr/bin/su2", "/usr/bin/su"),
        (EntryType::Char, "dev/null", "", 0o666, b""),
        (EntryType::Fifo, "run/pipe", "", 0o666, b""),
        link(EntryType::Symlink, "usr/lib/up", "../../../../etc"),
        link(EntryType::Symlink, "etc/root", "/../x"),
        file("etc/.wh.gone", b""),
        file("etc/Gone", b""),
        file("etc/gone", b""),
    ]);
    let gzipped = gzip(&bytes);
    let layer = lab.layer(&gzipped).unwrap();
    assert_eq!(layer, lab.layer(&bytes).unwrap());
    assert_eq!(layer.diff_id, Digest::of(&bytes));
    insta::assert_snapshot!(lab.list(&layer.tree.root), @"
    etc/.wh.gone
    etc/Gone
    etc/gone
    etc/root -> ../x
    tmp/
    usr/bin/su*
    usr/bin/su2*
    usr/lib/up -> ../../etc
    ");
    let metadata = lab.store.read(&layer.tree.metadata.unwrap()).unwrap();
    insta::assert_snapshot!(String::from_utf8(metadata).unwrap(), @r#"{"etc/root":{"target":"/../x"},"tmp":{"mode":1023},"usr/bin/su":{"mode":2541},"usr/bin/su2":{"mode":2541,"hard_link":"usr/bin/su"},"usr/lib/up":{"target":"../../../../etc"}}"#);
    insta::assert_snapshot!(format!("{:?}", layer.implied), @r#"{"etc", "usr", "usr/bin", "usr/lib"}"#);
    // Nothing at all is a layer too.
    for empty in [&b""[..], &[0; 1024]] {
        let layer = lab.layer(empty).unwrap();
        assert_eq!(
            (lab.list(&layer.tree.root), layer.tree.metadata),
            (String::new(), None)
        );
    }
}

#[test]
fn hostile_layers_are_refused() {
    let lab = Lab::new();
    let refused = |entries: &[Entry<'_>]| lab.layer(&tar(entries)).unwrap_err().to_string();
    insta::assert_snapshot!(refused(&[file("../x", b"")]), @"entry `../x`: `../x` is not a valid path: `.` and `..` are not allowed");
    insta::assert_snapshot!(refused(&[file("x", b""), file("x", b"")]), @"two entries at `x`");
    insta::assert_snapshot!(refused(&[link(EntryType::Symlink, "x", "")]), @"link `x` -> `` leads nowhere");
    insta::assert_snapshot!(refused(&[link(EntryType::Link, "x", "of-another-layer")]), @"link `x` -> `of-another-layer` is a hard link to something that is no earlier file");
    insta::assert_snapshot!(refused(&[link(EntryType::Symlink, "x", "y"), file("x/z", b"")]), @"two entries at `x`");
    let bomb = gzip(&tar(&[file("x", &vec![0; 70 << 20])]));
    insta::assert_snapshot!(lab.layer(&bomb).unwrap_err(), @"it unpacks to more than it may: 8 GiB, and 1,000 times its own size");
}

#[test]
fn a_single_file_is_a_tree_too() {
    let lab = Lab::new();
    let how = Unpack::File {
        name: crate::tree::Name::new("tool").unwrap(),
        executable: true,
    };
    let unpacked = lab.unpack_within(b"#!", &how, &Limits::default()).unwrap();
    assert_eq!(lab.list(&unpacked.root), "tool*");
    assert_eq!(unpacked.listing, [("go.mod".to_owned(), Digest::of(b"#!"))]);
}

#[test]
fn an_interrupted_run_stops_in_the_middle() {
    let lab = Lab::new();
    let file_path = lab.dir.path().join("archive");
    std::fs::write(&file_path, tar(&[file("x", b"1")])).unwrap();
    let cancel = Cancel::default();
    cancel.raise();
    let how = Unpack::Archive {
        format: Archive::Tar,
        strip: 0,
        executable: vec![],
    };
    let error = unpack(&lab.store, &file_path, &how, &Limits::default(), &cancel).unwrap_err();
    assert!(matches!(error, ArchiveError::Cancelled), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0..3usize, bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let lab = Lab::new();
        let format = [Archive::Tar, Archive::Zip, Archive::Deb][kind];
        prop_assert!(lab.unpack(&bytes, format, 0).is_err());
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(kind in 0..3usize, damage in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let lab = Lab::new();
        let mut bytes = match kind {
            0 => tar(&[file("a", b"1"), link(EntryType::Symlink, "b", "a")]),
            1 => zip(&[("a", 0o644, b"1"), ("b", 0o120777, b"a")]),
            _ => deb(&[file("a", b"1")]),
        };
        for (at, value) in damage {
            let at = at as usize % bytes.len();
            bytes[at] = value;
        }
        let format = [Archive::Tar, Archive::Zip, Archive::Deb][kind];
        if let Ok(unpacked) = lab.unpack(&bytes, format, 0) {
            // Whatever was accepted is a sound tree.
            prop_assert!(links::check_links(&lab.store, &unpacked.root).is_ok());
        }
    }

    #[test]
    fn archives_of_every_format_give_the_same_tree(
        files in proptest::collection::btree_map("[a-d]{1,3}/[e-h]{1,3}", proptest::collection::vec(any::<u8>(), 0..100), 1..12),
    ) {
        let lab = Lab::new();
        let entries: Vec<_> = files.iter().map(|(name, content)| file(name, content)).collect();
        let zipped: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), 0o644, &content[..])).collect();
        let from_tar = lab.unpack(&gzip(&tar(&entries)), Archive::Tar, 0).unwrap().root;
        let from_zip = lab.unpack(&zip(&zipped), Archive::Zip, 0).unwrap().root;
        prop_assert_eq!(from_tar, from_zip);
        let from_deb = lab.unpack(&deb(&entries), Archive::Deb, 0).unwrap().root;
        let data = ops::lookup(&lab.store, &from_deb, &"data".parse().unwrap()).unwrap();
        prop_assert_eq!(data, Some(Node::Directory(from_tar)));
        for (name, content) in &files {
            let node = ops::lookup(&lab.store, &from_tar, &name.parse().unwrap()).unwrap();
            prop_assert_eq!(node, Some(Node::File { digest: Digest::of(content), executable: false }));
        }
    }
}
