//! A blob of the store, or a part of one, as pieces for the network. The last one comes only once all of the
//! blob is verified, so that whoever receives damaged bytes never receives all of them.

use std::io::{self, Read};
use std::ops::Range;
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
        Pieces::within(store, digest, 0..digest.size())
    }

    /// The bytes of a range, which must lie in the blob.
    pub(super) fn within(store: &Arc<Store>, digest: &Digest, range: Range<u64>) -> Pieces {
        let (to, from) = mpsc::channel(AHEAD);
        let (store, digest) = (Arc::clone(store), *digest);
        tokio::task::spawn_blocking(move || {
            let result = produce(&store, &digest, range, &to);
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
    range: Range<u64>,
    to: &mpsc::Sender<Result<Bytes, store::Error>>,
) -> Result<(), store::Error> {
    // Whoever reads all of it verifies it on the way; the read after the last byte does that.
    let (mut reader, mut left) = match range == (0..digest.size()) {
        true => (store.reader(digest)?, u64::MAX),
        false => (store.reader_from(digest, range.start)?, range.end - range.start),
    };
    let mut held: Option<Bytes> = None;
    loop {
        let piece = fill(&mut reader, left).map_err(|error| reader.error(error))?;
        left -= piece.len() as u64;
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

/// Reads a whole piece, or less at the end or after `most` bytes.
fn fill(reader: &mut impl Read, most: u64) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    reader
        .by_ref()
        .take(most.min(PIECE as u64))
        .read_to_end(&mut piece)?;
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

    async fn all(mut pieces: Pieces) -> Result<Vec<u8>, store::Error> {
        let mut got = Vec::new();
        while let Some(piece) = pieces.next(u64::MAX).await {
            got.extend(piece?);
        }
        Ok(got)
    }

    #[tokio::test]
    async fn a_range_reads_no_more_than_itself() {
        let (_directory, store) = store();
        let bytes: Vec<u8> = (0..3 * PIECE).map(|n| (n % 251) as u8).collect();
        let digest = store.put(&bytes).unwrap();
        let size = digest.size();
        for range in [0..1, 5..5, 1..size, PIECE as u64 - 1..2 * PIECE as u64 + 1] {
            let expected = &bytes[range.start as usize..range.end as usize];
            let got = all(Pieces::within(&store, &digest, range)).await.unwrap();
            assert!(got == expected);
        }
        // This process knows that the blob is sound, so damage outside of the range cannot be seen: the time
        // is set back to hide it.
        let hex = digest.hex();
        let path = store.root().join("blobs").join(&hex[..2]).join(&hex);
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 0).unwrap();
        file.set_modified(time).unwrap();
        let tail = size - 9..size;
        let got = all(Pieces::within(&store, &digest, tail.clone())).await.unwrap();
        assert_eq!(got, bytes[bytes.len() - 9..]);
        // Whoever writes without hiding it is found out before a byte leaves.
        std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 0).unwrap();
        let error = all(Pieces::within(&store, &digest, tail)).await.unwrap_err();
        assert!(error.is_lost_content(), "{error}");
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
