//! The service as a process of its own: which stores it has, and how it begins and ends.

use std::sync::Arc;

use anyhow::anyhow;
use event_log::LogError;
use journey_store::StoreError;
use serde::{Deserialize, Serialize};
use service::{Front, Peer, PeerConfig, Process, Secret, SettingsPlace, StoreUrl, task::Threads};
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;
use warehouse::Warehouse;

use crate::{Config, Deps, Error, generation};

/// What can be set of the process, beside what can be set of any.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Where events come from, and where re-decides go.
    pub log: StoreUrl,
    /// Touches, persons, decisions, and what the warehouse is owed.
    pub journeys: StoreUrl,
    /// Where facts go.
    pub warehouse: StoreUrl,
    /// The id of a log that is lost: its stores are gone on with in this one.
    pub continues: Option<String>,
    /// Tenants, keys and rules.
    pub settings: SettingsPlace,
    /// The model gateway; without an address decisions have no scores.
    pub ml: PeerConfig,
    /// The key that the other services call this one with.
    pub peer_key: Option<Secret>,
    /// Limits of attribution.
    pub attribution: Config,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            log: "kafka://127.0.0.1:9092/events".into(),
            journeys: "scylla://127.0.0.1:9042/attribution".into(),
            warehouse: "http://127.0.0.1:8123/attribution".into(),
            continues: None,
            settings: SettingsPlace::default(),
            ml: PeerConfig::default(),
            peer_key: None,
            attribution: Config::default(),
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
    let continues = config.continues.as_deref().map(log_id).transpose()?;
    let listeners = process.bind().await?;
    let settings = config.settings.open()?;
    let health = Health::default();
    let front = Front::for_peers(settings.clone(), process.limits, health.clone(), config.peer_key.as_ref());
    let warehouse = Warehouse::open(config.warehouse.reveal())?;
    let away = health.register(crate::NAME, "event log");
    let open = async || event_log::open(config.log.reveal()).await;
    let is_final = |error: &LogError| matches!(error, LogError::Url(_) | LogError::Corrupt(_));
    let Some(log) = service::process::open_store(&away, &shutdown, is_final, open).await? else {
        return Ok(());
    };
    let away = health.register(crate::NAME, "journey store");
    let open = async || {
        let stores = journey_store::open(config.journeys.reveal()).await?;
        let log = generation::continued(Arc::clone(&log), &*stores.outbox, &warehouse, continues).await?;
        Ok::<_, Error>((log, stores))
    };
    let is_final = |error: &Error| matches!(error, Error::Store(StoreError::Url(_) | StoreError::Corrupt(_)));
    let Some((log, stores)) = service::process::open_store(&away, &shutdown, is_final, open).await? else {
        return Ok(());
    };
    let mut deps = Deps::new(log, stores, warehouse, settings, &health);
    if !config.ml.url.is_empty() {
        // A score may be asked for twice: that changes nothing.
        deps =
            deps.with_gateway(Peer::connect(&config.ml, |_| true).map_err(|error| anyhow!("ml: {error}"))?);
    }
    let threads = Threads::new("attribution")?;
    let attribution = threads.enter(|| crate::start(&config.attribution, &deps, &shutdown));
    service::serve(listeners, &front, attribution.routes(&front), shutdown).await?;
    attribution.stopped().await?;
    tracing::info!("stopped");
    Ok(())
}

/// With hyphens, so that no id can be read as a number.
fn log_id(text: &str) -> anyhow::Result<u128> {
    let id = uuid::Uuid::try_parse(text).map(|id| id.as_u128());
    id.map_err(|error| anyhow!("continues: {text:?} is no id of an event log: {error}"))
}
