//! Reads a request's body, decompressed, within its bound.

use std::io::Read;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;

use crate::{
    error::{Error, Result},
    hold,
};

/// The log2 of the largest zstd window taken on, 8 MiB: a frame cannot make us allocate more than a body may have.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A compressed body of up to this many bytes is inflated in place, a larger one on the pool for blocking work.
const INFLATE_IN_PLACE_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Reads a body of at most `bytes_max` bytes, as sent and as decompressed.
///
/// # Errors
/// 413 past the bound (a bomb is refused at the bound, not after it was inflated), 415 for another `Content-Encoding`
/// than `gzip`, `zstd` and `identity`, 400 for a body that is cut or corrupt.
pub async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes> {
    let encoding = encoding(headers)?;
    let raw = collect(headers, body, bytes_max).await?;
    if encoding == Encoding::Identity {
        return Ok(raw);
    }
    if raw.len() <= INFLATE_IN_PLACE_BYTES_MAX {
        return inflate(encoding, &raw, bytes_max);
    }
    tokio::task::spawn_blocking(move || inflate(encoding, &raw, bytes_max)).await.map_err(Error::internal)?
}

/// A body that says it is too large, before a byte of it is read.
pub(crate) fn declared_too_large(headers: &HeaderMap, bytes_max: usize) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length > bytes_max as u64)
}

pub(crate) fn too_large(bytes_max: usize) -> Error {
    Error::too_large(format!("a body has at most {bytes_max} bytes, decompressed too; send less"))
        .code("body_too_large")
}

fn encoding(headers: &HeaderMap) -> Result<Encoding> {
    let mut encoding = Encoding::Identity;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.to_str().unwrap_or("?").trim();
        let named = match value {
            _ if value.is_empty() || value.eq_ignore_ascii_case("identity") => Encoding::Identity,
            // The older name is an alias (RFC 9110, 8.4.1.3).
            _ if value.eq_ignore_ascii_case("gzip") || value.eq_ignore_ascii_case("x-gzip") => Encoding::Gzip,
            _ if value.eq_ignore_ascii_case("zstd") => Encoding::Zstd,
            _ => return Err(unknown_encoding()),
        };
        if named != Encoding::Identity {
            // Twice compressed is not worth a loop.
            if encoding != Encoding::Identity {
                return Err(unknown_encoding());
            }
            encoding = named;
        }
    }
    Ok(encoding)
}

fn unknown_encoding() -> Error {
    Error::unsupported_media_type("content-encoding must be gzip, zstd or identity, and only one")
        .code("unsupported_encoding")
}

