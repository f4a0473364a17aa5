//! Requests over a window: one lucky answer proves nothing, so several are asked for, and most must be good.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use reqwest::Client;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::history::Probe;
use super::target::{Endpoint, now};
use crate::cancel::Cancel;

/// How much of a body is looked at, in bytes.
const MAX_BODY: usize = 64 << 10;

/// What came of one probe.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Probed {
    /// The service.
    pub service: String,
    /// The path.
    pub path: String,
    /// How many requests were answered well.
    pub good: u32,
    /// How many were made.
    pub made: u32,
    /// How many good ones are needed.
    pub need: u32,
    /// What was wrong with the last bad one.
    pub problem: Option<String>,
}

impl Probed {
    /// Whether enough were good.
    pub fn passed(&self) -> bool {
        self.good >= self.need
    }
}

/// One service's probes and where it answers.
pub(super) struct Subject<'a> {
    pub service: &'a str,
    pub endpoint: Endpoint,
    pub probes: &'a [Probe],
}

/// Makes all requests, those of different probes at the same time. `None` if it was interrupted.
pub(super) fn probe(subjects: &[Subject<'_>], cancel: &Cancel) -> std::io::Result<Option<Vec<Probed>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let all = subjects.iter().flat_map(|subject| {
        subject
            .probes
            .iter()
            .map(|probe| window(subject.service, &subject.endpoint, probe))
    });
    Ok(runtime.block_on(cancel.unless_raised(join_all(all))))
}

/// Each request has a connection of its own, as each visitor has.
async fn window(service: &str, endpoint: &Endpoint, probe: &Probe) -> Probed {
    let mut probed = Probed {
        service: service.to_owned(),
        path: probe.path.clone(),
        good: 0,
        made: 0,
        need: probe.need,
        problem: None,
    };
    let began = Instant::now();
    for number in 0..probe.count {
        let due = began + probe.interval * number;
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
        probed.made += 1;
        match request(endpoint, probe).await {
            Ok(()) => probed.good += 1,
            Err(problem) => probed.problem = Some(problem),
        }
        // What cannot be made good any more need not be waited for.
        if probed.good + (probe.count - probed.made) < probe.need {
            break;
        }
    }
    probed
}

async fn request(endpoint: &Endpoint, probe: &Probe) -> Result<(), String> {
    let client = client(endpoint, probe.timeout).map_err(|error| flat(&error))?;
    let url = format!("{}{}", endpoint.base, probe.path);
    let mut response = client.get(url).send().await.map_err(|error| flat(&error))?;
    if let Some(days) = probe.tls_days {
        check_certificate(days, &response)?;
    }
    if response.status().as_u16() != probe.status {
        return Err(format!(
            "answered {}, and not {}",
            response.status().as_u16(),
            probe.status
        ));
    }
    check_headers(&probe.headers, response.headers())?;
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        match response.chunk().await.map_err(|error| flat(&error))? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    match &probe.body {
        Some(text) if !String::from_utf8_lossy(&body).contains(text.as_str()) => {
            Err(format!("the body does not hold `{text}`"))
        }
        _ => Ok(()),
    }
}

/// The certificate that the answer came with is valid for at least `days` more days. The client trusts it already.
fn check_certificate(days: u16, response: &reqwest::Response) -> Result<(), String> {
    let info = response.extensions().get::<reqwest::tls::TlsInfo>();
    let certificate = info
        .and_then(|info| info.peer_certificate())
        .ok_or("the answer came without TLS, and there is no certificate to look at")?;
    let certificate = Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let ends = certificate.tbs_certificate().validity().not_after;
    let ends: DateTime<Utc> = (std::time::UNIX_EPOCH + ends.to_unix_duration()).into();
    let left = ends - now();
    match left < TimeDelta::days(i64::from(days)) {
        true => Err(format!(
            "the certificate ends on {}, in {} days, and {days} are the least",
            ends.format("%Y-%m-%d"),
            left.num_days()
        )),
        false => Ok(()),
    }
}

fn check_headers(
    wanted: &BTreeMap<String, String>,
    headers: &reqwest::header::HeaderMap,
) -> Result<(), String> {
    for (name, text) in wanted {
        let mut values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        if !values.any(|value| value.contains(text.as_str())) {
            return Err(format!("no header `{name}` holds `{text}`"));
        }
    }
    Ok(())
}

fn client(endpoint: &Endpoint, timeout: Duration) -> reqwest::Result<Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Redirects are answers of their own: a probe that follows one tests another page.
    let mut builder = Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_info(true)
        .timeout(timeout);
    if let (Some(connect), Ok(url)) = (endpoint.connect, endpoint.base.parse::<reqwest::Url>())
        && let Some(host) = url.host_str()
    {
        builder = builder.resolve(host, connect);
    }
    builder.build()
}

/// An error with what is behind it, in one line.
pub(super) fn flat(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A server that gives the answers of `answers` in turn, over and over.
    fn server(answers: &'static [&'static str]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (connection, answer) in listener.incoming().zip(answers.iter().cycle()) {
                let mut connection = connection.unwrap();
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        Endpoint { base, connect: None }
    }

    fn check(answers: &'static [&'static str], need: u32, expected: (u32, u32, bool)) -> Option<String> {
        let probe = Probe {
            path: "/health".to_owned(),
            status: 200,
            body: Some("ok".to_owned()),
            headers: BTreeMap::new(),
            count: 6,
            need,
            interval: Duration::from_millis(1),
            timeout: Duration::from_secs(5),
            tls_days: None,
        };
        let subject = Subject {
            service: "api",
            endpoint: server(answers),
            probes: &[probe],
        };
        let probed = probe_one(&subject);
        assert_eq!((probed.good, probed.made, probed.passed()), expected);
        probed.problem
    }

    fn probe_one(subject: &Subject<'_>) -> Probed {
        probe(std::slice::from_ref(subject), &Cancel::default())
            .unwrap()
            .unwrap()
            .remove(0)
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const ODD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnope";

    #[test]
    fn a_flapping_answer_fails_and_is_not_waited_for() {
        assert_eq!(check(&[GOOD], 6, (6, 6, true)), None);
        let problem = check(&[GOOD, BAD], 6, (1, 2, false));
        assert_eq!(problem.as_deref(), Some("answered 503, and not 200"));
        assert!(check(&[GOOD, BAD, GOOD], 4, (4, 6, true)).is_some());
        assert_eq!(
            check(&[ODD], 1, (0, 6, false)).as_deref(),
            Some("the body does not hold `ok`")
        );
    }
}

#[cfg(test)]
#[path = "probe_tls_tests.rs"]
mod tls_tests;
