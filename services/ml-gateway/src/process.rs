//! The service as a process of its own: how it begins and ends.

use serde::{Deserialize, Serialize};
use service::{Front, Process, Secret, SettingsPlace};
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;

use crate::Config;

/// What can be set of the process, beside what can be set of any.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Tenants and keys.
    pub settings: SettingsPlace,
    /// The key that the other services call this one with.
    pub peer_key: Option<Secret>,
    /// Models, and limits of scoring.
    pub ml: Config,
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
    let settings = config.settings.open()?;
    let front = Front::for_peers(settings, process.limits, health.clone(), config.peer_key.as_ref());
    let gateway = crate::start(&config.ml, &front, &health, &shutdown)?;
    service::serve(listeners, &front, gateway.routes.clone(), shutdown).await?;
    gateway.stopped().await;
    tracing::info!("stopped");
    Ok(())
}
