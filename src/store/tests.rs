use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::action::ActionResult;
use crate::cancel::Cancel;
use crate::tree::TreePath;

pub(super) fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

/// A directory with a file, an executable, a link and a subdirectory.
pub(super) fn sample(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    fs::write(at.join("sub/file"), b"content").unwrap();
    fs::write(at.join("run"), b"content").unwrap();
    fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("sub/file", at.join("link")).unwrap();
}

pub(super) fn published(store: &Store, name: &str) -> (Digest, ActionResult) {
    let scratch = store.scratch().unwrap();
    sample(scratch.path());
    fs::write(scratch.path().join("name"), name).unwrap();
    let root = store.ingest(scratch.path(), &IngestLimits::default()).unwrap();
    let result = ActionResult {
        outputs: BTreeMap::from([(TreePath::root(), root)]),
        ..Default::default()
    };
    let key = Digest::of(name.as_bytes());
    store.publish(&key, &result).unwrap();
    (key, result)
}

pub(super) fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    // In place: the inode, and whatever links to it, is what a disk damages.
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

#[test]
fn blobs_round_trip_and_unfinished_ones_leave_nothing() {
    let (_directory, store) = store();
    let digest = store.put(b"bytes").unwrap();
    assert_eq!(digest, Digest::of(b"bytes"));
    assert_eq!(store.read(&digest).unwrap(), b"bytes");
    let mut writer = store.writer().unwrap();
    writer.write_all(b"by").unwrap();
    writer.write_all(b"tes").unwrap();
    assert_eq!(writer.finish().unwrap(), digest);
    let mut unfinished = store.writer().unwrap();
    unfinished.write_all(b"half").unwrap();
    let path = unfinished.path().to_owned();
    drop(unfinished);
    assert!(!path.exists());
    let missing = Digest::of(b"missing");
    assert!(matches!(store.read(&missing), Err(Error::Missing(digest)) if digest == missing));
}

#[test]
fn a_flipped_bit_is_noticed_when_read_and_forgotten() {
    let (_directory, store) = store();
    for read in [
        |store: &Store, digest: &Digest| store.read(digest).map(drop).unwrap_err().is_lost_content(),
        |store: &Store, digest: &Digest| {
            let mut reader = store.reader(digest).unwrap();
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            reader.error(error).is_lost_content()
        },
    ] {
        let digest = store.put(b"bytes").unwrap();
        flip_a_bit(&store.blob_path(&digest));
        assert!(read(&store, &digest));
        assert!(!store.has(&digest));
    }
}

#[test]
fn a_directory_comes_back_as_it_went_in() {
    let (_directory, store) = store();
    let scratch = store.scratch().unwrap();
    sample(scratch.path());
    let root = store.ingest(scratch.path(), &IngestLimits::default()).unwrap();
    let relative = store.materialize(&root).unwrap();
    assert_eq!(store.materialize(&root).unwrap(), relative);
    let at = store.root().join(relative);
    assert_eq!(fs::read(at.join("link")).unwrap(), b"content");
    let mode = |name: &str| fs::metadata(at.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        [mode("run"), mode("sub/file"), mode("sub"), mode("")],
        [0o755, 0o644, 0o755, 0o755]
    );
    for name in ["", "run", "sub", "sub/file"] {
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(fs::metadata(at.join(name)).unwrap().mtime(), MTIME, "{name}");
    }
    assert_eq!(store.ingest(&at, &IngestLimits::default()).unwrap(), root);
}

