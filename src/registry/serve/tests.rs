//! The embedded registry, asked over http as any client would.

mod crowds;
mod digests;
mod hardship;
mod pages;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::image::{INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE};
use crate::registry::testing;

struct Bench {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    server: Server,
    client: reqwest::Client,
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and error code.
    fn code(&self) -> (u16, String) {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let code = body["errors"][0]["code"].as_str().unwrap_or_default();
        (self.status, code.to_owned())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Bench {
    async fn new() -> Bench {
        Bench::with(BOUNDS).await
    }

    async fn with(bounds: Bounds) -> Bench {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (directory, store) = testing::store();
        let address = "127.0.0.1:0".parse().unwrap();
        let server = listen(Arc::clone(&store), address, bounds).await.unwrap();
        Bench {
            _directory: directory,
            store,
            server,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Got {
        let method = method.parse::<Method>().unwrap();
        let url = format!("http://{}{path}", self.server.address());
        let mut request = self.client.request(method, url).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        Got {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    async fn get(&self, path: &str) -> Got {
        self.ask("GET", path, &[], "").await
    }

    /// Begins an upload to `a`, and says where it goes on.
    async fn begin(&self) -> String {
        let begun = self.ask("POST", "/v2/a/blobs/uploads/", &[], "").await;
        assert_eq!(begun.status, 202);
        begun.header("location").to_owned()
    }

    async fn blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={}", digest.oci());
        assert_eq!(self.ask("POST", &path, &[], bytes).await.status, 201);
        digest
    }

    /// The code with which `v1` of `a` is refused.
    async fn refused(&self, media_type: &str, manifest: &str) -> String {
        let got = self.put("a", "v1", media_type, manifest).await;
        assert_eq!(got.status, 400, "{manifest}");
        got.code().1
    }

    async fn put(&self, name: &str, reference: &str, media_type: &str, manifest: &str) -> Got {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.ask("PUT", &path, &[("content-type", media_type)], manifest)
            .await
    }

    /// An image of one layer, under a tag.
    async fn image(&self, name: &str, tag: &str, content: &str) -> (String, Digest) {
        let config = self.blob(name, b"{}").await;
        let layer = self.blob(name, content.as_bytes()).await;
        let manifest = manifest(&config, &[layer], "");
        let put = self.put(name, tag, MANIFEST_MEDIA_TYPE, &manifest).await;
        assert_eq!(put.status, 201, "{:?}", put.code());
        let digest = Digest::of(manifest.as_bytes());
        assert_eq!(put.header("docker-content-digest"), digest.oci());
        (manifest, digest)
    }
}

/// All that the server answers to `text`.
async fn raw(server: &Server, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has an end too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn descriptor(digest: &Digest, media_type: &str) -> String {
    let (digest, size) = (digest.oci(), digest.size());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// A manifest with further members, each ended by a comma.
fn manifest(config: &Digest, layers: &[Digest], more: &str) -> String {
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer, "l/x")).collect();
    format!(
        r#"{{{more}"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(config, "c/x"),
        layers.join(",")
    )
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let bench = Bench::new().await;
    assert_eq!(bench.get("/v2/").await.status, 200);
    let (manifest, digest) = bench.image("owner/api", "v1", "layer").await;
    for reference in ["v1".to_owned(), digest.oci(), digest.oci().replace(':', "%3A")] {
        let path = format!("/v2/owner/api/manifests/{reference}");
        let got = bench.get(&path).await;
        assert_eq!((got.status, got.body), (200, manifest.clone().into_bytes()));
        let head = bench.ask("HEAD", &path, &[], "").await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        for headers in [got.headers, head.headers] {
            assert_eq!(headers["content-type"], MANIFEST_MEDIA_TYPE);
            assert_eq!(headers["docker-content-digest"], digest.oci());
            assert_eq!(headers["content-length"], manifest.len().to_string());
        }
    }
    let path = format!("/v2/owner/api/blobs/{}", Digest::of(b"layer").oci());
    let got = bench.get(&path).await;
    assert_eq!((got.status, &got.body[..]), (200, &b"layer"[..]));
    let head = bench.ask("HEAD", &path, &[], "").await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    let part = bench.ask("GET", &path, &[("range", "bytes=1-3")], "").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"aye"[..]));
    assert_eq!(part.header("content-range"), "bytes 1-3/5");
    let none = bench.ask("GET", &path, &[("range", "bytes=5-")], "").await;
    assert_eq!((none.status, none.header("content-range")), (416, "bytes */5"));
}

#[tokio::test]
async fn ranges_of_large_blobs_are_right() {
    let bench = Bench::new().await;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = bench.blob("a", &bytes).await;
    let path = format!("/v2/a/blobs/{}", digest.oci());
    for (range, expected) in [
        ("bytes=0-", &bytes[..]),
        ("bytes=262143-262144", &bytes[262_143..262_145]),
        ("bytes=300000-899999", &bytes[300_000..900_000]),
        ("bytes=-1", &bytes[999_999..]),
    ] {
        let got = bench.ask("GET", &path, &[("range", range)], "").await;
        assert!(got.status == 206 && got.body == expected, "{range}");
    }
}

#[tokio::test]
async fn repositories_have_their_own_blobs_only() {
    let bench = Bench::new().await;
    let unrelated = bench.store.put(b"of a build").unwrap();
    let blob = bench.blob("a/b", b"x").await;
    let status = async |name: &str, digest: &Digest| {
        let got = bench.get(&format!("/v2/{name}/blobs/{}", digest.oci())).await;
        got.code()
    };
    let unknown = (404, "BLOB_UNKNOWN".to_owned());
    assert_eq!(status("a/b", &unrelated).await, unknown);
    assert_eq!(status("a", &blob).await, unknown);
    let mount = async |query: String| {
        let path = format!("/v2/c/blobs/uploads/?{query}");
        bench.ask("POST", &path, &[], "").await.status
    };
    assert_eq!(mount(format!("mount={}", unrelated.oci())).await, 202);
    assert_eq!(mount(format!("mount={}&from=other", blob.oci())).await, 202);
    assert_eq!(mount(format!("mount={}&from=..%2F..", blob.oci())).await, 202);
    assert_eq!(status("c", &blob).await, unknown);
    assert_eq!(mount(format!("mount={}&from=a%2Fb", blob.oci())).await, 201);
    assert_eq!(status("c", &blob).await.0, 200);
    // What the store has lost is not there, whatever the records say.
    let hex = blob.hex();
    std::fs::remove_file(bench.store.root().join("blobs").join(&hex[..2]).join(&hex)).unwrap();
    assert_eq!(status("c", &blob).await, unknown);
}

#[tokio::test]
async fn uploads_come_whole_and_in_chunks() {
    let bench = Bench::new().await;
    let digest = Digest::of(b"0123456789");
    let close = |at: &str| format!("{at}?digest={}", digest.oci());

    let at = bench.begin().await;
    let put = bench.ask("PUT", &close(&at), &[], "0123456789").await;
    assert_eq!(put.status, 201);
    assert_eq!(put.header("location"), format!("/v2/a/blobs/{}", digest.oci()));
    assert_eq!(
        bench.ask("PUT", &close(&at), &[], "").await.code(),
        (404, "BLOB_UPLOAD_UNKNOWN".to_owned())
    );

    let at = bench.begin().await;
    let patch = async |range: &str, body: &str| {
        let headers = [("content-range", range)];
        let headers = if range.is_empty() { &[][..] } else { &headers[..] };
        let got = bench.ask("PATCH", &at, headers, body).await;
        (got.status, got.header("range").to_owned())
    };
    assert_eq!(patch("1-4", "1234").await, (416, "0-0".to_owned()));
    assert_eq!(patch("0-3", "0123").await, (202, "0-3".to_owned()));
    assert_eq!(patch("0-3", "0123").await, (416, "0-3".to_owned()));
    assert_eq!(
        patch("4-9", "45").await,
        (416, "0-3".to_owned()),
        "the range has more than came"
    );
    assert_eq!(patch("nonsense", "45").await, (416, "0-3".to_owned()));
    assert_eq!(
        patch("", "45").await,
        (202, "0-5".to_owned()),
        "a stream without a range"
    );
    let state = bench.get(&at).await;
    assert_eq!((state.status, state.header("range")), (204, "0-5"));
    let elsewhere = at.replace("/v2/a/", "/v2/b/");
    assert_eq!(bench.get(&elsewhere).await.status, 404);
    let put = bench
        .ask("PUT", &close(&at), &[("content-range", "6-9")], "6789")
        .await;
    assert_eq!(put.status, 201);
}

#[tokio::test]
async fn uploads_of_something_else_are_refused() {
    let bench = Bench::new().await;
    let digest = Digest::of(b"0123456789");
    let at = bench.begin().await;
    assert_eq!(
        bench.ask("PUT", &at, &[], "x").await.code(),
        (400, "DIGEST_INVALID".to_owned())
    );
    assert_eq!(
        bench
            .ask("PUT", &format!("{at}?digest={}", digest.oci()), &[], "other")
            .await
            .code(),
        (400, "DIGEST_INVALID".to_owned())
    );
    let at = bench.begin().await;
    assert_eq!(bench.ask("DELETE", &at, &[], "").await.status, 204);
    assert_eq!(bench.get(&at).await.status, 404);
    for digest in [&digest.oci(), "md5:00"] {
        let at = format!("/v2/a/blobs/uploads/?digest={digest}");
        let refused = bench.ask("POST", &at, &[], "other").await.code();
        assert_eq!(refused, (400, "DIGEST_INVALID".to_owned()));
    }
}

#[tokio::test]
async fn manifests_are_checked() {
    let bench = Bench::new().await;
    let config = bench.blob("a", b"{}").await;
    let good = manifest(&config, &[], "");
    for (media_type, text) in [
        (MANIFEST_MEDIA_TYPE, "not json"),
        (MANIFEST_MEDIA_TYPE, "[]"),
        (MANIFEST_MEDIA_TYPE, "{}"),
        (MANIFEST_MEDIA_TYPE, r#"{"schemaVersion":1}"#),
        (MANIFEST_MEDIA_TYPE, r#"{"schemaVersion":2}"#),
        (
            MANIFEST_MEDIA_TYPE,
            &manifest(&config, &[], r#""mediaType":"other","#),
        ),
        (MANIFEST_MEDIA_TYPE, &good.replace("sha256:", "sha256:0")),
        (INDEX_MEDIA_TYPE, &good),
        ("text/plain", &good),
        ("", &good),
    ] {
        assert_eq!(bench.refused(media_type, text).await, "MANIFEST_INVALID");
    }
    let other = Digest::of(b"other").oci();
    assert_eq!(
        bench.put("a", &other, MANIFEST_MEDIA_TYPE, &good).await.code(),
        (400, "DIGEST_INVALID".to_owned())
    );
    let large = format!("{good}{}", " ".repeat(4 << 20));
    assert_eq!(
        bench.put("a", "v1", MANIFEST_MEDIA_TYPE, &large).await.code(),
        (413, "SIZE_INVALID".to_owned())
    );
    assert_eq!(
        bench.get("/v2/a/manifests/v1").await.code(),
        (404, "MANIFEST_UNKNOWN".to_owned())
    );
}

#[tokio::test]
async fn what_manifests_name_must_be_there() {
    let bench = Bench::new().await;
    let config = bench.blob("a", b"{}").await;
    let elsewhere = bench.blob("b", b"elsewhere").await;
    let good = manifest(&config, &[], "");
    let unknown = "MANIFEST_BLOB_UNKNOWN";
    assert_eq!(
        bench
            .refused(MANIFEST_MEDIA_TYPE, &manifest(&config, &[elsewhere], ""))
            .await,
        unknown
    );
    assert_eq!(
        bench
            .refused(MANIFEST_MEDIA_TYPE, &good.replace(r#""size":2"#, r#""size":3"#))
            .await,
        unknown
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        descriptor(&Digest::of(good.as_bytes()), MANIFEST_MEDIA_TYPE)
    );
    assert_eq!(bench.refused(INDEX_MEDIA_TYPE, &index).await, unknown);

    // The same with all that it names.
    let digest = Digest::of(good.as_bytes()).oci();
    assert_eq!(
        bench.put("a", &digest, MANIFEST_MEDIA_TYPE, &good).await.status,
        201
    );
    assert_eq!(
        bench
            .put("a", "v1", &format!("{INDEX_MEDIA_TYPE}; charset=utf-8"), &index)
            .await
            .status,
        201
    );
    assert_eq!(
        bench.get("/v2/a/manifests/v1").await.header("content-type"),
        INDEX_MEDIA_TYPE
    );
    // A layer that must not be distributed need not be there.
    let foreign = manifest(&config, &[elsewhere], "")
        .replace("l/x", "application/vnd.oci.image.layer.nondistributable.v1.tar");
    assert_eq!(
        bench.put("a", "v2", MANIFEST_MEDIA_TYPE, &foreign).await.status,
        201
    );
}

#[tokio::test]
async fn tags_are_listed_in_pages_and_removed() {
    let bench = Bench::new().await;
    assert_eq!(
        bench.get("/v2/a/tags/list").await.code(),
        (404, "NAME_UNKNOWN".to_owned())
    );
    let mut digest = Digest::of(b"");
    for tag in ["b", "a", "C", "d"] {
        (_, digest) = bench.image("a", tag, "same").await;
    }
    let list = async |query: &str| {
        let got = bench.get(&format!("/v2/a/tags/list{query}")).await;
        (got.json()["tags"].to_string(), got.header("link").to_owned())
    };
    assert_eq!(list("").await, (r#"["C","a","b","d"]"#.to_owned(), String::new()));
    let next = r#"</v2/a/tags/list?n=2&last=a>; rel="next""#;
    assert_eq!(list("?n=2").await, (r#"["C","a"]"#.to_owned(), next.to_owned()));
    assert_eq!(
        list("?n=2&last=a").await,
        (r#"["b","d"]"#.to_owned(), String::new())
    );
    assert_eq!(list("?n=0").await, ("[]".to_owned(), String::new()));
    assert_eq!(bench.get("/v2/a/tags/list?n=x").await.status, 400);

    let delete = async |path: &str| {
        bench
            .ask("DELETE", &format!("/v2/a/{path}"), &[], "")
            .await
            .status
    };
    assert_eq!(delete("manifests/a").await, 202);
    assert_eq!(delete("manifests/a").await, 404);
    assert_eq!(list("").await.0, r#"["C","b","d"]"#);
    assert_eq!(
        bench
            .get(&format!("/v2/a/manifests/{}", digest.oci()))
            .await
            .status,
        200
    );
    assert_eq!(delete(&format!("manifests/{}", digest.oci())).await, 202);
    assert_eq!(list("").await.0, "[]");
    assert_eq!(bench.get("/v2/a/manifests/b").await.status, 404);
    let blob = format!("blobs/{}", Digest::of(b"same").oci());
    assert_eq!((delete(&blob).await, delete(&blob).await), (202, 404));
}

#[tokio::test]
async fn referrers_are_found() {
    let bench = Bench::new().await;
    let config = bench.blob("a", b"{}").await;
    let subject = Digest::of(b"not even there");
    let path = format!("/v2/a/referrers/{}", subject.oci());
    let none = bench.get(&path).await;
    assert_eq!(
        (none.status, none.header("content-type")),
        (200, INDEX_MEDIA_TYPE)
    );
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
    let named = format!(r#""subject":{},"#, descriptor(&subject, MANIFEST_MEDIA_TYPE));
    let typed = format!(r#"{named}"artifactType":"sig/x","annotations":{{"k":"v"}},"#);
    let index = format!(r#"{{{named}"schemaVersion":2,"manifests":[]}}"#);
    for (media_type, text) in [
        (MANIFEST_MEDIA_TYPE, manifest(&config, &[], &named)),
        (MANIFEST_MEDIA_TYPE, manifest(&config, &[], &typed)),
        (INDEX_MEDIA_TYPE, index),
        (MANIFEST_MEDIA_TYPE, manifest(&config, &[], "")),
    ] {
        let has_subject = text.contains("subject");
        let put = bench
            .put("a", &Digest::of(text.as_bytes()).oci(), media_type, &text)
            .await;
        assert_eq!(put.status, 201);
        assert_eq!(
            put.header("oci-subject"),
            if has_subject { subject.oci() } else { String::new() }
        );
    }
    let all = bench.get(&path).await;
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(all.header("oci-filters-applied"), "");
    let some = bench.get(&format!("{path}?artifactType=sig%2Fx")).await;
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    let some = some.json();
    assert_eq!(some["manifests"].as_array().unwrap().len(), 1);
    let found = &some["manifests"][0];
    assert_eq!(
        (&found["artifactType"], &found["annotations"]["k"]),
        (&"sig/x".into(), &"v".into())
    );
    let by_config = bench.get(&format!("{path}?artifactType=c/x")).await.json();
    assert_eq!(by_config["manifests"].as_array().unwrap().len(), 1);
}
