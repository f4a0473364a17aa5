//! A web server on loopback that answers as a test says, byte for byte.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::http::Policy;

/// Patience for tests.
pub(super) const HASTY: Policy = Policy {
    attempts: 3,
    pause: Duration::from_millis(1),
    idle: Duration::from_millis(300),
    total: Duration::from_secs(5),
};

/// A running server.
pub(super) struct Server {
    pub url: Url,
    /// The head of every request, in order.
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers each request with what `respond` makes of its path and of how many came before. Every
    /// connection serves one request.
    pub(super) async fn start(respond: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, respond) = (Arc::clone(&requests), Arc::new(respond));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, respond) = (Arc::clone(&seen), Arc::clone(&respond));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let before = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(head);
                        seen.len() - 1
                    };
                    let _ = stream.write_all(&respond(&path, before)).await;
                    if path.contains("hang") {
                        tokio::time::sleep(Duration::from_secs(30)).await;
                    }
                });
            }
        });
        Server { url, requests }
    }

    /// The address of a path.
    pub(super) fn at(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }

    /// How many requests came.
    pub(super) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// A response with a body.
pub(super) fn ok(body: &[u8]) -> Vec<u8> {
    respond("200 OK", "", body)
}

/// A response of any status, with further headers (each ended by `\r\n`).
pub(super) fn respond(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}
