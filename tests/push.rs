//! Pushes to real registries, read back with skopeo: docker-registry, Gitea, and skep's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use skep::action::Action;
use skep::assemble::{self, Exported, export, layer_bytes, read_index, run_builtin};
use skep::cancel::Cancel;
use skep::digest::Digest;
use skep::event::Events;
use skep::image::{Index, LAYER_FORMAT};
use skep::push::{Error, Kind, LayerError, MakeLayer, Pusher, Report, Subject, Target};
use skep::registry::{Client, Repository, Settings, serve};
use skep::store::Store;
use skep::tree::{Node, TreePath, ops};
use skep_test_support::{Random, has, variable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a layer that is looked for elsewhere before it is sent.
const LARGE: usize = 300_000;

fn has_skopeo() -> bool {
    has(Command::new("skopeo").arg("--version").output().is_ok(), "skopeo")
}

/// A number that no other run has.
fn unique() -> u64 {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed) as u64;
    (now.as_nanos() as u64) ^ (u64::from(std::process::id()) << 40) ^ count
}

fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(|| random.byte()).take(length).collect()
}

// --- images ------------------------------------------------------------------------------------------

struct Bench {
    directory: tempfile::TempDir,
    store: Arc<Store>,
    /// Layers whose bytes were wanted.
    made: Arc<Mutex<Vec<Digest>>>,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        Bench {
            directory,
            store,
            made: Arc::default(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, argv: &[&str], input_root: Digest) -> Digest {
        let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
        let result = run_builtin(&self.store, &Action::builtin(argv, input_root)).unwrap();
        result.outputs[&TreePath::root()]
    }

    /// The record of a layer with one file of noise.
    fn layer(&self, at: &str, length: usize, seed: u64) -> Digest {
        let digest = self.store.put(&noise(length, seed)).unwrap();
        let executable = false;
        let entries = [(path(at), Node::File { digest, executable })];
        let root = ops::collect(&*self.store, entries).unwrap();
        self.run(&["skep:layer/1", LAYER_FORMAT], root)
    }

    /// Two platforms that share the layer `base`, and have a small one each.
    fn index(&self, base: Digest, seed: u64) -> Index {
        let place = |digest, at: &str| ops::place(&*self.store, Node::Directory(digest), &path(at)).unwrap();
        let images = ["amd64", "arm64"].map(|architecture| {
            let own = self.layer(
                "app/program",
                2000 + architecture.len(),
                seed ^ u64::from(architecture == "amd64"),
            );
            let layers = [place(base, "layers/0"), place(own, "layers/1")];
            let layers = ops::merge(&*self.store, &layers).unwrap();
            let config = r#"{"entrypoint":["/app/program"],"user":"65532"}"#;
            let platform = format!("linux/{architecture}");
            let image = self.run(&["skep:image/1", &platform, config], layers);
            place(image, &format!("images/{architecture}"))
        });
        let root = self.run(&["skep:index/1"], ops::merge(&*self.store, &images).unwrap());
        read_index(&self.store, &root).unwrap()
    }

    fn pusher(&self, settings: Settings) -> Pusher {
        let (store, made) = (Arc::clone(&self.store), Arc::clone(&self.made));
        let make: MakeLayer = Arc::new(move |layer| {
            made.lock().unwrap().push(layer.digest);
            layer_bytes(&store, layer).map_err(|error| match error {
                assemble::Error::Store(error) => LayerError::Store(error),
                error => LayerError::Other {
                    kind: Kind::Internal,
                    source: Box::new(error),
                },
            })
        });
        Pusher::new(Arc::clone(&self.store), settings, make, Events::none()).unwrap()
    }

    /// How many layers were made since the last call.
    fn made(&self) -> usize {
        std::mem::take(&mut *self.made.lock().unwrap()).len()
    }
}

/// Configs and layers, each once.
fn blobs(index: &Index) -> BTreeMap<String, u64> {
    let of_image = |image: &skep::image::Image| {
        let layers = image.layers.iter().map(|layer| layer.digest);
        std::iter::once(image.config).chain(layers).collect::<Vec<_>>()
    };
    let all = index.images.values().flat_map(of_image);
    all.map(|digest| (digest.oci(), digest.size())).collect()
}

async fn push(pusher: &Pusher, index: &Index, to: &Repository, tags: [&[&str]; 2]) -> Result<Report, Error> {
    let [tags, moving] = tags.map(|tags| tags.iter().map(|tag| tag.parse().unwrap()).collect());
    let target = Target {
        repository: to.clone(),
        tags,
        moving,
    };
    pusher
        .push(Subject::Index(index), &target, &Cancel::default())
        .await
}

// --- registries --------------------------------------------------------------------------------------

struct Registry {
    host: String,
    owner: String,
    /// User and token.
    login: Option<(String, String)>,
    /// Docker's directory, with that login.
    config: tempfile::TempDir,
}

impl Registry {
    fn new(host: String, owner: &str, login: Option<(String, String)>) -> Registry {
        let config = tempfile::tempdir().unwrap();
        if let Some((user, token)) = &login {
            let auth = base64(&format!("{user}:{token}"));
            let text = format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#);
            std::fs::write(config.path().join("config.json"), text).unwrap();
        }
        Registry {
            host,
            owner: owner.to_owned(),
            login,
            config,
        }
    }

