use std::io::Read as _;

use super::*;
use crate::tree::{Attributes, Metadata};

struct Bench {
    directory: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Bench { directory, store }
    }

    fn blob(&self, content: &str, executable: bool) -> Node {
        let digest = self.store.put(content.as_bytes()).unwrap();
        Node::File { digest, executable }
    }

    /// A tree with one of everything.
    fn tree(&self) -> Tree {
        let long = format!("long/{}/file", "x".repeat(120));
        let entries = [
            (path("bin/tool"), self.blob("#!", true)),
            (path("bin/twin"), self.blob("#!", true)),
            (path("bin/link"), Node::Symlink("tool".into())),
            (path("etc/absolute"), Node::Symlink("../bin/tool".into())),
            (path("tmp"), Node::Directory(self.store.put(b"").unwrap())),
            (path("etc/owned"), self.blob("owned", false)),
            (path(&long), self.blob("", false)),
        ];
        let attributes = |change: &dyn Fn(&mut Attributes)| {
            let mut attributes = Attributes::default();
            change(&mut attributes);
            attributes
        };
        let metadata = Metadata(BTreeMap::from([
            (path("tmp"), attributes(&|a| a.mode = Some(0o1777))),
            (
                path("bin/twin"),
                attributes(&|a| a.hard_link = Some(path("bin/tool"))),
            ),
            (
                path("etc/absolute"),
                attributes(&|a| a.target = Some("/bin/tool".into())),
            ),
            (
                path("etc/owned"),
                attributes(&|a| (a.uid, a.gid, a.mode) = (Some(65532), Some(65532), Some(0o600))),
            ),
        ]));
        Tree {
            root: ops::collect(&self.store, entries).unwrap(),
            metadata: Some(self.store.put(&metadata.encode()).unwrap()),
        }
    }

    fn layer(&self, tree: Tree) -> (Digest, Layer) {
        let mut argv = vec!["skep:layer/1".to_owned(), LAYER_FORMAT.to_owned()];
        argv.extend(tree.metadata.map(|digest| format!("metadata={digest}")));
        let root = self.run(argv, tree.root);
        (root, read_record(&self.store, &root, "layer.json").unwrap())
    }

    fn run(&self, argv: Vec<String>, input_root: Digest) -> Digest {
        run_builtin(&self.store, &Action::builtin(argv, input_root))
            .unwrap()
            .outputs[&TreePath::root()]
    }

    fn index(&self) -> Index {
        let (layer, _) = self.layer(self.tree());
        let images = ["linux/amd64", "linux/arm64"].map(|platform| {
            let layers = ops::place(&self.store, Node::Directory(layer), &path("layers/0")).unwrap();
            let config = r#"{"entrypoint":["/bin/tool"],"ports":[80,8000],"labels":{"b":"1","a":"2","c":"3"},"user":"65532"}"#;
            let argv = ["skep:image/1", platform, config].map(str::to_owned).into();
            let at = path(&format!("images/{}", &platform[6..]));
            ops::place(&self.store, Node::Directory(self.run(argv, layers)), &at).unwrap()
        });
        let root = self.run(
            vec!["skep:index/1".into()],
            ops::merge(&self.store, &images).unwrap(),
        );
        read_index(&self.store, &root).unwrap()
    }
}

