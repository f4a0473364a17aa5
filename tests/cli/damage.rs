//! Disks lie: what happens when stored bytes are no longer what they were.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use skep_test_support::has_busybox;

use super::bench::Bench;
use super::verbs::Registry;

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
    if let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
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
    // Found while the layer's bytes are made.
    bench.succeed(&["export", "api", &to]);
    assert_eq!(bench.succeed(&["build"]), digest);
    assert_eq!(bench.skep(&["fsck"]).code, 0);
}

#[test]
fn a_push_sends_what_was_lost_after_it_was_made_again() {
    if !has_busybox() {
        return;
    }
    let bench = bench();
    let built = bench.succeed(&["build"]);
    let digest = built.split_whitespace().nth(1).unwrap();
    let remove = |content: &str| std::fs::remove_file(damage(&bench, content)).unwrap();
    let ways: [(&str, &dyn Fn()); 4] = [
        ("damaged", &|| drop(damage(&bench, "content\nmade\n"))),
        ("lost", &|| remove("content\nmade\n")),
        ("lost with its source", &|| {
            remove("content\nmade\n");
            remove("content\n");
        }),
        ("all lost", &|| {
            for area in ["blobs", "trees", "exec"] {
                std::fs::remove_dir_all(bench.store().join(area)).unwrap();
            }
        }),
    ];
    for (what, happens) in ways {
        // Nothing of it is there already.
        let server = Bench::empty();
        let registry = Registry::start(&server);
        let to = registry.team();
        happens();
        let pushed = bench.skep(&["push", "--to", &to, "--tag", "v1"]);
        assert_eq!(pushed.code, 0, "{what}: {}", pushed.stderr);
        assert_eq!(pushed.stdout, format!("{to}/api:v1@{digest}\n"), "{what}");
        assert_eq!(server.skep(&["fsck"]).code, 0, "{what}");
    }
    // What nothing asked for is still lost.
    bench.skep(&["fsck"]);
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

#[test]
fn whole_areas_may_be_lost_at_once() {
    if !has_busybox() {
        return;
    }
    let bench = bench();
    let digest = bench.succeed(&["build"]);
    let to = bench.beside("layout");
    let ends_right = |what: &str| {
        assert_eq!(bench.succeed(&["build"]), digest, "{what}");
        bench.succeed(&["export", "api", &format!("oci:{}", to.display())]);
        std::fs::remove_dir_all(&to).unwrap();
    };
    for areas in ["blobs", "trees exec", "blobs trees exec notes", "actions"] {
        for area in areas.split(' ') {
            std::fs::remove_dir_all(bench.store().join(area)).unwrap();
        }
        ends_right(areas);
    }
    bench.blobs().iter().for_each(|blob| flip(blob));
    ends_right("a bit of every blob");
    assert_eq!(bench.skep(&["fsck"]).code, 0);
}

/// Answers each request with `content`, until it is dropped.
struct Server {
    address: std::net::SocketAddr,
    listener: std::net::TcpListener,
}

impl Server {
    fn start(content: &'static str) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            listener: listener.try_clone().unwrap(),
        };
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    content.len()
                );
                let _ = stream.write_all(format!("{head}{content}").as_bytes());
            }
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A listener that is shut down accepts nothing any more.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

#[test]
fn what_was_fetched_is_fetched_again_or_named() {
    const CONTENT: &str = "content\n";
    const SHA256: &str = "434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53";
    if !has_busybox() {
        return;
    }
    let server = Server::start(CONTENT);
    let recipe = format!(
        "fetched = fetch_file(sources = [\"http://{}/archive\"], integrity = \"sha256:{SHA256}\", name = \"archive\")\n\
         single(\"api\", sh(\"cat /in/* > /out/copy\", [fetched, source([\"file\"])]))",
        server.address
    );
    let bench = Bench::with_busybox(&recipe);
    bench.write("file", "file\n");
    let digest = bench.succeed(&["build"]);
    let lose = || {
        for area in ["blobs", "trees"] {
            std::fs::remove_dir_all(bench.store().join(area)).unwrap();
        }
    };
    lose();
    assert_eq!(bench.succeed(&["build"]), digest);
    lose();
    drop(server);
    let ran = bench.skep(&["build"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("/archive"), "{}", ran.stderr);
}

#[test]
fn no_other_account_sees_anything_below_a_store() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const OTHER: u32 = 12_345;
    if !has_busybox() || !rustix::process::geteuid().is_root() {
        return;
    }
    for user in [None, Some(23_456)] {
        let bench = bench().belonging_to(user);
        std::fs::set_permissions(bench.root(), std::fs::Permissions::from_mode(0o755)).unwrap();
        bench.succeed(&["build"]);
        let visible = bench.beside("visible");
        std::fs::write(&visible, "").unwrap();
        let mut paths = super::campaign::paths_below(&bench.store());
        assert!(paths.len() > 30);
        paths.push(visible);
        let mut look = std::process::Command::new("/bin/busybox");
        look.args([
            "sh",
            "-c",
            "for path; do [ -e \"$path\" ] && echo \"$path\"; done; ls \"${0}\" && echo listed",
        ]);
        look.arg(bench.store()).args(&paths).uid(OTHER).gid(OTHER);
        let seen = String::from_utf8(look.output().unwrap().stdout).unwrap();
        assert_eq!(
            seen.trim(),
            paths.last().unwrap().display().to_string(),
            "{user:?}"
        );
    }
}
