//! The client against registries that fail in every way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::http::Policy;
use super::testing::*;
use super::*;
use crate::digest::Digest;
use crate::image::MANIFEST_MEDIA_TYPE;

#[tokio::test]
async fn blobs_and_manifests_go_in_and_are_found() {
    let (_other, _theirs, server) = embedded().await;
    let (_directory, ours) = store();
    let client = client();
    let to: Repository = format!("{}/owner/api", server.address()).parse().unwrap();
    let manifest_of = |config: &Digest| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":{}}},"layers":[]}}"#,
            config.oci(),
            config.size()
        )
    };
    for length in [0, 100, 70_000, 1 << 20] {
        let digest = ours.put(&noise(length, 1)).unwrap();
        assert!(!client.has_blob(&to, &digest, &never()).await.unwrap());
        upload(&client, &to, &ours, &digest).await.unwrap();
        assert!(client.has_blob(&to, &digest, &never()).await.unwrap());
        let manifest = manifest_of(&digest);
        let (bytes, tag) = (
            manifest.as_bytes(),
            Reference::Tag(format!("v{length}").parse().unwrap()),
        );
        assert_eq!(client.head_manifest(&to, &tag, &never()).await.unwrap(), None);
        client
            .put_manifest(&to, &tag, MANIFEST_MEDIA_TYPE, bytes, &never())
            .await
            .unwrap();
        for reference in [tag, Digest::of(bytes).into()] {
            let found = client.head_manifest(&to, &reference, &never()).await.unwrap();
            assert_eq!(found, Some(Digest::of(bytes).oci()));
            let got = client
                .get_manifest(&to, &reference, &never())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (got.bytes.as_slice(), got.media_type.as_str()),
                (bytes, MANIFEST_MEDIA_TYPE)
            );
        }
    }
    let tags = client.tags(&to, &never()).await.unwrap();
    let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    assert_eq!(tags, ["v0", "v100", "v1048576", "v70000"]);
    let nothing: Repository = format!("{}/owner/nothing", server.address()).parse().unwrap();
    assert_eq!(client.tags(&nothing, &never()).await.unwrap(), []);
    let missing = manifest_of(&Digest::of(b"missing"));
    let refused = client
        .put_manifest(
            &to,
            &"x".parse::<Tag>().unwrap().into(),
            MANIFEST_MEDIA_TYPE,
            missing.as_bytes(),
            &never(),
        )
        .await
        .unwrap_err();
    insta::assert_snapshot!(shown(&to, &refused), @"`HOST/owner/api`: cannot put the manifest `x`: the registry answers 400, MANIFEST_BLOB_UNKNOWN: `sha256:ffa63583dfa6706b87d284b86b0d693a161e4840aad2c5cf6b5d27c3b9621f7d` is not in this repository");
}

#[tokio::test]
async fn a_mount_takes_what_the_registry_has() {
    let (_other, _theirs, server) = embedded().await;
    let (_directory, ours) = store();
    let client = client();
    let at = |name: &str| -> Repository { format!("{}/{name}", server.address()).parse().unwrap() };
    let digest = ours.put(b"shared").unwrap();
    let mount = async |from: Option<&Repository>, to: &str| {
        client.mount(&at(to), &digest, from, &never()).await.unwrap()
    };
    let Mount::Absent(Some(pending)) = mount(None, "b").await else {
        panic!("nobody has it");
    };
    let uploaded = client
        .upload(&at("a"), &ours, &digest, None, &silent(), &never())
        .await;
    uploaded.unwrap();
    assert!(matches!(
        mount(Some(&at("other")), "c").await,
        Mount::Absent(Some(_))
    ));
    assert!(!client.has_blob(&at("c"), &digest, &never()).await.unwrap());
    assert!(matches!(mount(Some(&at("a")), "c").await, Mount::Mounted));
    assert!(matches!(mount(None, "d").await, Mount::Mounted));
    assert!(client.has_blob(&at("d"), &digest, &never()).await.unwrap());
    // The upload that was begun instead of a mount serves.
    let (b, sent, cancel) = (at("b"), silent(), never());
    let other = client.upload(&b, &ours, &digest, Some(pending), &sent, &cancel);
    other.await.unwrap();
    assert!(client.has_blob(&at("b"), &digest, &never()).await.unwrap());
}

