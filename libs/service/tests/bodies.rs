//! Bodies on the wire: of those that are refused, that come slowly, and that are no messages.

#![allow(clippy::unwrap_used)]

mod support;

use std::{io::Write, time::Duration};

use http_body_util::BodyExt;
use prost::Message;
use proto::ingestion::IngestEventsRequest;
use service::Limits;
use support::{KEY, Server, client, eventually, send};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status};

const WAIT: Duration = Duration::from_secs(60);

/// The head of a request with a body that says its length.
fn head(key: &str, path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// Reads until the end of an answer's head; its first line.
async fn status_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(read).unwrap();
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn who_sends_all_before_reading_still_gets_the_refusal() {
    let server = Server::start().await;
    let body = vec![b'x'; 16 * 1024 * 1024];
    for (key, status) in [(KEY, "HTTP/1.1 413"), ("nobody", "HTTP/1.1 401")] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let exchange = async {
            stream.write_all(head(key, "/echo", body.len()).as_bytes()).await?;
            stream.write_all(&body).await?;
            status_line(&mut stream).await
        };
        let line = tokio::time::timeout(WAIT, exchange).await.unwrap().unwrap();
        assert!(line.starts_with(status), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_waits_to_be_asked_for_the_body_is_refused_without_sending_it() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = head(KEY, "/echo", 16 * 1024 * 1024).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let line = tokio::time::timeout(WAIT, status_line(&mut stream)).await.unwrap().unwrap();
    assert!(line.starts_with("HTTP/1.1 413"), "{line}");
    server.stop().await;
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head("nobody", "/echo", usize::MAX).as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 1024 * 1024];
    let sending = async {
        let mut sent = 0;
        while stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    };
    let sent = tokio::time::timeout(WAIT, sending).await.unwrap();
    // What is read for nothing, and what fits in the buffers on the way.
    assert!(sent < 128 * 1024 * 1024, "{sent}");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_timed_out_and_its_place_is_free_again() {
    let limits = Limits {
        request_seconds_max: 3,
        header_read_seconds_max: 1,
        requests_in_flight_max: 1,
        ..Limits::default()
    };
    let server = Server::with(limits, None).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(head(KEY, "/echo", 100_000).as_bytes()).await.unwrap();
    let trickling = service::task::spawn("trickle", async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while writing.write_all(b"x").await.is_ok() {
            pace.tick().await;
        }
    });
    let mut answer = [0; 12];
    tokio::time::timeout(WAIT, reading.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    assert_eq!(send("GET", &server.url("/whoami"), Some(KEY), &[], "").await.status, 200);
    // Nor is it heard out for ever.
    tokio::time::timeout(WAIT, trickling).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn all_bodies_together_are_taken_at_the_bound_and_refused_one_past_it() {
    let limits = Limits { bodies_bytes_max: 100_000, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let url = server.url("/echo");
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(head(KEY, "/echo", 60_001).as_bytes()).await.unwrap();
    slow.write_all(&[b'x'; 60_000]).await.unwrap();
    eventually("what came is held", || server.front.body_bytes_held() == 60_000).await;
    assert_eq!(send("POST", &url, Some(KEY), &[], vec![b'x'; 40_000]).await.status, 200);
    let refused = send("POST", &url, Some(KEY), &[], vec![b'x'; 40_001]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.json()["code"], "overloaded");
    let status = call_raw(&server, None, frame(0, &field(9, &[b'x'; 40_000]))).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(details.error_info().unwrap().reason, "overloaded");
    assert!(details.retry_info().is_some());
    // Nobody is refused for long: what is over holds nothing.
    slow.write_all(b"x").await.unwrap();
    let line = tokio::time::timeout(WAIT, status_line(&mut slow)).await.unwrap().unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    eventually("nothing is held", || server.front.body_bytes_held() == 0).await;
    assert_eq!(send("POST", &url, Some(KEY), &[], vec![b'x'; 100_000]).await.status, 200);
    server.stop().await;
}

/// Calls with bytes as they are; what the headers or trailers of the answer say.
async fn call_raw(server: &Server, encoding: Option<&str>, frame: Vec<u8>) -> Status {
    let path = "/attribution.ingestion.v1.IngestionService/IngestEvents";
    let mut request = http::Request::post(server.url(path))
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {KEY}"));
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let response = client(true).request(request.body(frame.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let status = Status::from_header_map(&parts.headers).or_else(|| Status::from_header_map(&trailers));
    status.unwrap()
}

/// A field of a message that holds bytes.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &content.to_vec(), &mut out);
    out
}

fn frame(compressed: u8, message: &[u8]) -> Vec<u8> {
    [&[compressed][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

#[tokio::test]
async fn a_message_that_cannot_be_taken_is_the_senders_mistake() {
    let server = Server::start().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    // A list within a list, and so on, among the properties of an event.
    let nested = |inner: Vec<u8>| field(6, &field(1, &inner));
    let deep = (0..200).fold(Vec::new(), |inner, _| nested(inner));
    let deep = field(1, &field(24, &field(1, &field(2, &deep))));
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    for (what, encoding, frame, code, name) in [
        ("no protobuf", None, frame(0, b"\xff\xff\xff"), Code::InvalidArgument, "unreadable_message"),
        ("no UTF-8", None, frame(0, b"\x0a\x03\x0a\x01\xff"), Code::InvalidArgument, "unreadable_message"),
        ("too deep", None, frame(0, &deep), Code::InvalidArgument, "unreadable_message"),
        ("no gzip", Some("gzip"), frame(1, b"nonsense"), Code::InvalidArgument, "unreadable_message"),
        ("no encoding", None, frame(1, b"nonsense"), Code::InvalidArgument, "unreadable_message"),
        ("cut", None, frame(0, b"xxxx")[..7].to_vec(), Code::InvalidArgument, "unreadable_message"),
        (
            "too long",
            None,
            frame(0, &vec![0; service::BODY_BYTES_MAX + 1]),
            Code::OutOfRange,
            "message_too_large",
        ),
        ("a bomb", Some("gzip"), frame(1, &bomb), Code::OutOfRange, "message_too_large"),
    ] {
        let status = call_raw(&server, encoding, frame).await;
        assert_eq!(status.code(), code, "{what}: {status:?}");
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert_eq!(details.error_info().unwrap().reason, name, "{what}");
        assert!(details.retry_info().is_none(), "{what}");
    }
    let good = IngestEventsRequest::default().encode_to_vec();
    assert_eq!(call_raw(&server, Some("gzip"), frame(1, &gzip(&good))).await.code(), Code::Ok);
    server.stop().await;
}
