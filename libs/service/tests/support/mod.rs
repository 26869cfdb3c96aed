//! A server with a few handlers, on a free port.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use proto::ingestion::{
    IngestEventsRequest, IngestEventsResponse, Item, StreamEventsRequest, StreamEventsResponse,
    ingestion_service_server::{IngestionService, IngestionServiceServer},
};
use service::{Caller, Class, Error, Front, Limits, Listeners, Scope, SettingsHandle, Tls};
use sha2::{Digest, Sha256};
use telemetry::health::Health;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, service::Routes};

/// A key with all scopes of the tenant `acme`.
pub const KEY: &str = "key-of-acme";
/// A key of the tenant `acme` that may read only.
pub const READ_KEY: &str = "read-key-of-acme";
/// A key of the tenant `acme` that has expired.
pub const EXPIRED_KEY: &str = "expired-key-of-acme";
/// A key with all scopes of the tenant `other`.
pub const OTHER_KEY: &str = "key-of-other";

pub struct Server {
    pub address: SocketAddr,
    pub operations: SocketAddr,
    pub front: Front,
    pub mounted: Router,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<std::io::Result<()>>,
    /// Opens `/wait` for one request each.
    pub gate: &'static Semaphore,
    pub data: tempfile::TempDir,
}

pub fn settings_text() -> String {
    let key = |tenant: &str, name: &str, key: &str, rest: &str| {
        let hash: String = Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect();
        format!("[[tenants.{tenant}.keys]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rest}\n")
    };
    let all = "scopes = [\"ingest\", \"read\", \"admin\"]";
    [
        "version = 1\n".into(),
        key("acme", "all", KEY, all),
        key("acme", "read", READ_KEY, "scopes = [\"read\"]"),
        key("acme", "old", EXPIRED_KEY, &format!("{all}\nexpires = 2001-01-01T00:00:00Z")),
        key("other", "all", OTHER_KEY, all),
    ]
    .concat()
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Limits::default(), None).await
    }

    pub async fn with(limits: Limits, tls: Option<(&Path, &Path)>) -> Self {
        telemetry::metrics::install().unwrap();
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("settings.toml"), settings_text()).unwrap();
        let settings = SettingsHandle::open(data.path()).unwrap();
        let front = Front::new(settings, limits, Health::default());
        let gate: &'static Semaphore = Box::leak(Box::new(Semaphore::new(0)));
        let mounted = front.mount("test", rest(gate).merge(grpc()));
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let operations = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let server = Self {
            address: public.local_addr().unwrap(),
            operations: operations.local_addr().unwrap(),
            front: front.clone(),
            mounted: mounted.clone(),
            shutdown: shutdown.clone(),
            gate,
            data,
            served: service::task::spawn("serve", {
                let tls = tls.map(|(certificate, key)| Tls::open(certificate, key).unwrap());
                let listeners = Listeners { public, operations: Some(operations), tls };
                async move { service::serve(listeners, &front, mounted, shutdown).await }
            }),
        };
        let health = server.front.health().clone();
        eventually("the server is ready", || health.states().len() == 1 && health.is_ready()).await;
        server
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap().unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// An answer that was read whole.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub fn client(http2: bool) -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

/// Sends over HTTP/1.1 with a key.
pub async fn send(
    method: &str,
    url: &str,
    key: Option<&str>,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(url);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    read(client(false).request(request.body(body.into()).unwrap()).await.unwrap()).await
}

pub async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// Waits for something to become true, with a bound.
pub async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "never: {what}");
}

/// An error of the class that a text names.
pub fn error(class: &str) -> Error {
    let row = service::error::TABLE.iter().find(|row| row.name == class).unwrap();
    match row.class {
        Class::Internal => Error::internal("the password is hunter2"),
        class => Error::new(class, "what is wrong")
            .code("a_code")
            .field("the.field", "its reason")
            .source("the password is hunter2"),
    }
}

fn rest(gate: &'static Semaphore) -> Router {
    Router::new()
        .route("/whoami", get(whoami))
        .route("/ingest", post(ingest))
        .route("/fail/{class}", get(fail))
        .route("/panic", get(panic))
        .route("/echo", post(echo))
        .route("/query", get(query))
        .route("/wait", get(wait).with_state(gate))
        .with_state(())
}

async fn whoami(caller: Caller) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "tenant": &**caller.tenant_name(),
        "key": &**caller.key_name(),
        "traceparent": telemetry::trace::current_traceparent(),
    }))
}

async fn ingest(caller: Caller) -> service::Result<()> {
    caller.require(Scope::Ingest)
}

async fn fail(axum::extract::Path(class): axum::extract::Path<String>) -> Response {
    error(&class).into_response()
}

async fn panic() {
    panic!("the password is hunter2")
}

async fn echo(request: Request) -> service::Result<Vec<u8>> {
    let (parts, body) = request.into_parts();
    Ok(service::body::read(&parts.headers, body, 100_000).await?.to_vec())
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    limit: u32,
}

async fn query(axum::extract::Query(query): axum::extract::Query<Query>) -> String {
    query.limit.to_string()
}

async fn wait(State(gate): State<&'static Semaphore>) -> &'static str {
    gate.acquire().await.unwrap().forget();
    "done"
}

fn grpc() -> Router {
    let max = service::BODY_BYTES_MAX;
    let server = IngestionServiceServer::new(Ingestion)
        .max_decoding_message_size(max)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    service::grpc_routes(Routes::new(server))
}

struct Ingestion;

#[tonic::async_trait]
impl IngestionService for Ingestion {
    type StreamEventsStream = tokio_stream::Pending<Result<StreamEventsResponse, Status>>;

    /// Fails as the first event's id says; answers with the caller and the trace otherwise.
    async fn ingest_events(
        &self,
        request: tonic::Request<IngestEventsRequest>,
    ) -> Result<tonic::Response<IngestEventsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        caller.require(Scope::Ingest)?;
        match request.get_ref().events.first().map(|event| event.event_id.as_str()) {
            Some("forever") => std::future::pending().await,
            Some("panic") => panic!("the password is hunter2"),
            Some(class) if !class.is_empty() => return Err(error(class).into()),
            _ => {}
        }
        let item = Item {
            event_id: caller.tenant_name().to_string(),
            reason: telemetry::trace::current_traceparent(),
            ..Item::default()
        };
        Ok(tonic::Response::new(IngestEventsResponse { items: vec![item], ..Default::default() }))
    }

    async fn stream_events(
        &self,
        _: tonic::Request<Streaming<StreamEventsRequest>>,
    ) -> Result<tonic::Response<Self::StreamEventsStream>, Status> {
        Ok(tonic::Response::new(tokio_stream::pending()))
    }
}