#[test]
fn what_no_tree_can_hold_is_refused() {
    let (_directory, store) = store();
    let refusal = |make: &dyn Fn(&Path)| {
        let scratch = store.scratch().unwrap();
        make(scratch.path());
        let limits = IngestLimits {
            max_bytes: 10,
            max_entries: 3,
        };
        store.ingest(scratch.path(), &limits).unwrap_err().to_string()
    };
    let link =
        |target: &'static str| move |at: &Path| std::os::unix::fs::symlink(target, at.join("link")).unwrap();
    insta::assert_snapshot!(refusal(&link("/etc/passwd")), @"`link` is a symlink to `/etc/passwd`, which leaves the output");
    insta::assert_snapshot!(refusal(&link("../x")), @"`link` is a symlink to `../x`, which leaves the output");
    insta::assert_snapshot!(refusal(&|at| fs::write(at.join("big"), [0; 11]).unwrap()), @"more than 10 bytes of output");
    insta::assert_snapshot!(refusal(&|at| for n in 0..4 { fs::write(at.join(n.to_string()), "").unwrap() }), @"more than 3 files of output");
    insta::assert_snapshot!(refusal(&|at| {
        fs::write(at.join("su"), "").unwrap();
        fs::set_permissions(at.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
    }), @"`su` is setuid or setgid");
    insta::assert_snapshot!(refusal(&|at| {
        drop(std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap());
    }), @"`socket` is a socket; an output holds files, directories and symlinks");
    insta::assert_snapshot!(refusal(&|at| {
        use std::os::unix::ffi::OsStrExt as _;
        fs::write(at.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    }), @"`` holds `\u{fffd}`, whose name is not UTF-8 or not allowed in a tree");
}

#[test]
fn scratch_goes_whatever_is_in_it() {
    let (_directory, store) = store();
    let scratch = store.scratch().unwrap();
    let path = scratch.path().to_owned();
    let mut deep = path.clone();
    for _ in 0..40 {
        deep.push("d".repeat(90));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "").unwrap();
    fs::create_dir(path.join("closed")).unwrap();
    fs::write(path.join("closed/file"), "").unwrap();
    fs::set_permissions(path.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    drop(scratch);
    assert!(!path.exists());
    let lease = path.parent().unwrap().to_owned();
    drop(store);
    assert!(!lease.exists());
}

#[test]
fn a_result_counts_only_while_it_is_complete() {
    let (directory, store) = store();
    let (key, result) = published(&store, "a");
    assert_eq!(store.result(&key).unwrap().as_ref(), Some(&result));
    assert_eq!(store.result(&Digest::of(b"other")).unwrap(), None);

    // Another process sees that the generation moved on, and looks for itself.
    let other = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(other.result(&key).unwrap().as_ref(), Some(&result));
    let lost = Digest::of(b"content");
    flip_a_bit(&store.blob_path(&lost));
    assert!(store.read(&lost).unwrap_err().is_lost_content());
    assert_eq!(other.result(&key).unwrap(), None);
    assert_eq!(store.result(&key).unwrap(), None);
}

#[test]
fn a_torn_result_is_a_miss() {
    let (_directory, store) = store();
    let (key, _) = published(&store, "a");
    let path = store.action_path(&key);
    let bytes = fs::read(&path).unwrap();
    for torn in [&bytes[..bytes.len() - 1], &bytes[..10], b""] {
        fs::write(&path, torn).unwrap();
        assert_eq!(store.result(&key).unwrap(), None);
    }
}

#[test]
fn fsck_finds_what_is_only_mounted() {
    let (_directory, store) = store();
    let (key, result) = published(&store, "a");
    let (kept, _) = {
        let digest = store.put(b"alone").unwrap();
        (digest, ())
    };
    let tree = store
        .root()
        .join(store.materialize(&result.outputs[&TreePath::root()]).unwrap());
    assert!(store.fsck().unwrap().is_sound());

    flip_a_bit(&tree.join("run"));
    let report = store.fsck().unwrap();
    let hex = Digest::of(b"content").hex();
    assert_eq!(
        report.damaged,
        [PathBuf::from(format!("exec/{}/{hex}", &hex[..2]))]
    );
    assert!(!tree.exists());
    assert!(store.has(&kept));
    // The blob itself is another inode.
    assert_eq!(store.result(&key).unwrap().as_ref(), Some(&result));
    flip_a_bit(&store.blob_path(&Digest::of(b"content")));
    assert_eq!(store.fsck().unwrap().results, 1);
    assert_eq!(store.result(&key).unwrap(), None);
    fs::write(store.root().join("blobs/README"), "hello").unwrap();
    assert_eq!(store.fsck().unwrap().foreign, [PathBuf::from("blobs/README")]);
    assert!(store.fsck().unwrap().is_sound());
}

/// Makes everything look as if it had been used long ago: the change time is the kernel's, so the leases
/// have to become younger instead.
fn reopened_later(directory: &tempfile::TempDir, store: Store) -> Store {
    drop(store);
    std::thread::sleep(durable::CLOCK_SLACK + Duration::from_millis(50));
    Store::open(&directory.path().join("store")).unwrap()
}

#[test]
fn collection_keeps_the_most_recently_used_within_the_budget() {
    let (directory, store) = store();
    let (old, _) = published(&store, "old");
    std::thread::sleep(Duration::from_millis(20));
    let (recent, result) = published(&store, "recent");
    let unnamed = store.put(b"named by nothing").unwrap();
    store.materialize(&result.outputs[&TreePath::root()]).unwrap();
    assert_eq!(store.gc(0, &[]).unwrap().blobs, 0, "all is newer than the lease");

    let store = reopened_later(&directory, store);
    let spared = Digest::of(b"old");
    // The budget counts what results name, and the executable copy is not one of them.
    let copies = "content".len() as u64;
    let named = store.gc(u64::MAX, &[unnamed]).unwrap().kept - unnamed.size() - copies;
    let report = store.gc(named - 1, &[spared]).unwrap();
    assert_eq!((report.results, report.trees), (1, 0));
    assert!(store.has(&spared) && !store.has(&unnamed));
    assert_eq!(store.result(&old).unwrap(), None);
    assert_eq!(store.result(&recent).unwrap().as_ref(), Some(&result));

    let store = reopened_later(&directory, store);
    let report = store.gc(0, &[]).unwrap();
    assert_eq!((report.results, report.trees, report.kept), (1, 1, 0));
}

#[test]
fn a_hit_protects_from_a_collection_that_runs() {
    let (directory, store) = store();
    let (key, result) = published(&store, "a");
    let store = reopened_later(&directory, store);
    let builder = Store::open(store.root()).unwrap();
    assert_eq!(builder.result(&key).unwrap().as_ref(), Some(&result));
    assert_eq!(store.gc(0, &[]).unwrap().results, 0);
    assert_eq!(builder.result(&key).unwrap().as_ref(), Some(&result));
}

#[test]
fn one_holder_per_key() {
    let (_directory, store) = store();
    let store = Arc::new(store);
    let key = Digest::of(b"key");
    let held = store.lock_key(&key, &Cancel::default()).unwrap();
    let cancelled = Cancel::default();
    cancelled.raise();
    assert!(matches!(store.lock_key(&key, &cancelled), Err(Error::Cancelled)));
    let waiting = std::thread::spawn({
        let store = Arc::clone(&store);
        move || store.lock_key(&key, &Cancel::default()).map(drop)
    });
    drop(held);
    waiting.join().unwrap().unwrap();
    assert!(disk::list(&store.root().join("locks")).unwrap().is_empty());
}

#[test]
fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let (directory, store) = store();
    let scratch = store.scratch().unwrap();
    let dead = directory.path().join("store/tmp/1-dead-0");
    fs::create_dir_all(dead.join("half")).unwrap();
    fs::write(directory.path().join("store/leases/1-dead-0"), "").unwrap();
    let _other = Store::open(&directory.path().join("store")).unwrap();
    assert!(!dead.exists());
    assert!(scratch.path().exists());
}

#[test]
fn after_a_power_cut_what_may_be_torn_is_checked() {
    let (directory, store) = store();
    let (key, _) = published(&store, "a");
    let sound = store.put(b"sound").unwrap();
    let torn = store.put(b"torn").unwrap();
    flip_a_bit(&store.blob_path(&torn));
    let root = store.root().to_owned();
    drop(store);
    fs::write(root.join("boot"), "another boot").unwrap();
    fs::remove_file(root.join("synced")).unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    assert!(store.has(&sound) && !store.has(&torn));
    assert_eq!(store.result(&key).unwrap(), None);
}

#[test]
fn other_directories_are_not_stores() {
    let directory = tempfile::tempdir().unwrap();
    let message = |root: &Path| {
        let message = Store::open(root).unwrap_err().to_string();
        message.replace(
            &directory.path().canonicalize().unwrap().display().to_string(),
            "…",
        )
    };
    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "").unwrap();
    insta::assert_snapshot!(message(&foreign), @"`…/foreign` is not a store: it is not empty, and has no file `FORMAT`; set SKEP_STORE to another directory");
    let future = directory.path().join("future");
    fs::create_dir(&future).unwrap();
    fs::write(future.join("FORMAT"), "skep store 9\n").unwrap();
    insta::assert_snapshot!(message(&future), @"`…/future` is a store of the format `skep store 9`, and this skep reads `skep store 1`; set SKEP_STORE to another directory, or remove it");
    fs::write(directory.path().join("file"), "").unwrap();
    assert!(Store::open(&directory.path().join("file")).is_err());
}

/// An entry of a compiler under a key that `name` gives.
fn compiled(store: &Store, name: &str) -> (crate::digest::Fingerprint, Compiled) {
    let mut check = Compiled::hasher();
    check.update(name.as_bytes());
    let entry = Compiled {
        digest: store.put(name.as_bytes()).unwrap(),
        check: check.finish(),
    };
    let key = crate::digest::Fingerprint::of("skep test", name.as_bytes());
    store.set_compiled(&key, &entry).unwrap();
    (key, entry)
}

#[test]
fn entries_of_compilers_are_collected_with_their_blobs_the_oldest_first() {
    let (directory, store) = store();
    let root = directory.path().join("store");
    let (old, _) = compiled(&store, "old");
    let (mid, _) = compiled(&store, "mid");
    std::thread::sleep(Duration::from_millis(20));
    assert!(store.compiled(&old).unwrap().is_some(), "it is used once more");
    drop(store);
    std::thread::sleep(durable::CLOCK_SLACK + Duration::from_millis(100));
    let store = Store::open(&root).unwrap();
    let (new, _) = compiled(&store, "new");
    // There is room for two, and what a living process uses is one of them.
    let report = store.gc(6, &[]).unwrap();
    assert_eq!((report.compiled, report.blobs), (1, 1));
    assert!(store.compiled(&mid).unwrap().is_none());
    for key in [old, new] {
        let entry = store.compiled(&key).unwrap().unwrap();
        assert!(store.has(&entry.digest));
    }
}

#[test]
fn fsck_reads_entries_of_compilers() {
    let (directory, store) = store();
    let (_, lost) = compiled(&store, "lost");
    let (torn, _) = compiled(&store, "torn");
    let (sound, _) = compiled(&store, "sound");
    fs::remove_file(store.blob_path(&lost.digest)).unwrap();
    let path = directory
        .path()
        .join("store/compiled")
        .join(&torn.hex()[..2])
        .join(torn.hex());
    flip_a_bit(&path);
    let report = store.fsck().unwrap();
    assert_eq!((report.compiled, report.is_sound()), (2, false));
    assert!(store.compiled(&sound).unwrap().is_some());
    assert!(store.fsck().unwrap().is_sound());
}

#[test]
fn a_program_is_copied_once_and_again_when_the_copy_is_lost() {
    let (directory, store) = store();
    let exe = directory.path().join("exe");
    fs::write(&exe, "one").unwrap();
    let place = store.program(&exe).unwrap();
    assert_eq!(fs::read(&place).unwrap(), b"one");
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o755);
    // As after a collection.
    for area in ["blobs", "exec"] {
        fs::remove_dir_all(directory.path().join("store").join(area)).unwrap();
        fs::create_dir(directory.path().join("store").join(area)).unwrap();
    }
    assert_eq!(fs::read(store.program(&exe).unwrap()).unwrap(), b"one");
    fs::write(&exe, "two!").unwrap();
    assert_eq!(fs::read(store.program(&exe).unwrap()).unwrap(), b"two!");
}
