//! What operators ask of every process: health, metrics, reflection.

use std::pin::Pin;

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use http::{HeaderValue, header};
use serde::Serialize;
use telemetry::health::{Health, States};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as GrpcHealth, HealthServer},
};

/// The media type of the Prometheus text format.
const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    components: Vec<ComponentState>,
}

#[derive(Serialize)]
struct ComponentState {
    service: &'static str,
    component: &'static str,
    ready: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: String,
}

/// `GET /health/live` and `GET /health/ready`.
pub(crate) fn health(health: &Health) -> Router {
    let health = health.clone();
    Router::new()
        .route("/health/live", get(|| async { Json(serde_json::json!({ "live": true })) }))
        .route("/health/ready", get(move || async move { readiness(health.states()) }))
}

/// `GET /metrics`.
pub(crate) fn metrics() -> Router {
    let page = || async { ([(header::CONTENT_TYPE, METRICS_TEXT)], telemetry::metrics::render()) };
    Router::new().route("/metrics", get(page))
}

/// `grpc.health.v1.Health` and server reflection, v1 and v1alpha.
pub(crate) fn grpc(health: &Health) -> Router {
    let mut routes = Routes::builder();
    routes.add_service(HealthServer::new(HealthService(health.clone())));
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are generated with the code; a test reads them.
    match builder().build_v1() {
        Ok(v1) => drop(routes.add_service(v1)),
        Err(error) => tracing::error!(%error, "no reflection"),
    }
    match builder().build_v1alpha() {
        Ok(v1alpha) => drop(routes.add_service(v1alpha)),
        Err(error) => tracing::error!(%error, "no reflection"),
    }
    crate::grpc_routes(routes.routes())
}

fn readiness(states: States) -> impl IntoResponse {
    let components: Vec<_> = states
        .into_iter()
        .map(|((service, component), state)| ComponentState {
            service,
            component,
            ready: state.ready,
            reason: state.reason.into_owned(),
        })
        .collect();
    let ready = components.iter().all(|component| component.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, components }))
}

struct HealthService(Health);

impl HealthService {
    /// The empty name is the whole process; `None` is a service nobody has registered.
    fn status(health: &Health, service: &str) -> Option<ServingStatus> {
        let ready = match service {
            "" => health.is_ready(),
            name => health.service_is_ready(name)?,
        };
        Some(if ready { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

type Watch = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GrpcHealth for HealthService {
    type WatchStream = Watch;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = Self::status(&self.0, &request.get_ref().service)
            .ok_or_else(|| Status::not_found("no such service"))?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        let service = request.into_inner().service;
        let health = self.0.clone();
        let mut last = None;
        let changes = WatchStream::new(health.subscribe()).filter_map(move |_| {
            let status = Self::status(&health, &service).unwrap_or(ServingStatus::ServiceUnknown);
            let changed = last != Some(status);
            last = Some(status);
            changed.then(|| Ok(HealthCheckResponse { status: status.into() }))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
