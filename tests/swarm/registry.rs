//! What only somebody else does to a registry: look into it, lose something, and move a tag. All of it is about the
//! stack's one image.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::bench::Bench;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Head and body of the answer to a request, which is carried out.
#[track_caller]
fn ask(bench: &Bench, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(&bench.registry).unwrap();
    write!(
        stream,
        "{method} /v2/{}/web/{path} HTTP/1.0\r\nHost: {}\r\nAccept: {INDEX}, {MANIFEST}\r\n\
         Content-Type: {INDEX}\r\nContent-Length: {}\r\n\r\n{body}",
        bench.name,
        bench.registry,
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let is_done = [" 200 ", " 201 ", " 202 "]
        .iter()
        .any(|status| head.contains(status));
    assert!(is_done, "{method} {path}: {answer}");
    body.to_owned()
}

/// A manifest or an index.
pub fn get(bench: &Bench, path: &str) -> Value {
    serde_json::from_str(&ask(bench, "GET", path, "")).unwrap()
}

pub fn remove(bench: &Bench, path: &str) {
    ask(bench, "DELETE", path, "");
}

/// Makes a tag mean what `of` means, whatever it meant before.
pub fn tag(bench: &Bench, of: &str, tag: &str) {
    let index = ask(bench, "GET", &format!("manifests/{of}"), "");
    ask(bench, "PUT", &format!("manifests/{tag}"), &index);
}
