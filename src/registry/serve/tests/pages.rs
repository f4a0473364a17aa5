//! What a browser sends for a web page is refused, whatever it asks.

use super::*;

/// Answers to every kind of request, with headers that a browser adds.
async fn statuses(bench: &Bench, headers: &[(&str, &str)]) -> Vec<u16> {
    let blob = Digest::of(b"of a page").oci();
    let mut statuses = Vec::new();
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2/a/manifests/v1".to_owned()),
        ("HEAD", format!("/v2/a/blobs/{}", Digest::of(b"layer").oci())),
        ("GET", format!("/v2/a/blobs/{}", Digest::of(b"layer").oci())),
        ("GET", "/v2/a/tags/list".to_owned()),
        ("POST", format!("/v2/a/blobs/uploads/?digest={blob}")),
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("PUT", "/v2/a/manifests/v2".to_owned()),
        ("DELETE", "/v2/a/manifests/v2".to_owned()),
        ("OPTIONS", "/v2/a/blobs/uploads/".to_owned()),
        ("GET", "/elsewhere".to_owned()),
    ] {
        let body = if method == "POST" { "of a page" } else { "" };
        statuses.push(bench.ask(method, &path, headers, body).await.status);
    }
    statuses
}

#[tokio::test]
async fn web_pages_are_refused() {
    let bench = Bench::new().await;
    bench.image("a", "v1", "layer").await;
    let own = bench.server.address();
    let port = own.port();
    let (ours, other_port) = (format!("http://{own}"), "http://127.0.0.1:1".to_owned());
    let (secure, by_name) = (format!("https://{own}"), format!("http://localhost:{port}"));
    for (name, value) in [
        ("origin", "https://attacker.example"),
        ("origin", "null"),
        ("origin", ""),
        ("origin", "http://127.0.0.1"),
        ("origin", &other_port),
        ("origin", &secure),
        // `Host` has the address.
        ("origin", &by_name),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "of a browser to come"),
        ("host", "attacker.example"),
        ("host", "127.0.0.1.attacker.example"),
        ("host", "localhost.attacker.example:5000"),
        ("host", "0.0.0.0"),
        ("host", "192.168.1.2"),
        ("host", "[::ffff:192.168.1.2]:5000"),
    ] {
        let statuses = statuses(&bench, &[(name, value)]).await;
        assert!(
            statuses.iter().all(|status| *status == 403),
            "{name}: {value}: {statuses:?}"
        );
    }
    // Every one of several counts.
    for headers in [
        [("origin", ours.as_str()), ("origin", "https://attacker.example")],
        [("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "none"), ("origin", "https://attacker.example")],
        [("host", "localhost"), ("host", "attacker.example")],
    ] {
        let statuses = statuses(&bench, &headers).await;
        assert!(
            statuses.iter().all(|status| *status == 403),
            "{headers:?}: {statuses:?}"
        );
    }
    let refused = bench.ask("GET", "/v2/", &[("origin", "null")], "").await;
    assert_eq!(refused.code(), (403, "DENIED".to_owned()));
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    // Nothing came of any of them.
    let blob = Digest::of(b"of a page");
    assert!(!bench.store.has(&blob));
    assert_eq!(
        bench.get("/v2/a/tags/list").await.json()["tags"],
        serde_json::json!(["v1"])
    );
}

#[tokio::test]
async fn a_target_with_a_name_counts_as_a_host() {
    let bench = Bench::new().await;
    for (target, expected) in [
        ("http://attacker.example/v2/", "HTTP/1.1 403"),
        ("http://localhost/v2/", "HTTP/1.1 200"),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw(&bench.server, &text).await;
        assert!(answer.starts_with(expected), "{target}: {answer}");
    }
}

#[tokio::test]
async fn programs_of_this_machine_are_answered() {
    let bench = Bench::new().await;
    bench.image("a", "v1", "layer").await;
    let own = format!("http://{}", bench.server.address());
    for headers in [
        &[][..],
        // An address that was typed, and a page of its own.
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "same-origin"), ("origin", &own)],
        &[("host", "localhost")],
        &[("host", "[::1]:5000")],
    ] {
        let got = bench.ask("GET", "/v2/a/manifests/v1", headers, "").await;
        assert_eq!(got.status, 200, "{headers:?}");
    }
}
