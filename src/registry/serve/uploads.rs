//! Uploads into the embedded registry: whole or in chunks, digested while they come.
//!
//! The store's writer blocks and borrows the store, so each upload has a thread of the blocking pool; that is
//! what bounds their number.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::answer::{Refusal, header};
use super::catalog::ServeError;
use super::{MAX_BLOB, STALL};
use crate::digest::Digest;
use crate::registry::address::Name;
use crate::store::{self, Store};

/// Uploads that may be open at once.
const MAX_UPLOADS: usize = 64;
/// An upload to which nothing comes for so long is forgotten, where there is no room for a new one.
const ABANDONED: Duration = Duration::from_secs(5 * 60);

/// The uploads that are open.
pub(super) struct Uploads {
    store: Arc<Store>,
    open: Mutex<HashMap<String, Arc<Upload>>>,
    room: Arc<Semaphore>,
}

/// One upload, to one repository.
pub(super) struct Upload {
    pub id: String,
    pub name: Name,
    writer: tokio::sync::Mutex<Writer>,
    offset: AtomicU64,
    touched: Mutex<Instant>,
}

/// A blob on its way into the store.
pub(super) struct Writer {
    to: mpsc::Sender<Message>,
    thread: JoinHandle<Result<Digest, store::Error>>,
    _room: OwnedSemaphorePermit,
}

enum Message {
    Piece(Bytes),
    End,
}

impl Uploads {
    pub(super) fn new(store: Arc<Store>) -> Uploads {
        Uploads {
            store,
            open: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_UPLOADS)),
        }
    }

    /// A writer, if there is room for one more.
    pub(super) fn writer(&self) -> Result<Writer, Refusal> {
        let room = || Arc::clone(&self.room).try_acquire_owned();
        let found = room().or_else(|_| {
            self.forget_abandoned();
            room()
        });
        let Ok(room) = found else {
            let busy = "too many uploads are open";
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TOOMANYREQUESTS",
                busy,
            ));
        };
        let (to, from) = mpsc::channel(4);
        let store = Arc::clone(&self.store);
        Ok(Writer {
            to,
            thread: tokio::task::spawn_blocking(move || write(&store, from)),
            _room: room,
        })
    }

    /// Begins an upload.
    pub(super) fn begin(&self, name: Name) -> Result<Arc<Upload>, Refusal> {
        let writer = self.writer()?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Keyed at random by the system, so that nobody guesses another one's upload.
        let [a, b] = [0, 1].map(|part| std::hash::RandomState::new().hash_one((part, count)));
        let upload = Arc::new(Upload {
            id: format!("{a:016x}{b:016x}"),
            name,
            writer: tokio::sync::Mutex::new(writer),
            offset: AtomicU64::new(0),
            touched: Mutex::new(Instant::now()),
        });
        let mut open = self.open.lock().expect("never poisoned");
        open.insert(upload.id.clone(), Arc::clone(&upload));
        Ok(upload)
    }

    pub(super) fn find(&self, name: &Name, id: &str) -> Result<Arc<Upload>, Refusal> {
        let open = self.open.lock().expect("never poisoned");
        let found = open.get(id).filter(|upload| upload.name == *name);
        found.cloned().ok_or_else(unknown)
    }

    /// Ends an upload one way or another.
    pub(super) fn close(&self, upload: &Upload) -> Result<(), Refusal> {
        let mut open = self.open.lock().expect("never poisoned");
        open.remove(&upload.id).map(drop).ok_or_else(unknown)
    }

    fn forget_abandoned(&self) {
        let mut open = self.open.lock().expect("never poisoned");
        open.retain(|_, upload| {
            let touched = *upload.touched.lock().expect("never poisoned");
            touched.elapsed() < ABANDONED || Arc::strong_count(upload) > 1
        });
    }
}

fn unknown() -> Refusal {
    Refusal::unknown("BLOB_UPLOAD_UNKNOWN", "there is no such upload")
}

impl Upload {
    /// Where it goes on, and what it has.
    pub(super) fn headers(&self) -> Vec<(HeaderName, String)> {
        let offset = self.offset.load(Ordering::Relaxed);
        vec![
            (LOCATION, format!("/v2/{}/blobs/uploads/{}", self.name, self.id)),
            (RANGE, format!("0-{}", offset.saturating_sub(1))),
            (header("docker-upload-uuid"), self.id.clone()),
        ]
    }

