//! Uploads that are torn, refused and cut.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::*;
use super::*;

fn lines(faulty: &Faulty) -> Vec<String> {
    let plain = |seen: Seen| {
        let line = seen.line.split("sha256").next().unwrap().to_owned();
        match line.split_once("uploads/") {
            Some((before, rest)) if rest.len() > 31 => {
                format!(
                    "{before}uploads/ID{}",
                    rest.trim_start_matches(|c: char| c.is_ascii_hexdigit())
                )
            }
            _ => line,
        }
    };
    faulty.seen().into_iter().map(plain).collect()
}

#[tokio::test]
async fn after_a_torn_upload_a_new_one_is_begun() {
    let torn = AtomicUsize::new(0);
    let faulty = Faulty::start(move |seen| match seen.line.starts_with("PUT ") {
        true if torn.fetch_add(1, Ordering::SeqCst) < 2 => Act::Tear,
        _ => Act::Pass,
    })
    .await;
    let (_directory, ours) = store();
    let digest = ours.put(&noise(600_000, 4)).unwrap();
    upload(&client(), &faulty.repository(), &ours, &digest)
        .await
        .unwrap();
    insta::assert_debug_snapshot!(lines(&faulty), @r#"
[
    "POST /v2/owner/api/blobs/uploads/",
    "PUT /v2/owner/api/blobs/uploads/ID?digest=",
    "HEAD /v2/owner/api/blobs/",
    "POST /v2/owner/api/blobs/uploads/",
    "PUT /v2/owner/api/blobs/uploads/ID?digest=",
    "HEAD /v2/owner/api/blobs/",
    "POST /v2/owner/api/blobs/uploads/",
    "PUT /v2/owner/api/blobs/uploads/ID?digest=",
]
"#);
    let places: BTreeSet<String> = faulty
        .seen()
        .into_iter()
        .filter(|s| s.line.starts_with("PUT "))
        .map(|s| s.line)
        .collect();
    assert_eq!(places.len(), 3, "each upload is another one");
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for() {
    let swallowed = AtomicUsize::new(0);
    let faulty = Faulty::start(move |seen| match seen.line.starts_with("PUT ") {
        true if swallowed.fetch_add(1, Ordering::SeqCst) == 0 => Act::Swallow,
        _ => Act::Pass,
    })
    .await;
    let (_directory, ours) = store();
    let digest = ours.put(&noise(100_000, 5)).unwrap();
    upload(&client(), &faulty.repository(), &ours, &digest)
        .await
        .unwrap();
    assert_eq!(faulty.count("PUT "), 1);
}

#[tokio::test]
async fn small_blobs_take_one_request_where_that_is_understood() {
    let faulty = Faulty::start(|_| Act::Pass).await;
    let (_directory, ours) = store();
    let client = client();
    for seed in 0..2 {
        let digest = ours.put(&noise(1000, seed)).unwrap();
        upload(&client, &faulty.repository(), &ours, &digest)
            .await
            .unwrap();
    }
    let large = ours.put(&noise(100_000, 6)).unwrap();
    upload(&client, &faulty.repository(), &ours, &large)
        .await
        .unwrap();
    insta::assert_debug_snapshot!(lines(&faulty), @r#"
[
    "POST /v2/owner/api/blobs/uploads/?digest=",
    "POST /v2/owner/api/blobs/uploads/?digest=",
    "POST /v2/owner/api/blobs/uploads/?digest=",
]
"#);

    // One that begins an upload whatever it is asked, and one that wants to hear nothing of it.
    for refusal in [None, Some(405)] {
        let faulty = Faulty::start(
            move |seen| match (seen.line.contains("uploads/?digest="), refusal) {
                (true, Some(status)) => error(status, "UNSUPPORTED"),
                (true, None) => Act::Answer(
                    202,
                    vec!["location: /v2/owner/api/blobs/uploads/none".to_owned()],
                    String::new(),
                ),
                _ => Act::Pass,
            },
        )
        .await;
        let client = self::client();
        for seed in 0..2 {
            let digest = ours.put(&noise(1000, seed)).unwrap();
            upload(&client, &faulty.repository(), &ours, &digest)
                .await
                .unwrap();
        }
        assert_eq!(faulty.count("uploads/?digest="), 1, "it is tried once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_may_find_out_at_once_that_one_request_is_not_enough() {
    // Both are on their way before either is answered.
    let arrived = std::sync::Barrier::new(2);
    let faulty = Faulty::start(move |seen| match seen.line.contains("uploads/?digest=") {
        true => {
            tokio::task::block_in_place(|| arrived.wait());
            error(405, "UNSUPPORTED")
        }
        false => Act::Pass,
    })
    .await;
    let (_directory, ours) = store();
    let (client, to) = (client(), faulty.repository());
    let digests = [1, 2].map(|seed| ours.put(&noise(1000, seed)).unwrap());
    let both = digests
        .each_ref()
        .map(|digest| upload(&client, &to, &ours, digest));
    futures_util::future::try_join_all(both).await.unwrap();
    assert_eq!(faulty.count("uploads/?digest="), 2);
}

#[tokio::test]
async fn what_is_too_large_goes_in_chunks() {
    const LIMIT: u64 = 1 << 20;
    for early in [false, true] {
        let torn = AtomicUsize::new(0);
        let faulty = Faulty::start(move |seen| match seen.length > LIMIT {
            true if early => Act::AnswerEarly(413),
            true => error(413, "SIZE_INVALID"),
            // The second chunk is lost once, and everything starts over.
            false
                if seen.range.as_deref() == Some("1048576-2097151")
                    && torn.fetch_add(1, Ordering::SeqCst) == 0 =>
            {
                Act::Tear
            }
            false => Act::Pass,
        })
        .await;
        let (_directory, ours) = store();
        let client = client();
        let digest = ours.put(&noise(2_500_000, 7)).unwrap();
        upload(&client, &faulty.repository(), &ours, &digest)
            .await
            .unwrap();
        let ranges: Vec<String> = faulty.seen().into_iter().filter_map(|seen| seen.range).collect();
        assert_eq!(
            ranges,
            [
                "0-1048575",
                "1048576-2097151",
                "0-1048575",
                "1048576-2097151",
                "2097152-2499999"
            ]
        );
        // It is remembered.
        let before = faulty.seen().len();
        let digest = ours.put(&noise(2_000_000, 8)).unwrap();
        upload(&client, &faulty.repository(), &ours, &digest)
            .await
            .unwrap();
        assert_eq!(faulty.seen().len() - before, 4, "POST, two PATCH, PUT");
        assert!(
            client
                .has_blob(&faulty.repository(), &digest, &never())
                .await
                .unwrap()
        );
    }
}

#[tokio::test]
async fn repeated_trouble_leaves_one_upload_at_a_time() {
    let failed = AtomicUsize::new(0);
    let faulty = Faulty::start(move |seen| match seen.line.starts_with("PUT ") {
        true if failed.fetch_add(1, Ordering::SeqCst) < 4 => error(500, "UNKNOWN"),
        _ => Act::Pass,
    })
    .await;
    let (_directory, ours) = store();
    let (client, to) = (Arc::new(client()), faulty.repository());
    let tasks: Vec<_> = (0..8)
        .map(|seed| {
            let digest = ours.put(&noise(300_000, 100 + seed)).unwrap();
            let (client, to, ours) = (Arc::clone(&client), to.clone(), Arc::clone(&ours));
            tokio::spawn(async move {
                upload(&client, &to, &ours, &digest).await.unwrap();
                assert!(client.has_blob(&to, &digest, &never()).await.unwrap());
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let host = client.host(&to, &never()).await.ok().unwrap();
    assert!(host.lanes.single.load(Ordering::SeqCst));
}

#[tokio::test]
async fn damaged_blobs_are_not_sent_whole() {
    let faulty = Faulty::start(|_| Act::Pass).await;
    let (_directory, ours) = store();
    let client = client();
    for length in [100, 600_000] {
        let bytes = noise(length, 10);
        let digest = ours.put(&bytes).unwrap();
        let hex = digest.hex();
        let mut damaged = bytes.clone();
        damaged[length - 1] ^= 1;
        std::fs::write(ours.root().join("blobs").join(&hex[..2]).join(&hex), damaged).unwrap();
        let to = faulty.repository();
        let result = client
            .upload(&to, &ours, &digest, None, &silent(), &never())
            .await;
        assert!(matches!(result, Err(Error::Store(error)) if error.is_lost_content()));
        assert!(!client.has_blob(&to, &digest, &never()).await.unwrap());
    }
}
