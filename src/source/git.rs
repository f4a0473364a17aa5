//! What git says of a work tree. Git runs as a program, without the user's configuration.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;

/// The commit that is checked out, and whether the work tree differs from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The commit's 40 or 64 hexadecimal digits.
    pub commit: String,
    /// Whether a tracked file of the project differs, or an untracked one is not ignored.
    pub dirty: bool,
}

/// Whether `project` lies in a git work tree.
pub(super) fn is_work_tree(project: &Path) -> bool {
    project
        .ancestors()
        .any(|directory| directory.join(".git").exists())
}

/// Names as git writes them: bytes, from the project's root.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) tracked: Vec<Vec<u8>>,
    pub(super) untracked: Vec<Vec<u8>>,
}

/// Tracked files, and untracked ones that the repository's own ignore files do not exclude.
pub(super) fn list(project: &Path) -> Result<Names, Error> {
    let tracked = run(project, &["ls-files", "-z", "--cached"])?;
    let others = ["ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"];
    let untracked = run(project, &others)?;
    let names = |bytes: Vec<u8>| {
        let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.map(<[u8]>::to_vec).collect()
    };
    Ok(Names {
        tracked: names(tracked),
        untracked: names(untracked),
    })
}

/// The files that git tracks, from the project's root; `None` without git.
pub fn tracked(project: &Path) -> Result<Option<BTreeSet<PathBuf>>, Error> {
    if !is_work_tree(project) {
        return Ok(None);
    }
    let names = run(project, &["ls-files", "-z", "--cached"])?;
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(Some(names.map(|name| on_disk(Path::new(""), name)).collect()))
}

/// The revision of the work tree that `project` lies in; `None` without git or before the first commit.
pub fn revision(project: &Path) -> Result<Option<Revision>, Error> {
    if !is_work_tree(project) {
        return Ok(None);
    }
    let Ok(head) = run(project, &["rev-parse", "--verify", "--quiet", "HEAD"]) else {
        return Ok(None);
    };
    let status = run(
        project,
        &["status", "--porcelain", "-z", "--untracked-files=all", "--", "."],
    )?;
    Ok(Some(Revision {
        commit: String::from_utf8_lossy(&head).trim().to_owned(),
        dirty: !status.is_empty(),
    }))
}

fn run(project: &Path, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    // The path is the caller's own choice, so another owner's clone is as good as one's own.
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.excludesFile=",
        ])
        .args(arguments)
        .current_dir(project)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let output = command.output().map_err(|source| Error::NoGit {
        project: project.to_owned(),
        source,
    })?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(Error::Git {
            command: arguments.join(" "),
            project: project.to_owned(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// A name as git writes it, as a path on disk.
pub(super) fn on_disk(project: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    project.join(OsStr::from_bytes(name))
}
