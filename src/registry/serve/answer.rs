//! Answers of the embedded registry, and refusals with the specification's error codes (1.1, "Error Codes").

use std::io;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::catalog;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Response<Body>;

/// An answer with headers and bytes. What no header may hold is left out.
pub(super) fn answer(status: StatusCode, headers: &[(HeaderName, String)], body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let length = body.len();
    let mut answer = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    set_headers(&mut answer, headers);
    answer
}

/// An answer without bytes.
pub(super) fn empty(status: StatusCode, headers: &[(HeaderName, String)]) -> Answer {
    let mut answer = answer(status, headers, Bytes::new());
    if status == StatusCode::NO_CONTENT {
        answer.headers_mut().remove(CONTENT_LENGTH);
    }
    answer
}

pub(super) fn set_headers(answer: &mut Answer, headers: &[(HeaderName, String)]) {
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name.clone(), value);
        }
    }
}

pub(super) fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// Why something is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn unknown(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn answer(self) -> Answer {
        let body = serde_json::json!({ "errors": [{ "code": self.code, "message": self.message }] });
        let mut answer = answer(self.status, &self.headers, body.to_string());
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(CONTENT_TYPE, json);
        answer
    }
}

impl From<catalog::ServeError> for Refusal {
    fn from(error: catalog::ServeError) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", error.to_string())
    }
}
