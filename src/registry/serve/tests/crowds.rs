//! Clients that take up all connections or uploads and do nothing with them.

use super::*;

/// Few places, so that tests need few sockets.
const FEW: Bounds = Bounds {
    connections: 8,
    uploads: 4,
    patience: Duration::from_millis(100),
    ..BOUNDS
};
/// Less than any time after which a client is given up on for itself.
const SOON: Duration = Duration::from_secs(20);

async fn few() -> Bench {
    Bench::with(FEW).await
}

/// Connections that have each sent `text` and stay open.
async fn open(bench: &Bench, count: usize, text: &str) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(bench.server.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // The registry has seen them.
    tokio::time::sleep(FEW.patience * 2).await;
    streams
}

/// A request of a new client, which gets a place soon.
async fn ask(bench: &Bench) -> u16 {
    let text = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = tokio::time::timeout(SOON, raw(&bench.server, text)).await;
    let answer = answer.expect("no place for a new client");
    answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0)
}

#[tokio::test]
async fn connections_that_do_nothing_make_room() {
    let bench = few().await;
    let large = bench.blob("a", &vec![5; 32 << 20]).await.oci();
    let upload = bench.begin().await;
    for text in [
        // No request, the beginning of one, and one that was answered.
        String::new(),
        "GET /v2/ HTTP/1.1\r\nHost: lo".to_owned(),
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        // Bodies that do not go on.
        "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{".to_owned(),
        format!(
            "POST /v2/a/blobs/uploads/?digest={large} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx"
        ),
        // Of which all but one wait for the first.
        format!("PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx"),
        // Of a request that is refused.
        "PATCH /v2/a/blobs/uploads/x?digest=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx"
            .to_owned(),
        // A client that does not read the answer.
        format!("GET /v2/a/blobs/{large} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ] {
        let streams = open(&bench, FEW.connections, &text).await;
        for _ in 0..3 {
            assert_eq!(ask(&bench).await, 200, "{text:?}");
        }
        drop(streams);
    }
}

#[tokio::test]
async fn clients_that_go_on_keep_their_connections() {
    let bench = few().await;
    let mut streams = Vec::new();
    let begin = "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n";
    for mut stream in open(&bench, 4, begin).await {
        streams.push(async move {
            for _ in 0..40 {
                stream.write_all(b"x").await.unwrap();
                tokio::time::sleep(FEW.patience / 10).await;
            }
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 400");
        });
    }
    let crowd = async {
        for _ in 0..5 {
            drop(open(&bench, 2 * FEW.connections, "").await);
        }
    };
    tokio::join!(futures_util::future::join_all(streams), crowd);
}

#[tokio::test]
async fn the_upload_that_was_idle_for_longest_makes_room() {
    let bench = few().await;
    let mut begun = Vec::new();
    for _ in 0..FEW.uploads {
        begun.push(bench.begin().await);
    }
    assert_eq!(bench.ask("PATCH", &begun[0], &[], "0123").await.status, 202);
    for _ in 0..2 {
        begun.push(bench.begin().await);
    }
    let mut found = Vec::new();
    for at in &begun {
        found.push(bench.get(at).await.status);
    }
    assert_eq!(found, [204, 404, 404, 204, 204, 204]);
    let digest = Digest::of(b"0123456");
    let close = format!("{}?digest={}", begun[0], digest.oci());
    assert_eq!(bench.ask("PUT", &close, &[], "456").await.status, 201);
    let lost = bench.ask("PATCH", &begun[1], &[], "0123").await.code();
    assert_eq!(lost, (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    bench.blob("a", b"whole").await;
}

#[tokio::test]
async fn uploads_whose_bodies_do_not_go_on_make_room() {
    let bench = few().await;
    let digest = Digest::of(b"x").oci();
    let whole = format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\n");
    let mut requests = vec![whole; FEW.uploads];
    for at in 0..FEW.uploads {
        // Each new one takes the place of one of the first.
        let request = format!("PATCH {} HTTP/1.1\r\n", bench.begin().await);
        requests.push(request);
        assert_eq!(requests.len(), FEW.uploads + at + 1);
    }
    for requests in requests.chunks(FEW.uploads) {
        let mut streams = Vec::new();
        for request in requests {
            let text = format!("{request}Host: localhost\r\nContent-Length: 99\r\n\r\nx");
            streams.extend(open(&bench, 1, &text).await);
        }
        bench.blob("a", b"whole").await;
        let mut answer = [0; 12];
        streams[0].read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404", "the one that waited for longest");
    }
}

#[tokio::test]
async fn uploads_that_go_on_keep_their_places() {
    let bench = few().await;
    let mut streams = Vec::new();
    for _ in 0..FEW.uploads {
        let at = bench.begin().await;
        let text = format!("PATCH {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx");
        streams.extend(open(&bench, 1, &text).await);
    }
    let mut refused = None;
    for _ in 0..10 {
        for stream in &mut streams {
            stream.write_all(b"x").await.unwrap();
        }
        let got = bench.ask("POST", "/v2/a/blobs/uploads/", &[], "").await;
        if got.status == 429 {
            refused = Some(got);
        }
    }
    let refused = refused.expect("each of them makes room");
    assert_eq!(refused.code().1, "TOOMANYREQUESTS");
    assert_eq!(refused.header("retry-after"), "1");
}
