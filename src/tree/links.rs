//! Where symlinks lead. Most are judged by their text; one with `..` behind a name is resolved in its tree, as
//! the kernel would: `a/..` is not where `a` is when `a` is a link itself.

use std::collections::VecDeque;

use super::ops::{Error, Result, lookup, walk};
use super::{Directories, Name, Node, TreePath};
use crate::digest::Digest;

/// The most links on the way of one, as in the kernel (`path_resolution(7)`); it follows no more.
const MAX_FOLLOWED: usize = 40;

/// Whether a symlink at `link` with `target` stays inside the tree, going up and down lexically. That is enough
/// unless it is [indirect](is_indirect).
pub fn link_stays_inside(link: &TreePath, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut depth = link.names().len() as isize - 1;
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

/// Whether `target` goes up behind a name, so that what it means depends on what that name is.
pub fn is_indirect(target: &str) -> bool {
    let mut components = target
        .split('/')
        .skip_while(|component| matches!(*component, "" | "." | ".."));
    components.any(|component| component == "..")
}

/// The relative target of a symlink at `link` that leads, inside the tree, to where `target` leads in a root file
/// system: from the root where it is absolute, and never above it.
pub fn link_inside(link: &TreePath, target: &str) -> String {
    let parents: Vec<&str> = link.names().iter().map(Name::as_str).collect();
    let parents = &parents[..parents.len().saturating_sub(1)];
    let mut place = match target.starts_with('/') {
        true => Vec::new(),
        false => parents.to_vec(),
    };
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(place.pop()),
            name => place.push(name),
        }
    }
    relative(parents.len(), &place)
}

/// The target of a link in a directory `depth` below the root that leads to `place`.
fn relative(depth: usize, place: &[&str]) -> String {
    let up = vec![".."; depth];
    match [&up, place].concat().join("/") {
        here if here.is_empty() => ".".to_owned(),
        inside => inside,
    }
}

/// Where an indirect link leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Lead {
    /// To something inside the tree, or that may be added to it.
    Inside,
    /// Above the root. The target leads to the same place, if the root is the root of a file system.
    Outside(String),
    /// Through a name that is not there, so that another tree could decide. The target is what it means if the
    /// name becomes a directory.
    Through(TreePath, String),
}

/// Where the indirect link at `link` leads in the tree `root`.
pub fn lead<D: Directories>(dirs: &D, root: &Digest, link: &TreePath, target: &str) -> Result<Lead, D> {
    let mut here = link
        .split_last()
        .map_or_else(TreePath::root, |(parent, _)| parent);
    let depth = here.names().len();
    let components = |target: &str| -> VecDeque<String> { target.split('/').map(str::to_owned).collect() };
    let mut left = components(target);
    let (mut followed, mut outside, mut through) = (0, false, None);
    while let Some(component) = left.pop_front() {
        match component.as_str() {
            "" | "." => continue,
            ".." => {
                outside |= here.is_root();
                here = here
                    .split_last()
                    .map_or_else(TreePath::root, |(parent, _)| parent);
                continue;
            }
            _ => {}
        }
        // A link keeps to names that a tree can have, or leads nowhere.
        let Ok(name) = Name::new(&component) else { break };
        let path = here.join(&name);
        let goes_up = left.iter().any(|component| component == "..");
        match lookup(dirs, root, &path)? {
            Some(Node::Symlink(target)) if !left.is_empty() => {
                followed += 1;
                if followed > MAX_FOLLOWED {
                    return Ok(Lead::Inside);
                }
                let mut target = components(&target);
                target.append(&mut left);
                left = target;
                continue;
            }
            // Not a directory: the kernel goes no further.
            Some(Node::File { .. }) if goes_up => return Ok(Lead::Inside),
            None if goes_up && through.is_none() => through = Some(path.clone()),
            _ => {}
        }
        here = path;
    }
    let names: Vec<&str> = here.names().iter().map(Name::as_str).collect();
    let target = relative(depth, &names);
    Ok(match (outside, through) {
        (true, _) => Lead::Outside(target),
        (false, Some(path)) => Lead::Through(path, target),
        (false, None) => Lead::Inside,
    })
}

/// Refuses a tree in which a symlink leads out of the root, or through what is not there and up again.
pub fn check_links<D: Directories>(dirs: &D, root: &Digest) -> Result<(), D> {
    let (mut escape, mut indirect) = (None, Vec::new());
    walk(dirs, root, &mut |path, node| {
        if let Node::Symlink(target) = node {
            if !link_stays_inside(path, target) {
                escape.get_or_insert_with(|| (path.clone(), target.clone()));
            } else if is_indirect(target) {
                indirect.push((path.clone(), target.clone()));
            }
        }
    })?;
    match escape {
        Some((path, target)) => Err(Error::Escape { path, target }),
        None => check_indirect(dirs, root, &indirect),
    }
}

