use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;
use crate::tree::{Directories as _, Directory, Name, Node};

struct Bench {
    directory: tempfile::TempDir,
    store: Arc<Store>,
    cache: GoCache,
    warnings: Arc<Mutex<Vec<String>>>,
}

/// What a [`Peer`] was told, and what became of it.
type Told<T> = Served<T>;

impl Bench {
    fn new() -> Bench {
        Bench::with(None)
    }

    fn with(upstream: Option<Arc<dyn Upstream>>) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        let exe = directory.path().join("exe");
        fs::write(&exe, "a program").unwrap();
        Bench {
            cache: GoCache::new(Arc::clone(&store), exe, upstream),
            directory,
            store,
            warnings: Arc::default(),
        }
    }

    /// `go build` with the distribution of this version.
    fn action(&self, version: &str) -> Action {
        let file = Node::File {
            digest: self.store.put(version.as_bytes()).unwrap(),
            executable: false,
        };
        let toolchain: Directory = [(name("VERSION"), file)].into_iter().collect();
        let toolchain = Node::Directory(self.store.save(&toolchain).unwrap());
        let root: Directory = [(name("go"), toolchain)].into_iter().collect();
        let argv = ["/go/bin/go", "build", "-buildvcs=false", "."].map(str::to_owned);
        let mut action = Action::builtin(argv.into(), self.store.save(&root).unwrap());
        for (name, value) in [("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local")] {
            action.command.env.insert(name.into(), value.into());
        }
        action
    }

    /// The same, run with something that starts other programs.
    fn reader(&self, version: &str) -> Action {
        let mut action = self.action(version);
        action.command.argv.insert(2, "-toolexec=/src/evil".into());
        action
    }

    fn serve<T>(&self, action: &Action, talk: impl FnOnce(&mut Peer) -> T) -> Told<T> {
        let warnings = Arc::clone(&self.warnings);
        let events = Events::new(move |event| {
            if let Event::Warning { message } = event {
                warnings.lock().unwrap().push(message);
            }
        });
        let toolchain = "go".parse().unwrap();
        let served = self.cache.serve(action, &toolchain, "label", &events, |beside| {
            talk(&mut Peer::new(self.store.root(), beside.unwrap()))
        });
        served.unwrap()
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.store.root().join("compiled")).unwrap().count() == 0
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What `go` is to the cache.
struct Peer {
    directory: PathBuf,
    from: BufReader<UnixStream>,
}

impl Peer {
    fn new(root: &Path, beside: &Beside) -> Peer {
        let directory = root.join(&beside.directory);
        let socket = UnixStream::connect(directory.join("socket")).unwrap();
        let mut peer = Peer {
            directory,
            from: BufReader::new(socket),
        };
        assert_eq!(
            peer.answer(),
            json!({"ID": 0, "KnownCommands": ["get", "put", "close"]})
        );
        peer
    }

