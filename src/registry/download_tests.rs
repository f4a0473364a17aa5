use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::{Act, Faulty, client, store};
use super::*;
use crate::cancel::Cancel;
use crate::digest::Digest;

fn repository(host: &str) -> Repository {
    format!("{host}/o/a").parse().unwrap()
}

/// A registry that holds `content` and answers requests for it as `act` says, by their number.
async fn holding(content: &[u8], act: impl Fn(usize) -> Act + Send + Sync + 'static) -> (Faulty, Digest) {
    let count = AtomicUsize::new(0);
    let faulty = Faulty::start(move |seen| match seen.line.starts_with("GET /v2/o/a/blobs/") {
        true => act(count.fetch_add(1, Ordering::SeqCst)),
        false => Act::Pass,
    })
    .await;
    let (_directory, store) = store();
    let digest = store.put(content).unwrap();
    let sent: Sent = std::sync::Arc::new(|_| ());
    client()
        .upload(
            &repository(&faulty.host),
            &store,
            &digest,
            None,
            &sent,
            &Cancel::default(),
        )
        .await
        .unwrap();
    (faulty, digest)
}

#[tokio::test]
async fn a_blob_comes_into_memory_or_a_file() {
    let content = vec![7; 300_000];
    let (faulty, digest) = holding(&content, |number| match number {
        0 => Act::Tear,
        _ => Act::Pass,
    })
    .await;
    let (repository, cancel) = (repository(&faulty.host), Cancel::default());
    let (_directory, store) = store();
    let found = client().download(&store, &repository, &digest, &cancel).await;
    let mut bytes = Vec::new();
    found.unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content);
    let found = client().get_blob(&repository, &digest, &cancel).await.unwrap();
    assert_eq!(found, Some(content));
}

#[tokio::test]
async fn what_is_not_there_is_nothing_and_what_is_wrong_an_error() {
    let (faulty, digest) = holding(b"right", |_| Act::Answer(200, Vec::new(), "wrong".to_owned())).await;
    let (repository, cancel) = (repository(&faulty.host), Cancel::default());
    let (_directory, store) = store();
    let error = client()
        .get_blob(&repository, &digest, &cancel)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("get the blob `sha256:"), "{error}");
    let error = client()
        .download(&store, &repository, &digest, &cancel)
        .await
        .unwrap_err();
    let Error::Failed { failure, .. } = error else {
        panic!("{error}")
    };
    assert!(matches!(*failure, Failure::Digest { .. }), "{failure}");
    // Longer than it may be.
    let short = Digest::from_hex(&Digest::of(b"right").hex(), 3).unwrap();
    let error = client()
        .download(&store, &repository, &short, &cancel)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("larger than 3 bytes"), "{error}");

    let (faulty, _) = holding(b"right", |_| Act::Pass).await;
    let absent = Digest::of(b"absent");
    let repository = self::repository(&faulty.host);
    assert_eq!(
        client().get_blob(&repository, &absent, &cancel).await.unwrap(),
        None
    );
    assert!(
        client()
            .download(&store, &repository, &absent, &cancel)
            .await
            .unwrap()
            .is_none()
    );
}
