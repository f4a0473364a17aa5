//! A test program that runs once more, as a user who may do less.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Says to the program that this is the second time, and where it finds skep.
const EXE: &str = "SKEP_TEST_EXE";

/// Runs the tests of this program, which tests the program `skep`, as an ordinary user, if they run as root. One of them is
/// `test`, which must have run.
pub fn as_an_ordinary_user(skep: &str, test: &str) {
    if !rustix::process::geteuid().is_root() || std::env::var_os(EXE).is_some() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| {
        let to = directory.path().join(name);
        fs::copy(from, &to).unwrap();
        to
    };
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let skep = copy(Path::new(skep), "skep");
    let output = Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(tests)
        .current_dir(directory.path())
        .env(EXE, skep)
        .env("TMPDIR", directory.path())
        .env("INSTA_UPDATE", "no")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}");
    assert!(log.contains(&format!("{test} ... ok")), "{log}");
}
