use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// What the test itself runs with, as the process whose SSL_CERT_FILE trusts the server; and where it says what it saw.
const ADDRESS: &str = "SKEP_TEST_TLS_ADDRESS";
const SEEN: &str = "SKEP_TEST_TLS_SEEN";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

fn problem(base: &str, tls_days: Option<u16>) -> String {
    let probe = Probe {
        path: "/".to_owned(),
        status: 200,
        body: None,
        headers: BTreeMap::new(),
        count: 1,
        need: 1,
        interval: Duration::ZERO,
        timeout: Duration::from_secs(5),
        tls_days,
    };
    let subject = Subject {
        service: "api",
        endpoint: Endpoint {
            base: base.to_owned(),
            connect: None,
        },
        probes: &[probe],
    };
    let probed = super::probe(&[subject], &Cancel::default()).unwrap().unwrap();
    probed[0].problem.clone().unwrap_or_else(|| "none".to_owned())
}

/// A certificate for 127.0.0.1 that is valid for 20 days, and its key.
fn make_certificate(directory: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 20 -subj /CN=probe \
                     -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1 \
                     -keyout key.pem -out cert.pem";
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn server(directory: &Path) -> String {
    let certificate = CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let tls = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(tls, connection.unwrap());
            // A client that does not trust the certificate says no more.
            if stream.read(&mut [0; 4096]).is_ok() {
                let _ = stream.write_all(ANSWER.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    base
}

#[test]
fn a_certificate_that_ends_soon_is_a_bad_answer() {
    if let Ok(base) = std::env::var(ADDRESS) {
        let seen = [None, Some(19), Some(21)].map(|days| problem(&base, days));
        std::fs::write(std::env::var(SEEN).unwrap(), seen.join("\n")).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_certificate(directory.path());
    let base = server(directory.path());
    let strange = problem(&base, Some(1));
    assert!(strange.contains("certificate"), "{strange}");
    // Which authorities are trusted is the process's environment's to say.
    let trusting = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "rollout::probe::tls_tests::a_certificate_that_ends_soon_is_a_bad_answer",
        ])
        .env(ADDRESS, &base)
        .env(SEEN, directory.path().join("seen"))
        .env("SSL_CERT_FILE", directory.path().join("cert.pem"))
        .output()
        .unwrap();
    assert!(
        trusting.status.success(),
        "{}",
        String::from_utf8_lossy(&trusting.stdout)
    );
    let seen = std::fs::read_to_string(directory.path().join("seen")).unwrap();
    let [none, later, soon] = seen.lines().collect::<Vec<_>>()[..] else {
        panic!("{seen}");
    };
    assert_eq!((none, later), ("none", "none"));
    assert!(
        soon.starts_with("the certificate ends on ") && soon.ends_with(", in 19 days, and 21 are the least"),
        "{soon}"
    );
}

#[test]
fn without_tls_there_is_no_certificate_to_look_at() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(ANSWER.as_bytes());
        }
    });
    assert_eq!(problem(&base, None), "none");
    assert_eq!(
        problem(&base, Some(1)),
        "the answer came without TLS, and there is no certificate to look at"
    );
}
