//! Mounts that sandboxes and containers are put together from. Each function makes one thing, in the mount
//! namespace of the caller, which must be one of its own.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
};

use super::refusal::{During as _, Result};
use super::sys;

const DEVICES: [&str; 5] = ["full", "null", "random", "urandom", "zero"];

/// What is seen and cannot be written.
pub(crate) const INPUT: u64 = libc::MOUNT_ATTR_RDONLY | OUTPUT;
/// What can be written.
pub(crate) const OUTPUT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

pub(crate) fn tmpfs(at: &Path, options: &str) -> Result<()> {
    let options = CString::new(options).expect("options have no NUL");
    mount(
        "tmpfs",
        at,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(options.as_c_str()),
    )
    .during(|| format!("mount a tmpfs on {}", at.display()))
}

/// The processes of the caller's pid namespace. The kernel allows it only where another one is in sight.
pub(crate) fn proc(at: &Path) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", at, "proc", flags, None).during(|| "mount /proc".to_owned())
}

/// The devices that hold nothing, as a `/dev` on its own file system; `and` adds to it before it is sealed.
pub(crate) fn devices(dev: &Path, and: impl FnOnce() -> Result<()>) -> Result<()> {
    tmpfs(dev, "mode=0755,size=64k,nr_inodes=64")?;
    for name in DEVICES {
        let at = dev.join(name);
        File::create(&at).during(|| format!("create /dev/{name}"))?;
        bind(
            &Path::new("/dev").join(name),
            &at,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
        )?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(target, dev.join(name)).during(|| format!("create /dev/{name}"))?;
    }
    let shm = dev.join("shm");
    fs::create_dir(&shm).during(|| "create /dev/shm".to_owned())?;
    tmpfs(&shm, "mode=1777,size=256m,nr_inodes=64k")?;
    and()?;
    seal(dev)
}

/// Pseudo-terminals of their own, in a `/dev` that is not sealed yet.
pub(crate) fn terminals(dev: &Path) -> Result<()> {
    let pts = dev.join("pts");
    fs::create_dir(&pts).during(|| "create /dev/pts".to_owned())?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"newinstance,ptmxmode=0666,mode=0620";
    mount("devpts", &pts, "devpts", flags, Some(options)).during(|| "mount /dev/pts".to_owned())?;
    symlink("pts/ptmx", dev.join("ptmx")).during(|| "create /dev/ptmx".to_owned())
}

/// Makes the mount at `at` unchangeable; what is mounted on it stays as it is.
pub(crate) fn seal(at: &Path) -> Result<()> {
    let mount = rustix::fs::open(
        at,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .during(|| format!("open {}", at.display()))?;
    sys::set_mount_attributes(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, sys::Reach::One)
        .during(|| format!("seal {}", at.display()))
}

/// Mounts what stands at `from` on `to`, without what is mounted below.
pub(crate) fn bind(from: &Path, to: &Path, attributes: u64) -> Result<()> {
    let step = || format!("bind {} on {}", from.display(), to.display());
    let tree: OwnedFd = open_tree(CWD, from, CLONE).during(step)?;
    sys::set_mount_attributes(tree.as_fd(), attributes, sys::Reach::One).during(step)?;
    attach(&tree, to).during(step)
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// What stands at `from` with all that is mounted below, to be [attached](attach) later.
pub(crate) fn detached(from: &Path, attributes: u64) -> Result<OwnedFd> {
    let step = || format!("bind {}", from.display());
    let flags = CLONE.union(OpenTreeFlags::AT_RECURSIVE);
    let tree: OwnedFd = open_tree(CWD, from, flags).during(step)?;
    sys::set_mount_attributes(tree.as_fd(), attributes, sys::Reach::All).during(step)?;
    Ok(tree)
}

/// Mounts a detached tree on `to`.
pub(crate) fn attach(tree: &OwnedFd, to: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Mounts `lower` on `at` so that writing leaves it as it is: into `upper` of `scratch`, beside which the
/// kernel works in `work`. `name` is what `at` is for whoever reads an error.
pub(crate) fn overlay(at: &Path, name: &str, lower: &Path, scratch: &Path) -> Result<()> {
    let options = format!(
        "userxattr,index=off,xino=off,lowerdir={},upperdir={},workdir={}",
        lower.display(),
        scratch.join("upper").display(),
        scratch.join("work").display()
    );
    let options = CString::new(options).expect("paths of the store have no NUL");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("overlay", at, "overlay", flags, Some(options.as_c_str()))
        .during(|| format!("mount an overlay on {name}"))
}

/// Makes `root` the root of this process's mount namespace, and leaves the old one.
pub(crate) fn pivot(root: &Path) -> Result<()> {
    rustix::process::chdir(root).during(|| "enter the new root".to_owned())?;
    rustix::process::pivot_root(".", ".").during(|| "pivot the root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).during(|| "leave the old root".to_owned())
}