#[test]
fn a_layer_is_an_archive_of_its_tree() {
    let bench = Bench::new();
    let (_, layer) = bench.layer(bench.tree());
    layer_bytes(&bench.store, &layer).unwrap();
    let compressed = bench.store.read(&layer.digest).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&compressed[..])
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(Digest::of(&bytes), layer.diff_id);
    let mut archive = ::tar::Archive::new(&bytes[..]);
    let lines: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            format!(
                "{:?} {:o} {}:{} {} {}{}",
                header.entry_type(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap(),
                entry
                    .path()
                    .unwrap()
                    .display()
                    .to_string()
                    .replace(&"x".repeat(120), "x…"),
                entry
                    .link_name()
                    .unwrap()
                    .map(|target| format!(" -> {}", target.display()))
                    .unwrap_or_default()
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    Directory 755 0:0 315532800 bin/
    Symlink 777 0:0 315532800 bin/link -> tool
    Regular 755 0:0 315532800 bin/tool
    Link 755 0:0 315532800 bin/twin -> bin/tool
    Directory 755 0:0 315532800 etc/
    Symlink 777 0:0 315532800 etc/absolute -> /bin/tool
    Regular 600 65532:65532 315532800 etc/owned
    Directory 755 0:0 315532800 long/
    Directory 755 0:0 315532800 long/x…/
    Regular 644 0:0 315532800 long/x…/file
    Directory 1777 0:0 315532800 tmp/
    ");
}

#[test]
fn layer_bytes_are_made_when_needed_and_checked() {
    let bench = Bench::new();
    let (_, mut layer) = bench.layer(bench.tree());
    assert!(!bench.store.has(&layer.digest));
    layer_bytes(&bench.store, &layer).unwrap();
    assert!(bench.store.has(&layer.digest));
    layer.digest = Digest::of(b"other");
    assert!(matches!(
        layer_bytes(&bench.store, &layer),
        Err(Error::Unreproducible { .. })
    ));
}

#[test]
fn an_image_is_described_in_canonical_json() {
    let bench = Bench::new();
    let index = bench.index();
    let image = index.images.values().next_back().unwrap();
    let text = |digest: &Digest| String::from_utf8(bench.store.read(digest).unwrap()).unwrap();
    insta::assert_snapshot!(text(&image.config), @r#"{"architecture":"arm64","config":{"Entrypoint":["/bin/tool"],"ExposedPorts":{"80/tcp":{},"8000/tcp":{}},"Labels":{"a":"2","b":"1","c":"3"},"User":"65532"},"created":"1980-01-01T00:00:00Z","os":"linux","rootfs":{"diff_ids":["sha256:b9d70999ad407909b1fd2a2ac360b0f191c8096cf29172d595ddbdffe053aac3"],"type":"layers"}}"#);
    insta::assert_snapshot!(text(&image.manifest), @r#"{"config":{"digest":"sha256:feb96981436f2a627834eb63beb429ed3f1da8978e4b5f5cf4f35afb06060cb2","mediaType":"application/vnd.oci.image.config.v1+json","size":315},"layers":[{"digest":"sha256:a5192decfa59226702b3cbfdfbbf307f0c104464a4dca6f61cd0294052efc065","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":337}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#);
    insta::assert_snapshot!(text(&index.digest), @r#"{"manifests":[{"digest":"sha256:8440d53920c9bc0b57389b21503fa72cadb1247841a2c902ca59675a824e20ec","mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"architecture":"amd64","os":"linux"},"size":401},{"digest":"sha256:ba127a9c106302f6756aa5361dcad9f69cc79189d69c268a28567e8c6f094686","mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"architecture":"arm64","os":"linux"},"size":401}],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#);
}

#[test]
fn an_export_is_complete_or_absent() {
    let bench = Bench::new();
    let index = bench.index();
    let at = bench.directory.path().join("layout");
    export(&bench.store, Exported::Index(&index), "api", &at).unwrap();
    let blobs: Vec<_> = std::fs::read_dir(at.join("blobs/sha256")).unwrap().collect();
    assert_eq!(blobs.len(), 6, "an index, two manifests and configs, one layer");
    for blob in blobs {
        let blob = blob.unwrap();
        let digest = Digest::of(&std::fs::read(blob.path()).unwrap());
        assert_eq!(digest.hex(), blob.file_name().to_str().unwrap());
    }
    let error = export(&bench.store, Exported::Index(&index), "api", &at).unwrap_err();
    assert!(matches!(error, Error::Occupied(_)));
    let blob = index.images.values().next().unwrap().config;
    std::fs::write(
        bench
            .store
            .root()
            .join("blobs")
            .join(&blob.hex()[..2])
            .join(blob.hex()),
        "rotten",
    )
    .unwrap();
    let again = bench.directory.path().join("again");
    assert!(export(&bench.store, Exported::Index(&index), "api", &again).is_err());
    let left: Vec<_> = std::fs::read_dir(bench.directory.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn other_versions_are_not_guessed() {
    let bench = Bench::new();
    let argv = vec!["skep:layer/2".to_owned(), LAYER_FORMAT.to_owned()];
    let error = run_builtin(&bench.store, &Action::builtin(argv, Digest::of(b""))).unwrap_err();
    insta::assert_snapshot!(error, @"unknown builtin `skep:layer/2 tar=gnu/1 gzip=zlib-rs-0.6.8/6/1MiB`; another version of skep made this plan");
}
