use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::image::{CONFIG_MEDIA_TYPE, LAYER_MEDIA_TYPE};
use crate::platform::Platform;
use crate::registry::testing::*;
use crate::store::Lost as _;
use crate::tree::Tree;

/// Longer than what is sent without a look elsewhere.
const LARGE: usize = 100_000;

/// Images in a store, with layers whose bytes come to be when they are made.
struct Bench {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    layers: Arc<Mutex<HashMap<Digest, Vec<u8>>>>,
    made: Arc<Mutex<Vec<Digest>>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    fn new() -> Bench {
        let (directory, store) = store();
        Bench {
            _directory: directory,
            store,
            layers: Arc::default(),
            made: Arc::default(),
            events: Arc::default(),
        }
    }

    fn layer(&self, length: usize, seed: u64) -> Layer {
        let bytes = noise(length, seed);
        let digest = Digest::of(&bytes);
        self.layers.lock().unwrap().insert(digest, bytes);
        Layer {
            digest,
            diff_id: digest,
            tree: Tree {
                root: Digest::of(b""),
                metadata: None,
            },
            format: "test".to_owned(),
        }
    }

    fn put(&self, document: serde_json::Value) -> Digest {
        self.store.put(document.to_string().as_bytes()).unwrap()
    }

    fn image(&self, platform: &str, layers: &[&Layer]) -> Image {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.oci()).collect();
        let config = self.put(json!({ "platform": platform, "rootfs": { "diff_ids": diff_ids } }));
        let described: Vec<_> = layers
            .iter()
            .map(|layer| descriptor(LAYER_MEDIA_TYPE, &layer.digest))
            .collect();
        let manifest = self.put(json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "config": descriptor(CONFIG_MEDIA_TYPE, &config),
            "layers": described,
        }));
        Image {
            platform: platform.parse().unwrap(),
            manifest,
            config,
            layers: layers.iter().copied().cloned().collect(),
        }
    }

    /// Two platforms that share a large layer, and have a small one each.
    fn index(&self, seed: u64) -> Index {
        let shared = self.layer(LARGE, seed);
        let images = ["linux/amd64", "linux/arm64"].map(|platform| {
            let own = self.layer(
                1000 + platform.len(),
                seed ^ u64::from(platform.ends_with("amd64")),
            );
            self.image(platform, &[&shared, &own])
        });
        self.index_of(images)
    }

    fn index_of<const N: usize>(&self, images: [Image; N]) -> Index {
        let described: Vec<_> = images
            .iter()
            .map(|image| descriptor(MANIFEST_MEDIA_TYPE, &image.manifest))
            .collect();
        let digest = self.put(json!({
            "schemaVersion": 2,
            "mediaType": INDEX_MEDIA_TYPE,
            "manifests": described,
        }));
        let images = images.map(|image| (image.platform, image));
        Index {
            digest,
            images: BTreeMap::from(images),
        }
    }

    /// A pusher that makes layers of what [`Bench::layer`] said.
    fn pusher(&self) -> Pusher {
        let (layers, made) = (Arc::clone(&self.layers), Arc::clone(&self.made));
        let store = Arc::clone(&self.store);
        self.pusher_that(move |layer| {
            made.lock().unwrap().push(layer.digest);
            if !store.has(&layer.digest) {
                store.put(&layers.lock().unwrap()[&layer.digest])?;
            }
            Ok(())
        })
    }

    fn pusher_that(&self, make: impl Fn(&Layer) -> Result<(), LayerError> + Send + Sync + 'static) -> Pusher {
        let events = Arc::clone(&self.events);
        Pusher {
            client: client(),
            store: Arc::clone(&self.store),
            make: Arc::new(make),
            events: Events::new(move |event| events.lock().unwrap().push(event)),
            places: Mutex::default(),
            making: Semaphore::new(MAKING),
        }
    }

    fn made(&self) -> BTreeSet<Digest> {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        let unique: BTreeSet<Digest> = made.iter().copied().collect();
        assert_eq!(made.len(), unique.len(), "a layer was made twice: {made:?}");
        unique
    }

    fn damage(&self, digest: &Digest) {
        let hex = digest.hex();
        let path = self.store.root().join("blobs").join(&hex[..2]).join(&hex);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

fn descriptor(media_type: &str, digest: &Digest) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest.oci(), "size": digest.size() })
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn target(repository: &Repository, tags: &[&str], moving: &[&str]) -> Target {
    let parsed = |tags: &[&str]| tags.iter().map(|text| tag(text)).collect();
    Target {
        repository: repository.clone(),
        tags: parsed(tags),
        moving: parsed(moving),
    }
}