    /// Takes the body of a `PATCH` or `PUT`. If that names its range, it must be the next one.
    pub(super) async fn take(&self, headers: &HeaderMap, body: Incoming) -> Result<(), Refusal> {
        let writer = self.writer.lock().await;
        let offset = self.offset.load(Ordering::Relaxed);
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let expected = match headers.get(CONTENT_RANGE) {
            None => None,
            Some(range) => {
                let range = range.to_str().ok().and_then(parse_range);
                let range = range.filter(|(start, end)| {
                    *start == offset && length.is_none_or(|length| length == end - start + 1)
                });
                let Some((start, end)) = range else {
                    return Err(Refusal {
                        headers: self.headers(),
                        ..Refusal::new(
                            StatusCode::RANGE_NOT_SATISFIABLE,
                            "BLOB_UPLOAD_INVALID",
                            format!("the next chunk begins at {offset}"),
                        )
                    });
                };
                Some(end - start + 1)
            }
        };
        let limit = MAX_BLOB.saturating_sub(offset);
        writer.take(body, limit, &self.offset).await?;
        *self.touched.lock().expect("never poisoned") = Instant::now();
        let taken = self.offset.load(Ordering::Relaxed) - offset;
        match expected {
            Some(expected) if expected != taken => Err(Refusal::bad(
                "SIZE_INVALID",
                format!("the range has {expected} bytes, and {taken} came"),
            )),
            _ => Ok(()),
        }
    }

    /// Puts what came in its place, if it is what it should be.
    pub(super) async fn finish(self: Arc<Self>, expected: &str) -> Result<Digest, Refusal> {
        let mut writer = self.writer.lock().await;
        writer.finish(expected).await
    }
}

impl Writer {
    /// Takes a body of at most `limit` bytes, and counts them in `offset`.
    pub(super) async fn take(
        &self,
        mut body: Incoming,
        limit: u64,
        offset: &AtomicU64,
    ) -> Result<(), Refusal> {
        let mut taken = 0;
        while let Some(frame) = next_frame(&mut body).await? {
            taken += frame.len() as u64;
            if taken > limit {
                let large = format!("a blob has at most {MAX_BLOB} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", large));
            }
            let length = frame.len() as u64;
            if self.to.send(Message::Piece(frame)).await.is_err() {
                // The thread has ended with an error, which the end of the upload shows.
                return Err(Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "UNKNOWN",
                    "the upload cannot be kept",
                ));
            }
            offset.fetch_add(length, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Puts what came in its place, if its digest is `expected` (hexadecimal).
    pub(super) async fn finish(&mut self, expected: &str) -> Result<Digest, Refusal> {
        // If the thread has ended already, it says why.
        let _ = self.to.send(Message::End).await;
        let digest = match (&mut self.thread).await {
            Ok(Ok(digest)) => digest,
            Ok(Err(error)) => return Err(ServeError::Store(error).into()),
            Err(_) => return Err(unknown()),
        };
        match digest.hex() == expected {
            true => Ok(digest),
            false => Err(Refusal::bad(
                "DIGEST_INVALID",
                format!("what came is `{}`", digest.oci()),
            )),
        }
    }
}

/// The next bytes of a body, which must not be long in coming.
pub(super) async fn next_frame(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = match tokio::time::timeout(STALL, body.frame()).await {
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

fn write(store: &Store, mut from: mpsc::Receiver<Message>) -> Result<Digest, store::Error> {
    let mut writer = store.writer()?;
    while let Some(message) = from.blocking_recv() {
        match message {
            Message::End => return writer.finish(),
            Message::Piece(piece) => writer.write_all(&piece).map_err(|source| match source.kind() {
                io::ErrorKind::StorageFull => store::Error::Full(store.root().to_owned()),
                _ => store::Error::Io {
                    what: "write",
                    path: writer.path().to_owned(),
                    source,
                },
            })?,
        }
    }
    Err(store::Error::Cancelled)
}

/// `start-end`, both inclusive, without a unit.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (start, end) = (number(start)?, number(end)?);
    (start <= end && end < u64::MAX).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_chunks_are_read() {
        assert_eq!(parse_range("0-0"), Some((0, 0)));
        assert_eq!(parse_range("10-19"), Some((10, 19)));
        for text in [
            "",
            "-",
            "5",
            "5-",
            "-5",
            "6-5",
            "+1-2",
            "bytes 0-1/2",
            "0-18446744073709551615",
            "0-1-2",
        ] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
