//! What the store does about files of its own that something else changed.

use std::cell::Cell;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::tests::{flip_a_bit, published, sample, store};
use super::*;
use crate::tree::TreePath;

/// What can happen to a materialized tree.
type Damage = (&'static str, fn(&Path));

fn overwrite(path: &Path, content: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(content).unwrap();
}

const DAMAGES: [Damage; 12] = [
    ("a file is gone", |tree| {
        fs::remove_file(tree.join("sub/file")).unwrap()
    }),
    ("a file is cut in place", |tree| {
        let file = fs::OpenOptions::new().write(true).open(tree.join("sub/file"));
        file.unwrap().set_len(3).unwrap();
    }),
    ("a file is written in place", |tree| {
        overwrite(&tree.join("sub/file"), b"CONTENT")
    }),
    ("an executable is written in place", |tree| {
        overwrite(&tree.join("run"), b"CONTENT")
    }),
    ("a file is another one", |tree| {
        fs::write(tree.join("new"), b"CONTENT").unwrap();
        fs::rename(tree.join("new"), tree.join("sub/file")).unwrap();
        for path in [&tree.join("sub/file"), &tree.join("sub"), tree] {
            disk::touch(path).unwrap();
        }
    }),
    ("a mode is another one", |tree| {
        disk::chmod(&tree.join("run"), 0o644).unwrap()
    }),
    ("a directory has another mode", |tree| {
        disk::chmod(&tree.join("sub"), 0o700).unwrap()
    }),
    ("there is a file too many", |tree| {
        fs::write(tree.join("sub/more"), "").unwrap();
        for path in ["sub/more", "sub"] {
            disk::touch(&tree.join(path)).unwrap();
        }
    }),
    ("a directory is gone", |tree| {
        fs::remove_dir_all(tree.join("sub")).unwrap()
    }),
    ("a directory is a file", |tree| {
        fs::remove_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub"), "").unwrap();
    }),
    ("a link leads elsewhere", |tree| {
        fs::remove_file(tree.join("link")).unwrap();
        std::os::unix::fs::symlink("name", tree.join("link")).unwrap();
    }),
    ("all of it is a file", |tree| {
        fs::remove_dir_all(tree).unwrap();
        fs::write(tree, "").unwrap();
    }),
];

#[test]
fn a_tree_that_is_not_as_it_was_made_is_made_again() {
    for is_recorded in [true, false] {
        for (what, damage) in DAMAGES {
            let (_directory, store) = store();
            let (key, result) = published(&store, "a");
            let root = result.outputs[&TreePath::root()];
            let tree = store.root().join(store.materialize(&root).unwrap());
            damage(&tree);
            if !is_recorded {
                fs::remove_file(store.shape_path(&root)).unwrap();
            }
            // Each run looks once.
            let other = Store::open(store.root()).unwrap();
            if let Err(error) = other.materialize(&root) {
                // The blob was damaged with it, and its result is not believed any more.
                assert!(error.is_lost_content(), "{what}: {error}");
                assert_eq!(other.result(&key).unwrap(), None, "{what}");
                let _ = published(&other, "a");
                other.materialize(&root).unwrap();
            }
            for name in ["", "run", "sub", "sub/file", "link"] {
                let metadata = fs::symlink_metadata(tree.join(name)).unwrap();
                assert!(disk::is_untouched(&metadata), "{what}: {name}");
                if !metadata.is_symlink() {
                    let expected = if name == "sub/file" { 0o644 } else { 0o755 };
                    assert_eq!(metadata.mode() & 0o7777, expected, "{what}: {name}");
                }
            }
            assert_eq!(
                other.ingest(&tree, &IngestLimits::default()).unwrap(),
                root,
                "{what}"
            );
            assert!(other.fsck().unwrap().is_sound(), "{what}");
        }
    }
}

#[test]
fn a_tree_without_a_record_is_checked_and_stays() {
    let (_directory, store) = store();
    let (_, result) = published(&store, "a");
    let root = result.outputs[&TreePath::root()];
    let tree = store.root().join(store.materialize(&root).unwrap());
    let before = fs::metadata(&tree).unwrap().ino();
    let shape = fs::read(store.shape_path(&root)).unwrap();
    for record in ["", "garbage"] {
        fs::write(store.shape_path(&root), record).unwrap();
        Store::open(store.root()).unwrap().materialize(&root).unwrap();
        assert_eq!(fs::metadata(&tree).unwrap().ino(), before);
        assert_eq!(fs::read(store.shape_path(&root)).unwrap(), shape);
    }
}

#[test]
fn a_damaged_executable_copy_is_not_linked() {
    let (_directory, store) = store();
    let (_, result) = published(&store, "a");
    let root = result.outputs[&TreePath::root()];
    let tree = store.root().join(store.materialize(&root).unwrap());
    fs::remove_dir_all(&tree).unwrap();
    flip_a_bit(&store.exec_path(&Digest::of(b"content")));
    let other = Store::open(store.root()).unwrap();
    other.materialize(&root).unwrap();
    assert_eq!(fs::read(tree.join("run")).unwrap(), b"content");
}

#[test]
fn what_was_written_in_place_is_not_made_to_look_sound() {
    let (_directory, store) = store();
    let (_, result) = published(&store, "a");
    let root = result.outputs[&TreePath::root()];
    let tree = store.root().join(store.materialize(&root).unwrap());
    overwrite(&tree.join("sub/file"), b"CONTENT");
    let other = Store::open(store.root()).unwrap();
    // This is all that is asked of a source that did not change in the work tree.
    assert!(!other.keep(&Digest::of(b"content")).unwrap());
    other.put(b"content").unwrap();
    other.materialize(&root).unwrap();
    assert_eq!(fs::read(tree.join("sub/file")).unwrap(), b"content");
}

#[test]
fn work_is_done_again_while_other_content_is_lost() {
    let (_directory, store) = store();
    let (key, result) = published(&store, "a");
    let mut left: Vec<Digest> = (0..7_u8).map(|n| Digest::of(&[n])).collect();
    let notified = Cell::new(0);
    let again = |lost: &[Digest]| notified.set(notified.get() + lost.len());
    let done = store.until_whole(again, || {
        left.pop().map_or(Ok("done"), |lost| Err(Error::Missing(lost)))
    });
    assert_eq!((done.unwrap(), notified.get()), ("done", 7));

    // From now on results are hashed, whatever was found earlier, and all damage is found at once.
    assert_eq!(store.result(&key).unwrap().as_ref(), Some(&result));
    let damaged = ["content", "a"].map(|content| store.blob_path(&Digest::of(content.as_bytes())));
    damaged.iter().for_each(|path| flip_a_bit(path));
    store
        .until_whole(|_| {}, || Err::<(), _>(Error::Missing(Digest::of(b"x"))))
        .unwrap_err();
    assert_eq!(store.result(&key).unwrap(), None);
    assert!(damaged.iter().all(|path| !path.exists()));

    let mut times = 0;
    let ended = store.until_whole(
        |_| {},
        || {
            times += 1;
            Err::<(), _>(Error::Missing(Digest::of(b"never there")))
        },
    );
    assert!(ended.unwrap_err().is_lost_content());
    assert_eq!(times, 2, "what is lost for the second time stays lost");
}

#[test]
fn the_result_of_one_key_is_none_of_another() {
    let (_directory, store) = store();
    let ((one, _), (two, _)) = (published(&store, "one"), published(&store, "two"));
    fs::copy(store.action_path(&one), store.action_path(&two)).unwrap();
    assert_eq!(store.result(&two).unwrap(), None);
    assert!(store.result(&one).unwrap().is_some());
}

#[test]
fn a_format_that_was_lost_comes_back_and_another_one_stays() {
    let (_directory, store) = store();
    let root = store.root().to_owned();
    let format = root.join("FORMAT");
    drop(store);
    for damaged in [None, Some(""), Some("skep"), Some("\0\0\0\0\0\0\0\0\0\0\0\0")] {
        fs::remove_file(&format).unwrap();
        if let Some(text) = damaged {
            fs::write(&format, text).unwrap();
        }
        Store::open(&root).unwrap();
        assert_eq!(fs::read_to_string(&format).unwrap(), "skep store 1\n");
    }
    fs::write(&format, "skep store 2\n").unwrap();
    assert!(matches!(Store::open(&root), Err(Error::Format { .. })));
}

#[test]
fn an_interrupted_process_leaves_removal_to_the_next() {
    let (_directory, store) = store();
    let root = store.root().to_owned();
    drop(store);
    let cancel = Cancel::default();
    let store = Store::open_cancellable(&root, cancel.clone()).unwrap();
    let scratch = store.scratch().unwrap();
    sample(scratch.path());
    cancel.raise();
    drop(scratch);
    drop(store);
    let tmp = root.join("tmp");
    assert_eq!(disk::list(&tmp).unwrap().len(), 1);
    let next = Store::open(&root).unwrap();
    // Only its own, with what it took over.
    assert_eq!(disk::list(&tmp).unwrap().len(), 1);
    next.gc(u64::MAX, &[]).unwrap();
    drop(next);
    assert!(disk::list(&tmp).unwrap().is_empty());
}

#[test]
fn two_that_materialize_one_tree_at_once_both_get_it() {
    const ROUNDS: u32 = 60;
    const FILES: u32 = 24;
    let (_directory, store) = store();
    for round in 0..ROUNDS {
        let scratch = store.scratch().unwrap();
        for file in 0..FILES {
            let path = scratch.path().join(file.to_string());
            fs::write(&path, format!("{round} {file}")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let root = store.ingest(scratch.path(), &IngestLimits::default()).unwrap();
        // As three processes would.
        let others: Vec<Store> = (0..3).map(|_| Store::open(store.root()).unwrap()).collect();
        let start = std::sync::Barrier::new(others.len());
        std::thread::scope(|scope| {
            for other in &others {
                scope.spawn(|| {
                    start.wait();
                    let place = other
                        .materialize(&root)
                        .unwrap_or_else(|error| panic!("{round}: {error}"));
                    assert_eq!(
                        disk::list(&other.root().join(place)).unwrap().len(),
                        FILES as usize
                    );
                });
            }
        });
    }
}

/// Every path of a store, with its modes and owners, without what is just being removed in the background.
fn everything_below(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = vec![(root.to_owned(), fs::symlink_metadata(root).unwrap())];
    let mut next = 0;
    while let Some((path, metadata)) = found.get(next).cloned() {
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let metadata = fs::symlink_metadata(entry.path());
                found.extend(metadata.ok().map(|metadata| (entry.path(), metadata)));
            }
        }
        next += 1;
    }
    assert!(found.len() > 10);
    found
}

#[test]
fn no_directory_is_open_to_other_accounts() {
    let (directory, store) = store();
    let (_, result) = published(&store, "a");
    store.materialize(&result.outputs[&TreePath::root()]).unwrap();
    let scratch = store.scratch().unwrap();
    let inside = |path: &Path| path.components().count() - store.root().components().count();
    // What a tree or a scratch directory holds is as actions see it, or as they left it.
    let is_inside_out = |path: &Path| {
        let is_below = |area: &str| path.starts_with(store.root().join(area));
        (is_below("trees") && inside(path) >= 3)
            || (is_below("tmp") && inside(path) >= 3 && path != scratch.path())
    };
    let check = |store: &Store| {
        for (path, metadata) in everything_below(store.root()) {
            if metadata.is_dir() && !is_inside_out(&path) {
                let mode = metadata.mode() & 0o7777;
                let is_passage = mode == 0o710 && disk::is_root() && metadata.gid() == SANDBOX_UID;
                assert!(mode == 0o700 || is_passage, "{mode:o} {}", path.display());
            }
        }
    };
    check(&store);
    // A store as earlier versions left it.
    for (path, metadata) in everything_below(store.root()) {
        if metadata.is_dir() && inside(&path) <= 1 {
            disk::chmod(&path, 0o755).unwrap();
        }
    }
    check(&Store::open(&directory.path().join("store")).unwrap());
}

#[test]
fn a_directory_of_trees_has_its_permissions_whenever_it_is_seen() {
    let (_directory, store) = store();
    let shards: Vec<PathBuf> = (0..200)
        .map(|n| store.root().join(format!("trees/{n:03}")))
        .collect();
    let is_passage = |metadata: &fs::Metadata| {
        let mode = metadata.mode() & 0o7777;
        match disk::is_root() {
            true => mode == 0o710 && metadata.gid() == SANDBOX_UID,
            false => mode == 0o700,
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for shard in &shards {
                let new = store.lease.fresh();
                fs::write(&new, "").unwrap();
                disk::rename_into(&new, &shard.join("file")).unwrap();
            }
        });
        for shard in &shards {
            let seen = loop {
                if let Ok(metadata) = fs::metadata(shard) {
                    break metadata;
                }
            };
            assert!(is_passage(&seen), "{:o} {}", seen.mode(), shard.display());
        }
    });

    // One that something changed has them again before a sandbox needs it.
    let (_, result) = published(&store, "a");
    let root = result.outputs[&TreePath::root()];
    let tree = store.root().join(store.materialize(&root).unwrap());
    let shard = tree.parent().unwrap();
    disk::chmod(shard, 0o700).unwrap();
    Store::open(store.root()).unwrap().materialize(&root).unwrap();
    assert!(is_passage(&fs::metadata(shard).unwrap()));
}
