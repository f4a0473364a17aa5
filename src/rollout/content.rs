//! Reads what an environment's files hold, bounded. A file that is not there is made of its example, for a person to
//! fill in; nothing else is written.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::prepare::Error;

/// The content of a file in `root`, of at most `limit` bytes. One that is not there is made of its example, if there is
/// one.
pub(super) fn content_of(root: &Path, path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    match bounded(&root.join(path), limit) {
        Ok(content) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match made(&root.join(path), limit)? {
            true => Err(Error::Made(vec![path.to_owned()])),
            false => Err(Error::User(format!("`{}` does not exist", path.display()))),
        },
        Err(error) => Err(Error::Environment(format!(
            "cannot read `{}`: {error}",
            path.display()
        ))),
    }
}

/// Makes those of `paths` in `root` that are not there and have an example, and says which.
pub(super) fn make_missing(
    root: &Path,
    paths: impl Iterator<Item = PathBuf>,
    limit: u64,
) -> Result<Vec<PathBuf>, Error> {
    let mut all = Vec::new();
    for path in paths {
        let there = fs::symlink_metadata(root.join(&path));
        let missing = there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if missing && made(&root.join(&path), limit)? {
            all.push(path);
        }
    }
    Ok(all)
}

/// Makes a file of its example; false if there is none. Nobody else may read it, for it may get secrets.
fn made(path: &Path, limit: u64) -> Result<bool, Error> {
    let Ok(content) = bounded(&example_of(path), limit) else {
        return Ok(false);
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(&content));
    written.map_err(|error| Error::Environment(format!("cannot write `{}`: {error}", path.display())))?;
    Ok(true)
}

/// `<path>.example`.
pub(super) fn example_of(path: &Path) -> PathBuf {
    let mut example = path.as_os_str().to_owned();
    example.push(".example");
    example.into()
}

/// A file's content; one that is larger than `limit` bytes is an error.
pub(super) fn bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(io::Error::other(format!("it is larger than {limit} bytes"))),
        false => Ok(content),
    }
}
