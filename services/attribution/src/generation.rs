//! Log, journey store and warehouse belong together, or they are made anew from the log.

use std::time::Duration;

use journey_store::Generation;
use tokio_util::sync::CancellationToken;

use crate::{Deps, Progress, error::Error};

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Starts a new generation if the stores don't belong to each other, then takes over their positions. Tries again until
/// every store is there, or until the shutdown.
pub(crate) async fn align(
    deps: &Deps,
    progress: &Progress,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    loop {
        match try_align(deps, progress).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "attribution waits for its stores");
                deps.worker_health.not_ready(error.to_string());
                deps.fact_writer_health.not_ready(error.to_string());
                tokio::select! {
                    () = shutdown.cancelled() => return Err(Error::Stopped),
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                }
            }
        }
    }
}

async fn try_align(deps: &Deps, progress: &Progress) -> Result<(), Error> {
    deps.warehouse.migrate().await?;
    let log = deps.log.id();
    let warehouse = deps.warehouse.generation().await?;
    let store = deps.outbox.generation().await?;
    let belong = store.is_some_and(|generation| generation.log == log && warehouse == Some(generation.id));
    if !belong {
        let id = random_id();
        if store.is_some() || warehouse.is_some() {
            tracing::warn!(
                log = %hex(log), store = ?store.map(|g| hex(g.id)), warehouse = ?warehouse.map(hex),
                generation = %hex(id),
                "journey store, warehouse and event log do not belong together: both are rebuilt from the log"
            );
        } else {
            tracing::info!(generation = %hex(id), "a new journey store and a new warehouse begin");
        }
        deps.outbox.reset(Generation { log, id }).await?;
        deps.warehouse.reset(id).await?;
    }
    let written = deps.warehouse.progress().await?;
    for partition in 0..deps.log.partitions() {
        let consumed = deps.outbox.consumed_to(partition).await?;
        let to = written.iter().filter(|p| p.partition == partition).map(|p| p.to).max();
        progress.start_at(partition, consumed, to.unwrap_or(0));
    }
    Ok(())
}

fn random_id() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}
