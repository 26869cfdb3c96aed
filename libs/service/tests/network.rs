//! Connections: TLS, draining, and those who waste them.

#![allow(clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use service::Limits;
use support::{KEY, Server, client, eventually, send};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Takes any certificate, since the test looks at it itself.
#[derive(Debug)]
struct TakeAny;

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Connects; the server's certificate, the protocol agreed on, and the first line of an answer over HTTP/1.1.
async fn handshake(server: &Server, alpn: &[&[u8]]) -> (Vec<u8>, Vec<u8>, String) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakeAny))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let (_, session) = tls.get_ref();
    let certificate = session.peer_certificates().unwrap()[0].to_vec();
    let protocol = session.alpn_protocol().unwrap_or_default().to_vec();
    let mut line = String::new();
    if protocol == b"http/1.1" {
        tls.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        tls.read_to_string(&mut line).await.unwrap();
        line.truncate(line.find("\r\n").unwrap());
    }
    (certificate, protocol, line)
}

#[tokio::test]
async fn a_new_certificate_is_used_and_a_bad_one_is_not() {
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("tls.crt"), files.path().join("tls.key"));
    let put = |pair: &str| {
        std::fs::copy(fixture(&format!("{pair}.key")), &key).unwrap();
        std::fs::copy(fixture(&format!("{pair}.crt")), &certificate).unwrap();
    };
    let der = |pair: &str| CertificateDer::from_pem_file(fixture(&format!("{pair}.crt"))).unwrap().to_vec();
    put("a");
    let server = Server::with(Limits::default(), Some((&certificate, &key))).await;
    let (seen, protocol, line) = handshake(&server, &[b"http/1.1"]).await;
    assert_eq!((seen, protocol, line.as_str()), (der("a"), b"http/1.1".to_vec(), "HTTP/1.1 200 OK"));
    assert_eq!(handshake(&server, &[b"h2", b"http/1.1"]).await.1, b"h2");

    put("b");
    let begin = std::time::Instant::now();
    while handshake(&server, &[b"h2"]).await.0 != der("b") {
        assert!(begin.elapsed() < Duration::from_secs(60), "the new certificate is not used");
        tokio::task::yield_now().await;
    }
    server.stop().await;

    // A pair that does not fit is refused, at the start and later.
    put("a");
    let tls = service::Tls::open(&certificate, &key).unwrap();
    std::fs::copy(fixture("b.key"), &key).unwrap();
    assert!(tls.reload().is_err());
    assert!(!tls.reload().unwrap(), "refused once, reported once");
    assert!(service::Tls::open(&certificate, &key).is_err());
    put("b");
    assert!(tls.reload().unwrap());
}

#[tokio::test]
async fn requests_end_before_the_process_does() {
    let server = Server::start().await;
    let url = server.url("/wait");
    let connected = TcpStream::connect(server.address).await.unwrap();
    let waiting =
        service::task::spawn("waiting", async move { send("GET", &url, Some(KEY), &[], "").await.status });
    in_flight(&server).await;
    server.shutdown.cancel();
    let health = server.front.health().clone();
    eventually("not ready while draining", || !health.is_ready()).await;
    let address = server.address;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused).await.expect("still accepting");
    assert!(!server.served.is_finished());
    server.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), 200);
    drop(connected);
    server.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_drain_limit() {
    let limits = Limits { drain_seconds_max: 1, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let url = server.url("/wait");
    let cut = service::task::spawn("cut", async move {
        let request = http::Request::get(url).header("authorization", format!("Bearer {KEY}"));
        client(false).request(request.body(axum::body::Body::empty()).unwrap()).await.map(drop)
    });
    in_flight(&server).await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(60), server.served).await.unwrap().unwrap().unwrap();
    assert!(cut.await.unwrap().is_err());
}

/// Waits until `/wait` holds a request.
async fn in_flight(server: &Server) {
    eventually("a request is in flight", || server.front.requests_in_flight() == 1).await;
}

#[tokio::test]
async fn who_connects_and_asks_nothing_is_let_go() {
    let limits = Limits { header_read_seconds_max: 1, ..Limits::default() };
    let server = Server::with(limits, None).await;
    for begin in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "GET / HTTP/1.1\r\nhost: x\r\nslow: "] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(25), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after {begin:?}");
    }
    assert_eq!(send("GET", &server.url("/whoami"), Some(KEY), &[], "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn one_connection_past_the_bound_is_closed_and_its_place_is_free_again() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    for stream in [&mut first, &mut second] {
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut line = [0; 15];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"HTTP/1.1 200 OK");
    }
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), third.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    drop(first);
    let begin = std::time::Instant::now();
    loop {
        let mut next = TcpStream::connect(server.address).await.unwrap();
        next.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        if matches!(next.read(&mut [0; 1]).await, Ok(1)) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "the place is not free again");
    }
    server.stop().await;
}