    fn say(&mut self, text: &str) {
        self.from.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// The bytes under an id, where the cache has any.
    fn get(&mut self, action: u8) -> Option<Vec<u8>> {
        self.say(&format!(
            "{}\n\n",
            json!({"ID": 1, "Command": "get", "ActionID": id(action)})
        ));
        let answer = self.answer();
        if answer["Miss"] == true {
            return None;
        }
        let bytes = fs::read(self.outside(&answer)).unwrap();
        assert_eq!(answer["OutputID"], STANDARD.encode(Digest::of(&bytes).bytes()));
        assert_eq!(answer["Size"].as_u64().unwrap_or(0), bytes.len() as u64);
        Some(bytes)
    }

    fn put_as(&mut self, action: u8, bytes: &[u8], output: [u8; 32]) -> Value {
        let request = json!({"ID": 2, "Command": "put", "ActionID": id(action), "OutputID": STANDARD.encode(output),
            "BodySize": bytes.len()});
        self.say(&format!("{request}\n\n"));
        if !bytes.is_empty() {
            self.say(&format!("\"{}\"\n", STANDARD.encode(bytes)));
        }
        self.answer()
    }

    fn put(&mut self, action: u8, bytes: &[u8]) {
        let answer = self.put_as(action, bytes, Digest::of(bytes).bytes());
        assert_eq!(fs::read(self.outside(&answer)).unwrap(), bytes);
    }

    fn close(&mut self) {
        self.say("{\"ID\":9,\"Command\":\"close\"}\n");
        assert_eq!(self.answer(), json!({"ID": 9}));
    }

    fn outside(&self, answer: &Value) -> PathBuf {
        let path = answer["DiskPath"].as_str().unwrap();
        self.directory.join(path.strip_prefix("/dev/skep/").unwrap())
    }
}

fn id(action: u8) -> String {
    STANDARD.encode([action; 32])
}

const GO: &str = "go1.25.5\ntime 2025-12-02\n";

#[test]
fn what_one_action_compiled_another_finds() {
    let bench = Bench::new();
    let action = bench.action(GO);
    let served = bench.serve(&action, |peer| {
        assert_eq!(peer.get(1), None);
        peer.put(1, b"package");
        peer.put(2, b"");
        peer.put(3, b"package");
        assert_eq!(peer.get(1).unwrap(), b"package");
        peer.close();
    });
    assert_eq!(served.trouble, None);
    let served = bench.serve(&action, |peer| {
        assert_eq!(peer.get(1).unwrap(), b"package");
        assert_eq!(peer.get(2).unwrap(), b"");
        assert_eq!(peer.get(3).unwrap(), b"package");
        assert_eq!(peer.get(4), None);
        peer.close();
    });
    assert_eq!(served.trouble, None);
    assert_eq!(bench.store.fsck().unwrap().compiled, 0);
}

#[test]
fn an_entry_is_linked_and_nothing_is_left_of_the_links() {
    let bench = Bench::new();
    let action = bench.action(GO);
    let blob = bench
        .store
        .root()
        .join(store::blob_place(&Digest::of(b"package")));
    let directory = bench.serve(&action, |peer| {
        peer.put(1, b"package");
        let link = peer.directory.join(Digest::of(b"package").hex());
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&link), inode(&blob));
        peer.close();
        peer.directory.clone()
    });
    assert!(!directory.value.exists());
    // What has no name any more is removed in the background, and by the end of a collection.
    bench.store.gc(u64::MAX, &[]).unwrap();
    assert_eq!(fs::metadata(&blob).unwrap().nlink(), 1);
}

#[test]
fn two_actions_at_once_share_what_either_finishes() {
    let bench = Bench::new();
    let action = bench.action(GO);
    bench.serve(&action, |first| {
        bench.serve(&action, |second| {
            first.put(1, b"package");
            assert_eq!(second.get(1).unwrap(), b"package");
            second.close();
        });
        first.close();
    });
}

#[test]
fn what_two_actions_miss_at_once_one_compiles_and_the_other_waits_for() {
    let bench = &Bench::new();
    std::thread::scope(|scope| {
        bench
            .serve(&bench.action(GO), |one| {
                assert_eq!((one.get(1), one.get(2)), (None, None));
                let other = scope.spawn(|| {
                    bench.serve(&bench.action(GO), |other| {
                        // It may ask on meanwhile, and is answered in whichever order things come.
                        other.say(&format!(
                            "{}\n",
                            json!({"ID": 7, "Command": "get", "ActionID": id(1)})
                        ));
                        assert_eq!(other.get(3), None);
                        other.put(3, b"else");
                        let answer = other.answer();
                        assert_eq!(
                            (&answer["ID"], fs::read(other.outside(&answer)).unwrap()),
                            (&json!(7), b"package".to_vec())
                        );
                        // The other one ends without it.
                        assert_eq!(other.get(2), None);
                        other.close();
                    })
                });
                while bench.is_empty() {
                    std::thread::yield_now();
                }
                // An action that only reads does not wait.
                bench.serve(&bench.reader(GO), |reader| {
                    assert_eq!(reader.get(1), None);
                    reader.close();
                });
                one.put(1, b"package");
                one.close();
                other
            })
            .value
            .join()
            .unwrap();
    });
}

