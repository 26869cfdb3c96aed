//! Request bodies as blocking readers: content encodings, ClickHouse's compressed blocks, bounds.
//!
//! A body that ends before the client said so is an error, never an end: an insert cut short by a
//! lost client must not be taken for a whole one.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::exception::{Exception, code};

/// The largest block of ClickHouse's compressed framing, before and after decompression.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 27;
const FRAME_HEADER_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 16;

/// A piece of a body on its way from the network to the engine's thread.
pub(crate) enum Piece {
    Data(Bytes),
    /// The client ended the body.
    End,
    Failed(Exception),
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
}

impl Encoding {
    /// Reads a `Content-Encoding`.
    pub(crate) fn parse(name: &str) -> Result<Self, Exception> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            "zstd" => Ok(Self::Zstd),
            other => Err(Exception::new(
                code::NOT_IMPLEMENTED,
                format_args!(
                    "Content-Encoding '{other}' is not supported, send identity, gzip, deflate or zstd"
                ),
            )),
        }
    }
}

/// The decoded body, at most `bytes_max` bytes of it.
pub(crate) fn reader(
    pieces: mpsc::Receiver<Piece>,
    encoding: Encoding,
    compressed_blocks: bool,
    bytes_max: u64,
) -> io::Result<Box<dyn Read>> {
    let raw = PieceReader { pieces, current: Bytes::new(), ended: false };
    let plain: Box<dyn Read> = match encoding {
        Encoding::Identity => Box::new(raw),
        Encoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        Encoding::Deflate => Box::new(flate2::read::ZlibDecoder::new(raw)),
        Encoding::Zstd => Box::new(zstd::stream::read::Decoder::new(raw)?),
    };
    let blocks: Box<dyn Read> =
        if compressed_blocks { Box::new(BlockReader { inner: plain, block: Bytes::new() }) } else { plain };
    Ok(Box::new(Bounded { inner: blocks, left: bytes_max, bytes_max }))
}

/// Reads until `buffer` is full or the input ends; gives the number of bytes read.
pub(crate) fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(exception)) => return Err(exception.into()),
                None => {
                    return Err(Exception::new(
                        code::CANNOT_READ_ALL_DATA,
                        "the client went away before the end of the body",
                    )
                    .into());
                }
            }
        }
        let read = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

struct Bounded {
    inner: Box<dyn Read>,
    left: u64,
    bytes_max: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(Exception::new(
                code::TOO_MANY_BYTES,
                format_args!("the request body is larger than {} bytes, send it in parts", self.bytes_max),
            )
            .into()),
        }
    }
}

/// Blocks of `decompress=1`: checksum (16), method (1), size with this header (4), size
/// decompressed (4), data. The checksum covers all behind it.
struct BlockReader {
    inner: Box<dyn Read>,
    block: Bytes,
}

impl Read for BlockReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match read_block(&mut *self.inner)? {
                Some(block) => self.block = block,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.block.len());
        self.block.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

fn read_block(input: &mut dyn Read) -> io::Result<Option<Bytes>> {
    let mut head = [0; CHECKSUM_BYTES + FRAME_HEADER_BYTES];
    match fill(input, &mut head)? {
        0 => return Ok(None),
        read if read < head.len() => return Err(cut_short()),
        _ => {}
    }
    let (checksum, mut header) = head.split_at(CHECKSUM_BYTES);
    let (checksum, frame_header) = ((&*checksum).get_u128_le(), header.to_vec());
    let method = header.get_u8();
    let packed_bytes = header.get_u32_le() as usize;
    let plain_bytes = header.get_u32_le() as usize;
    if !(FRAME_HEADER_BYTES..=FRAME_BYTES_MAX).contains(&packed_bytes) || plain_bytes > FRAME_BYTES_MAX {
        return Err(cannot(format_args!(
            "a compressed block of {packed_bytes} bytes, {plain_bytes} decompressed, is out of bounds (at most {FRAME_BYTES_MAX})"
        )));
    }
    let mut frame = frame_header;
    frame.resize(packed_bytes, 0);
    if fill(input, &mut frame[FRAME_HEADER_BYTES..])? < packed_bytes - FRAME_HEADER_BYTES {
        return Err(cut_short());
    }
    if cityhash_rs::cityhash_102_128(&frame).rotate_right(64) != checksum {
        return Err(Exception::new(
            code::CHECKSUM_DOESNT_MATCH,
            "the checksum of a compressed block does not match its data",
        )
        .into());
    }
    let packed = &frame[FRAME_HEADER_BYTES..];
    let plain = match method {
        0x02 => packed.to_vec(),
        0x82 => lz4_flex::block::decompress(packed, plain_bytes)
            .map_err(|error| cannot(format_args!("a damaged LZ4 block: {error}")))?,
        0x90 => zstd::bulk::decompress(packed, plain_bytes)
            .map_err(|error| cannot(format_args!("a damaged ZSTD block: {error}")))?,
        other => {
            return Err(Exception::new(
                code::NOT_IMPLEMENTED,
                format_args!("compression method {other:#04x} is not supported, use LZ4 or ZSTD"),
            )
            .into());
        }
    };
    if plain.len() != plain_bytes {
        return Err(cannot(format_args!(
            "a compressed block holds {} bytes and says {plain_bytes}",
            plain.len()
        )));
    }
    Ok(Some(plain.into()))
}

