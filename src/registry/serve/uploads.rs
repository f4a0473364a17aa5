//! Uploads into the embedded registry: whole or in chunks, digested while they come.
//!
//! The store's writer blocks and borrows the store, so each upload has a thread of the blocking pool; that is
//! what bounds their number. Where there is no room, the one to which nothing came for longest is forgotten.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE, RETRY_AFTER};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answer::{Refusal, header};
use super::body::Sent;
use super::catalog::ServeError;
use super::room::{Room, Seat};
use super::{Bounds, MAX_BLOB};
use crate::digest::Digest;
use crate::registry::address::Name;
use crate::store::{self, Store};

/// The uploads that are open.
pub(super) struct Uploads {
    store: Arc<Store>,
    open: Mutex<HashMap<String, Arc<Upload>>>,
    room: Arc<Room>,
}

/// One upload, to one repository.
pub(super) struct Upload {
    pub id: String,
    pub name: Name,
    writer: tokio::sync::Mutex<Writer>,
    offset: AtomicU64,
    seat: Seat,
}

/// A blob on its way into the store.
struct Writer {
    to: mpsc::Sender<Message>,
    thread: JoinHandle<Result<Digest, store::Error>>,
}

enum Message {
    Piece(Bytes),
    End,
}

impl Uploads {
    pub(super) fn new(store: Arc<Store>, bounds: &Bounds) -> Uploads {
        Uploads {
            store,
            open: Mutex::default(),
            room: Room::new(bounds.uploads, bounds.patience),
        }
    }

    /// Begins an upload that one request ends.
    pub(super) fn begin(&self, name: Name) -> Result<Arc<Upload>, Refusal> {
        let seat = self.room.enter().ok_or_else(|| Refusal {
            headers: vec![(RETRY_AFTER, "1".to_owned())],
            ..Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TOOMANYREQUESTS",
                "too many uploads are going on",
            )
        })?;
        // One of them may have lost its place.
        let mut open = self.open.lock().expect("never poisoned");
        open.retain(|_, upload| !upload.seat.place().is_lost());
        drop(open);
        let (to, from) = mpsc::channel(4);
        let store = Arc::clone(&self.store);
        let thread = tokio::task::spawn_blocking(move || write(&store, from));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Keyed at random by the system, so that no other client guesses it.
        let [a, b] = [0, 1].map(|part| std::hash::RandomState::new().hash_one((part, count)));
        Ok(Arc::new(Upload {
            id: format!("{a:016x}{b:016x}"),
            name,
            writer: tokio::sync::Mutex::new(Writer { to, thread }),
            offset: AtomicU64::new(0),
            seat,
        }))
    }

    /// Begins an upload that further requests go on with.
    pub(super) fn open(&self, name: Name) -> Result<Arc<Upload>, Refusal> {
        let upload = self.begin(name)?;
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
    pub(super) async fn take(&self, headers: &HeaderMap, body: Sent) -> Result<(), Refusal> {
        // Another client may hold it.
        let writer = body.wait_for(self.writer.lock()).await;
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
        self.pass_on(&writer, body, limit).await?;
        let taken = self.offset.load(Ordering::Relaxed) - offset;
        match expected {
            Some(expected) if expected != taken => Err(Refusal::bad(
                "SIZE_INVALID",
                format!("the range has {expected} bytes, and {taken} came"),
            )),
            _ => Ok(()),
        }
    }

    /// Takes a body of at most `limit` bytes, and counts them.
    async fn pass_on(&self, writer: &Writer, mut body: Sent, limit: u64) -> Result<(), Refusal> {
        let place = self.seat.place();
        let _request = place.request();
        let mut taken = 0;
        loop {
            place.wait();
            let piece = tokio::select! {
                piece = body.next() => piece?,
                () = place.lost() => return Err(given_up()),
            };
            place.work();
            let Some(piece) = piece else { return Ok(()) };
            let length = piece.len() as u64;
            taken += length;
            if taken > limit {
                let large = format!("a blob has at most {MAX_BLOB} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", large));
            }
            if writer.to.send(Message::Piece(piece)).await.is_err() {
                // The thread has ended with an error, which the end of the upload shows.
                return Err(Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "UNKNOWN",
                    "the upload cannot be kept",
                ));
            }
            self.offset.fetch_add(length, Ordering::Relaxed);
        }
    }

    /// Puts what came in its place, if its digest is `expected` (hexadecimal).
    pub(super) async fn finish(self: Arc<Self>, expected: &str) -> Result<Digest, Refusal> {
        let mut writer = self.writer.lock().await;
        let _request = self.seat.place().request();
        // If the thread has ended already, it says why.
        let _ = writer.to.send(Message::End).await;
        let digest = match (&mut writer.thread).await {
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

fn given_up() -> Refusal {
    let message = "nothing came for so long that another upload took the place of this one";
    Refusal::unknown("BLOB_UPLOAD_UNKNOWN", message)
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