/// [`check_links`] for a tree whose indirect links are known, and whose others are known to stay inside.
pub fn check_indirect<D: Directories>(
    dirs: &D,
    root: &Digest,
    links: &[(TreePath, String)],
) -> Result<(), D> {
    for (path, target) in links {
        let (path, target) = (path.clone(), target.clone());
        match lead(dirs, root, &path, &target)? {
            Lead::Inside => {}
            Lead::Outside(_) => return Err(Error::Escape { path, target }),
            Lead::Through(through, _) => {
                return Err(Error::Undecided {
                    path,
                    target,
                    through,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::ops::{merge, place};
    use crate::tree::testing::Memory;

    fn path(text: &str) -> TreePath {
        text.parse().unwrap()
    }

    /// A tree of `links`, and of a file in each of `directories`.
    fn tree(dirs: &Memory, directories: &[&str], links: &[(&str, &str)]) -> Digest {
        let file = || Node::File {
            digest: Digest::of(b""),
            executable: false,
        };
        let files = directories
            .iter()
            .map(|at| place(dirs, file(), &path(&format!("{at}/file"))));
        let links = links
            .iter()
            .map(|(at, target)| place(dirs, Node::Symlink((*target).to_owned()), &path(at)));
        let roots: Vec<_> = files.chain(links).collect::<std::result::Result<_, _>>().unwrap();
        merge(dirs, &roots).unwrap()
    }

    #[test]
    fn links_stay_inside() {
        for (link, target, inside) in [
            ("a", "b", true),
            ("a/b", "../c", true),
            ("a/b", "../../c", false),
            ("a", "..", false),
            ("a/b/c", "../../x/../y", true),
            ("a", "/b", false),
        ] {
            assert_eq!(
                link_stays_inside(&path(link), target),
                inside,
                "{link} -> {target}"
            );
        }
    }

    #[test]
    fn only_what_goes_up_behind_a_name_is_indirect() {
        for (target, indirect) in [
            ("a", false),
            ("../a", false),
            (".././../a/b", false),
            ("a/..", true),
            ("../a/./../b", true),
        ] {
            assert_eq!(is_indirect(target), indirect, "{target}");
        }
    }

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let dirs = Memory::default();
        let check = |directories: &[&str], links: &[(&str, &str)]| {
            let root = tree(&dirs, directories, links);
            check_links(&dirs, &root).map_err(|error| error.to_string())
        };
        assert_eq!(
            check(&["a/b"], &[("x", "a/../y"), ("c/x", "../a/b/../../y")]),
            Ok(())
        );
        for links in [
            &[("a", "."), ("up", "a/.."), ("x", "up/../etc")][..],
            &[("d/a", ".."), ("up", "d/a/.."), ("x", "up/etc")],
            &[("d/a", "../e/.."), ("e/f", ".."), ("up", "d/a/../x")],
            &[("a", "b"), ("b", "c"), ("c", "."), ("up", "a/../x")],
        ] {
            let error = check(&["e"], links).unwrap_err();
            assert!(error.starts_with("symlink `up` -> `"), "{error}");
            assert!(error.ends_with("leaves the tree"), "{error}");
        }
        assert_eq!(
            check(&[], &[("x", "m/../etc")]).unwrap_err(),
            "symlink `x` -> `m/../etc` leads through `m`, which is not there, so that it cannot be known to stay in the tree"
        );
        // What the kernel does not follow leads nowhere.
        assert_eq!(
            check(&["a"], &[("x", "a/file/../../../y"), ("l", "l/../x")]),
            Err("symlink `x` -> `a/file/../../../y` leaves the tree".to_owned())
        );
        assert_eq!(check(&["a"], &[("x", "a/file/../y"), ("l", "l/../x")]), Ok(()));
    }

    #[test]
    fn a_merge_decides_no_link_that_was_checked() {
        let dirs = Memory::default();
        let one = tree(&dirs, &["a"], &[("up", "a/../b")]);
        check_links(&dirs, &one).unwrap();
        let other = tree(&dirs, &[], &[("a", ".")]);
        assert!(merge(&dirs, &[one, other]).is_err());
    }

    #[test]
    fn a_link_out_of_a_root_leads_where_the_root_ends() {
        let dirs = Memory::default();
        let root = tree(&dirs, &["usr/lib"], &[("lib", "usr/lib"), ("a", ".")]);
        let lead = |link: &str, target: &str| lead(&dirs, &root, &path(link), target).unwrap();
        assert_eq!(lead("usr/x", "../lib/../share"), Lead::Inside);
        assert_eq!(lead("usr/x", "../a/../etc"), Lead::Outside("../etc".to_owned()));
        assert_eq!(
            lead("usr/x", "m/../etc"),
            Lead::Through(path("usr/m"), "../usr/etc".to_owned())
        );
    }
}
