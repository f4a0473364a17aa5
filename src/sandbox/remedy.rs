//! Why a kernel refuses a sandbox, and what its owner can do about it.

use std::fs;
use std::path::Path;

/// What to do when `step` was refused with `errno`; `None` where nothing better is known than the error.
pub(crate) fn remedy(step: &str, errno: i32) -> Option<String> {
    let refused = matches!(errno, libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EINVAL);
    let about_namespaces = [
        "unshare",
        "write /proc/self",
        "mount /proc",
        "make mounts private",
    ];
    if step.starts_with("mount an overlay") {
        return Some(
            "the store's file system cannot carry an overlay (a container's own overlay, or NFS); set SKEP_STORE to a \
             directory on ext4, xfs, btrfs or tmpfs, such as a mounted volume"
                .to_owned(),
        );
    }
    if !refused || !about_namespaces.iter().any(|prefix| step.starts_with(prefix)) {
        return None;
    }
    let reads = |knob: &str| fs::read_to_string(knob).map(|text| text.trim().to_owned()).ok();
    knob(
        &reads,
        Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists(),
    )
}

fn knob(reads: &dyn Fn(&str) -> Option<String>, in_container: bool) -> Option<String> {
    let is = |path: &str, value: &str| reads(path).is_some_and(|text| text == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return Some(setting("kernel.unprivileged_userns_clone=1"));
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return Some(setting("user.max_user_namespaces=15000"));
    }
    if in_container {
        return Some(
            "this container may not make namespaces; start it with `--security-opt seccomp=unconfined --security-opt \
             systempaths=unconfined` (no further privileges are needed)"
                .to_owned(),
        );
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return Some(setting("kernel.apparmor_restrict_unprivileged_userns=0"));
    }
    None
}

fn setting(assignment: &str) -> String {
    format!("this kernel lets only root make user namespaces; `sudo sysctl -w {assignment}` allows it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_knob_is_named() {
        let with = |path: &'static str, value: &'static str, in_container| {
            knob(
                &move |asked| (asked == path).then(|| value.to_owned()),
                in_container,
            )
        };
        let clone = with("/proc/sys/kernel/unprivileged_userns_clone", "0", false).unwrap();
        assert!(
            clone.contains("sysctl -w kernel.unprivileged_userns_clone=1"),
            "{clone}"
        );
        let count = with("/proc/sys/user/max_user_namespaces", "0", true).unwrap();
        assert!(count.contains("user.max_user_namespaces="), "{count}");
        let apparmor = with(
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            false,
        )
        .unwrap();
        assert!(
            apparmor.contains("apparmor_restrict_unprivileged_userns=0"),
            "{apparmor}"
        );
        let container = with("", "", true).unwrap();
        assert!(container.contains("systempaths=unconfined"), "{container}");
        assert_eq!(with("", "", false), None);
    }

    #[test]
    fn an_overlay_needs_another_file_system() {
        assert!(
            remedy("mount an overlay on /src", libc::EINVAL)
                .unwrap()
                .contains("SKEP_STORE")
        );
        assert_eq!(remedy("bind a on b", libc::EPERM), None);
    }
}
