//! Which requests are answered: those of this machine's programs, and none that a web page has made a browser
//! send.
//!
//! A browser says for whom it asks: `Host` holds the name that the page used (one that resolves to loopback may
//! belong to any server), `Origin` the page that writes, and `Sec-Fetch-Site` how page and registry are related (W3C
//! Fetch Metadata). Pages of another port of this machine are foreign too.

use hyper::StatusCode;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;

use super::answer::Refusal;
use crate::registry::address::is_loopback;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what comes from elsewhere.
pub(super) fn admit(head: &Parts) -> Result<(), Refusal> {
    let host = only(&head.headers).filter(|host| is_loopback(host));
    // An absolute target goes before `Host` (RFC 9112, section 3.2.2).
    let target = head.uri.authority().map(|target| target.as_str());
    let Some(host) = host.filter(|_| target.is_none_or(is_loopback)) else {
        return Err(denied("it answers to loopback names and addresses alone"));
    };
    let own = format!("http://{host}");
    let every = |name: &HeaderName, is_right: &dyn Fn(&str) -> bool| {
        let mut values = head.headers.get_all(name).iter();
        values.all(|value| value.to_str().is_ok_and(is_right))
    };
    let is_own = |origin: &str| origin.eq_ignore_ascii_case(&own);
    let is_direct = |site: &str| matches!(site, "same-origin" | "none");
    match every(&ORIGIN, &is_own) && every(&FETCH_SITE, &is_direct) {
        true => Ok(()),
        false => Err(denied("it answers no web page")),
    }
}

/// The one `Host`.
fn only(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host: &HeaderValue = hosts.next()?;
    hosts.next().is_none().then(|| host.to_str().ok())?
}

fn denied(why: &str) -> Refusal {
    let message = format!("this registry is for programs on its own machine: {why}");
    Refusal::new(StatusCode::FORBIDDEN, "DENIED", message)
}
