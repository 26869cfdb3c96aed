//! Features to scores: models in process or on other servers, over our own contract and the Open Inference Protocol.
//!
//! Owns the registry of models, what they take and answer, and both protocols.
//! It must never decide: what a score means for a conversion is the attribution service's to say.

mod backend;
mod breaker;
mod config;
mod drift;
mod grpc;
mod kserve;
mod manifest;
mod metrics;
mod model;
mod onnx;
mod process;
mod registry;
mod runner;
mod score;
mod tensor;
mod v2;
mod v2_grpc;
mod v2_rest;
mod version;

use std::sync::Arc;

use axum::Router;
use proto::{
    inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    ml::ml_gateway_service_server::{MlGatewayServiceServer, SERVICE_NAME},
};
use service::Front;
use telemetry::health::Health;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{registry::Registry, score::Api};

pub use config::Config;
pub use process::{ProcessConfig, process};
pub use proto::ml::ml_gateway_service_server::SERVICE_NAME as NAME;
pub use registry::RegistryError as Error;

/// A running service.
pub struct MlGateway {
    /// Its mounted routes, REST and gRPC.
    pub routes: Router,
    api: Api,
    watching: JoinHandle<()>,
}

/// Starts to look after the folder of models. Says to `health` that it is ready when one of them is.
///
/// # Errors
/// A URL that is not a folder's.
pub fn start(
    config: &Config,
    front: &Front,
    health: &Health,
    shutdown: &CancellationToken,
) -> Result<MlGateway, Error> {
    let registry = Arc::new(Registry::open(config)?);
    let api = Api { registry: Arc::clone(&registry), rows_max: config.rows_max };
    let limits = front.limits();
    let ours = MlGatewayServiceServer::new(api.clone()).max_decoding_message_size(limits.body_bytes_max);
    let theirs =
        GrpcInferenceServiceServer::new(api.clone()).max_decoding_message_size(limits.body_bytes_max);
    let grpc = service::grpc_routes(Routes::new(ours).add_service(theirs));
    let routes = v2_rest::routes(api.clone(), limits.body_bytes_max).merge(grpc);
    let open = v2_rest::open_routes(api.clone());
    let health = health.register(SERVICE_NAME, "models");
    let watching = service::task::spawn("models", registry.watch(health, shutdown.clone()));
    let routes = front.mount("ml-gateway", routes).merge(front.mount_open("ml-gateway", open));
    Ok(MlGateway { routes, api, watching })
}

impl MlGateway {
    /// What rows mean, features in the order of the model's schema, without a protocol in between.
    ///
    /// # Errors
    /// As `Score` has them.
    pub async fn score(&self, model: &str, features: Vec<f32>) -> service::Result<Vec<f64>> {
        self.api.score_rows(model, features).await
    }

    /// Waits until the folder is no longer looked after, after the shutdown.
    pub async fn stopped(self) {
        // A panic in it was logged.
        let _ = self.watching.await;
    }
}
