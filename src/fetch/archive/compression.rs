//! Decompression, told by the first bytes: gzip, xz, zstd, or nothing. Memory is bounded; output is not.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// What xz may need at its highest preset is 65 MiB; a hostile header may ask for 4 GiB.
const MAX_XZ_MEMORY: u64 = 256 << 20;

/// The bytes behind `input`, whatever they are compressed with.
pub(in crate::fetch) fn decompress<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match input.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            let stream = Stream::new_stream_decoder(MAX_XZ_MEMORY, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(input, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(Zstd::new(input)?),
        _ => Box::new(input),
    })
}

/// One zstd frame after the other, as parallel compressors write them.
struct Zstd<R: BufRead> {
    frame: Option<StreamingDecoder<R, FrameDecoder>>,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> io::Result<Zstd<R>> {
        let frame = StreamingDecoder::new(input).map_err(io::Error::other)?;
        Ok(Zstd { frame: Some(frame) })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.frame {
            let read = frame.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(frame) = self.frame.take() else { break };
            let mut input = frame.into_inner();
            if !input.fill_buf()?.is_empty() {
                self.frame = Zstd::new(input)?.frame;
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        decompress(bytes)?.read_to_end(&mut text)?;
        Ok(text)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn formats_are_told_apart_and_may_have_several_members() {
        assert_eq!(read(b"plain").unwrap(), b"plain");
        for compress in [gzip, xz, zstd] {
            let twice = [compress(b"one "), compress(b"two")].concat();
            assert_eq!(read(&twice).unwrap(), b"one two");
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let content: Vec<u8> = (0..9000u32)
            .flat_map(|n| n.wrapping_mul(2654435761).to_le_bytes())
            .collect();
        for compress in [gzip, xz, zstd] {
            let whole = compress(&content);
            assert!(read(&whole[..whole.len() - 9]).is_err());
            assert!(read(&whole[..whole.len() / 2]).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(kind in 0..3usize, rest: Vec<u8>) {
            let magic: &[u8] = [&[0x1f, 0x8b, 8][..], b"\xfd7zXZ\0", &[0x28, 0xb5, 0x2f, 0xfd]][kind];
            let _ = decompress(&[magic, &rest].concat()[..]).map(|reader| io::copy(&mut reader.take(1 << 20), &mut io::sink()));
        }
    }
}
