//! The service over a journey store in memory, called through its mounted routes.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod inverse;

use std::pin::Pin;

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use journey_store::{Incoming, NewEdition, Position, Stores};
use prost::Message;
use proto::{
    decisions::{
        DecideRequest, DecideResponse, Decision, GetDecisionRequest, GetDecisionResponse, GetProgressRequest,
        GetProgressResponse, StreamDecisionsRequest, StreamDecisionsResponse,
        attribution_service_server::{AttributionService, AttributionServiceServer},
    },
    events::{DecisionReason, Event, EventType},
    query::query_service_client::QueryServiceClient,
};
use query_api::{Config, Deps};
use serde_json::Value;
use service::{Front, Limits, Peer, SettingsHandle};
use sha2::{Digest, Sha256};
use telemetry::health::Health;
use tokio_stream::Stream;
use tonic::{Response, Status, service::Routes};
use tower::ServiceExt;
use warehouse::Warehouse;

/// A key of the tenant `acme` that may read.
pub const READ: &str = "read-key-of-acme";
/// A key of the tenant `acme` that may not.
pub const INGEST: &str = "ingest-key-of-acme";
/// A key of the tenant `acme` for administration alone.
pub const ADMIN: &str = "admin-key-of-acme";
/// A key of the tenant `other` that may read.
pub const OTHER: &str = "read-key-of-other";

/// Everything up to 2027 is reported.
pub const COMPLETE_THROUGH_SECONDS: i64 = 1_798_761_600;
/// What that caused was recorded in the second after it.
pub const KNOWN_THROUGH_SECONDS: i64 = COMPLETE_THROUGH_SECONDS + 1;

pub struct Service {
    pub stores: Stores,
    pub front: Front,
    mounted: Router,
    _data: tempfile::TempDir,
}

/// An answer over REST.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// An attribution service that says how far it is, or that is away.
struct Progress {
    away: bool,
}

// === impl Service ===

impl Service {
    /// Over a warehouse that nobody listens for.
    pub async fn start() -> Self {
        let config = warehouse::Config {
            url: "http://127.0.0.1:1".into(),
            user: String::new(),
            password: String::new(),
            database: "attribution".into(),
        };
        Self::with(Warehouse::connect(&config).unwrap(), false).await
    }

    pub async fn with(warehouse: Warehouse, attribution_away: bool) -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("settings.toml"), settings()).unwrap();
        let settings = SettingsHandle::open(data.path()).unwrap();
        let front = Front::new(settings, Limits::default(), Health::default());
        let stores = journey_store::open("memory://").await.unwrap();
        let progress = AttributionServiceServer::new(Progress { away: attribution_away });
        let attribution =
            Peer::in_process(front.mount("attribution", service::grpc_routes(Routes::new(progress))));
        let deps = Deps { warehouse, journeys: stores.journeys.clone(), attribution };
        // A wait for what will not come ends at once.
        let config = Config { consistency_seconds_max: 0, ..Config::default() };
        let mounted = query_api::start(config, deps, &front);
        Self { stores, front, mounted, _data: data }
    }

    pub fn grpc(&self, tenant: &str) -> QueryServiceClient<Peer> {
        QueryServiceClient::new(Peer::in_process(self.mounted.clone()).for_tenant(tenant))
    }

    pub async fn get(&self, path: &str, key: &str) -> Answer {
        self.call(Method::GET, path, key, &[], Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.call(Method::POST, path, READ, &headers, Body::from(body.to_string())).await
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("x-request-id", "r");
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.mounted.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Records events of the tenant `acme`, each in a record of its own.
    pub async fn record(&self, first_offset: u64, events: &[Event]) {
        let incoming: Vec<_> = (first_offset..)
            .zip(events)
            .map(|(offset, event)| Incoming {
                position: Position { partition: 0, offset, index: 0 },
                tenant: "acme".into(),
                settings_edition: "sha256:00".into(),
                recorded_at_micros: 1_767_225_600_000_000 + offset as i64,
                event: event.clone(),
            })
            .collect();
        self.stores.journeys.record(0, &incoming).await.unwrap();
    }

    /// Stores an edition of a conversion of the tenant `acme`.
    pub async fn decide(&self, offset: u64, reason: DecisionReason, decision: &Decision) {
        let edition = NewEdition {
            tenant: "acme".into(),
            conversion_id: decision.conversion_id.clone(),
            cause: Position { partition: 0, offset, index: 0 },
            reason,
            recorded_at_micros: 1_767_225_600_000_000 + offset as i64,
            digest: u128::from(offset).to_be_bytes(),
            decision: decision.encode_to_vec().into(),
        };
        assert_eq!(self.stores.journeys.commit(0, &[edition], offset + 1).await.unwrap(), [true]);
    }
}

// === impl Answer ===

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status and the first field that a problem names.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text());
        let field = self.json()["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
        (self.status.as_u16(), field)
    }
}

/// An event of the device `d` that minute of 2026.
pub fn event(id: &str, kind: EventType, minute: i64) -> Event {
    Event {
        event_id: id.into(),
        event_type: kind as i32,
        timestamp: Some(prost_types::Timestamp { seconds: 1_767_225_600 + 60 * minute, nanos: 0 }),
        device_id: "d".into(),
        app_id: "default".into(),
        channel: if kind == EventType::Conversion { String::new() } else { "email".into() },
        conversion: if kind == EventType::Conversion { "purchase".into() } else { String::new() },
        value: if kind == EventType::Conversion { "10".into() } else { String::new() },
        currency: if kind == EventType::Conversion { "EUR".into() } else { String::new() },
        ip: "192.0.2.7".into(),
        user_agent: "planted-agent".into(),
        ..Event::default()
    }
}

fn settings() -> String {
    let key = |tenant: &str, key: &str, scope: &str| {
        let hash: String = Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect();
        format!(
            "[[tenants.{tenant}.keys]]\nname = \"{scope}\"\nsha256 = \"{hash}\"\nscopes = [\"{scope}\"]\n"
        )
    };
    [
        "version = 1\n".into(),
        "[tenants.acme]\ncurrency = \"EUR\"\n".into(),
        "[tenants.other]\ncurrency = \"USD\"\n".into(),
        key("acme", READ, "read"),
        key("acme", INGEST, "ingest"),
        key("acme", ADMIN, "admin"),
        key("other", OTHER, "read"),
    ]
    .concat()
}

#[tonic::async_trait]
impl AttributionService for Progress {
    async fn decide(&self, _: tonic::Request<DecideRequest>) -> Result<Response<DecideResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_decision(
        &self,
        _: tonic::Request<GetDecisionRequest>,
    ) -> Result<Response<GetDecisionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type StreamDecisionsStream = Pin<Box<dyn Stream<Item = Result<StreamDecisionsResponse, Status>> + Send>>;

    async fn stream_decisions(
        &self,
        _: tonic::Request<StreamDecisionsRequest>,
    ) -> Result<Response<Self::StreamDecisionsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_progress(
        &self,
        request: tonic::Request<GetProgressRequest>,
    ) -> Result<Response<GetProgressResponse>, Status> {
        if self.away {
            return Err(Status::unavailable("away"));
        }
        if request.into_inner().wait_for.is_some() {
            std::future::pending::<()>().await;
        }
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        Ok(Response::new(GetProgressResponse {
            complete_through: at(COMPLETE_THROUGH_SECONDS),
            known_through: at(KNOWN_THROUGH_SECONDS),
            queued_records: 0,
        }))
    }
}
