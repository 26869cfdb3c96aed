//! From the event log to decisions, and from decisions to facts.
//!
//! Owns the order of effects: write before read, decide, send re-decides, and commit the position last; and the fact
//! writer, which is never ahead of the committed position. It must never decide anything itself: `model` does.

mod config;
mod decision;
mod error;
mod fact_writer;
mod facts;
mod frames;
mod generation;
mod grpc;
mod metrics;
mod progress;
mod worker;

use std::sync::Arc;

use event_log::EventLog;
use journey_store::{JourneyStore, Outbox};
use model::Rules;
use proto::decisions::{Decision, attribution_service_server::AttributionServiceServer};
use telemetry::health::Component;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warehouse::Warehouse;

pub use config::Config;
pub use decision::{event_to_conversion, event_to_touch};
pub use error::Error;
pub use grpc::AttributionApi;
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

/// Starts a worker and a fact writer for each partition as soon as the stores are of one generation.
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
    /// Waits until all work has stopped after the shutdown.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

async fn work(
    config: Config,
    deps: Deps,
    progress: Arc<Progress>,
    decisions: broadcast::Sender<Made>,
    shutdown: CancellationToken,
) {
    if generation::align(&deps, &progress, &shutdown).await.is_err() {
        return;
    }
    let tasks = TaskTracker::new();
    for partition in 0..deps.log.partitions() {
        let worker = worker::Worker::new(partition, &config, &deps, Arc::clone(&progress), decisions.clone());
        tasks.spawn(worker.run(shutdown.clone()));
        let writer = fact_writer::FactWriter::new(partition, &config, &deps, Arc::clone(&progress));
        tasks.spawn(writer.run(shutdown.clone()));
    }
    tasks.spawn(progress::watch(Arc::clone(&deps.log), progress, shutdown));
    tasks.close();
    tasks.wait().await;
}
