//! Builds a container's root. Runs in the container's first process, with the privileges of the world.
//!
//! Whatever is named by a path of the container is resolved only after the new root is entered: a link that
//! the program made in an earlier run leads nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_change};

use super::spec::Spec;
use crate::sandbox::mounts::{
    INPUT, OUTPUT, attach, bind, detached, devices, overlay, pivot, proc, seal, terminals, tmpfs,
};
use crate::sandbox::refusal::{During as _, Result};
use crate::tree::{Attributes, TreePath};

/// What is put into the root once that is entered.
struct Attachment {
    at: TreePath,
    kind: Kind,
}

enum Kind {
    Directory(OwnedFd),
    File(OwnedFd),
    Tmpfs { options: String },
}

/// The root file system, and this process in it.
pub(super) fn build(spec: &Spec) -> Result<()> {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    rustix::system::sethostname(spec.hostname.as_bytes()).during(|| "set the host name".to_owned())?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during(|| "make mounts private".to_owned())?;
    let stage = spec.scratch.join("root");
    for directory in ["root", "work", "upper"] {
        let path = spec.scratch.join(directory);
        fs::create_dir_all(&path).during(|| format!("create {}", path.display()))?;
    }
    tmpfs(&stage, "mode=0700,size=64m,nr_inodes=64k")?;
    for directory in ["root", "proc", "dev", "files"] {
        fs::create_dir(stage.join(directory)).during(|| format!("create /{directory}"))?;
    }
    let root = stage.join("root");
    overlay(&root, "/", &spec.rootfs, &spec.scratch)?;
    set_modes(spec, &root)?;
    let attachments = gather(spec, &stage)?;
    let writable = writable(spec);
    let islands = writable.iter().filter(|path| !path.is_root());
    let islands: Vec<&TreePath> = islands.filter(|path| is_plain(&inside(&root, path))).collect();
    pivot(&root)?;
    let new_root = Path::new("/");
    for path in islands {
        let path = inside(new_root, path);
        bind(&path, &path, OUTPUT)?;
    }
    for attachment in attachments {
        put(attachment)?;
    }
    let cwd = inside(new_root, &spec.cwd);
    fs::create_dir_all(&cwd).during(|| format!("create {}", cwd.display()))?;
    match writable.iter().any(TreePath::is_root) {
        true => Ok(()),
        false => seal(new_root),
    }
}

fn inside(root: &Path, path: &TreePath) -> PathBuf {
    match path.is_root() {
        true => root.to_owned(),
        false => root.join(path.to_string()),
    }
}

/// Whether it is there, and no link.
fn is_plain(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() || metadata.is_file())
}

/// The highest paths that the program may write.
fn writable(spec: &Spec) -> Vec<TreePath> {
    if spec.read_only {
        return Vec::new();
    }
    if spec.uid == 0 {
        return vec![TreePath::root()];
    }
    let may_write = |attributes: &Attributes| {
        let mode = attributes.mode.unwrap_or(0o755);
        (attributes.uid == Some(spec.uid) && mode & 0o200 != 0)
            || (attributes.gid == Some(spec.gid) && mode & 0o020 != 0)
            || mode & 0o002 != 0
    };
    let mut found: Vec<TreePath> = Vec::new();
    // A path stands before those below it.
    for (path, attributes) in &spec.metadata.0 {
        if may_write(attributes) && !found.iter().any(|above| path.starts_with(above)) {
            found.push(path.clone());
        }
    }
    found
}

/// Gives the image's modes to its files, which the store keeps under its own. Once: afterwards they are what
/// the program made of them. Until then the overlay holds no link that leaves it.
fn set_modes(spec: &Spec, root: &Path) -> Result<()> {
    let done = spec.scratch.join("modes");
    if done.exists() {
        return Ok(());
    }
    for (path, attributes) in &spec.metadata.0 {
        let Some(mode) = attributes.mode else {
            continue;
        };
        let place = inside(root, path);
        let Ok(metadata) = fs::symlink_metadata(&place) else {
            continue;
        };
        if metadata.is_symlink() || metadata.permissions().mode() & 0o7777 == mode {
            continue;
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))
            .during(|| format!("set the mode of /{path}"))?;
    }
    fs::write(&done, "").during(|| format!("write {}", done.display()))
}

