//! What fuzzing asks of a suite's metadata.

use std::cmp::Ordering;

use super::release::read_release;
use super::resolve::resolve;
use super::signature::signed_text;
use super::version::compare;
use crate::lock::{DebianLock, DebianRequest};
use crate::platform::Arch;
use crate::tree::TreePath;

fn request() -> DebianRequest {
    DebianRequest {
        suite: "bookworm".into(),
        arch: Arch::Amd64,
        packages: vec!["a".into(), "b".into()],
        exclude: vec!["c".into()],
    }
}

/// A `Packages` file: its lock is the same twice, is read back as it was, and names paths below the mirror.
pub fn packages(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(lock) = resolve(&text, &request()) else {
        return;
    };
    assert_eq!(resolve(&text, &request()).expect("it was resolved before"), lock);
    assert_eq!(DebianLock::from_toml(&lock.to_toml()).as_ref(), Ok(&lock));
    for package in &lock.packages {
        let path = package
            .path
            .parse::<TreePath>()
            .expect("a path below the mirror's root");
        assert_eq!(path.to_string(), package.path);
    }
}

/// A signed release file, and the text in it.
pub fn release(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = signed_text(&text).map(|text| read_release(&text, &request()));
    let _ = read_release(&text, &request());
}

/// Versions, one a line: their order is one.
pub fn versions(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let versions: Vec<&str> = text.lines().take(16).collect();
    for a in &versions {
        assert_eq!(compare(a, a), Ordering::Equal, "{a:?}");
        for b in &versions {
            assert_eq!(compare(a, b), compare(b, a).reverse(), "{a:?} {b:?}");
            for c in &versions {
                if compare(a, b).is_le() && compare(b, c).is_le() {
                    assert!(compare(a, c).is_le(), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
}