async fn collect(headers: &HeaderMap, mut body: Body, bytes_max: usize) -> Result<Bytes> {
    if declared_too_large(headers, bytes_max) {
        return Err(too_large(bytes_max));
    }
    // Most bodies are one frame, which is handed on without a copy.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(unread)?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len().max(rest.len()) + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(first.len() + data.len());
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// A body that did not come to its end: there was no room for it, or the client has gone.
fn unread(error: axum::Error) -> Error {
    let error = error.into_inner();
    if error.is::<tonic::Status>() {
        return hold::no_room();
    }
    Error::invalid("the body ended early").code("unreadable_body").source(error)
}

fn inflate(encoding: Encoding, raw: &[u8], bytes_max: usize) -> Result<Bytes> {
    let corrupt = |error: std::io::Error| {
        Error::invalid("the body is not what its content-encoding says, or is cut")
            .code("unreadable_body")
            .source(error)
    };
    let mut out = Vec::with_capacity((raw.len() * 4).min(bytes_max));
    let limit = bytes_max as u64 + 1;
    match encoding {
        Encoding::Identity => out.extend_from_slice(raw),
        Encoding::Gzip => {
            flate2::read::MultiGzDecoder::new(raw).take(limit).read_to_end(&mut out).map_err(corrupt)?;
        }
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(corrupt)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(corrupt)?;
            decoder.take(limit).read_to_end(&mut out).map_err(corrupt)?;
        }
    }
    if out.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 100_000;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 19).unwrap()
    }

    async fn send(encoding: &str, bytes: Vec<u8>) -> Result<Bytes, StatusCode> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        read(&headers, Body::from(bytes), MAX).await.map_err(|error| error.status())
    }

    #[tokio::test]
    async fn a_body_is_read_at_the_bound_and_refused_one_past_it() {
        type Encode = fn(&[u8]) -> Vec<u8>;
        let encodings: [(&str, Encode); 5] =
            [("identity", |b| b.to_vec()), ("gzip", gzip), ("GZIP", gzip), ("x-gzip", gzip), ("zstd", zstd)];
        for (name, encode) in encodings {
            let full = vec![b'x'; MAX];
            assert_eq!(send(name, encode(&full)).await.unwrap(), full, "{name}");
            let past = vec![b'x'; MAX + 1];
            let refused = send(name, encode(&past)).await;
            assert_eq!(refused.unwrap_err(), StatusCode::PAYLOAD_TOO_LARGE, "{name}");
        }
    }

    #[tokio::test]
    async fn a_bomb_is_refused_without_being_inflated() {
        // Their tails are cut off: whoever inflates to the end finds them corrupt (400), not too large.
        let mut bomb = zstd(&vec![0; 64 << 20]);
        bomb.truncate(bomb.len() - 1);
        assert!(bomb.len() < MAX, "{}", bomb.len());
        assert_eq!(send("zstd", bomb).await.unwrap_err(), StatusCode::PAYLOAD_TOO_LARGE);
        let mut bomb = gzip(&vec![0; 64 << 20]);
        bomb.truncate(bomb.len() - 1);
        assert!(bomb.len() < MAX, "{}", bomb.len());
        assert_eq!(send("gzip", bomb).await.unwrap_err(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_zstd_window_larger_than_a_body_is_not_taken_on() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(ZSTD_WINDOW_LOG_MAX + 1).unwrap();
        encoder.write_all(b"x").unwrap();
        let refused = send("zstd", encoder.finish().unwrap()).await;
        assert_eq!(refused.unwrap_err(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn what_is_cut_or_corrupt_is_400_and_an_unknown_encoding_415() {
        let whole = gzip(&vec![7; 1_000]);
        let cut = whole[..whole.len() - 5].to_vec();
        assert_eq!(send("gzip", cut).await.unwrap_err(), StatusCode::BAD_REQUEST);
        let whole = zstd(&vec![7; 1_000]);
        let cut = whole[..whole.len() - 3].to_vec();
        assert_eq!(send("zstd", cut).await.unwrap_err(), StatusCode::BAD_REQUEST);
        assert_eq!(send("gzip", b"{}".to_vec()).await.unwrap_err(), StatusCode::BAD_REQUEST);
        // What comes behind the end is neither another member nor anything the sender meant.
        for rest in [&b"{}"[..], b"\0", b"\x1f\x8b"] {
            let trailing = [&gzip(b"a")[..], rest].concat();
            assert_eq!(send("gzip", trailing).await.unwrap_err(), StatusCode::BAD_REQUEST, "{rest:?}");
            let trailing = [&zstd(b"a")[..], rest].concat();
            assert_eq!(send("zstd", trailing).await.unwrap_err(), StatusCode::BAD_REQUEST, "{rest:?}");
        }
        for unknown in ["br", "deflate", "gzip, zstd", "gzip, gzip", "é"] {
            let refused = send(unknown, Vec::new()).await;
            assert_eq!(refused.unwrap_err(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{unknown}");
        }
    }

    #[tokio::test]
    async fn members_and_frames_in_a_row_are_one_body() {
        let both = [gzip(b"a"), gzip(b"b")].concat();
        assert_eq!(send("gzip", both).await.unwrap(), "ab");
        let both = [zstd(b"a"), zstd(b"b")].concat();
        assert_eq!(send("zstd", both).await.unwrap(), "ab");
        // Their sum is bounded, not each of them.
        let most = gzip(&vec![b'x'; MAX / 2]);
        assert_eq!(send("gzip", [&most[..], &most].concat()).await.unwrap().len(), MAX);
        let past = send("gzip", [&most[..], &most, &gzip(b"x")].concat()).await;
        assert_eq!(past.unwrap_err(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn nothing_compressed_is_an_empty_body() {
        assert_eq!(send("gzip", gzip(b"")).await.unwrap(), "");
        assert_eq!(send("zstd", zstd(b"")).await.unwrap(), "");
    }

    proptest! {
        #[test]
        fn any_bytes_are_inflated_within_the_bound_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            content in prop::collection::vec(0..4_u8, 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                let whole = if encoding == Encoding::Gzip { gzip(&content) } else { zstd(&content) };
                let mut changed = whole.clone();
                changed[at.index(whole.len())] ^= 1 << bit;
                for raw in [&bytes, &whole, &changed] {
                    if let Ok(out) = inflate(encoding, raw, 250) {
                        prop_assert!(out.len() <= 250);
                    }
                }
                let fits = inflate(encoding, &whole, 250);
                prop_assert_eq!(fits.ok().map(|bytes| bytes.to_vec()), (content.len() <= 250).then_some(content.clone()));
            }
        }
    }

    #[tokio::test]
    async fn a_body_in_many_frames_is_put_together() {
        let frames = (0..10).map(|i| Ok::<_, std::io::Error>(Bytes::from(vec![i; 100])));
        let body = Body::from_stream(tokio_stream::iter(frames));
        let read = read(&HeaderMap::new(), body, 1_000).await.unwrap();
        assert_eq!(read.len(), 1_000);
        assert!(read.chunks(100).enumerate().all(|(i, c)| c.iter().all(|&b| usize::from(b) == i)));
    }
}
