//! Questions and their answers: reports, single conversions, journeys, settings editions, over gRPC and REST.
//!
//! Owns the public form of questions and answers, their rules and limits, and the description of the public API.
//! It must never write: what it tells is in the warehouse and the journey store already.

mod answer;
mod api;
mod config;
mod error;
mod fault;
mod grpc;
mod journey;
mod metrics;
mod openapi;
mod parse;
mod process;
mod render;
mod report;
mod rest;
mod spec;

use std::{sync::Arc, time::Duration};

use axum::Router;
use journey_store::JourneyStore;
use proto::query::query_service_server::QueryServiceServer;
use service::{Front, Peer};
use tokio::sync::Semaphore;
use tonic::{codec::CompressionEncoding, service::Routes};
use warehouse::Warehouse;

use crate::api::{Api, Inner};

pub use config::Config;
pub use openapi::document as openapi_document;
pub use process::{ProcessConfig, process};
pub use proto::query::query_service_server::SERVICE_NAME as NAME;

/// The seconds of a request's time kept for the answer after a wait for what was acknowledged.
const ANSWER_SECONDS: u64 = 5;

/// What the service works with.
#[derive(Clone)]
pub struct Deps {
    /// Answers reports.
    pub warehouse: Warehouse,
    /// Answers what is asked of one conversion or one person.
    pub journeys: Arc<dyn JourneyStore>,
    /// Says how far the facts go.
    pub attribution: Peer,
}

/// The mounted routes of the service, REST and gRPC, to be merged with others and served on one listener.
/// The service has no tasks of its own, so it ends with its listener.
pub fn start(config: Config, deps: Deps, front: &Front) -> Router {
    let limits = front.limits();
    let patience =
        limits.request_seconds_max.saturating_sub(ANSWER_SECONDS).min(config.consistency_seconds_max);
    let api = Api::new(Inner {
        warehouse: deps.warehouse,
        journeys: deps.journeys,
        attribution: deps.attribution,
        settings: front.settings().clone(),
        patience: Duration::from_secs(patience),
        slots: Semaphore::new(config.reports_in_flight_max.clamp(1, Semaphore::MAX_PERMITS)),
        config,
    });
    let grpc = QueryServiceServer::new(api.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(limits.body_bytes_max);
    let routes = rest::routes(api, limits.body_bytes_max).merge(service::grpc_routes(Routes::new(grpc)));
    // Readiness does not follow the warehouse: without it journeys are still told, and reports say so themselves.
    front.health().register(NAME, "api").ready();
    front.mount("query-api", routes).merge(front.mount_open("query-api", rest::open_routes()))
}
