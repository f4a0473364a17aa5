//! A blob of the store as pieces for the network. The last one comes only once all of the blob is verified,
//! so that whoever receives damaged bytes never receives all of them.

use std::io::{self, Read};
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::digest::Digest;
use crate::store::{self, Store};

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// A blob that is being read on a blocking thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pieces {
    from: mpsc::Receiver<Result<Bytes, store::Error>>,
    /// What was left of a piece that had to be cut.
    rest: Bytes,
}

impl Pieces {
    pub(super) fn of(store: &Arc<Store>, digest: &Digest) -> Pieces {
        let (to, from) = mpsc::channel(AHEAD);
        let (store, digest) = (Arc::clone(store), *digest);
        tokio::task::spawn_blocking(move || {
            let result = produce(&store, &digest, &to);
            if let Err(error) = result {
                // Nobody may be left to hear of it.
                let _ = to.blocking_send(Err(error));
            }
        });
        Pieces {
            from,
            rest: Bytes::new(),
        }
    }

    /// The next piece, of at most `most` bytes; nothing at the end.
    pub(super) async fn next(&mut self, most: u64) -> Option<Result<Bytes, store::Error>> {
        if self.rest.is_empty() {
            match self.from.recv().await? {
                Ok(piece) => self.rest = piece,
                Err(error) => return Some(Err(error)),
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = self.rest.split_to(most.min(self.rest.len()));
        Some(Ok(piece))
    }
}

fn produce(
    store: &Store,
    digest: &Digest,
    to: &mpsc::Sender<Result<Bytes, store::Error>>,
) -> Result<(), store::Error> {
    let mut reader = store.reader(digest)?;
    let mut held: Option<Bytes> = None;
    loop {
        let piece = fill(&mut reader).map_err(|error| reader.error(error))?;
        let at_end = piece.is_empty();
        let ready = if at_end { held.take() } else { held.replace(piece) };
        if let Some(ready) = ready
            && to.blocking_send(Ok(ready)).is_err()
        {
            return Ok(());
        }
        if at_end {
            return Ok(());
        }
    }
}

/// Reads a whole piece, or less at the end.
fn fill(reader: &mut impl Read) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    reader.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store")).unwrap());
        (directory, store)
    }

    #[tokio::test]
    async fn pieces_are_the_blob() {
        let (_directory, store) = store();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let bytes = vec![7; length];
            let digest = store.put(&bytes).unwrap();
            for most in [1 << 40, 100_000] {
                let (mut pieces, mut got) = (Pieces::of(&store, &digest), Vec::new());
                while let Some(piece) = pieces.next(most).await {
                    let piece = piece.unwrap();
                    assert!(!piece.is_empty() && piece.len() as u64 <= most);
                    got.extend(piece);
                }
                assert_eq!(got, bytes);
            }
        }
    }

    #[tokio::test]
    async fn damaged_blobs_never_come_whole() {
        let (_directory, store) = store();
        for length in [1, PIECE, 2 * PIECE, 2 * PIECE + 5] {
            let digest = store.put(&vec![3; length]).unwrap();
            let hex = digest.hex();
            std::fs::write(
                store.root().join("blobs").join(&hex[..2]).join(&hex),
                vec![4; length],
            )
            .unwrap();
            let (mut pieces, mut got) = (Pieces::of(&store, &digest), 0);
            let error = loop {
                match pieces.next(u64::MAX).await.expect("an error before the end") {
                    Ok(piece) => got += piece.len(),
                    Err(error) => break error,
                }
            };
            assert!(error.is_lost_content() && got < length, "{length}: {error}");
        }
        let mut pieces = Pieces::of(&store, &Digest::of(b"absent"));
        assert!(matches!(
            pieces.next(1).await,
            Some(Err(store::Error::Missing(_)))
        ));
    }
}
