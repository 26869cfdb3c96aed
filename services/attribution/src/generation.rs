//! Log, journey store and warehouse belong together, or they are made anew from the log.

use std::time::Duration;

use event_log::EventLog;
use journey_store::{Generation, Outbox, StoreError};
use tokio_util::sync::CancellationToken;

use crate::{Deps, Progress, assignment::Assigned, error::Error, held::Held};

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Starts a new generation if the stores don't belong to each other, then takes over their positions. Of several
/// processes the one that has the first partition does it, and the others wait. Tries again until every store is there,
/// or until the shutdown.
pub(crate) async fn align(
    deps: &Deps,
    assigned: &Assigned,
    progress: &Progress,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    loop {
        let first = assigned.borrow().contains(&0);
        let aligned = async {
            if first {
                try_align(deps).await?;
            } else {
                check(deps).await?;
            }
            refresh(deps, 0..deps.log.partitions(), progress).await
        };
        match aligned.await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "attribution waits for its stores");
                deps.worker_health.not_ready(error.to_string());
                deps.fact_writer_health.not_ready(error.to_string());
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Err(Error::Stopped),
                    () = tokio::time::sleep(RETRY_PAUSE) => {}
                }
            }
        }
    }
}

/// Empties a journey store of another log, so that nobody takes what that log held as seen; its generation.
///
/// # Errors
/// The store cannot be read or written.
pub async fn claim(log: &dyn EventLog, outbox: &dyn Outbox) -> Result<Generation, StoreError> {
    let found = outbox.generation().await?;
    if let Some(generation) = found.filter(|generation| generation.log == log.id()) {
        return Ok(generation);
    }
    let generation = Generation { log: log.id(), id: random_id() };
    match found {
        Some(other) => tracing::warn!(
            log = %hex(generation.log), other = %hex(other.log), generation = %hex(generation.id),
            "the journey store belongs to another event log: it is rebuilt from this log"
        ),
        None => tracing::info!(generation = %hex(generation.id), "a new journey store begins"),
    }
    outbox.reset(generation).await?;
    Ok(generation)
}

async fn try_align(deps: &Deps) -> Result<(), Error> {
    deps.warehouse.migrate().await?;
    let store = claim(&*deps.log, &*deps.outbox).await?;
    let warehouse = deps.warehouse.generation().await?;
    if warehouse != Some(store.id) {
        let mut consumed = 0;
        for partition in 0..deps.log.partitions() {
            consumed += deps.outbox.consumed_to(partition).await?;
        }
        let generation = if consumed > 0 { Generation { id: random_id(), ..store } } else { store };
        if consumed > 0 || warehouse.is_some() {
            tracing::warn!(
                store = %hex(store.id), warehouse = ?warehouse.map(hex), generation = %hex(generation.id),
                "journey store and warehouse do not belong together: both are rebuilt from the log"
            );
        } else {
            tracing::info!(generation = %hex(generation.id), "a new warehouse begins");
        }
        if consumed > 0 {
            deps.outbox.reset(generation).await?;
        }
        deps.warehouse.reset(generation.id).await?;
    }
    Ok(())
}

/// Whether the stores belong to each other.
async fn check(deps: &Deps) -> Result<(), Error> {
    let store = deps.outbox.generation().await?.filter(|generation| generation.log == deps.log.id());
    let warehouse = deps.warehouse.generation().await?;
    if warehouse.is_some() && store.map(|store| store.id) == warehouse {
        Ok(())
    } else {
        Err(Error::NotAligned)
    }
}

/// Learns how far others have come with partitions. Never moves back.
pub(crate) async fn refresh(
    deps: &Deps,
    partitions: impl IntoIterator<Item = u32>,
    progress: &Progress,
) -> Result<(), Error> {
    let written = deps.warehouse.progress().await?;
    for partition in partitions {
        let consumed = deps.outbox.consumed_to(partition).await?;
        progress.reached(partition, consumed, written_to(&written, partition));
    }
    Ok(())
}

/// Goes on where the stores say that the last process stopped; tries again until they do.
pub(crate) async fn take_over(partition: u32, deps: &Deps, held: &Held, progress: &Progress) {
    let positions = async || -> Result<(u64, u64), Error> {
        let written = deps.warehouse.progress().await?;
        // More than was planned is in a warehouse that is newer than a restored journey store; the fact writer takes it back.
        let planned = deps.outbox.plan(partition).await?.map_or(0, |plan| plan.to);
        Ok((deps.outbox.consumed_to(partition).await?, written_to(&written, partition).min(planned)))
    };
    loop {
        match positions().await {
            Ok((consumed, written)) => return progress.start_at(partition, consumed, written),
            Err(error) => {
                tracing::warn!(partition, %error, "a partition waits for its stores");
                held.up(partition, error.to_string());
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

fn written_to(written: &[warehouse::Progress], partition: u32) -> u64 {
    written.iter().filter(|p| p.partition == partition).map(|p| p.to).max().unwrap_or(0)
}

fn random_id() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}