async fn push(pusher: &Pusher, index: &Index, target: &Target) -> Result<Report, Error> {
    pusher.push(Subject::Index(index), target, &never()).await
}

/// What a tag or digest names there.
async fn named(repository: &Repository, reference: impl Into<Reference>) -> Option<String> {
    let (client, reference) = (client(), reference.into());
    let found = client.head_manifest(repository, &reference, &never()).await;
    found.unwrap()
}

/// Requests that change something, in order.
fn changes(faulty: &Faulty) -> Vec<String> {
    let lines = faulty.seen().into_iter().map(|seen| seen.line);
    lines.filter(|line| !line.starts_with("HEAD ")).collect()
}

/// A registry that can be relied on.
async fn sound() -> Faulty {
    Faulty::start(|_| Act::Pass).await
}

#[tokio::test]
async fn an_index_comes_whole_and_its_tags_last() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (index, to) = (bench.index(1), faulty.repository());
    let target = target(&to, &["v1"], &["latest"]);
    let report = push(&bench.pusher(), &index, &target).await.unwrap();
    let blobs: BTreeMap<Digest, Blob<'_>> = index.images.values().flat_map(image_blobs).collect();
    assert_eq!(blobs.len(), 5, "two configs, two layers, and one for both");
    assert_eq!(
        report,
        Report {
            repository: to.clone(),
            digest: index.digest.oci(),
            tags: vec![tag("v1"), tag("latest")],
            bytes: blobs.keys().map(Digest::size).sum(),
            present: 0,
            mounted: 0,
            uploaded: 5,
        }
    );

    let lines = changes(&faulty);
    let puts: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("PUT /v2/owner/api/manifests/"))
        .collect();
    let mut children: Vec<String> = index.images.values().map(|image| image.manifest.oci()).collect();
    let mut first = puts[..2].to_vec();
    children.sort();
    first.sort_unstable();
    assert_eq!(first, children);
    assert_eq!(puts[2..], [index.digest.oci().as_str(), "v1", "latest"]);
    let last_blob = lines.iter().rposition(|line| line.contains("/blobs/")).unwrap();
    assert_eq!(
        last_blob,
        lines.len() - puts.len() - 1,
        "no blob after a manifest"
    );

    let client = client();
    for digest in blobs.keys() {
        assert!(client.has_blob(&to, digest, &never()).await.unwrap());
    }
    let manifests = index.images.values().map(|image| image.manifest.into());
    let names = [index.digest.into(), tag("v1").into(), tag("latest").into()];
    for reference in manifests.chain(names) {
        let got = client.get_manifest(&to, &reference, &never()).await.unwrap();
        let got = got.unwrap();
        assert_eq!(got.bytes, bench.store.read(&got.digest).unwrap());
        let is_index = got.digest == index.digest;
        let expected = if is_index {
            INDEX_MEDIA_TYPE
        } else {
            MANIFEST_MEDIA_TYPE
        };
        assert_eq!(got.media_type, expected);
    }
}

#[tokio::test]
async fn one_image_is_there_by_digest_too() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let image = bench.image("linux/arm64", &[&bench.layer(10, 1)]);
    let (to, pusher) = (faulty.repository(), bench.pusher());
    let target = target(&to, &["v1"], &[]);
    let report = pusher
        .push(Subject::Image(&image), &target, &never())
        .await
        .unwrap();
    assert_eq!(report.digest, image.manifest.oci());
    let lines = changes(&faulty);
    let put = |name: &str| format!("PUT /v2/owner/api/manifests/{name}");
    assert_eq!(lines[lines.len() - 2..], [put(&image.manifest.oci()), put("v1")]);
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (index, to) = (bench.index(1), faulty.repository());
    let target = target(&to, &["v1"], &["latest"]);
    let pusher = bench.pusher();
    push(&pusher, &index, &target).await.unwrap();
    assert_eq!(bench.made().len(), 3);
    let before = changes(&faulty).len();
    for pusher in [&pusher, &bench.pusher()] {
        let report = push(pusher, &index, &target).await.unwrap();
        assert_eq!(
            (report.uploaded, report.mounted, report.present, report.bytes),
            (0, 0, 5, 0)
        );
    }
    assert_eq!(changes(&faulty).len(), before);
    assert_eq!(
        faulty.count("HEAD /v2/owner/api/blobs/"),
        5,
        "manifests answer for them"
    );
    assert!(bench.made().is_empty());
}