/// Everything that is mounted in the root, outer places first; later ones win where two are the same.
fn gather(spec: &Spec, stage: &Path) -> Result<Vec<Attachment>> {
    let mut places: BTreeMap<TreePath, Kind> = BTreeMap::new();
    let path = |text: &str| text.parse::<TreePath>().expect("a plain path");
    let proc_at = stage.join("proc");
    proc(&proc_at)?;
    // In its own network and ipc namespace a program would be its kernel's administrator.
    let settings = proc_at.join("sys");
    bind(&settings, &settings, INPUT | libc::MOUNT_ATTR_NOEXEC)?;
    places.insert(path("proc"), Kind::Directory(detached(&proc_at, 0)?));
    let dev = stage.join("dev");
    devices(&dev, || terminals(&dev))?;
    places.insert(path("dev"), Kind::Directory(detached(&dev, 0)?));
    for tmpfs in &spec.tmpfs {
        let options = format!("mode={:o},size={}", tmpfs.mode, tmpfs.size);
        places.insert(tmpfs.at.clone(), Kind::Tmpfs { options });
    }
    for mount in &spec.mounts {
        let attributes = if mount.read_only { INPUT } else { OUTPUT };
        let metadata = fs::metadata(&mount.from).during(|| format!("look at {}", mount.from.display()))?;
        let tree = detached(&mount.from, attributes)?;
        let kind = match metadata.is_dir() {
            true => Kind::Directory(tree),
            false => Kind::File(tree),
        };
        places.insert(mount.at.clone(), kind);
    }
    for (n, file) in spec.files.iter().enumerate() {
        let place = stage.join("files").join(n.to_string());
        fs::write(&place, &file.content)
            .and_then(|()| fs::set_permissions(&place, fs::Permissions::from_mode(file.mode)))
            .during(|| format!("write /{}", file.at))?;
        places.insert(file.at.clone(), Kind::File(detached(&place, INPUT)?));
    }
    Ok(places
        .into_iter()
        .map(|(at, kind)| Attachment { at, kind })
        .collect())
}

fn put(Attachment { at, kind }: Attachment) -> Result<()> {
    let place = inside(Path::new("/"), &at);
    let made = match kind {
        Kind::File(_) => make_file(&place),
        Kind::Directory(_) | Kind::Tmpfs { .. } => fs::create_dir_all(&place),
    };
    made.during(|| format!("create /{at}"))?;
    match kind {
        Kind::Directory(tree) | Kind::File(tree) => {
            attach(&tree, &place).during(|| format!("mount on /{at}"))
        }
        Kind::Tmpfs { options } => tmpfs(&place, &options),
    }
}

fn make_file(place: &Path) -> io::Result<()> {
    if place.exists() {
        return Ok(());
    }
    fs::create_dir_all(place.parent().expect("files have names"))?;
    fs::File::create(place).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(mode: u32, uid: u32, gid: u32) -> Attributes {
        Attributes {
            mode: Some(mode),
            uid: Some(uid),
            gid: Some(gid),
            ..Attributes::default()
        }
    }

    #[test]
    fn what_the_user_may_write_is_found() {
        let mut spec = Spec {
            uid: 10,
            gid: 20,
            ..Spec::default()
        };
        for (path, attributes) in [
            ("data", attributes(0o700, 10, 0)),
            ("data/below", attributes(0o700, 0, 0)),
            ("group", attributes(0o770, 0, 20)),
            ("other", attributes(0o775, 0, 0)),
            ("sealed", attributes(0o500, 10, 20)),
            ("tmp", attributes(0o1777, 0, 0)),
        ] {
            spec.metadata.0.insert(path.parse().unwrap(), attributes);
        }
        let found = |spec: &Spec| -> Vec<String> { writable(spec).iter().map(TreePath::to_string).collect() };
        assert_eq!(found(&spec), ["data", "group", "tmp"]);
        spec.read_only = true;
        assert!(found(&spec).is_empty());
        spec.read_only = false;
        spec.uid = 0;
        assert_eq!(found(&spec), [""]);
    }
}