#[test]
fn an_action_that_could_run_anything_else_keeps_its_entries_to_itself() {
    let bench = Bench::new();
    bench.serve(&bench.action(GO), |peer| {
        peer.put(1, b"right");
        peer.close();
    });
    let served = bench.serve(&bench.reader(GO), |peer| {
        assert_eq!(peer.get(1).unwrap(), b"right");
        peer.put(1, b"wrong");
        peer.put(2, b"wrong");
        assert_eq!(peer.get(1).unwrap(), b"wrong");
        assert_eq!(peer.get(2).unwrap(), b"wrong");
        peer.close();
    });
    assert_eq!(served.trouble, None);
    bench.serve(&bench.action(GO), |peer| {
        assert_eq!(peer.get(1).unwrap(), b"right");
        assert_eq!(peer.get(2), None);
        peer.close();
    });
}

#[test]
fn toolchains_that_differ_in_a_byte_share_nothing() {
    let bench = Bench::new();
    bench.serve(&bench.action("go1.25.5\n"), |peer| {
        peer.put(1, b"package");
        peer.close();
    });
    bench.serve(&bench.action("go1.25.5 \n"), |peer| {
        assert_eq!(peer.get(1), None);
        peer.close();
    });
}

#[test]
fn an_index_of_packages_is_kept_for_no_other_action() {
    let bench = Bench::new();
    bench.serve(&bench.action(GO), |peer| {
        peer.put(1, b"go index v2\nwhatever");
        assert!(peer.get(1).is_some());
        peer.close();
    });
    assert!(bench.is_empty());
}

#[test]
fn bytes_under_another_name_are_kept_for_nobody() {
    let bench = Bench::new();
    let served = bench.serve(&bench.action(GO), |peer| {
        let answer = peer.put_as(1, b"package", [7; 32]);
        assert_eq!(answer, Value::Null);
    });
    assert!(served.trouble.unwrap().contains("SHA-256"));
    assert!(bench.is_empty());
}

#[test]
fn lost_and_damaged_entries_are_misses() {
    let bench = Bench::new();
    let action = bench.action(GO);
    let digest = Digest::of(b"package");
    let blob = bench.store.root().join(store::blob_place(&digest));
    let entry = || {
        let compiled = bench.store.root().join("compiled");
        let shard = fs::read_dir(compiled).unwrap().next().unwrap().unwrap();
        let entry = fs::read_dir(shard.path()).unwrap().next().unwrap().unwrap();
        entry.path()
    };
    let harms: [&dyn Fn(); 4] = [
        &|| fs::remove_file(&blob).unwrap(),
        &|| fs::write(&blob, b"pockage").unwrap(),
        &|| fs::write(&blob, b"pack").unwrap(),
        &|| {
            let mut bytes = fs::read(entry()).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(entry(), bytes).unwrap();
        },
    ];
    for harm in harms {
        bench.serve(&action, |peer| {
            peer.put(1, b"package");
            peer.close();
        });
        harm();
        let served = bench.serve(&action, |peer| {
            assert_eq!(peer.get(1), None);
            peer.put(1, b"package");
            assert_eq!(peer.get(1).unwrap(), b"package");
            peer.close();
        });
        assert_eq!(served.trouble, None);
    }
    assert!(bench.store.fsck().unwrap().is_sound());
}

/// As after a day on a disk that lies: this process has not hashed the blob, whose time is as it was.
#[test]
fn bytes_are_checked_whatever_their_time_says() {
    let bench = Bench::new();
    bench.serve(&bench.action(GO), |peer| {
        peer.put(1, b"package");
        peer.close();
    });
    let blob = bench
        .store
        .root()
        .join(store::blob_place(&Digest::of(b"package")));
    let time = fs::metadata(&blob).unwrap().modified().unwrap();
    fs::write(&blob, b"pockage").unwrap();
    fs::File::options()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let other = Arc::new(Store::open(bench.store.root()).unwrap());
    let again = Bench {
        cache: GoCache::new(Arc::clone(&other), bench.directory.path().join("exe"), None),
        store: other,
        directory: tempfile::tempdir().unwrap(),
        warnings: Arc::default(),
    };
    again.serve(&again.action(GO), |peer| {
        assert_eq!(peer.get(1), None);
        peer.close();
    });
    assert!(!blob.exists());
}

