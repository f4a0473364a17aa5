//! What tests need of the machine. Under tests/run it is a failure if something is missing; elsewhere a test says so, and
//! is skipped.

use std::path::Path;

/// A shell and a few hundred other programs in one file, linked statically.
pub const BUSYBOX: &str = "/bin/busybox";

/// The architecture that this machine runs, and the other one.
pub const ARCHITECTURES: [&str; 2] = match cfg!(target_arch = "aarch64") {
    true => ["arm64", "amd64"],
    false => ["amd64", "arm64"],
};

/// Whether tests/run runs the tests: everything must be there.
pub fn is_real() -> bool {
    std::env::var_os("SKEP_TEST_REAL").is_some()
}

/// Whether to go on with `what`, which `is_here` or not.
#[track_caller]
pub fn has(is_here: bool, what: &str) -> bool {
    assert!(
        is_here || !is_real(),
        "{what} is missing: run the tests with tests/run"
    );
    if !is_here {
        eprintln!("skipped: {what} is missing (tests/run sees to it)");
    }
    is_here
}

/// Whether to go on with busybox.
#[track_caller]
pub fn has_busybox() -> bool {
    has(Path::new(BUSYBOX).exists(), "busybox-static")
}

/// What tests/run tells of a server. Set and empty where it cannot start one, as without root.
#[track_caller]
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    has(value.is_some(), name);
    let value = value?;
    if value.is_empty() {
        eprintln!("skipped: {name} needs root");
        return None;
    }
    Some(value)
}
