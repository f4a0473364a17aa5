//! Digests of other algorithms than SHA-256: what they name is not here, and nothing is kept by them.

use super::*;

/// Digests that the image specification allows, and that name nothing here.
fn others() -> [String; 4] {
    let hex = Digest::of(b"0123456789").hex();
    [
        format!("sha512:{hex}{hex}"),
        format!("sha384:{hex}"),
        format!("blake3:{hex}"),
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8".to_owned(),
    ]
}

#[tokio::test]
async fn nothing_is_kept_by_another_digest() {
    let bench = Bench::new().await;
    let (manifest, _) = bench.image("a", "v1", "layer").await;
    let invalid = (400, "DIGEST_INVALID".to_owned());
    for other in others() {
        let at = bench.begin().await;
        // A `+` is a space in a query.
        let escaped = other.replace('+', "%2B");
        let whole = format!("/v2/a/blobs/uploads/?digest={escaped}");
        for (method, path, body) in [
            ("POST", whole, "0123456789"),
            ("PUT", format!("{at}?digest={escaped}"), "0123456789"),
            ("PUT", format!("/v2/a/manifests/{other}"), manifest.as_str()),
        ] {
            let content_type = [("content-type", MANIFEST_MEDIA_TYPE)];
            let got = bench.ask(method, &path, &content_type, body).await;
            assert_eq!(got.code(), invalid, "{method} {path}");
            assert!(
                String::from_utf8_lossy(&got.body).contains("not a SHA-256"),
                "{path}"
            );
        }
        // What cannot be mounted may be uploaded, and is refused by its digest then.
        for from in ["", "&from=a"] {
            let path = format!("/v2/a/blobs/uploads/?mount={escaped}{from}");
            assert_eq!(bench.ask("POST", &path, &[], "").await.status, 202, "{path}");
        }
        // The upload stays, and can be ended by the right digest.
        let close = format!("{at}?digest={}", Digest::of(b"0123456789").oci());
        assert_eq!(bench.ask("PUT", &close, &[], "0123456789").await.status, 201);
    }
    for algorithm in ["sha512", "blake3", "SHA256", ""] {
        let path = format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}");
        assert_eq!(
            bench.ask("POST", &path, &[], "").await.code(),
            invalid,
            "{algorithm}"
        );
    }
    let path = "/v2/a/blobs/uploads/?digest-algorithm=sha256";
    assert_eq!(bench.ask("POST", path, &[], "").await.status, 202);
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_blob_first_gets_the_answer() {
    let bench = Bench::new().await;
    let path = format!("/v2/a/blobs/uploads/?digest={}", others()[0]);
    let text = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
        3 << 20,
        "x".repeat(3 << 20)
    );
    let answer = raw(&bench.server, &text).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("DIGEST_INVALID"), "{answer}");
}

#[tokio::test]
async fn what_another_digest_names_is_not_here() {
    let bench = Bench::new().await;
    bench.image("a", "v1", "layer").await;
    for other in others() {
        for (area, code) in [("blobs", "BLOB_UNKNOWN"), ("manifests", "MANIFEST_UNKNOWN")] {
            let path = format!("/v2/a/{area}/{other}");
            for method in ["GET", "DELETE"] {
                let got = bench.ask(method, &path, &[], "").await;
                assert_eq!(got.code(), (404, code.to_owned()), "{method} {path}");
            }
            assert_eq!(bench.ask("HEAD", &path, &[], "").await.status, 404, "{path}");
        }
    }
    for broken in ["sha512:00", "sha256:00", "sha256:", "md5", ":", "sha512:../../x"] {
        for method in ["GET", "HEAD", "DELETE"] {
            let path = format!("/v2/a/blobs/{broken}");
            let status = bench.ask(method, &path, &[], "").await.status;
            assert!([400, 404].contains(&status), "{method} {path}: {status}");
        }
    }
    let path = "/v2/a/blobs/sha512:00";
    assert_eq!(bench.get(path).await.code(), (400, "DIGEST_INVALID".to_owned()));
}

#[tokio::test]
async fn manifests_hold_content_by_sha256_and_refer_to_anything() {
    let bench = Bench::new().await;
    let config = bench.blob("a", b"{}").await;
    let layer = bench.blob("a", b"layer").await;
    let good = manifest(&config, &[layer], "");
    let [other, ..] = others();
    for named in [config, layer] {
        let text = good.replace(&named.oci(), &other);
        let got = bench.put("a", "v1", MANIFEST_MEDIA_TYPE, &text).await;
        assert_eq!(got.code(), (400, "DIGEST_INVALID".to_owned()));
    }
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST_MEDIA_TYPE}","digest":"{other}","size":3}}]}}"#
    );
    assert_eq!(bench.refused(INDEX_MEDIA_TYPE, &index).await, "DIGEST_INVALID");
    assert_eq!(
        bench
            .refused(MANIFEST_MEDIA_TYPE, &good.replace("sha256:", "sha512:"))
            .await,
        "MANIFEST_INVALID",
        "not even the length is right"
    );
    // What it refers to need not be here, under any name.
    let subject = format!(r#""subject":{{"mediaType":"m/x","digest":"{other}","size":3}},"#);
    let text = manifest(&config, &[layer], &subject);
    let put = bench.put("a", "v1", MANIFEST_MEDIA_TYPE, &text).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, other.as_str()));
    let listed = async |digest: &str| {
        let got = bench.get(&format!("/v2/a/referrers/{digest}")).await;
        (got.status, got.json()["manifests"].as_array().map(Vec::len))
    };
    assert_eq!(listed(&other).await, (200, Some(1)));
    assert_eq!(listed(&others()[1]).await, (200, Some(0)));
    assert_eq!(bench.get("/v2/a/referrers/sha512:00").await.status, 400);
}
