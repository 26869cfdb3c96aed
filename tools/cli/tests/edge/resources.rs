//! Those who waste connections, and what is left for the others.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream as BlockingStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::{Client, conversions},
    platform::{PATIENCE, Platform, Setup, eventually, tenants},
};

const KEY: &str = "acme-key";

async fn ingest(client: &Client, id: &str) -> u16 {
    client.post("/v1/events", Some(KEY), &conversions(std::iter::once(id.to_owned()))).await.status
}

/// Somebody with many connections, in a process of their own: this test's binary, asked to hold them.
struct Holder(Child);

impl Holder {
    /// Each connection asks one thing, and is idle from then on. How many were answered, and the holder.
    fn start(address: SocketAddr, count: usize) -> (usize, Self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "resources::held_connections", "--nocapture"]);
        command.env("TEST_HOLD", format!("{address} {count}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let held = lines.filter_map(|line| line.split_once("held ")?.1.parse().ok()).next();
        (held.expect("the holder says how many it holds"), Self(child))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does nothing unless [`Holder`] runs it.
#[test]
fn held_connections() {
    let Ok(order) = std::env::var("TEST_HOLD") else { return };
    let (address, count) = order.split_once(' ').unwrap();
    let mut held = Vec::new();
    let begin = Instant::now();
    for _ in 0..count.parse::<usize>().unwrap() {
        if begin.elapsed() > PATIENCE {
            break;
        }
        let Ok(mut stream) = BlockingStream::connect(address) else { continue };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = [0; 12];
        let asked = stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n");
        if asked.and_then(|()| stream.read_exact(&mut line)).is_ok() && &line == b"HTTP/1.1 200" {
            held.push(stream);
        }
    }
    println!("\nheld {}", held.len());
    // Until the one who started it goes away.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_are_held_and_hinder_nobody() {
    // No connection is to be idle for too long while the others are still being made.
    let config = "[limits]\nheader_read_seconds_max = 3600\n";
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), config, ..Setup::default() }).await;
    let allowed = getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, |files| files as usize);
    let wanted = 10_000.min(allowed / 4 * 3 - 100);
    let address = platform.public;
    let (held, holder) = tokio::task::spawn_blocking(move || Holder::start(address, wanted)).await.unwrap();
    assert_eq!(held, wanted, "of {allowed} files");
    for index in 0..20 {
        assert_eq!(ingest(&platform.client(), &format!("held-{index}")).await, 200);
    }
    assert!(platform.metrics().await.contains("# TYPE http_requests_total"));
    drop(holder);
    assert_eq!(ingest(&platform.client(), "after").await, 200);
    assert_eq!(platform.client().conversions(KEY).await, 21.0);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_never_take_the_files_that_the_stores_need() {
    let config = "[limits]\nheader_read_seconds_max = 3600\n";
    let setup = Setup { settings: tenants(&["acme"]), config, files: Some(512), ..Setup::default() };
    let platform = Platform::start(setup).await;
    let client = platform.client();
    // All over one connection, that of HTTP/2.
    let ingest = async |id: String| {
        let request = client.request("POST", "/v1/events", Some(KEY));
        client.send(true, request, conversions(std::iter::once(id)).to_string().into_bytes()).await.status
    };
    assert_eq!(ingest("before".into()).await, 200);
    let address = platform.public;
    let (held, holder) = tokio::task::spawn_blocking(move || Holder::start(address, 1_000)).await.unwrap();
    // Three quarters of the files, but for the one connection that is ours (perhaps one more is being closed).
    assert!((382..=384).contains(&held), "{held}");
    for index in 0..20 {
        assert_eq!(ingest(format!("full-{index}")).await, 200);
    }
    assert!(platform.metrics().await.contains("# TYPE http_requests_total"), "operators are locked out");
    drop(holder);
    let anew = || {
        let client = platform.client();
        async move {
            let request = client.request("GET", "/health/live", None);
            client.try_send(false, request, Vec::new()).await.is_ok_and(|answer| answer.status == 200)
        }
    };
    eventually("new connections are taken again", async || anew().await).await;
    assert_eq!(client.conversions(KEY).await, 21.0);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_slow_bodies_are_let_go_and_hinder_nobody() {
    const SLOW: usize = 100;
    let config = "[limits]\nheader_read_seconds_max = 2\nrequest_seconds_max = 20\n";
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), config, ..Setup::default() }).await;
    let head = "GET /health/live HTTP/1.1\r\nhost: x\r\nslow: ".to_owned();
    let body = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 100\r\n\r\n["
    );
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        for begin in [&head, &body] {
            let mut stream = TcpStream::connect(platform.public).await.unwrap();
            stream.write_all(begin.as_bytes()).await.unwrap();
            slow.push(stream);
        }
    }
    let client = platform.client();
    for index in 0..20 {
        assert_eq!(ingest(&client, &format!("slow-{index}")).await, 200);
    }
    for (index, mut stream) in slow.into_iter().enumerate() {
        let mut told = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut told)).await;
        assert!(ended.is_ok(), "connection {index} is still open");
        // A slow body was a request, so it is answered.
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(index % 2 == 0 || told.starts_with("HTTP/1.1 504"), "{told}");
    }
    assert_eq!(client.conversions(KEY).await, 20.0);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_end_their_connection_and_no_other() {
    // It is the resets that end it, not pings without an answer.
    let config = "[limits]\nhttp2_ping_seconds = 3600\n";
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), config, ..Setup::default() }).await;
    let client = platform.client();
    assert_eq!(ingest(&client, "before").await, 200);
    let mut attacker = TcpStream::connect(platform.public).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(http2_frame(4, 0, 0, &[]));
    for index in 0..10_000 {
        let stream = 2 * index + 1;
        // :method GET, :scheme http, :path /, :authority x; END_HEADERS and END_STREAM. Then RST_STREAM, CANCEL.
        bytes.extend(http2_frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x41, 0x01, b'x']));
        bytes.extend(http2_frame(3, 0, stream, &[0, 0, 0, 8]));
    }
    let (mut reader, mut writer) = attacker.split();
    let mut told = Vec::new();
    // Writing fails once the connection is ended.
    let attack = async { tokio::join!(writer.write_all(&bytes), reader.read_to_end(&mut told)) };
    assert!(timeout(PATIENCE, attack).await.is_ok(), "the connection is still open");
    assert!(goaway(&told).is_none_or(|code| code == 11), "ENHANCE_YOUR_CALM, not {:?}", goaway(&told));
    assert_eq!(ingest(&client, "after").await, 200);
    assert_eq!(ingest(&platform.client(), "anew").await, 200);
    assert_eq!(client.conversions(KEY).await, 3.0);
    platform.stop().await;
}

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The error of a GOAWAY frame among others; a connection that was reset may have lost it.
fn goaway(mut frames: &[u8]) -> Option<u32> {
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        if head[3] == 7 {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        frames = rest;
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_told_how_many_streams_it_may_have_and_closed_when_it_is_idle() {
    let config = "[limits]\nhttp2_streams_max = 4\nidle_seconds_max = 1\nheader_read_seconds_max = 1\n\
                  http2_ping_seconds = 3600\n";
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), config, ..Setup::default() }).await;
    let mut stream = TcpStream::connect(platform.public).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(http2_frame(4, 0, 0, &[]));
    stream.write_all(&bytes).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[2])];
    stream.read_exact(&mut payload).await.unwrap();
    // The first frame is SETTINGS; MAX_CONCURRENT_STREAMS is 3.
    assert_eq!(head[3], 4);
    assert!(payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 4]), "{payload:?}");
    // One request, and then nothing: the connection is closed when it has been idle for too long.
    stream.write_all(&http2_frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'])).await.unwrap();
    let mut told = Vec::new();
    let ended = timeout(Duration::from_secs(60), stream.read_to_end(&mut told)).await;
    assert!(ended.is_ok(), "an idle connection stays open");
    assert_eq!(goaway(&told), Some(0), "a goodbye without blame");
    platform.stop().await;
}
