//! From the event log to decisions, and from decisions to facts.
//!
//! Owns the order of effects: write before read, decide, send re-decides, and commit the position last; and the fact
//! writer, which is never ahead of the committed position. It must never decide anything itself: `model` does.

pub mod features;

mod asking;
mod assignment;
mod config;
mod decision;
mod error;
mod fact_writer;
mod facts;
mod frames;
mod gateway;
mod generation;
mod grpc;
mod held;
mod metrics;
mod process;
mod progress;
mod scoring;
mod worker;

use std::sync::Arc;

use event_log::EventLog;
use journey_store::{JourneyStore, Outbox, Scores, StoreError, Stores};
use model::Rules;
use proto::decisions::{Decision, attribution_service_server::AttributionServiceServer};
use service::{Front, Peer, SettingsHandle};
use telemetry::health::{Component, Health};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use warehouse::Warehouse;

pub use config::{Config, SCORE_DEADLINE_MILLIS_MAX};
pub use decision::{decide, event_to_conversion, event_to_touch};
pub use error::Error;
pub use generation::{claim, continued};
pub use grpc::AttributionApi;
pub use process::{ProcessConfig, process};
pub use progress::Progress;
pub use proto::decisions::attribution_service_server::SERVICE_NAME as NAME;

/// The rules of one tenant's settings edition, if it was ever in force.
pub type RulesOf = Arc<dyn Fn(&str, &str) -> Option<Arc<Rules>> + Send + Sync>;

/// A tenant's decision that was just stored.
pub(crate) type Made = Arc<(Arc<str>, Decision)>;

/// What the service works with.
#[derive(Clone)]
pub struct Deps {
    /// Where events come from, and where re-decides go.
    pub log: Arc<dyn EventLog>,
    /// Touches, persons, decisions.
    pub journeys: Arc<dyn JourneyStore>,
    /// What the warehouse is owed.
    pub outbox: Arc<dyn Outbox>,
    /// Scores of touches.
    pub scores: Arc<dyn Scores>,
    /// The model gateway; without one decisions have no scores.
    pub gateway: Option<Peer>,
    /// Where facts go.
    pub warehouse: Warehouse,
    /// The rules of an edition.
    pub rules: RulesOf,
    /// Told whether decisions are being made.
    pub worker_health: Component,
    /// Told whether facts are being written.
    pub fact_writer_health: Component,
}

/// A running service.
pub struct Attribution {
    /// How far it has come.
    pub progress: Arc<Progress>,
    /// The gRPC service to mount.
    pub api: AttributionServiceServer<AttributionApi>,
    tasks: TaskTracker,
}

// === impl Deps ===

impl Deps {
    /// What the service works with in a process: the rules are those of the settings.
    pub fn new(
        log: Arc<dyn EventLog>,
        stores: Stores,
        warehouse: Warehouse,
        settings: SettingsHandle,
        health: &Health,
    ) -> Self {
        Self {
            log,
            journeys: stores.journeys,
            outbox: stores.outbox,
            scores: stores.scores,
            gateway: None,
            warehouse,
            rules: Arc::new(move |tenant, edition| settings.edition(tenant, edition)),
            worker_health: health.register(NAME, "worker"),
            fact_writer_health: health.register("fact writer", "warehouse"),
        }
    }

    /// The same, with scores from a gateway.
    #[must_use]
    pub fn with_gateway(self, gateway: Peer) -> Self {
        Self { gateway: Some(gateway), ..self }
    }
}

/// Starts a worker and a fact writer for each partition that this process has, as soon as the stores are of one
/// generation and as long as it has it.
pub fn start(config: &Config, deps: &Deps, shutdown: &CancellationToken) -> Attribution {
    let progress = Arc::new(Progress::new(deps.log.partitions()));
    let (decisions, _) = broadcast::channel(config.stream_decisions_max);
    let api = AttributionApi::new(deps, Arc::clone(&progress), decisions.clone(), shutdown.clone());
    let tasks = TaskTracker::new();
    let work = work(config.clone(), deps.clone(), Arc::clone(&progress), decisions, shutdown.clone());
    tasks.spawn(work);
    tasks.close();
    Attribution { progress, api: AttributionServiceServer::new(api), tasks }
}

impl Attribution {
    /// The mounted routes of the service, to be served on a listener.
    pub fn routes(&self, front: &Front) -> axum::Router {
        front.mount("attribution", service::grpc_routes(Routes::new(self.api.clone())))
    }

    /// Waits until all work has stopped after the shutdown, which it begins itself when it cannot go on.
    ///
    /// # Errors
    /// [`StoreError::Superseded`]: only a new process can go on.
    pub async fn stopped(&self) -> Result<(), StoreError> {
        self.tasks.wait().await;
        if self.progress.ended.is_cancelled() { Err(StoreError::Superseded) } else { Ok(()) }
    }
}

async fn work(
    config: Config,
    deps: Deps,
    progress: Arc<Progress>,
    decisions: broadcast::Sender<Made>,
    shutdown: CancellationToken,
) {
    let Some(assigned) = assignment::join(&deps, &shutdown).await else { return };
    if generation::align(&deps, &assigned, &progress, &shutdown).await.is_err() {
        return;
    }
    let watching = progress::watch(&deps, assigned.clone(), &progress, shutdown.clone());
    let following = assignment::follow(&config, &deps, assigned, &progress, &decisions, &shutdown);
    let ending = async {
        if shutdown.run_until_cancelled(progress.ended.cancelled()).await.is_some() {
            shutdown.cancel();
        }
    };
    tokio::join!(watching, following, ending);
}