fn cut_short() -> io::Error {
    Exception::new(code::CANNOT_READ_ALL_DATA, "the body ends within a compressed block").into()
}

fn cannot(message: std::fmt::Arguments<'_>) -> io::Error {
    Exception::new(code::CANNOT_DECOMPRESS, message).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read_all(
        pieces: Vec<Piece>,
        encoding: Encoding,
        blocks: bool,
        max: u64,
    ) -> Result<Vec<u8>, Exception> {
        let (sender, receiver) = mpsc::channel(64);
        for piece in pieces {
            sender.try_send(piece).ok().unwrap();
        }
        drop(sender);
        let mut out = Vec::new();
        reader(receiver, encoding, blocks, max)
            .and_then(|mut reader| reader.read_to_end(&mut out))
            .map_err(Exception::from_io)?;
        Ok(out)
    }

    fn block(plain: &[u8], method: u8, packed: &[u8]) -> Vec<u8> {
        let mut frame = vec![method];
        frame.extend((packed.len() as u32 + 9).to_le_bytes());
        frame.extend((plain.len() as u32).to_le_bytes());
        frame.extend(packed);
        let mut out = cityhash_rs::cityhash_102_128(&frame).rotate_right(64).to_le_bytes().to_vec();
        out.extend(frame);
        out
    }

    fn whole(data: Vec<u8>) -> Vec<Piece> {
        let mut pieces: Vec<_> = data.chunks(7).map(|c| Piece::Data(Bytes::copy_from_slice(c))).collect();
        pieces.push(Piece::End);
        pieces
    }

    #[test]
    fn a_body_without_its_end_is_an_error() {
        let cut = read_all(vec![Piece::Data("abc".into())], Encoding::Identity, false, 100);
        assert_eq!(cut.unwrap_err().code, code::CANNOT_READ_ALL_DATA);
        assert_eq!(read_all(whole(b"abc".to_vec()), Encoding::Identity, false, 100).unwrap(), b"abc");
    }

    #[test]
    fn the_bound_holds_at_the_limit_and_one_past_it() {
        let body = vec![b'x'; 300];
        assert_eq!(read_all(whole(body.clone()), Encoding::Identity, false, 300).unwrap(), body);
        let error = read_all(whole(body), Encoding::Identity, false, 299).unwrap_err();
        assert_eq!((error.code, error.status().as_u16()), (code::TOO_MANY_BYTES, 413));
    }

    #[test]
    fn encodings_are_decoded_or_refused_by_name() {
        let plain = b"the same rows again and again and again".to_vec();
        let mut gz = flate2::read::GzEncoder::new(&plain[..], flate2::Compression::fast());
        let mut packed = Vec::new();
        gz.read_to_end(&mut packed).unwrap();
        assert_eq!(read_all(whole(packed), Encoding::Gzip, false, 100).unwrap(), plain);
        let packed = zstd::encode_all(&plain[..], 1).unwrap();
        assert_eq!(read_all(whole(packed.clone()), Encoding::Zstd, false, 100).unwrap(), plain);
        assert_eq!(
            read_all(whole(packed), Encoding::Zstd, false, 20).unwrap_err().code,
            code::TOO_MANY_BYTES
        );
        let refused = Encoding::parse("br").unwrap_err();
        assert!(refused.to_string().contains("'br'") && refused.status().as_u16() == 501);
    }

    #[test]
    fn a_block_that_claims_more_than_the_bound_is_refused() {
        let claim = |packed: usize, plain: usize| {
            let mut body = vec![0; CHECKSUM_BYTES];
            body.push(0x82);
            body.extend((packed as u32).to_le_bytes());
            body.extend((plain as u32).to_le_bytes());
            body.push(0);
            read_all(whole(body), Encoding::Identity, true, 1000).unwrap_err().code
        };
        assert_eq!(claim(10, FRAME_BYTES_MAX), code::CHECKSUM_DOESNT_MATCH);
        assert_eq!(claim(10, FRAME_BYTES_MAX + 1), code::CANNOT_DECOMPRESS);
        assert_eq!(claim(FRAME_BYTES_MAX, 1), code::CANNOT_READ_ALL_DATA);
        assert_eq!(claim(FRAME_BYTES_MAX + 1, 1), code::CANNOT_DECOMPRESS);
        assert_eq!(claim(8, 1), code::CANNOT_DECOMPRESS);
    }

    #[test]
    fn blocks_are_decoded_and_every_flipped_bit_is_found() {
        let plain = b"row row row row row row row row row".to_vec();
        let mut body = block(&plain, 0x82, &lz4_flex::block::compress(&plain));
        body.extend(block(&plain, 0x90, &zstd::bulk::compress(&plain, 1).unwrap()));
        body.extend(block(&plain, 0x02, &plain));
        assert_eq!(read_all(whole(body.clone()), Encoding::Identity, true, 1000).unwrap(), plain.repeat(3));
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_all(whole(damaged), Encoding::Identity, true, 1000).is_err(), "bit {bit}");
        }
        for cut in 1..25 {
            let cut = read_all(whole(body[..body.len() - cut].to_vec()), Encoding::Identity, true, 1000);
            assert!(cut.is_err());
        }
    }
}