#[tokio::test]
async fn passing_trouble_is_waited_out() {
    for status in [408, 429, 500, 502, 503] {
        let faulty = Faulty::start(move |seen| match seen.before {
            1 | 3 => error(status, "BUSY"),
            2 => Act::Tear,
            _ => Act::Pass,
        })
        .await;
        let (_directory, ours) = store();
        let digest = ours.put(&noise(100_000, 3)).unwrap();
        upload(&client(), &faulty.repository(), &ours, &digest)
            .await
            .unwrap();
        assert!(
            client()
                .has_blob(&faulty.repository(), &digest, &never())
                .await
                .unwrap()
        );
    }
}

#[tokio::test]
async fn lasting_trouble_is_reported() {
    let faulty = Faulty::start(|seen| match seen.line.as_str() {
        "GET /v2/" => Act::Pass,
        _ => error(500, "UNKNOWN"),
    })
    .await;
    let (to, digest) = (faulty.repository(), Digest::of(b"x"));
    let failed = client().has_blob(&to, &digest, &never()).await.unwrap_err();
    insta::assert_snapshot!(shown(&to, &failed).replace(&digest.oci(), "DIGEST"), @"`HOST/owner/api`: cannot look up the blob `DIGEST`: the registry answers 500");
    assert_eq!(faulty.seen().len(), HASTY.attempts as usize);

    let patient = Instant::now();
    let hanging = Faulty::start(|_| Act::Hang).await;
    let impatient = Policy {
        idle: Duration::from_millis(200),
        ..HASTY
    };
    let failed = Client::with(Settings::default(), impatient)
        .unwrap()
        .has_blob(&hanging.repository(), &digest, &never())
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("nothing moved for 0 s"), "{failed}");
    assert!(
        patient.elapsed() < Duration::from_secs(10),
        "{:?}",
        patient.elapsed()
    );

    let closed: Repository = "127.0.0.1:1/owner/api".parse().unwrap();
    let failed = client()
        .has_blob(&closed, &digest, &never())
        .await
        .unwrap_err()
        .to_string();
    insta::assert_snapshot!(failed.replace(&digest.oci(), "DIGEST"), @"`127.0.0.1:1/owner/api`: cannot look up the blob `DIGEST`: cannot connect: client error (Connect): tcp connect error: Connection refused (os error 111); check that `127.0.0.1:1` is right, and that this machine reaches it");
}

