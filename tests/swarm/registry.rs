//! What only somebody else does to a registry: look into it, lose something, and move a tag. All of it is about the
//! stack's one image.

use serde_json::Value;
use skep_test_support::Peer;

use super::bench::Bench;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The body of the answer to a request, which is carried out.
#[track_caller]
fn ask(bench: &Bench, method: &str, path: &str, body: &str) -> String {
    let path = format!("/v2/{}/web/{path}", bench.name);
    let both = format!("{INDEX}, {MANIFEST}");
    let head = [("Accept", both.as_str()), ("Content-Type", INDEX)];
    let (status, answer) = Peer::tcp(&bench.registry)
        .and_then(|registry| registry.ask(method, &path, &head, body))
        .unwrap();
    assert!([200, 201, 202].contains(&status), "{method} {path}: {answer}");
    answer
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
