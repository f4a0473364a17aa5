//! What fuzzing asks of archives and of pages of registries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use reqwest::Url;

use super::archive::{self, Limits};
use super::http::Answer;
use super::index;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::plan::{Archive, Unpack};
use crate::store::Store;
use crate::tree::{Directories as _, Node, TreePath, ops};

pub use super::debian::fuzz::{packages, release, versions};

const LIMITS: Limits = Limits {
    bytes: 4 << 20,
    entries: 5000,
    ratio: 1000,
    floor: 1 << 16,
};

/// An archive of the format, in a file of `directory`: what comes out is the same twice, within the bounds, and
/// leads nowhere else.
pub fn unpack(store: &Store, directory: &Path, format: Archive, bytes: &[u8]) {
    let file = directory.join("archive");
    fs::write(&file, bytes).expect("the directory can be written");
    let how = Unpack::Archive {
        format,
        strip: 0,
        executable: Vec::new(),
    };
    let unpack = || archive::unpack(store, &file, &how, &LIMITS, &Cancel::default());
    let Ok(unpacked) = unpack() else { return };
    check(store, unpacked.root);
    assert_eq!(unpack().expect("it could be unpacked before").root, unpacked.root);
}

/// A layer of an image, in a file of `directory`: as [`unpack`].
pub fn layer(store: &Store, directory: &Path, bytes: &[u8]) {
    let file = directory.join("layer");
    fs::write(&file, bytes).expect("the directory can be written");
    let open = || File::open(&file).expect("it was written");
    let unpack = || archive::unpack_layer(store, open(), &LIMITS, &Cancel::default());
    let Ok(layer) = unpack() else { return };
    check(store, layer.tree.root);
    assert_eq!(unpack().expect("it could be unpacked before"), layer);
}

fn check(store: &Store, root: Digest) {
    let mut pending = vec![(TreePath::root(), root)];
    let (mut entries, mut files) = (0, BTreeSet::new());
    while let Some((path, digest)) = pending.pop() {
        for (name, node) in store.load(&digest).expect("it is in the store").iter() {
            let path = path.join(name);
            assert_eq!(path.to_string().parse::<TreePath>().as_ref(), Ok(&path));
            entries += 1;
            match node {
                Node::Directory(digest) => pending.push((path, *digest)),
                Node::File { digest, .. } => {
                    files.insert(*digest);
                }
                Node::Symlink(target) => follow(store, root, &path, target),
            }
        }
    }
    // A directory `control` and one `data` are made for packages.
    assert!(entries <= LIMITS.entries + 2, "{entries} entries");
    let bytes: u64 = files.iter().map(Digest::size).sum();
    assert!(bytes <= LIMITS.bytes, "{bytes} bytes");
}

/// Walks as the kernel does, and must not come above the root.
fn follow(store: &Store, root: Digest, link: &TreePath, target: &str) {
    assert!(!target.starts_with('/'), "{link} -> {target}");
    let (above, _) = link.split_last().expect("a link has a name");
    let mut place: Vec<String> = above.names().iter().map(ToString::to_string).collect();
    let mut left: Vec<String> = target.rsplit('/').map(str::to_owned).collect();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => {}
            ".." => assert!(place.pop().is_some(), "{link} -> {target} leads out"),
            _ => {
                place.push(name);
                let Ok(path) = place.join("/").parse::<TreePath>() else {
                    return;
                };
                match ops::lookup(store, &root, &path).expect("it is in the store") {
                    Some(Node::Directory(_)) => {}
                    Some(Node::Symlink(target)) if links < 40 => {
                        links += 1;
                        place.pop();
                        left.extend(target.rsplit('/').map(str::to_owned));
                    }
                    _ => return,
                }
            }
        }
    }
}

/// Metadata of a package in npm's form: what it names is reached over https, without credentials.
pub fn npm_page(bytes: &[u8]) {
    let page = Url::parse("https://registry.example/a").expect("an address");
    check_address(index::npm_tarball(&page, bytes, "1.0.0"));
}

/// A page of a Python index, as JSON and as HTML: as [`npm_page`].
pub fn pypi_page(bytes: &[u8]) {
    for media_type in ["application/vnd.pypi.simple.v1+json", "text/html"] {
        let answer = Answer {
            url: Url::parse("https://registry.example/simple/a/").expect("an address"),
            media_type: media_type.to_owned(),
        };
        check_address(index::pypi_file(&answer, bytes, "a-1.whl"));
    }
}

fn check_address(found: Result<Url, String>) {
    if let Ok(url) = found {
        assert_eq!(url.scheme(), "https");
        assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    }
}