#[tokio::test]
async fn only_layers_that_are_lacking_are_made() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let to = faulty.repository();
    let (old, new) = (bench.layer(LARGE, 1), bench.layer(LARGE, 2));
    let first = bench.index_of([bench.image("linux/amd64", &[&old])]);
    push(&bench.pusher(), &first, &target(&to, &["v1"], &[]))
        .await
        .unwrap();
    assert_eq!(bench.made(), BTreeSet::from([old.digest]));
    let second = bench.index_of([bench.image("linux/amd64", &[&old, &new])]);
    let report = push(&bench.pusher(), &second, &target(&to, &["v2"], &[]))
        .await
        .unwrap();
    assert_eq!(bench.made(), BTreeSet::from([new.digest]));
    assert_eq!((report.uploaded, report.present), (2, 1), "a config and a layer");
}

#[tokio::test]
async fn a_tag_that_names_something_else_is_refused_at_once() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (ours, theirs, to) = (bench.index(1), bench.index(2), faulty.repository());
    push(&bench.pusher(), &theirs, &target(&to, &["v1"], &[]))
        .await
        .unwrap();
    let before = changes(&faulty).len();
    bench.made();
    for tags in [&["v1"][..], &["v2", "v1"]] {
        let refused = push(&bench.pusher(), &ours, &target(&to, tags, &["latest"]))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::Refused);
        let shown = refused
            .to_string()
            .replace(to.host(), "HOST")
            .replace(&ours.digest.oci(), "OURS")
            .replace(&theirs.digest.oci(), "THEIRS");
        assert_eq!(
            shown,
            "`HOST/owner/api:v1` is there already and names `THEIRS`, not `OURS`; a tag is never moved: push \
             under another one"
        );
    }
    assert_eq!(changes(&faulty).len(), before);
    assert!(bench.made().is_empty());
    assert_eq!(named(&to, tag("v1")).await, Some(theirs.digest.oci()));
    assert_eq!(named(&to, tag("latest")).await, None);
}

#[tokio::test]
async fn a_moving_tag_moves_and_what_it_named_stays() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (old, new, to) = (bench.index(1), bench.index(2), faulty.repository());
    for (index, tags) in [(&old, ["v1"]), (&new, ["v2"])] {
        push(&bench.pusher(), index, &target(&to, &tags, &["latest"]))
            .await
            .unwrap();
        assert_eq!(named(&to, tag("latest")).await, Some(index.digest.oci()));
    }
    assert_eq!(named(&to, old.digest).await, Some(old.digest.oci()));
    assert_eq!(named(&to, tag("v1")).await, Some(old.digest.oci()));
}

#[tokio::test]
async fn images_that_share_layers_send_them_once() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let base = bench.layer(LARGE, 1);
    let at = |name: &str| -> Repository { format!("{}/owner/{name}", faulty.host).parse().unwrap() };
    let names = ["api", "worker", "admin"];
    let indexes: Vec<Index> = (2..5)
        .map(|seed| {
            let own = bench.layer(LARGE, seed);
            bench.index_of([bench.image("linux/amd64", &[&base, &own])])
        })
        .collect();
    let targets = names.map(|name| target(&at(name), &["v1"], &[]));
    let pusher = bench.pusher();
    let pushes = indexes
        .iter()
        .zip(&targets)
        .map(|(index, target)| push(&pusher, index, target));
    let reports: Vec<Report> = futures_util::future::try_join_all(pushes).await.unwrap();
    let sum = |of: fn(&Report) -> usize| reports.iter().map(of).sum::<usize>();
    // Three configs, three layers, and the base.
    assert_eq!((sum(|r| r.uploaded), sum(|r| r.mounted)), (7, 2));
    assert_eq!(bench.made().len(), 4);
    let mounts = |line: &str| line.contains(&base.digest.hex()) && line.contains("&from=owner%2F");
    let lines = changes(&faulty);
    assert_eq!(lines.iter().filter(|line| mounts(line)).count(), 2);
    for (name, index) in names.iter().zip(&indexes) {
        assert_eq!(named(&at(name), tag("v1")).await, Some(index.digest.oci()));
    }
}

