//! Bodies of requests and answers, which tell their connection's place whether the client is waited for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::STALL;
use super::answer::{self, Refusal};
use super::room::Place;

/// The body of a request.
pub(super) struct Sent {
    body: Incoming,
    connection: Arc<Place>,
}

impl Sent {
    pub(super) fn new(body: Incoming, connection: Arc<Place>) -> Sent {
        Sent { body, connection }
    }

    /// Whether nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next bytes, which must not be long in coming.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            self.connection.wait();
            let frame = tokio::time::timeout(STALL, self.body.frame()).await;
            self.connection.work();
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(Refusal::bad("BLOB_UPLOAD_INVALID", "the body broke off")),
                Err(_) => {
                    let slow = "the body does not go on";
                    return Err(Refusal::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "BLOB_UPLOAD_INVALID",
                        slow,
                    ));
                }
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// What becomes of something that a client keeps waiting.
    pub(super) async fn wait_for<T>(&self, what: impl Future<Output = T>) -> T {
        self.connection.wait();
        let done = what.await;
        self.connection.work();
        done
    }

    /// Takes up to `limit` bytes and forgets them, so that a client which sends before it reads gets as far as
    /// the answer.
    pub(super) async fn discard(mut self, limit: u64) {
        let mut taken = 0;
        while taken < limit
            && let Ok(Some(bytes)) = self.next().await
        {
            taken += bytes.len() as u64;
        }
    }
}

/// The body of an answer; the request has ended when this is dropped.
pub(super) struct Answered {
    body: answer::Body,
    connection: Arc<Place>,
}

impl Answered {
    pub(super) fn new(body: answer::Body, connection: Arc<Place>) -> Answered {
        Answered { body, connection }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.connection.rest();
    }
}
