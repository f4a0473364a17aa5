//! Gzip in parallel blocks whose bytes do not depend on the number of threads (RFC 1951, RFC 1952).
//!
//! Input is cut into blocks of 1 MiB. Each is deflated on its own and ends on a byte boundary with an empty
//! stored block, the last one with a final block; put one after the other they are one member. The header has
//! no time and no name, and says that the system is unknown.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, FlushCompress, Status};

const BLOCK: usize = 1 << 20;
const LEVEL: u32 = 6;
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

struct Block {
    bytes: Vec<u8>,
    last: bool,
    done: SyncSender<Vec<u8>>,
}

/// Compresses what is written to it. [`Gzip::finish`] completes the member.
pub(super) struct Gzip<W: Write> {
    to: W,
    pending: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u64,
    blocks: Option<SyncSender<Block>>,
    /// Results in the order of their blocks.
    results: VecDeque<Receiver<Vec<u8>>>,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Write> Gzip<W> {
    /// A member that `threads` threads (at least one) compress.
    pub(super) fn new(mut to: W, threads: usize) -> io::Result<Gzip<W>> {
        to.write_all(&HEADER)?;
        let (blocks, queue) = sync_channel::<Block>(threads.max(1));
        let queue = Arc::new(Mutex::new(queue));
        let work = |queue: Arc<Mutex<Receiver<Block>>>| {
            move || {
                loop {
                    let next = queue
                        .lock()
                        .expect("workers do not panic while they hold it")
                        .recv();
                    let Ok(block) = next else { return };
                    // Whoever gave up does not want the result.
                    let _ = block.done.send(deflate(&block.bytes, block.last));
                }
            }
        };
        Ok(Gzip {
            to,
            pending: Vec::with_capacity(BLOCK),
            crc: crc32fast::Hasher::new(),
            size: 0,
            blocks: Some(blocks),
            results: VecDeque::new(),
            workers: (0..threads.max(1))
                .map(|_| std::thread::spawn(work(Arc::clone(&queue))))
                .collect(),
        })
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.pending, Vec::with_capacity(BLOCK));
        self.crc.update(&bytes);
        self.size += bytes.len() as u64;
        let (done, result) = sync_channel(1);
        self.results.push_back(result);
        let blocks = self.blocks.as_ref().expect("open until finished");
        let sent = blocks.send(Block { bytes, last, done });
        sent.map_err(|_| io::Error::other("a compressing thread ended early"))?;
        while self.results.len() > 2 * self.workers.len() {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        if let Some(result) = self.results.pop_front() {
            let bytes = result
                .recv()
                .map_err(|_| io::Error::other("a compressing thread ended early"))?;
            self.to.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Writes what is left, checksum and size, and gives back the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.send(true)?;
        while !self.results.is_empty() {
            self.receive()?;
        }
        self.blocks = None;
        for worker in self.workers.drain(..) {
            worker
                .join()
                .map_err(|_| io::Error::other("a compressing thread ended early"))?;
        }
        self.to.write_all(&self.crc.finalize().to_le_bytes())?;
        // The size modulo 2^32, as the format wants it.
        self.to.write_all(&(self.size as u32).to_le_bytes())?;
        Ok(self.to)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == BLOCK {
            self.send(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn deflate(bytes: &[u8], last: bool) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    let flush = if last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut compressed = Vec::with_capacity(bytes.len() / 2 + 1024);
    loop {
        let read = deflate.total_in() as usize;
        let status = deflate.compress_vec(&bytes[read..], &mut compressed, flush);
        let status = status.expect("deflating from memory to memory does not fail");
        let complete = match flush {
            FlushCompress::Finish => status == Status::StreamEnd,
            // Room that was left over says that the flush is complete.
            _ => deflate.total_in() as usize == bytes.len() && compressed.len() < compressed.capacity(),
        };
        if complete {
            return compressed;
        }
        compressed.reserve(compressed.capacity().max(64 << 10));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;

    fn compressed(bytes: &[u8], threads: usize, pieces: usize) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new(), threads).unwrap();
        bytes
            .chunks(pieces)
            .for_each(|piece| gzip.write_all(piece).unwrap());
        gzip.finish().unwrap()
    }

    fn expanded(bytes: &[u8]) -> Vec<u8> {
        let mut expanded = Vec::new();
        // Of one member only, and nothing behind it.
        flate2::bufread::GzDecoder::new(bytes)
            .read_to_end(&mut expanded)
            .unwrap();
        expanded
    }

    /// Text that compresses, and stretches that do not.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 30 {
                0 => bytes.extend(state.to_le_bytes()),
                _ => bytes.extend(format!("line {}\n", state >> 24).bytes()),
            }
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn threads_and_pieces_do_not_change_a_byte() {
        let bytes = sample(5 * BLOCK + 17);
        let one = compressed(&bytes, 1, 4096);
        assert_eq!(expanded(&one), bytes);
        for (threads, pieces) in [(2, 1000), (8, BLOCK), (3, usize::MAX)] {
            assert_eq!(compressed(&bytes, threads, pieces), one);
        }
    }

    #[test]
    fn lengths_around_a_block_round_trip() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK] {
            let bytes = sample(length);
            assert_eq!(expanded(&compressed(&bytes, 2, usize::MAX)), bytes, "{length}");
        }
    }

    /// A change here changes the digest of every layer: it needs a new name in `LAYER_FORMAT`.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let digest = Digest::of(&compressed(&sample(3 * BLOCK), 2, usize::MAX));
        insta::assert_snapshot!(digest, @"55d08f0a2190a35428a035eaec753b8f597ed423fe2bb7afba6df80f4ae4f740/1098476");
        insta::assert_snapshot!(crate::image::LAYER_FORMAT, @"tar=gnu/1 gzip=zlib-rs-0.6.8/6/1MiB");
    }

    proptest! {
        #[test]
        fn anything_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert_eq!(expanded(&compressed(&bytes, 2, 100)), bytes);
        }
    }
}
