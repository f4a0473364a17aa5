//! Who a container runs as: `user`, `uid`, and either with `:group` or `:gid`, looked up in the image's own files.

use crate::store::Store;
use crate::tree::{Node, Tree, ops};

/// The longest passwd or group file that is looked into, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Somebody in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Where they are at home; `/` if the image does not know them.
    pub home: String,
}

/// Looks `wanted` up in the image's `/etc/passwd` and `/etc/group`. The error is for a person.
pub(super) fn resolve(store: &Store, root: &Tree, wanted: &str) -> Result<Account, String> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let passwd = text(store, root, "etc/passwd")?;
    let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.len() >= 6 && (fields[0] == user || fields[2] == user));
    let number = |text: &str| text.parse::<u32>().ok();
    let uid = entry
        .as_ref()
        .and_then(|fields| number(fields[2]))
        .or_else(|| number(user));
    let uid = uid.ok_or_else(|| format!("the image's /etc/passwd has no user `{user}`"))?;
    let gid = match group.filter(|group| !group.is_empty()) {
        Some(group) => match number(group) {
            Some(gid) => gid,
            None => of_group(&text(store, root, "etc/group")?, group)?,
        },
        None => entry.as_ref().and_then(|fields| number(fields[3])).unwrap_or(0),
    };
    let home = entry.map_or("/", |fields| fields[5]).to_owned();
    Ok(Account { uid, gid, home })
}

fn of_group(groups: &str, name: &str) -> Result<u32, String> {
    let mut entries = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.len() >= 3 && fields[0] == name);
    let gid = entry.and_then(|fields| fields[2].parse().ok());
    gid.ok_or_else(|| format!("the image's /etc/group has no group `{name}`"))
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
