//! Log, journey store and warehouse belong together, or they are made anew from the log.

use std::{sync::Arc, time::Duration};

use event_log::{Continued, EventLog};
use journey_store::{Continuation, Generation, Left, Outbox, Plan, StoreError};
use tokio_util::sync::CancellationToken;
use warehouse::Warehouse;

use crate::{Deps, Progress, assignment::Assigned, error::Error, held::Held};

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A log that continues another begins so many offsets after it at least: more than a partition can have taken between a
/// backup and its loss.
const CONTINUED_BY: u64 = 1 << 32;

/// Where no log begins any more: the journey store counts offsets up to twice as many.
const CONTINUED_MAX: u64 = 1 << 41;

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

/// The log as the journey store's positions are in it. Stores of the log that is named, which is lost, are gone on with in
/// this one, once and for ever; stores of yet another one are left as they are.
///
/// # Errors
/// [`Error::OtherLog`] and [`Error::NotContinued`]; a store cannot be read or written.
pub async fn continued(
    log: Arc<dyn EventLog>,
    outbox: &dyn Outbox,
    warehouse: &Warehouse,
    continues: Option<u128>,
) -> Result<Arc<dyn EventLog>, Error> {
    // A new one is this log's.
    let Some(found) = outbox.generation().await? else { return Ok(log) };
    if found.log != log.id() {
        if continues != Some(found.log) {
            let id = |id: u128| uuid::Uuid::from_u128(id).to_string();
            return Err(Error::OtherLog { log: id(log.id()), other: id(found.log) });
        }
        let continuation = continuation(&*log, outbox, warehouse, found).await?;
        let first = continuation.first;
        outbox.continue_in(log.id(), continuation.clone()).await?;
        for (partition, Left { reported, consumed }) in continuation.left.into_iter().enumerate() {
            tracing::warn!(
                log = %hex(log.id()), lost = %hex(found.log), partition, reported, consumed, first,
                "the stores go on in another log: what the lost one held from these positions on was not reported, and is \
                 counted when it is sent again"
            );
        }
    }
    Ok(match outbox.continuations().await?.last() {
        Some(last) => Arc::new(Continued::new(log, last.first)) as Arc<dyn EventLog>,
        None => log,
    })
}

/// Where the stores of a lost log were left, and where they go on.
async fn continuation(
    log: &dyn EventLog,
    outbox: &dyn Outbox,
    warehouse: &Warehouse,
    found: Generation,
) -> Result<Continuation, Error> {
    let refuse = |why: String| Err(Error::NotContinued(why));
    if warehouse.generation().await? != Some(found.id) {
        return refuse("journey store and warehouse do not belong together: restore both of one pair".into());
    }
    let written = warehouse.progress().await?;
    let (partitions, mut last) = (log.partitions(), 0);
    let mut left = Vec::new();
    // One more than there are: nothing may be known of it.
    for partition in 0..=partitions {
        let (consumed, plan) = (outbox.consumed_to(partition).await?, outbox.plan(partition).await?);
        let written = written.iter().find(|written| written.partition == partition);
        let (batch, to) = written.map_or((0, 0), |written| (written.batch, written.to));
        let plan = plan.unwrap_or(Plan { batch: 0, from: 0, to: 0, stamp: 0 });
        if batch + 1 < plan.batch {
            return Err(Error::Behind { partition, written: batch, planned: plan.batch });
        }
        let reported = if batch < plan.batch { plan.from } else { plan.to };
        last = last.max(consumed).max(plan.to).max(to);
        left.push(Left { reported, consumed });
    }
    let more = left.pop().is_some_and(|beyond| beyond.consumed > 0)
        || written.iter().any(|written| written.partition >= partitions);
    // Persons are spread over all partitions, so the last one has records unless the lost log had fewer.
    if more || left.last().is_some_and(|left| left.consumed == 0) {
        return refuse(format!(
            "the log has {partitions} partitions, and the one that it continues had another number"
        ));
    }
    let past = outbox.continuations().await?.last().map_or(last, |before| before.first.max(last));
    let first = (past / CONTINUED_BY + 2) * CONTINUED_BY;
    if first > CONTINUED_MAX {
        return refuse(format!("positions are at {past} already"));
    }
    Ok(Continuation { first, left })
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
