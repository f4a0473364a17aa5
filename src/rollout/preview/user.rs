//! Reads the files of an image that say who a container runs as.

use crate::image::account::{self, Account};
use crate::store::Store;
use crate::tree::{Node, Tree, ops};

/// The longest passwd or group file that is looked into, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Looks `wanted` up in the image's `/etc/passwd` and `/etc/group`. The error is for a person.
pub(super) fn resolve(store: &Store, root: &Tree, wanted: &str) -> Result<Account, String> {
    let (passwd, group) = (text(store, root, "etc/passwd")?, text(store, root, "etc/group")?);
    account::resolve(&passwd, &group, wanted)
}

/// A file of the image; empty if it has none.
fn text(store: &Store, root: &Tree, path: &str) -> Result<String, String> {
    let path = path.parse().expect("a plain path");
    let node = ops::lookup(store, &root.root, &path).map_err(|error| error.to_string())?;
    match node {
        Some(Node::File { digest, .. }) if digest.size() <= MAX_FILE => {
            let bytes = store.read(&digest).map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => Ok(String::new()),
    }
}
