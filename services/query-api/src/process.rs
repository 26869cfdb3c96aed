//! The service as a process of its own: which stores and peers it has, and how it begins and ends.

use anyhow::anyhow;
use journey_store::StoreError;
use serde::{Deserialize, Serialize};
use service::{Front, Peer, PeerConfig, Process, SettingsPlace, StoreUrl};
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;
use warehouse::Warehouse;

use crate::{Config, Deps};

/// What can be set of the process, beside what can be set of any.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Single conversions and journeys.
    pub journeys: StoreUrl,
    /// Reports.
    pub warehouse: StoreUrl,
    /// Tenants, keys and rules.
    pub settings: SettingsPlace,
    /// The attribution service.
    pub attribution: PeerConfig,
    /// Limits of queries.
    pub query: Config,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            journeys: "scylla://127.0.0.1:9042/attribution".into(),
            warehouse: "http://127.0.0.1:8123/attribution".into(),
            settings: SettingsPlace::default(),
            attribution: PeerConfig::at("http://127.0.0.1:8081"),
            query: Config::default(),
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
    let warehouse = Warehouse::open(config.warehouse.reveal())?;
    let attribution = Peer::connect(&config.attribution, may_repeat);
    let attribution = attribution.map_err(|error| anyhow!("attribution: {error}"))?;
    let away = health.register(crate::NAME, "journey store");
    let open = async || journey_store::open(config.journeys.reveal()).await;
    let is_final = |error: &StoreError| matches!(error, StoreError::Url(_) | StoreError::Corrupt(_));
    let Some(stores) = service::process::open_store(&away, &shutdown, is_final, open).await? else {
        return Ok(());
    };
    let deps = Deps { warehouse, journeys: stores.journeys, attribution };
    let routes = crate::start(config.query, deps, &front);
    service::serve(listeners, &front, routes, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Questions that change nothing.
fn may_repeat(path: &str) -> bool {
    let method = path.strip_prefix("/attribution.attribution.v1.AttributionService/");
    matches!(method, Some("GetProgress" | "GetDecision" | "Decide"))
}
