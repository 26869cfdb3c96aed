//! The service as a process of its own: which stores it has, and how it begins and ends.

use event_log::LogError;
use serde::{Deserialize, Serialize};
use service::{Front, Process, SettingsPlace, StoreUrl};
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;

use crate::{Config, Deps, grpc};

/// What can be set of the process, beside what can be set of any.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Where events go.
    pub log: StoreUrl,
    /// Where recently seen ids and quotas are.
    pub cache: StoreUrl,
    /// Tenants, keys and rules.
    pub settings: SettingsPlace,
    /// Limits of ingestion.
    pub ingestion: Config,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            log: "kafka://127.0.0.1:9092/events".into(),
            cache: "redis://127.0.0.1:6379".into(),
            settings: SettingsPlace::default(),
            ingestion: Config::default(),
        }
    }
}

/// Runs the service until the shutdown.
///
/// # Errors
/// What keeps the process from starting.
pub async fn process(
    process: Process,
    config: ProcessConfig,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listeners = process.bind().await?;
    let health = Health::default();
    let front = Front::new(config.settings.open()?, process.limits, health.clone());
    let away = health.register(grpc::NAME, "event log");
    let open = async || event_log::open(config.log.reveal()).await;
    let is_final = |error: &LogError| matches!(error, LogError::Url(_) | LogError::Corrupt(_));
    let Some(log) = service::process::open_store(&away, &shutdown, is_final, open).await? else {
        return Ok(());
    };
    let deps = Deps {
        log,
        cache: cache::open(config.cache.reveal())?,
        // The log of a cluster is as large as its retention: what waits there is watched, and scaled for, not refused.
        backlog: None,
        recover_from: Vec::new(),
        health,
    };
    let routes = front.mount("ingestion", crate::start(&config.ingestion, deps, &shutdown).await?);
    service::serve(listeners, &front, routes, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}
