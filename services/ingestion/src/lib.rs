//! Takes events in: authenticated, checked, de-duplicated, stamped, and acknowledged once they are durable in the log.
//!
//! Owns the form of events in both protocols and their rules. It must never acknowledge what is not durable, decide
//! anything about a journey, or read a store other than through its cache.

pub mod encode;
pub mod event;
pub mod parse;
pub mod validate;

mod accept;
mod backlog;
mod batch;
mod config;
mod error;
mod flights;
mod grpc;
mod iso;
mod json;
mod message;
mod metrics;
mod process;
mod recover;
mod rest;
mod time;

use std::{sync::Arc, time::Duration};

use axum::Router;
use cache::{Cache, key::Keys};
use event_log::EventLog;
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;

pub use backlog::{Attributed, Backlog};
pub use config::{BATCH_EVENTS_MAX, Config};
pub use error::Error;
pub use process::{ProcessConfig, process};

/// How often the log is asked whether it can take events.
const LOG_HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// What the service works with.
pub struct Deps {
    /// Where events go.
    pub log: Arc<dyn EventLog>,
    /// Which ids were seen, and what a tenant may send.
    pub cache: Arc<dyn Cache>,
    /// How far attribution has come; without it what waits for it is not bounded.
    pub backlog: Option<Backlog>,
    /// For each partition the offset from which on the cache does not know the ids, and nobody else it asks. Empty where
    /// a cache of the cluster outlives the process.
    pub recover_from: Vec<u64>,
    /// Told whether events can be taken.
    pub health: Health,
}

/// Starts the service: returns its routes, REST and gRPC, to be mounted behind a [`service::Front`], once it knows
/// every id it must know. It lives on in its routes; the shutdown ends its streams.
///
/// # Errors
/// The log cannot be read, or the cache takes no ids.
pub async fn start(config: &Config, deps: Deps, shutdown: &CancellationToken) -> Result<Router, Error> {
    let Deps { log, cache, backlog, recover_from, health } = deps;
    let recovery = health.register(grpc::NAME, "recovery");
    let keys = Keys::default();
    let backlog = backlog.map(|attributed| {
        let first =
            (0..log.partitions() as usize).map(|partition| recover_from.get(partition).copied().unwrap_or(0));
        backlog::Bound::new(attributed, config.backlog_events_max, first)
    });
    let events = recover::recover(log.as_ref(), &cache, &keys, &recover_from, backlog.as_ref()).await?;
    tracing::info!(events, "knows the ids that are not attributed yet");
    recovery.ready();
    watch(Arc::clone(&log), &health, shutdown.clone());
    let acceptor = Arc::new(accept::Acceptor::new(log, cache, keys, backlog));
    let rest = rest::routes(Arc::clone(&acceptor), config.body_bytes_max);
    Ok(rest.merge(grpc::routes(acceptor, config, shutdown)))
}

/// Tells of the log's health until the shutdown.
fn watch(log: Arc<dyn EventLog>, health: &Health, shutdown: CancellationToken) {
    let component = health.register(grpc::NAME, "event log");
    service::task::spawn("event log health", async move {
        let mut ticks = tokio::time::interval(LOG_HEALTH_INTERVAL);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            match log.health() {
                Ok(()) => component.ready(),
                Err(reason) => component.not_ready(reason),
            }
        }
    });
}