    fn docker() -> Option<Registry> {
        Some(Registry::new(variable("SKEP_TEST_REGISTRY")?, "team", None))
    }

    fn gitea() -> Option<Registry> {
        let (host, user) = (variable("SKEP_TEST_GITEA")?, variable("SKEP_TEST_GITEA_USER")?);
        let token = variable("SKEP_TEST_GITEA_TOKEN")?;
        Some(Registry::new(host, &user.clone(), Some((user, token))))
    }

    fn repository(&self, name: &str) -> Repository {
        let text = format!("{}/{}/{name}", self.host, self.owner);
        text.parse().unwrap()
    }

    fn settings(&self) -> Settings {
        Settings {
            docker_config: Some(self.config.path().to_owned()),
            ..Settings::default()
        }
    }

    async fn named(&self, to: &Repository, reference: &str) -> Option<String> {
        let client = Client::new(self.settings()).unwrap();
        let reference = match Digest::from_oci(reference, 0) {
            Ok(digest) => digest.into(),
            Err(_) => reference.parse::<skep::registry::Tag>().unwrap().into(),
        };
        let found = client.head_manifest(to, &reference, &Cancel::default()).await;
        found.unwrap()
    }

    /// Runs skopeo, with this registry at the place that `side` says: `src-`, `dest-`, or nothing.
    fn skopeo(&self, side: &str, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(arguments);
        command.arg(format!("--{side}tls-verify=false"));
        if let Some((user, token)) = &self.login {
            command.arg(format!("--{side}creds={user}:{token}"));
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo {arguments:?}: {errors}");
        output.stdout
    }

    /// What skopeo reads is byte for byte what was built.
    fn check_with_skopeo(&self, bench: &Bench, index: &Index, to: &Repository, tag: &str, at: &Path) {
        let raw = |reference: String| self.skopeo("", &["inspect", "--raw", &reference]);
        let expected = bench.store.read(&index.digest).unwrap();
        assert!(raw(format!("docker://{to}:{tag}")) == expected);
        assert!(raw(format!("docker://{to}@{}", index.digest.oci())) == expected);
        for image in index.images.values() {
            let expected = bench.store.read(&image.manifest).unwrap();
            assert!(raw(format!("docker://{to}@{}", image.manifest.oci())) == expected);
        }
        let (from, copy) = (
            format!("docker://{to}:{tag}"),
            format!("oci:{}:{tag}", at.display()),
        );
        self.skopeo(
            "src-",
            &["copy", "--quiet", "--all", "--preserve-digests", &from, &copy],
        );
        check_layout(index, at);
    }
}

/// A layout on disk has the index, and the bytes of everything that it names.
fn check_layout(index: &Index, at: &Path) {
    let top = std::fs::read_to_string(at.join("index.json")).unwrap();
    assert!(top.contains(&index.digest.oci()), "{top}");
    let manifests = index.images.values().map(|image| image.manifest);
    let manifests = manifests.chain([index.digest]).map(|digest| digest.oci());
    for digest in manifests.chain(blobs(index).into_keys()) {
        let blob = at.join("blobs").join(digest.replace(':', "/"));
        assert_eq!(Digest::of(&std::fs::read(blob).unwrap()).oci(), digest);
    }
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

// --- what every registry does ------------------------------------------------------------------------

/// Pushes two images that share a layer, in every way that differs.
async fn pushes(registry: &Registry) {
    if !has_skopeo() {
        return;
    }
    let (bench, run) = (Bench::new(), unique());
    let base = bench.layer("base/library", LARGE, run);
    let (first, second) = (bench.index(base, run ^ 2), bench.index(base, run ^ 4));
    let to = registry.repository(&format!("api-{run:x}"));
    let pusher = bench.pusher(registry.settings());

    let report = push(&pusher, &first, &to, [&["v1"], &["latest"]]).await.unwrap();
    let sent = blobs(&first);
    assert_eq!((report.uploaded, report.bytes), (5, sent.values().sum()));
    assert_eq!(bench.made(), 3);
    registry.check_with_skopeo(&bench, &first, &to, "v1", &bench.at("first"));

    let report = push(
        &bench.pusher(registry.settings()),
        &first,
        &to,
        [&["v1"], &["latest"]],
    )
    .await;
    let report = report.unwrap();
    assert_eq!((report.uploaded, report.mounted, report.present), (0, 0, 5));
    assert_eq!(bench.made(), 0);

    // The same layer in another repository, and again in the first.
    let other = registry.repository(&format!("worker-{run:x}"));
    let report = push(&pusher, &second, &other, [&["v1"], &[]]).await.unwrap();
    assert_eq!((report.uploaded, report.mounted, report.present), (4, 1, 0));
    assert_eq!(bench.made(), 2, "two configs and two layers are new");
    registry.check_with_skopeo(&bench, &second, &other, "v1", &bench.at("second"));
    let fresh = bench.pusher(registry.settings());
    let report = push(&fresh, &second, &to, [&["v2"], &["latest"]]).await.unwrap();
    assert_eq!(report.present, 1, "{report:?}");
    assert_eq!(report.uploaded + report.mounted, 4, "{report:?}");

    // The moving tag has moved, and what it named is there.
    for (name, index) in [("v1", &first), ("v2", &second), ("latest", &second)] {
        assert_eq!(
            registry.named(&to, name).await,
            Some(index.digest.oci()),
            "{name}"
        );
        registry.check_with_skopeo(&bench, index, &to, name, &bench.at(name));
    }
    refuses(registry, &bench, &to, base).await;

    // Gitea drops what a tag named when it moves, unless it was put by digest too.
    let moving = registry.repository(&format!("moving-{run:x}"));
    for index in [&first, &second] {
        push(&pusher, index, &moving, [&[], &["latest"]]).await.unwrap();
    }
    assert!(registry.named(&moving, &first.digest.oci()).await.is_some());
}

/// Nothing is sent under a tag that names something else.
async fn refuses(registry: &Registry, bench: &Bench, to: &Repository, base: Digest) {
    let (third, named) = (bench.index(base, unique()), registry.named(to, "v1").await);
    bench.made();
    let pusher = bench.pusher(registry.settings());
    let refused = push(&pusher, &third, to, [&["v3", "v1"], &["latest"]]).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), Kind::Refused);
    assert!(refused.to_string().contains("is there already"), "{refused}");
    assert_eq!(bench.made(), 0);
    assert_eq!(registry.named(to, "v1").await, named);
    assert_eq!(registry.named(to, "v3").await, None);
    let client = Client::new(registry.settings()).unwrap();
    for image in third.images.values() {
        let own = &image.layers[1].digest;
        assert!(!client.has_blob(to, own, &Cancel::default()).await.unwrap());
    }
}

/// What skopeo pushed is there for us too.
async fn knows_what_others_pushed(registry: &Registry) {
    if !has_skopeo() {
        return;
    }
    let (bench, run) = (Bench::new(), unique());
    let index = bench.index(bench.layer("base/library", LARGE, run), run ^ 2);
    let to = registry.repository(&format!("copied-{run:x}"));
    let layout = bench.at("layout");
    export(&bench.store, Exported::Index(&index), "v1", &layout).unwrap();
    let (from, copy) = (
        format!("oci:{}:v1", layout.display()),
        format!("docker://{to}:v1"),
    );
    registry.skopeo(
        "dest-",
        &["copy", "--quiet", "--all", "--preserve-digests", &from, &copy],
    );
    let pusher = bench.pusher(registry.settings());
    let report = push(&pusher, &index, &to, [&["v1"], &["latest"]]).await.unwrap();
    assert_eq!((report.uploaded, report.mounted, report.present), (0, 0, 5));
    assert_eq!(registry.named(&to, "latest").await, Some(index.digest.oci()));
    registry.check_with_skopeo(&bench, &index, &to, "latest", &bench.at("back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_takes_pushes() {
    let Some(registry) = Registry::docker() else {
        return;
    };
    pushes(&registry).await;
    knows_what_others_pushed(&registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gitea_takes_pushes() {
    let Some(registry) = Registry::gitea() else { return };
    pushes(&registry).await;
    knows_what_others_pushed(&registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_registry_takes_pushes() {
    let bench = Bench::new();
    let server = serve(Arc::clone(&bench.store), "127.0.0.1:0".parse().unwrap()).await;
    let server = server.unwrap();
    let registry = Registry::new(server.address().to_string(), "team", None);
    pushes(&registry).await;
    knows_what_others_pushed(&registry).await;
}

// --- a proxy -----------------------------------------------------------------------------------------

/// A proxy before a server: takes down every request's first line, and refuses large bodies.
struct Proxy {
    host: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// `most` is the most bytes of a request's body.
    async fn start(server: &str, most: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (server, lines) = (server.to_owned(), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                let noted = Arc::clone(&noted);
                // Whoever goes away ends it.
                tokio::spawn(async move { pass_on(client, server, most, &noted).await });
            }
        });
        Proxy { host, lines }
    }
}

async fn pass_on(
    mut client: TcpStream,
    mut server: TcpStream,
    most: u64,
    noted: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            length = client.read(&mut up) => {
                let Some(bytes) = up.get(..length?).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
                // A head is small, and comes at once.
                let end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap_or(0);
                let (first, rest) = bytes.split_at(end);
                server.write_all(first).await?;
                if first.ends_with(b" HTTP/1.1") {
                    noted.lock().unwrap().push(String::from_utf8_lossy(first).into_owned());
                    if body_length(rest) > most {
                        client.write_all(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\n\r\n").await?;
                        client.shutdown().await?;
                        while client.read(&mut down).await? > 0 {}
                        return Ok(());
                    }
                    // Gitea then takes the address that it is asked at for its own.
                    server.write_all(b"\r\nX-Forwarded-Proto: http").await?;
                }
                server.write_all(rest).await?;
            }
            length = server.read(&mut down) => {
                let Some(bytes) = down.get(..length?).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
                client.write_all(bytes).await?;
            }
        }
    }
}

fn body_length(head: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_finds_too_large_goes_in_chunks() {
    for registry in [Registry::docker(), Registry::gitea()].into_iter().flatten() {
        // What nginx allows by default.
        let proxy = Proxy::start(&registry.host, 1 << 20).await;
        let (bench, run) = (Bench::new(), unique());
        let base = bench.layer("base/library", 2_500_000, run);
        let index = bench.index(base, run ^ 2);
        let behind = Registry::new(proxy.host.clone(), &registry.owner, registry.login.clone());
        let name = format!("chunks-{run:x}");
        let pusher = bench.pusher(behind.settings());
        let report = push(&pusher, &index, &behind.repository(&name), [&["v1"], &[]]).await;
        assert_eq!(report.unwrap().uploaded, 5);
        let lines = proxy.lines.lock().unwrap().clone();
        let patches = lines.iter().filter(|line| line.starts_with("PATCH ")).count();
        assert_eq!(patches, 3, "{lines:#?}");
        let to = registry.repository(&name);
        if has_skopeo() {
            registry.check_with_skopeo(&bench, &index, &to, "v1", &bench.at("copy"));
        }
    }
}

// --- access ------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn gitea_refuses_whoever_may_not_and_is_not_asked_again() {
    let Some(good) = Registry::gitea() else { return };
    let (user, token) = good.login.clone().unwrap();
    let (bench, run) = (Bench::new(), unique());
    let index = bench.index(bench.layer("base/library", LARGE, run), run ^ 2);
    let wrong = format!("{}0", &token[1..]);
    // May read, and not write.
    let Some(reader) = variable("SKEP_TEST_GITEA_READER") else {
        return;
    };
    for token in [Some(&wrong), Some(&reader), None] {
        let login = token.map(|token| (user.clone(), token.clone()));
        let proxy = Proxy::start(&good.host, u64::MAX).await;
        let host = proxy.host.clone();
        let registry = Registry::new(host.clone(), &good.owner, login.clone());
        let to = registry.repository(&format!("denied-{run:x}"));
        let pusher = bench.pusher(registry.settings());
        let refused = push(&pusher, &index, &to, [&["v1"], &[]]).await.unwrap_err();
        let text = refused.to_string();
        assert_eq!(refused.kind(), Kind::Environment);
        assert!(text.contains("access is refused (401"), "{text}");
        let remedy = match login {
            Some(_) => format!(
                "the credentials for `{host}` are wrong or not enough: `docker login {host}` as somebody who may \
                 do this; a token of Gitea needs the scope `write:package`"
            ),
            None => format!("there are no credentials for `{host}`: `docker login {host}`"),
        };
        assert!(text.contains(&remedy), "{text}");
        let shown = format!("{text} {refused:?}");
        for secret in token
            .into_iter()
            .flat_map(|token| [token.clone(), base64(&format!("{user}:{token}"))])
        {
            assert!(!shown.contains(&secret), "a credential is shown: {shown}");
        }
        let lines = proxy.lines.lock().unwrap().clone();
        let once: BTreeSet<&String> = lines.iter().collect();
        assert!(lines.len() > 1 && once.len() == lines.len(), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.starts_with("GET /v2/token")),
            "{lines:#?}"
        );
        assert_eq!(
            good.named(&good.repository(&format!("denied-{run:x}")), "v1")
                .await,
            None
        );
    }
}
