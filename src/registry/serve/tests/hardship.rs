//! What else happens to a registry: collection, damage, garbage, and clients that stall.

use super::*;

/// Makes a record as old as one that came a day and an hour ago.
fn make_old(record: &std::path::Path) {
    let file = std::fs::File::options().write(true).open(record).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    file.set_modified(old).unwrap();
}

#[tokio::test]
async fn collection_spares_what_is_named() {
    let bench = Bench::new().await;
    let collect = || collect(bench.store.root()).unwrap();
    assert_eq!(collect(), []);
    let (_, digest) = bench.image("a/b", "v1", "layer").await;
    let loose = bench.blob("c", b"loose").await;
    let mut expected = vec![digest, Digest::of(b"{}"), Digest::of(b"layer"), loose];
    expected.sort();
    assert_eq!(collect(), expected);
    let records = bench.store.root().join("registry/repositories");
    let of_loose = records.join("c/blobs").join(loose.hex());
    let of_layer = records.join("a%b/blobs").join(Digest::of(b"layer").hex());
    make_old(&of_loose);
    make_old(&of_layer);
    // Whoever asks for it may be about to name it.
    let path = format!("/v2/c/blobs/{}", loose.oci());
    assert_eq!(bench.ask("HEAD", &path, &[], "").await.status, 200);
    assert_eq!(collect(), expected);
    make_old(&of_loose);
    expected.retain(|digest| *digest != loose);
    assert_eq!(collect(), expected);
    // A record that nothing will look at again is gone, and those that manifests name stay.
    assert_eq!((of_loose.exists(), of_layer.exists()), (false, true));
    assert_eq!(bench.get(&path).await.status, 404);
    // A record that a power cut left torn, and a file of somebody else.
    std::fs::write(records.join("a%b/tags/v1"), "").unwrap();
    std::fs::write(records.join("a%b/manifests/stray"), "?").unwrap();
    assert_eq!(bench.get("/v2/a/b/manifests/v1").await.status, 404);
    assert_eq!(collect(), expected);
}

#[tokio::test]
async fn damaged_blobs_break_off() {
    let bench = Bench::new().await;
    let digest = bench.blob("a", &vec![1; 600_000]).await;
    let hex = digest.hex();
    std::fs::write(
        bench.store.root().join("blobs").join(&hex[..2]).join(&hex),
        vec![2; 600_000],
    )
    .unwrap();
    for range in ["bytes=0-", "bytes=0-9"] {
        let url = format!("http://{}/v2/a/blobs/{}", bench.server.address(), digest.oci());
        let response = bench.client.get(url).header("range", range).send().await.unwrap();
        if response.status().is_success() {
            assert!(response.bytes().await.is_err(), "{range}");
        } else {
            assert_eq!(response.status(), 404, "it was found damaged before");
        }
    }
}

#[tokio::test]
async fn it_is_for_its_own_machine() {
    let bench = Bench::new().await;
    let address = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(
        serve(Arc::clone(&bench.store), address).await,
        Err(ServeError::NotLoopback(_))
    ));
    let taken = serve(Arc::clone(&bench.store), bench.server.address()).await;
    assert!(matches!(taken, Err(ServeError::Listen { .. })));
    let host = [("host", "attacker.example")];
    assert_eq!(
        bench.ask("GET", "/v2/", &host, "").await.code(),
        (403, "DENIED".to_owned())
    );
    assert_eq!(
        bench.ask("PATCH", "/v2/", &[], "").await.code(),
        (405, "UNSUPPORTED".to_owned())
    );
    assert_eq!(bench.get("/etc/passwd").await.status, 404);
    let address = bench.server.address();
    drop(bench.server);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn it_survives_garbage_and_torn_requests() {
    let bench = Bench::new().await;
    let digest = Digest::of(b"x").oci();
    for text in [
        String::new(),
        "\0\0\0\0".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/9.9\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/1.1\r\n\r\n".to_owned(),
        format!(
            "GET /v2/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "a/".repeat(100_000)
        ),
        format!(
            "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
            "x".repeat(1 << 20)
        ),
        format!(
            "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
        ),
        format!(
            "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        ),
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{".to_owned(),
        "GET /v2/a/tags/list?n=%ff&last=%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            .to_owned(),
    ] {
        let mut stream = TcpStream::connect(bench.server.address()).await.unwrap();
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "no end to {text:?}");
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{text:?}");
    }
    assert_eq!(bench.get("/v2/").await.status, 200);
    assert_eq!(bench.get(&format!("/v2/a/blobs/{digest}")).await.status, 404);
    let left = || {
        let leases = std::fs::read_dir(bench.store.root().join("tmp"))
            .unwrap()
            .flatten();
        leases
            .map(|lease| std::fs::read_dir(lease.path()).unwrap().count())
            .sum::<usize>()
    };
    // The thread of a torn upload hears of it a little later.
    for _ in 0..100 {
        if left() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(left(), 0, "nothing of torn uploads stays");
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_connection() {
    let (_directory, store) = crate::registry::testing::store();
    let address = "127.0.0.1:0".parse().unwrap();
    let bounds = Bounds {
        stall: Duration::from_millis(200),
        ..BOUNDS
    };
    let server = listen(Arc::clone(&store), address, bounds).await.unwrap();
    // More than the buffers of both ends take.
    let digest = store.put(&vec![5; 32 << 20]).unwrap();
    let catalog = Catalog::new(store);
    catalog.add_blob(&"a".parse().unwrap(), &digest).unwrap();
    let request = format!(
        "GET /v2/a/blobs/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        digest.oci()
    );
    let ask = async |pause: Duration| {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(pause).await;
        let mut got = Vec::new();
        // A connection that is reset has an end too.
        let _ = stream.read_to_end(&mut got).await;
        got.len() as u64
    };
    assert!(ask(Duration::ZERO).await > digest.size());
    assert!(ask(Duration::from_secs(2)).await < digest.size());
}
