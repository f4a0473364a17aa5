use std::io::Write as _;

use serde_json::json;

use super::*;
use crate::assemble::{layer_bytes, read_index, remember_index, run_builtin};
use crate::image::{INDEX_MEDIA_TYPE, Index, LAYER_FORMAT, MANIFEST_MEDIA_TYPE};
use crate::registry::Sent;
use crate::registry::testing::{Act, Faulty, client, embedded, store};
use crate::tree::Attributes;

const AMD64: &str = "linux/amd64";

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn repository(host: &str) -> Repository {
    format!("{host}/owner/api").parse().unwrap()
}

/// Runs a builtin, and gives what it left.
fn run(store: &Store, argv: Vec<String>, input_root: Digest) -> Digest {
    let result = run_builtin(store, &Action::builtin(argv, input_root)).unwrap();
    result.outputs[&TreePath::root()]
}

fn text(store: &Store, content: &str, executable: bool) -> Node {
    let digest = store.put(content.as_bytes()).unwrap();
    Node::File { digest, executable }
}

/// A tree with attributes, as recipes make them: not always in the one form.
fn tree(store: &Store, entries: Vec<(&str, Node)>, attributes: &[(&str, &str)]) -> Tree {
    let entries = entries.into_iter().map(|(at, node)| (path(at), node));
    let metadata = attributes.iter().map(|(at, json)| {
        let attributes: Attributes = serde_json::from_str(json).unwrap();
        (path(at), attributes)
    });
    let metadata = Metadata(metadata.collect());
    Tree {
        root: ops::collect(store, entries).unwrap(),
        metadata: Some(store.put(&metadata.encode()).unwrap()),
    }
}

