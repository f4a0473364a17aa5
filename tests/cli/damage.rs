//! Disks lie: what happens when stored bytes are no longer what they were.

use std::path::{Path, PathBuf};

use skep_test_support::has_busybox;

use super::bench::Bench;

/// Flips a bit of the blob that holds `content`.
fn damage(bench: &Bench, content: &str) -> PathBuf {
    let holds = |path: &&PathBuf| std::fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes());
    let blobs = bench.blobs();
    let blob = blobs.iter().find(holds).expect("the blob is there");
    flip(blob);
    blob.clone()
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    // In place: a materialized tree shares the inode.
    std::fs::write(path, bytes).unwrap();
}

fn bench() -> Bench {
    let bench = Bench::with_busybox(
        "single(\"api\", sh(\"cp /in/file /out/copy; echo made >> /out/copy\", [source([\"file\"])]))",
    );
    bench.write("file", "content\n");
    bench
}

#[test]
fn a_blob_that_is_read_is_checked() {
    if !has_busybox() {
        return;
    }
    let bench = bench();
    let digest = bench.succeed(&["build"]);
    damage(&bench, "content\nmade\n");
    let to = format!("oci:{}", bench.beside("layout").display());
    let ran = bench.skep(&["export", "api", &to]);
    // Found while the layer's bytes are made, and nothing is half-written.
    assert!(
        ran.code == 0 || !bench.beside("layout").exists(),
        "{}",
        ran.stderr
    );
    bench.succeed(&["export", "api", &to]);
    assert_eq!(bench.succeed(&["build"]), digest);
    assert_eq!(bench.skep(&["fsck"]).code, 0);
}

#[test]
fn a_tree_that_is_materialized_is_checked() {
    if !has_busybox() {
        return;
    }
    let bench = bench();
    let digest = bench.succeed(&["build"]);
    // No tree of it is on disk any more, and the action has to run again.
    std::fs::remove_dir_all(bench.store().join("trees")).unwrap();
    std::fs::create_dir(bench.store().join("trees")).unwrap();
    damage(&bench, "content\n");
    bench.rewrite(
        "single(\"api\", sh(\"cat /in/file > /out/copy; echo made >> /out/copy\", [source([\"file\"])]))",
    );
    let ran = bench.skep(&["build"]);
    assert_eq!((ran.code, &ran.stdout), (0, &digest), "{}", ran.stderr);
}

#[test]
fn a_mounted_tree_is_checked_by_fsck() {
    if !has_busybox() {
        return;
    }
    let bench = bench();
    let digest = bench.succeed(&["build"]);
    let blob = damage(&bench, "content\n");
    let ran = bench.skep(&["fsck"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.stdout.contains(blob.file_name().unwrap().to_str().unwrap()),
        "{}",
        ran.stdout
    );
    assert_eq!(bench.skep(&["fsck"]).code, 0, "what is damaged is forgotten");
    assert_eq!(bench.succeed(&["build"]), digest);
}
