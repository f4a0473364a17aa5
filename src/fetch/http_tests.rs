//! Downloads from servers that fail in every way.

use std::time::Instant;

use super::*;
use crate::fetch::testing::{HASTY, Server, ok, respond};

fn request(url: Url) -> Request {
    Request {
        url,
        credential: Some(Credential::bearer("t0ken")),
        accept: "*/*",
        max: 1000,
    }
}

async fn get(url: Url) -> Result<String, String> {
    let http = Http::new(HASTY).unwrap();
    let result = http.get_bytes(&request(url), &Cancel::default()).await;
    result
        .map(|(_, bytes)| String::from_utf8(bytes).unwrap())
        .map_err(|error| error.to_string())
}

/// The message behind the address, which holds a random port.
async fn failure(url: Url) -> String {
    let error = get(url).await.unwrap_err();
    error.split_once("`: ").unwrap().1.to_owned()
}

#[tokio::test]
async fn transient_failures_are_retried_and_others_are_not() {
    let server = Server::start(|path, before| match (path, before) {
        ("/missing", _) => respond("404 Not Found", "", b""),
        ("/denied", _) => respond("401 Unauthorized", "", b""),
        ("/broken", _) => respond("500 Oops", "", b""),
        (_, 0) => respond("503 Busy", "Retry-After: 0\r\n", b""),
        (_, 1) => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe".to_vec(),
        _ => ok(b"hello"),
    })
    .await;
    assert_eq!(get(server.at("x")).await.unwrap(), "hello");
    assert_eq!(server.count(), 3);

    insta::assert_snapshot!(failure(server.at("missing")).await, @"not found");
    insta::assert_snapshot!(failure(server.at("denied")).await, @"access is refused (401); credentials are read from `~/.netrc` and the ecosystem's own configuration");
    assert_eq!(server.count(), 5);
    insta::assert_snapshot!(failure(server.at("broken")).await, @"the server answers 500");
    assert_eq!(server.count(), 8);
}

#[tokio::test]
async fn sizes_are_bounded_whatever_the_server_says() {
    let server = Server::start(|path, _| match path {
        "/declared" => ok(&[b'x'; 1001]),
        _ => [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
            vec![b'x'; 5000],
        ]
        .concat(),
    })
    .await;
    insta::assert_snapshot!(failure(server.at("declared")).await, @"larger than 1000 bytes");
    insta::assert_snapshot!(failure(server.at("endless")).await, @"larger than 1000 bytes");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_silent_server_is_given_up_on() {
    let server = Server::start(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe".to_vec()).await;
    let begin = Instant::now();
    let message = failure(server.at("hang")).await;
    assert!(message.contains("timed out"), "{message}");
    assert_eq!(server.count(), 3);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_interrupted_run_does_not_wait() {
    let server = Server::start(|_, _| Vec::new()).await;
    let patient = Policy {
        idle: Duration::from_secs(60),
        total: Duration::from_secs(60),
        ..HASTY
    };
    let http = Http::new(patient).unwrap();
    let cancel = Cancel::default();
    let (request, begin) = (request(server.at("hang")), Instant::now());
    let (result, ()) = tokio::join!(http.get_bytes(&request, &cancel), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.raise();
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn redirects_are_followed_but_credentials_stay() {
    let other = Server::start(|_, _| ok(b"elsewhere")).await;
    let to = other.at("final");
    let server = Server::start(move |path, _| match path {
        "/here" => respond("302 Found", "Location: /there\r\n", b""),
        "/there" => respond("307 Found", &format!("Location: {to}\r\n"), b""),
        "/loop" => respond("301 Moved", "Location: /loop\r\n", b""),
        "/file" => respond("301 Moved", "Location: file:///etc/passwd\r\n", b""),
        _ => ok(b""),
    })
    .await;
    assert_eq!(get(server.at("here")).await.unwrap(), "elsewhere");
    let has_token = |server: &Server| {
        let requests = server.requests.lock().unwrap();
        requests
            .iter()
            .map(|head| head.contains("Bearer t0ken"))
            .collect::<Vec<_>>()
    };
    assert_eq!(has_token(&server), [true, true]);
    assert_eq!(has_token(&other), [false]);
    assert!(
        failure(server.at("loop"))
            .await
            .ends_with("and that was one redirect too many")
    );
    insta::assert_snapshot!(failure(server.at("file")).await, @"it redirects to `file:///etc/passwd`, which is neither http nor https");
}

#[test]
fn https_never_turns_into_http() {
    let from: Url = "https://a.example/x".parse().unwrap();
    let to = |text: &'static str| follow(&from, &HeaderValue::from_static(text));
    assert_eq!(to("/y").unwrap().as_str(), "https://a.example/y");
    assert_eq!(to("https://b.example/").unwrap().as_str(), "https://b.example/");
    insta::assert_snapshot!(to("http://b.example/?sig=secret").unwrap_err(), @"it redirects to `http://b.example/?…`, from https to plain http");
    let plain: Url = "http://a.example/x".parse().unwrap();
    assert!(follow(&plain, &HeaderValue::from_static("http://127.0.0.1/x")).is_err());
}

#[test]
fn shown_addresses_hold_no_secrets() {
    let url = Url::parse("https://me:hunter2@a.example/x?X-Signature=abc#frag").unwrap();
    assert_eq!(redact(&url), "https://a.example/x?…");
}