fn layers(store: &Store, arch: &str) -> Vec<Tree> {
    let empty = Node::Directory(store.put(b"").unwrap());
    let lower = vec![
        ("usr/bin/tool", text(store, arch, true)),
        ("usr/bin/twin", text(store, arch, true)),
        ("usr/lib/absolute", Node::Symlink("../etc/app".into())),
        ("usr/lib/relative", Node::Symlink("../bin/tool".into())),
        ("etc/app", text(store, "lower", false)),
        ("etc/gone", text(store, "", false)),
        ("tmp", empty.clone()),
        ("data", empty),
    ];
    let lower = tree(
        store,
        lower,
        &[
            ("usr/bin/tool", r#"{"mode":2541,"uid":0}"#),
            ("usr/bin/twin", r#"{"hard_link":"usr/bin/tool"}"#),
            ("usr/lib/absolute", r#"{"target":"/etc/app"}"#),
            ("etc/app", r#"{"mode":384,"uid":7,"gid":8}"#),
            ("tmp", r#"{"mode":1023}"#),
            ("data", r#"{"mode":448,"uid":65532,"gid":65532}"#),
            ("absent", r#"{"uid":1}"#),
        ],
    );
    let upper = vec![
        ("etc/app", text(store, "upper", false)),
        ("etc/.wh.gone", text(store, "", false)),
        ("tmp/x", text(store, "x", false)),
    ];
    vec![lower, tree(store, upper, &[("etc/app", r#"{"mode":420}"#)])]
}

/// Builds an image for two platforms as a build does.
fn build(store: &Store) -> (Index, Digest) {
    let images = ["amd64", "arm64"].map(|arch| {
        let layers: Vec<Digest> = layers(store, arch)
            .into_iter()
            .enumerate()
            .map(|(number, tree)| {
                let metadata = format!("metadata={}", tree.metadata.unwrap());
                let argv = vec!["skep:layer/1".to_owned(), LAYER_FORMAT.to_owned(), metadata];
                let layer = Node::Directory(run(store, argv, tree.root));
                ops::place(store, layer, &path(&format!("layers/{number}"))).unwrap()
            })
            .collect();
        let config = r#"{"entrypoint":["/usr/bin/tool"],"cmd":["a"],"env":{"A":"1=2"},"user":"65532","workdir":"/data",
            "ports":[80],"volumes":["/data"],"labels":{"b":"1"},"stop_signal":"SIGINT"}"#;
        let argv = vec!["skep:image/1".to_owned(), format!("linux/{arch}"), config.to_owned()];
        let image = run(store, argv, ops::merge(store, &layers).unwrap());
        ops::place(store, Node::Directory(image), &path(&format!("images/{arch}"))).unwrap()
    });
    let root = run(
        store,
        vec!["skep:index/1".to_owned()],
        ops::merge(store, &images).unwrap(),
    );
    (read_index(store, &root).unwrap(), root)
}

async fn upload(store: &Arc<Store>, client: &Client, to: &Repository, digest: &Digest) {
    let sent: Sent = Arc::new(|_| ());
    let cancel = Cancel::default();
    client
        .upload(to, store, digest, None, &sent, &cancel)
        .await
        .unwrap();
}

async fn put_manifest(store: &Store, client: &Client, to: &Repository, kind: &'static str, digest: Digest) {
    let bytes = store.read(&digest).unwrap();
    let (reference, cancel) = (digest.into(), Cancel::default());
    let put = client.put_manifest(to, &reference, kind, &bytes, &cancel);
    put.await.unwrap();
}

async fn push(store: &Arc<Store>, client: &Client, index: &Index, to: &Repository) {
    for image in index.images.values() {
        for layer in &image.layers {
            layer_bytes(store, layer).unwrap();
            upload(store, client, to, &layer.digest).await;
        }
        upload(store, client, to, &image.config).await;
        put_manifest(store, client, to, MANIFEST_MEDIA_TYPE, image.manifest).await;
    }
    put_manifest(store, client, to, INDEX_MEDIA_TYPE, index.digest).await;
}

/// The root of `digest` out of the store, or of a registry.
async fn find(
    store: &Arc<Store>,
    from: Option<(&Client, &Repository)>,
    digest: &Digest,
    on: &str,
) -> Result<Root, Error> {
    let origin = from.map(|(client, repository)| Origin { client, repository });
    // Releases name digests without a size.
    let digest = Digest::from_oci(&digest.oci(), 0).unwrap();
    root(store, origin, &digest, platform(on), &Cancel::default()).await
}

fn list(store: &Store, tree: &Tree) -> String {
    let mut paths = Vec::new();
    ops::walk(store, &tree.root, &mut |path, node| {
        paths.push(match node {
            Node::Symlink(target) => format!("{path} -> {target}"),
            _ => path.to_string(),
        });
    })
    .unwrap();
    paths.join("\n")
}

fn metadata(store: &Store, tree: &Tree) -> String {
    let bytes = tree.metadata.map(|digest| store.read(&digest).unwrap());
    String::from_utf8(bytes.unwrap_or_default())
        .unwrap()
        .replace("},", "},\n")
}

#[tokio::test]
async fn what_was_built_here_and_what_was_pulled_have_the_same_root() {
    let (_directory, here) = store();
    let (index, built) = build(&here);
    assert!(matches!(
        find(&here, None, &index.digest, AMD64).await,
        Err(Error::Unknown(_))
    ));
    remember_index(&here, &built).unwrap();
    let root = find(&here, None, &index.digest, AMD64).await.unwrap();
    let image = &index.images[&platform(AMD64)];
    assert_eq!(root.digest, image.manifest);
    insta::assert_snapshot!(list(&here, &root.tree), @"
    data
    etc
    etc/app
    tmp
    tmp/x
    usr
    usr/bin
    usr/bin/tool
    usr/bin/twin
    usr/lib
    usr/lib/absolute -> ../../etc/app
    usr/lib/relative -> ../bin/tool
    ");
    insta::assert_snapshot!(metadata(&here, &root.tree), @r#"
    {"data":{"mode":448,"uid":65532,"gid":65532},
    "usr/bin/tool":{"mode":2541},
    "usr/bin/twin":{"mode":2541,"hard_link":"usr/bin/tool"},
    "usr/lib/absolute":{"target":"/etc/app"}}
    "#);
    insta::assert_snapshot!(format!("{:?}", root.config), @r#"Config { entrypoint: ["/usr/bin/tool"], cmd: ["a"], env: {"A": "1=2"}, user: Some("65532"), workdir: Some("/data"), ports: {"80/tcp"}, volumes: {"/data"}, stop_signal: Some("SIGINT"), labels: {"b": "1"}, healthcheck: None }"#);
    assert_eq!(find(&here, None, &image.manifest, AMD64).await.unwrap(), root);
    let arm = find(&here, None, &index.digest, "linux/arm64").await.unwrap();
    assert_ne!(arm.tree, root.tree);

    let (_registry, _, server) = embedded().await;
    let (client, repository) = (client(), repository(&server.address().to_string()));
    push(&here, &client, &index, &repository).await;
    let (_directory, there) = store();
    let from = Some((&client, &repository));
    assert_eq!(find(&there, from, &index.digest, AMD64).await.unwrap(), root);
    assert_eq!(
        find(&there, from, &index.digest, "linux/arm64").await.unwrap(),
        arm
    );
    // It is all here now, and is not asked for again.
    assert_eq!(find(&there, None, &index.digest, AMD64).await.unwrap(), root);
    assert_eq!(find(&there, None, &image.manifest, AMD64).await.unwrap(), root);
    for (_, file) in files(&there, &root.tree) {
        assert!(there.has(&file));
    }
}

fn files(store: &Store, tree: &Tree) -> Vec<(TreePath, Digest)> {
    let mut files = Vec::new();
    ops::walk(store, &tree.root, &mut |path, node| {
        if let Node::File { digest, .. } = node {
            files.push((path.clone(), *digest));
        }
    })
    .unwrap();
    files
}

#[tokio::test]
async fn a_record_of_which_something_is_lost_is_none() {
    let (_directory, here) = store();
    let (index, built) = build(&here);
    remember_index(&here, &built).unwrap();
    let root = find(&here, None, &index.digest, AMD64).await.unwrap();
    let (_, lost) = files(&here, &root.tree)[0].clone();
    let hex = lost.hex();
    let blob = here.root().join("blobs").join(&hex[..2]).join(&hex);
    let place = here.root().to_owned();
    drop(here);
    std::fs::remove_file(blob).unwrap();
    // What was found complete is known until content goes by collection or repair, which tell of it.
    let store = Arc::new(Store::open(&place).unwrap());
    for complete in std::fs::read_dir(&place).unwrap().flatten() {
        if complete.file_name().to_string_lossy().starts_with("complete.") {
            std::fs::remove_file(complete.path()).unwrap();
        }
    }
    assert!(matches!(
        find(&store, None, &index.digest, AMD64).await,
        Err(Error::Unknown(_))
    ));
}

#[tokio::test]
async fn collection_keeps_images_as_it_keeps_results() {
    let (directory, here) = store();
    let (index, built) = build(&here);
    remember_index(&here, &built).unwrap();
    drop(here);
    let open = || Arc::new(Store::open(&directory.path().join("store")).unwrap());
    // Collection spares what is newer than its own beginning.
    std::thread::sleep(std::time::Duration::from_secs(3));
    open().gc(u64::MAX, &[]).unwrap();
    assert!(find(&open(), None, &index.digest, AMD64).await.is_ok());
    std::thread::sleep(std::time::Duration::from_secs(3));
    open().gc(0, &[]).unwrap();
    assert!(matches!(
        find(&open(), None, &index.digest, AMD64).await,
        Err(Error::Unknown(_))
    ));
}

#[tokio::test]
async fn what_cannot_be_had_is_named() {
    let (_directory, here) = store();
    let (index, built) = build(&here);
    let (_registry, _, server) = embedded().await;
    let (client, repository) = (client(), repository(&server.address().to_string()));
    let from = Some((&client, &repository));
    let shown = |error: Error| error.to_string().replace(repository.host(), "HOST");
    let (_directory, there) = store();
    let error = find(&there, None, &index.digest, AMD64).await.unwrap_err();
    insta::assert_snapshot!(shown(error), @"the image `sha256:be32c4c1eb8acd54ff61752183cc95942b2161995f284b8528c44e556d610e82` is not in this store, and nothing says which registry has it; build it, or push it");
    let error = find(&there, from, &index.digest, AMD64).await.unwrap_err();
    assert!(matches!(error, Error::Gone { .. }));
    insta::assert_snapshot!(shown(error), @"the image `HOST/owner/api@sha256:be32c4c1eb8acd54ff61752183cc95942b2161995f284b8528c44e556d610e82` is gone: `HOST` has no manifest sha256:be32c4c1eb8acd54ff61752183cc95942b2161995f284b8528c44e556d610e82; push it again, or take another release");

    remember_index(&here, &built).unwrap();
    push(&here, &client, &index, &repository).await;
    let arm = index.images[&platform("linux/arm64")].manifest;
    for (store, from) in [(&here, None), (&there, from)] {
        let error = find(store, from, &arm, AMD64).await.unwrap_err();
        assert!(matches!(error, Error::Platform { .. }));
        insta::allow_duplicates! { insta::assert_snapshot!(shown(error), @"the image `sha256:a49eadf5781a558076dde05f073a77fa39d19ad2ccf2d22e465835108e530b58` is not for linux/amd64; it is for linux/arm64"); }
    }
}

/// An image as another tool makes it, in a registry that answers requests for blobs as `act` says.
struct Foreign {
    _registry: Faulty,
    client: Client,
    repository: Repository,
    store: (tempfile::TempDir, Arc<Store>),
}

impl Foreign {
    async fn start(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Foreign {
        let registry = Faulty::start(move |seen| act(&seen.line)).await;
        Foreign {
            client: client(),
            repository: repository(&registry.host),
            store: store(),
            _registry: registry,
        }
    }

    async fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = self.store.1.put(bytes).unwrap();
        upload(&self.store.1, &self.client, &self.repository, &digest).await;
        digest
    }

    async fn manifest(&self, kind: &'static str, document: serde_json::Value) -> Digest {
        let digest = self.store.1.put(document.to_string().as_bytes()).unwrap();
        put_manifest(&self.store.1, &self.client, &self.repository, kind, digest).await;
        digest
    }

    /// An image of layers: media type, bytes, and what they unpack to.
    async fn image(&self, layers: &[(&str, &[u8], &[u8])]) -> Digest {
        let mut described = Vec::new();
        for (media_type, bytes, _) in layers {
            let digest = self.blob(bytes).await;
            described.push(json!({"mediaType": media_type, "digest": digest.oci(), "size": digest.size()}));
        }
        let diff_ids: Vec<_> = layers.iter().map(|(_, _, tar)| Digest::of(tar).oci()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "variant": "v1", "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "config": {"Cmd": ["sh"], "Entrypoint": null, "User": "", "Env": ["B=2", "A="], "Labels": null,
                "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "Retries": 3}},
        });
        let config = self.blob(config.to_string().as_bytes()).await;
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "layers": described,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": config.oci(), "size": config.size()},
        });
        self.manifest(kind, manifest).await
    }

    async fn find(&self, store: &Arc<Store>, digest: &Digest) -> Result<Root, Error> {
        find(store, Some((&self.client, &self.repository)), digest, AMD64).await
    }
}

fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = ::tar::Header::new_gnu();
        header.set_mode(if name.ends_with('/') { 0o1777 } else { 0o644 });
        header.set_uid(5);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        if name.ends_with('/') {
            header.set_entry_type(::tar::EntryType::Directory);
        }
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

#[tokio::test]
async fn images_of_other_tools_are_understood() {
    let foreign = Foreign::start(|_| Act::Pass).await;
    let lower = tar(&[("tmp/", ""), ("a/x", "1"), ("a/y", "1"), ("b/x", "1")]);
    let upper = tar(&[
        ("tmp/new", "2"),
        ("a/.wh.x", ""),
        ("b/.wh..wh..opq", ""),
        ("b/z", "2"),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&lower).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&upper[..], ruzstd::encoding::CompressionLevel::Fastest);
    let image = foreign
        .image(&[(DOCKER, &gzip.finish().unwrap(), &lower), (ZSTD, &zstd, &upper)])
        .await;
    let size = image.size();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": [
        {"mediaType": MANIFEST_MEDIA_TYPE, "digest": image.oci(), "size": size,
            "platform": {"architecture": "unknown", "os": "unknown"}},
        {"mediaType": MANIFEST_MEDIA_TYPE, "digest": image.oci(), "size": size,
            "platform": {"architecture": "arm", "os": "linux", "variant": "v7"}},
        {"mediaType": MANIFEST_MEDIA_TYPE, "digest": image.oci(), "size": size,
            "platform": {"architecture": "amd64", "os": "linux"}},
    ]});
    let index = foreign.manifest(INDEX_MEDIA_TYPE, index).await;
    let (_directory, here) = store();
    let root = foreign.find(&here, &index).await.unwrap();
    insta::assert_snapshot!(list(&here, &root.tree), @"
    a
    a/y
    b
    b/z
    tmp
    tmp/new
    ");
    insta::assert_snapshot!(metadata(&here, &root.tree), @r#"
    {"a/y":{"uid":5},
    "b/z":{"uid":5},
    "tmp":{"mode":1023,"uid":5},
    "tmp/new":{"uid":5}}
    "#);
    insta::assert_snapshot!(format!("{:?}", root.config), @r#"Config { entrypoint: [], cmd: ["sh"], env: {"A": "", "B": "2"}, user: None, workdir: None, ports: {}, volumes: {}, stop_signal: None, labels: {}, healthcheck: Some(Healthcheck { test: ["CMD", "true"], interval: Some(5s), timeout: None, start_period: None, retries: Some(3) }) }"#);
    let error = find(
        &here,
        Some((&foreign.client, &foreign.repository)),
        &index,
        "linux/arm64",
    )
    .await
    .unwrap_err();
    let shown = error.to_string().replace(&index.hex(), "HEX");
    insta::assert_snapshot!(shown, @"the image `sha256:HEX` is not for linux/arm64; it is for linux/arm/v7, linux/amd64");
}

#[tokio::test]
async fn layers_that_are_gone_or_not_what_they_should_be_are_named() {
    let layer = tar(&[("x", "1")]);
    let hex = Digest::of(&layer).hex();
    let missing = hex.clone();
    let foreign = Foreign::start(
        move |line| match line.starts_with("GET") && line.contains(&missing) {
            true => Act::Answer(404, Vec::new(), String::new()),
            false => Act::Pass,
        },
    )
    .await;
    let (_directory, here) = store();
    let image = foreign.image(&[(DOCKER, &layer, &layer)]).await;
    let error = foreign.find(&here, &image).await.unwrap_err();
    let Error::Gone { what, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(what, format!("layer sha256:{hex}"));

    let foreign = Foreign::start(|_| Act::Pass).await;
    let shown = |error: Error| error.to_string().replace(&hex, "LAYER");
    let image = foreign.image(&[(DOCKER, &layer, b"other")]).await;
    let error = foreign.find(&here, &image).await.unwrap_err();
    insta::assert_snapshot!(shown(error), @"the layer `sha256:LAYER`: not a sound archive: it unpacks to sha256:LAYER and not to sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa");
    let image = foreign.image(&[(DOCKER, b"no archive, whatever", b"")]).await;
    let error = foreign.find(&here, &image).await.unwrap_err();
    assert!(matches!(error, Error::Layer { .. }), "{error}");
    let image = foreign
        .image(&[("application/vnd.example", &layer, &layer)])
        .await;
    let error = foreign.find(&here, &image).await.unwrap_err();
    insta::assert_snapshot!(shown(error).replace(&image.hex(), "IMAGE"), @"the image `sha256:IMAGE`: its layer `sha256:LAYER` is of the type `application/vnd.example`, which is not unpacked");
}

#[test]
fn manifests_that_make_no_sense_are_refused() {
    let digest = Digest::of(b"");
    for bytes in [
        "",
        "[]",
        "{}",
        "3",
        r#"{"manifests": [], "layers": []}"#,
        r#"{"config": {"digest": "sha512:00", "size": 1}, "layers": []}"#,
        r#"{"config": {"digest": "sha256:00", "size": -1}, "layers": []}"#,
    ] {
        let error = manifest::Manifest::read(bytes.as_bytes(), &digest).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{bytes}: {error}");
        assert!(Config::read(bytes.as_bytes(), &digest).is_err(), "{bytes}");
    }
}