#[tokio::test]
async fn an_interrupted_run_does_not_wait() {
    for act in [
        || Act::Hang,
        || Act::Answer(429, vec!["retry-after: 60".to_owned()], String::new()),
    ] {
        let faulty = Faulty::start(move |_| act()).await;
        let (client, to, cancel) = (client(), faulty.repository(), never());
        let (digest, begin) = (Digest::of(b"x"), Instant::now());
        let (result, ()) = tokio::join!(client.has_blob(&to, &digest, &cancel), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cancel.raise();
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn what_a_registry_claims_to_have_put_is_checked() {
    let (_directory, ours) = store();
    let config = ours.put(b"{}").unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":2}},"layers":[]}}"#,
        config.oci()
    );
    let tag = || Reference::Tag("v1".parse().unwrap());
    let put = async |value: Option<String>| {
        let faulty = Faulty::start(
            move |seen| match seen.line.starts_with("PUT /v2/owner/api/manifests") {
                true => Act::Change("docker-content-digest", value.clone()),
                false => Act::Pass,
            },
        )
        .await;
        let (client, to) = (client(), faulty.repository());
        upload(&client, &to, &ours, &config).await.unwrap();
        let put = client
            .put_manifest(&to, &tag(), MANIFEST_MEDIA_TYPE, manifest.as_bytes(), &never())
            .await;
        (put.map_err(|error| shown(&to, &error)), faulty.count("HEAD "))
    };
    assert_eq!(
        put(None).await,
        (Ok(()), 1),
        "without the header, it is asked for"
    );
    let (result, asked) = put(Some(format!("sha512:{}", "0".repeat(128)))).await;
    assert_eq!((result, asked), (Ok(()), 1), "another algorithm's says nothing");
    let (wrong, _) = put(Some(Digest::of(b"other").oci())).await;
    assert!(wrong.unwrap_err().contains("where `sha256:"));
}

#[tokio::test]
async fn trouble_with_manifests_leaves_one_request_at_a_time() {
    let faulty = Faulty::start(
        |seen| match seen.line.starts_with("PUT /v2/owner/api/manifests") {
            true if seen.before < 5 => error(500, "UNKNOWN"),
            _ => Act::Pass,
        },
    )
    .await;
    let (_directory, ours) = store();
    let (client, to) = (client(), faulty.repository());
    let config = ours.put(b"{}").unwrap();
    upload(&client, &to, &ours, &config).await.unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":2}},"layers":[]}}"#,
        config.oci()
    );
    let tag = Reference::Tag("v1".parse().unwrap());
    client
        .put_manifest(&to, &tag, MANIFEST_MEDIA_TYPE, manifest.as_bytes(), &never())
        .await
        .unwrap();
    assert_eq!(faulty.count("PUT "), 4);
    let host = client.host(&to, &never()).await.ok().unwrap();
    assert!(host.lanes.single.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn oversized_and_wrong_answers_are_refused() {
    let large = "x".repeat(MAX_MANIFEST as usize + 1);
    let faulty = Faulty::start(move |seen| match seen.line.as_str() {
        line if line.ends_with("large") => Act::Answer(200, Vec::new(), large.clone()),
        line if line.contains("manifests/sha256") => Act::Answer(200, Vec::new(), "other".to_owned()),
        line if line.ends_with("loop") => Act::Answer(302, vec!["location: loop".to_owned()], String::new()),
        line if line.starts_with("POST ") => {
            Act::Answer(202, vec!["location: file:///etc".to_owned()], String::new())
        }
        _ => Act::Pass,
    })
    .await;
    let (client, to) = (client(), faulty.repository());
    let get = async |reference: Reference| {
        let failed = client.get_manifest(&to, &reference, &never()).await.unwrap_err();
        shown(&to, &failed)
    };
    let tag = |text: &str| Reference::Tag(text.parse().unwrap());
    insta::assert_snapshot!(get(tag("large")).await, @"`HOST/owner/api`: cannot get the manifest `large`: its answer cannot be used: it is larger than 4194304 bytes");
    insta::assert_snapshot!(get(tag("loop")).await, @"`HOST/owner/api`: cannot get the manifest `loop`: its answer cannot be used: it redirects once too often");
    insta::assert_snapshot!(get(Digest::of(b"x").into()).await, @"`HOST/owner/api`: cannot get the manifest `sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881`: it holds `sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa` where `sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881` should be");
    let (_directory, ours) = store();
    let digest = ours.put(b"x").unwrap();
    let failed = upload(&client, &to, &ours, &digest).await.unwrap_err();
    assert!(
        failed.ends_with("it leads to an address of the scheme `file`"),
        "{failed}"
    );
}

#[tokio::test]
async fn garbage_is_an_error() {
    let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    for bytes in [
        Vec::new(),
        vec![0; 100],
        b"HTTP/1.1 999 ?\r\n\r\n".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"http://[\"\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
        b"HTTP/1.1 500 No\r\nRetry-After: 0\r\nContent-Length: 9\r\n\r\n{\"errors\"".to_vec(),
        endless,
    ] {
        let to = babbler(bytes).await;
        assert!(client().has_blob(&to, &Digest::of(b"x"), &never()).await.is_err());
    }
}

#[test]
fn plain_http_is_for_this_machine_and_for_those_that_are_listed() {
    let settings = Settings {
        plain_http: BTreeSet::from(["plain.example:80".to_owned()]),
        docker_config: None,
    };
    let client = Client::new(settings).unwrap();
    let base = |host: &str| {
        let to: Repository = format!("{host}/a/b").parse().unwrap();
        client.new_host(&to).ok().unwrap().base.to_string()
    };
    assert_eq!(base("git.example"), "https://git.example/v2/");
    assert_eq!(base("plain.example"), "https://plain.example/v2/");
    assert_eq!(base("plain.example:80"), "http://plain.example/v2/");
    assert_eq!(base("localhost:5000"), "http://localhost:5000/v2/");
    assert_eq!(base("[::1]:5000"), "http://[::1]:5000/v2/");
}