#[tokio::test]
async fn a_layer_is_mounted_from_wherever_the_registry_finds_it() {
    for can_mount in [true, false] {
        let faulty = Faulty::start(move |seen| match seen.line.contains("mount=") {
            true if !can_mount => error(405, "UNSUPPORTED"),
            _ => Act::Pass,
        })
        .await;
        let bench = Bench::new();
        let index = bench.index_of([bench.image("linux/amd64", &[&bench.layer(LARGE, 1)])]);
        let other: Repository = format!("{}/other/x", faulty.host).parse().unwrap();
        push(&bench.pusher(), &index, &target(&other, &["v1"], &[]))
            .await
            .unwrap();
        bench.made();
        let to = faulty.repository();
        let report = push(&bench.pusher(), &index, &target(&to, &["v1"], &[]))
            .await
            .unwrap();
        assert_eq!(report.mounted, usize::from(can_mount));
        assert_eq!(bench.made().len(), usize::from(!can_mount));
        assert_eq!(named(&to, tag("v1")).await, Some(index.digest.oci()));
    }
}

#[tokio::test]
async fn damaged_content_is_lost_and_nothing_is_tagged() {
    let layer_of = |index: &Index| index.images.values().next().unwrap().layers[0].digest;
    let config_of = |index: &Index| index.images.values().next().unwrap().config;
    let manifest_of = |index: &Index| index.images.values().next().unwrap().manifest;
    let all: [&dyn Fn(&Index) -> Digest; 4] = [&layer_of, &config_of, &manifest_of, &|index| index.digest];
    for choose in all {
        let (bench, faulty) = (Bench::new(), sound().await);
        let (index, to) = (bench.index(1), faulty.repository());
        let digest = choose(&index);
        let layer = bench.layers.lock().unwrap().get(&digest).cloned();
        if let Some(bytes) = layer {
            bench.store.put(&bytes).unwrap();
        }
        bench.damage(&digest);
        let failed = push(&bench.pusher(), &index, &target(&to, &["v1"], &["latest"])).await;
        let failed = failed.unwrap_err();
        assert_eq!(failed.lost(), [digest], "{failed}");
        assert!(failed.to_string().contains(&digest.hex()), "{failed}");
        for reference in [tag("v1").into(), tag("latest").into(), index.digest.into()] {
            let reference: Reference = reference;
            assert_eq!(named(&to, reference).await, None);
        }
    }
}

#[tokio::test]
async fn a_layer_that_cannot_be_made_ends_the_push() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (index, to) = (bench.index(1), faulty.repository());
    let pusher = bench.pusher_that(|_| {
        Err(LayerError::Other {
            kind: Kind::Internal,
            source: "it came out as another one".into(),
        })
    });
    let failed = push(&pusher, &index, &target(&to, &["v1"], &[]))
        .await
        .unwrap_err();
    assert_eq!(failed.kind(), Kind::Internal);
    let text = failed.to_string();
    assert!(
        text.starts_with("cannot make the layer ") && text.ends_with(": it came out as another one"),
        "{text}"
    );
    assert_eq!(faulty.count("PUT /v2/owner/api/manifests/"), 0);
}

