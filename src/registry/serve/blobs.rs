//! Blobs of the embedded registry, whole or a range of them. What leaves is verified before its last byte.

use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt as _, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};

use super::answer::{Answer, Refusal, empty, header, set_headers};
use crate::digest::Digest;
use crate::registry::pieces::Pieces;
use crate::store::Store;

/// `HEAD` of a blob.
pub(super) fn head(digest: &Digest) -> Answer {
    let mut answer = empty(StatusCode::OK, &headers(digest));
    answer.headers_mut().insert(CONTENT_LENGTH, digest.size().into());
    answer
}

/// `GET` of a blob.
pub(super) fn get(store: &Arc<Store>, digest: &Digest, asked: &HeaderMap) -> Result<Answer, Refusal> {
    let size = digest.size();
    let range = asked.get(RANGE).and_then(|range| range.to_str().ok());
    let range = range.map_or(Asked::All, |range| parse_range(range, size));
    let (start, end, status) = match range {
        Asked::All => (0, size, StatusCode::OK),
        Asked::Range(start, end) => (start, end, StatusCode::PARTIAL_CONTENT),
        Asked::Nothing => {
            return Err(Refusal {
                headers: vec![(CONTENT_RANGE, format!("bytes */{size}"))],
                ..Refusal::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "SIZE_INVALID",
                    "the range is not in the blob",
                )
            });
        }
    };
    let pieces = Pieces::within(store, digest, start..end);
    let stream = futures_util::stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.next(u64::MAX).await?;
        Some((piece.map(Frame::data).map_err(io::Error::from), pieces))
    });
    let mut answer = Answer::new(StreamBody::new(stream).boxed_unsync());
    *answer.status_mut() = status;
    set_headers(&mut answer, &headers(digest));
    answer.headers_mut().insert(CONTENT_LENGTH, (end - start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = (CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1));
        set_headers(&mut answer, &[range]);
    }
    Ok(answer)
}

fn headers(digest: &Digest) -> [(hyper::header::HeaderName, String); 3] {
    [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (header("docker-content-digest"), digest.oci()),
    ]
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    All,
    /// From, and up to but not including.
    Range(u64, u64),
    Nothing,
}

/// A `Range` header (RFC 9110, section 14.2). Several ranges, other units and nonsense ask for all.
pub(super) fn parse_range(text: &str, size: u64) -> Asked {
    let parsed = || {
        let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number = |text: &str| match text {
            "" => Some(None),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse::<u64>().ok().map(Some),
            _ => None,
        };
        Some((number(first)?, number(last)?))
    };
    match parsed() {
        None | Some((None, None)) => Asked::All,
        Some((Some(first), Some(last))) if first > last => Asked::All,
        Some((Some(first), _)) if first >= size => Asked::Nothing,
        Some((Some(first), last)) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            Asked::Range(first, end)
        }
        Some((None, Some(0))) => Asked::Nothing,
        Some((None, Some(_))) if size == 0 => Asked::Nothing,
        Some((None, Some(length))) => Asked::Range(size.saturating_sub(length), size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("bytes=0-", Asked::Range(0, 10)),
            ("bytes=2-4", Asked::Range(2, 5)),
            ("bytes=9-99", Asked::Range(9, 10)),
            ("bytes=-3", Asked::Range(7, 10)),
            ("bytes=-99", Asked::Range(0, 10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=4-2", Asked::All),
            ("bytes=-", Asked::All),
            ("bytes=0-1,3-4", Asked::All),
            ("items=0-1", Asked::All),
            ("bytes=+1-2", Asked::All),
            ("bytes=0-18446744073709551615", Asked::Range(0, 10)),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=-1", 0), Asked::Nothing);
    }
}