#[test]
fn a_helper_that_dies_or_talks_nonsense_is_named() {
    let bench = Bench::new();
    let action = bench.action(GO);
    let died = bench.serve(&action, |peer| {
        peer.from.get_mut().shutdown(std::net::Shutdown::Both).unwrap();
        // Until it has been noticed.
        while fs::read_dir(&peer.directory).is_ok() && peer.answer() != Value::Null {}
        std::thread::sleep(std::time::Duration::from_millis(100));
    });
    assert!(died.trouble.unwrap().contains("ended"));
    let mad = bench.serve(&action, |peer| {
        peer.say("nonsense\n");
        assert_eq!(peer.answer(), Value::Null);
    });
    assert!(mad.trouble.is_some());
    bench.serve(&action, |peer| {
        peer.say(&format!(
            "{}\n\"AAAA",
            json!({"ID": 2, "Command": "put", "ActionID": id(1), "OutputID": id(1), "BodySize": 1000})
        ));
    });
    assert!(bench.is_empty());
}

#[test]
fn a_go_that_asks_no_cache_is_spoken_of_once() {
    let bench = Bench::new();
    let toolchain = "go".parse().unwrap();
    let action = bench.action("go1.23.4\n");
    let warnings = Arc::clone(&bench.warnings);
    let events = Events::new(move |event| {
        if let Event::Warning { message } = event {
            warnings.lock().unwrap().push(message);
        }
    });
    for _ in 0..2 {
        let served = bench
            .cache
            .serve(&action, &toolchain, "label", &events, |beside| beside.is_some());
        assert!(!served.unwrap().value);
    }
    let warnings = bench.warnings.lock().unwrap();
    assert!(
        matches!(&warnings[..], [one] if one.contains("Go 1.23")),
        "{warnings:?}"
    );
}

#[test]
fn an_action_without_a_toolchain_or_with_a_cache_of_its_own_gets_none() {
    let bench = Bench::new();
    let mut own = bench.action(GO);
    own.command.env.insert("GOCACHEPROG".into(), "/src/cache".into());
    let mut bare = bench.action(GO);
    bare.input_root = Digest::of(b"");
    for action in [own, bare] {
        let toolchain = "go".parse().unwrap();
        let served = bench
            .cache
            .serve(&action, &toolchain, "label", &Events::none(), |beside| {
                beside.is_some()
            });
        assert!(!served.unwrap().value);
    }
}

/// A cache on another machine, with one entry.
#[derive(Debug, Default)]
struct Elsewhere {
    known: Mutex<BTreeMap<Fingerprint, Vec<u8>>>,
}

impl Upstream for Elsewhere {
    fn fetch(&self, key: &Fingerprint, store: &Store) -> Option<Compiled> {
        let bytes = self.known.lock().unwrap().get(key)?.clone();
        let mut check = Compiled::hasher();
        check.update(&bytes);
        Some(Compiled {
            digest: store.put(&bytes).ok()?,
            check: check.finish(),
        })
    }

    fn offer(&self, key: &Fingerprint, compiled: &Compiled, store: &Store) {
        let bytes = store.read(&compiled.digest).unwrap();
        self.known.lock().unwrap().insert(*key, bytes);
    }
}

#[test]
fn another_machine_is_offered_entries_and_asked_for_them() {
    let elsewhere = Arc::new(Elsewhere::default());
    let bench = || Bench::with(Some(Arc::clone(&elsewhere) as Arc<dyn Upstream>));
    let (one, other) = (bench(), bench());
    one.serve(&one.action(GO), |peer| {
        peer.put(1, b"package");
        peer.close();
    });
    one.serve(&one.reader(GO), |peer| {
        peer.put(2, b"wrong");
        peer.close();
    });
    assert_eq!(elsewhere.known.lock().unwrap().len(), 1);
    let served = other.serve(&other.action(GO), |peer| {
        assert_eq!(peer.get(1).unwrap(), b"package");
        assert_eq!(peer.get(2), None);
        peer.close();
    });
    assert_eq!(served.trouble, None);
    elsewhere.known.lock().unwrap().clear();
    other.serve(&other.action(GO), |peer| {
        assert_eq!(peer.get(1).unwrap(), b"package", "it stays");
        peer.close();
    });
}