#[tokio::test]
async fn a_push_that_failed_carries_on() {
    let refused = AtomicUsize::new(0);
    let faulty = Faulty::start(
        move |seen| match seen.line.ends_with("PUT /v2/owner/api/manifests/v1") {
            true if refused.fetch_add(1, Ordering::SeqCst) == 0 => error(400, "MANIFEST_INVALID"),
            _ => Act::Pass,
        },
    )
    .await;
    let (bench, to) = (Bench::new(), faulty.repository());
    let (index, target) = (bench.index(1), target(&to, &["v1"], &["latest"]));
    let failed = push(&bench.pusher(), &index, &target).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Environment);
    assert_eq!(named(&to, tag("latest")).await, None, "moving tags come last");
    let before = changes(&faulty).len();
    push(&bench.pusher(), &index, &target).await.unwrap();
    let puts = ["v1", "latest"].map(|name| format!("PUT /v2/owner/api/manifests/{name}"));
    assert_eq!(changes(&faulty)[before..], puts);
}

#[tokio::test]
async fn an_interrupted_push_ends_soon_and_tags_nothing() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (index, to, cancel) = (bench.index(1), faulty.repository(), never());
    let target = target(&to, &["v1"], &[]);
    // A layer that takes its time; its thread is let go when the test ends.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (gate, raised) = (Mutex::new(gate), cancel.clone());
    let pusher = bench.pusher_that(move |_| {
        raised.raise();
        let _ = gate.lock().unwrap().recv();
        Ok(())
    });
    let begin = Instant::now();
    let stopped = pusher.push(Subject::Index(&index), &target, &cancel).await;
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(open);
    let before = faulty.seen().len();
    let stopped = bench
        .pusher()
        .push(Subject::Index(&index), &target, &cancel)
        .await;
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(
        faulty.seen().len(),
        before,
        "a run that was interrupted asks nothing"
    );
    assert_eq!(named(&to, tag("v1")).await, None);
}

#[tokio::test]
async fn events_tell_of_every_blob_and_byte() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let large = bench.layer(700_000, 1);
    let there = bench.layer(LARGE, 2);
    let to = faulty.repository();
    let first = bench.index_of([bench.image("linux/amd64", &[&there])]);
    push(&bench.pusher(), &first, &target(&to, &[], &[]))
        .await
        .unwrap();
    bench.events.lock().unwrap().clear();
    let second = bench.index_of([bench.image("linux/amd64", &[&there, &large])]);
    let report = push(&bench.pusher(), &second, &target(&to, &[], &[]))
        .await
        .unwrap();
    let (mut bytes, mut pushed) = (BTreeMap::new(), BTreeMap::new());
    for event in bench.events.lock().unwrap().iter() {
        match event {
            Event::Transferred {
                what,
                direction: Direction::Out,
                bytes: moved,
            } => {
                let sum: &mut (u64, usize) = bytes.entry(what.clone()).or_default();
                *sum = (sum.0 + moved, sum.1 + 1);
            }
            Event::Pushed { blob, how } => assert_eq!(pushed.insert(blob.clone(), *how), None),
            other => panic!("{other:?}"),
        }
    }
    let config = second.images[&"linux/amd64".parse::<Platform>().unwrap()].config;
    let expected = [
        (config.oci(), Pushed::Uploaded),
        (there.digest.oci(), Pushed::Present),
        (large.digest.oci(), Pushed::Uploaded),
    ];
    assert_eq!(pushed, BTreeMap::from(expected));
    let expected = [
        (config.oci(), (config.size(), 1)),
        (large.digest.oci(), (700_000, 3)),
    ];
    assert_eq!(bytes, BTreeMap::from(expected), "not an event for every piece");
    assert_eq!(report.bytes, 700_000 + config.size());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_run_on_any_thread() {
    let (bench, faulty) = (Bench::new(), sound().await);
    let (pusher, index) = (Arc::new(bench.pusher()), Arc::new(bench.index(90)));
    let mut pushes = Vec::new();
    for name in ["v1", "v2", "v3"] {
        let target = target(&faulty.repository(), &[name], &[]);
        let (pusher, index) = (Arc::clone(&pusher), Arc::clone(&index));
        pushes.push(tokio::spawn(async move { push(&pusher, &index, &target).await }));
    }
    let mut uploaded = 0;
    for push in pushes {
        uploaded += push.await.unwrap().unwrap().uploaded;
    }
    assert_eq!(uploaded, 5, "what all of them need is sent once");
    for name in ["v1", "v2", "v3"] {
        assert_eq!(
            named(&faulty.repository(), tag(name)).await,
            Some(index.digest.oci())
        );
    }
}
