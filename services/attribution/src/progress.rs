//! How far events have been attributed and reported.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use event_log::EventLog;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{error::Error, metrics};

// How often an idle platform moves its watermark.
const IDLE_PAUSE: Duration = Duration::from_millis(50);

// How often the queue is measured.
const MEASURE_PAUSE: Duration = Duration::from_millis(200);

/// Positions of every partition, and the moment through which reports are complete.
pub struct Progress {
    consumed: Vec<watch::Sender<u64>>,
    written: Vec<watch::Sender<u64>>,
    complete_through_micros: watch::Sender<i64>,
    attributed_events: AtomicU64,
    attributed_records: AtomicU64,
    queued_events: AtomicU64,
}

impl Progress {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            consumed: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            written: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            complete_through_micros: watch::Sender::new(0),
            attributed_events: AtomicU64::new(0),
            attributed_records: AtomicU64::new(0),
            queued_events: AtomicU64::new(0),
        }
    }

    /// Every event acknowledged before this moment, and every re-decision it caused, is in the warehouse; Unix
    /// microseconds, 0 while unknown.
    pub fn complete_through_micros(&self) -> i64 {
        *self.complete_through_micros.borrow()
    }

    /// Waits until [`Self::complete_through_micros`] is past a moment. Never returns if it never is.
    pub async fn wait_complete(&self, past_micros: i64) {
        let mut watch = self.complete_through_micros.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = watch.wait_for(|through| *through > past_micros).await;
    }

    /// The offset up to which the worker has committed.
    pub fn consumed_to(&self, partition: u32) -> u64 {
        *self.consumed[partition as usize].borrow()
    }

    /// Events appended and not yet attributed: records that wait, by the events that a record has held so far.
    pub fn queued_events(&self) -> u64 {
        self.queued_events.load(Ordering::Relaxed)
    }

    pub(crate) fn start_at(&self, partition: u32, consumed: u64, written: u64) {
        self.consumed[partition as usize].send_replace(consumed);
        self.written[partition as usize].send_replace(written);
    }

    pub(crate) fn consumed(&self, partition: u32, to: u64, events: u64) {
        let records = to - self.consumed_to(partition);
        self.attributed_records.fetch_add(records, Ordering::Relaxed);
        self.attributed_events.fetch_add(events, Ordering::Relaxed);
        self.consumed[partition as usize].send_replace(to);
    }

    /// Estimates what waits.
    async fn measure(&self, log: &dyn EventLog) -> Result<(), Error> {
        let mut records = 0;
        for (partition, consumed) in (0..).zip(&self.consumed) {
            records += log.end(partition).await?.offset.saturating_sub(*consumed.borrow());
        }
        let seen = self.attributed_records.load(Ordering::Relaxed).max(1);
        let each = self.attributed_events.load(Ordering::Relaxed).div_ceil(seen).max(1);
        self.queued_events.store(records * each, Ordering::Relaxed);
        metrics::queued(records * each);
        Ok(())
    }

    pub(crate) fn written(&self, partition: u32, to: u64) {
        self.written[partition as usize].send_replace(to);
    }

    pub(crate) fn watch_consumed(&self, partition: u32) -> watch::Receiver<u64> {
        self.consumed[partition as usize].subscribe()
    }
}

/// Moves the watermark: what was in the log at a moment is attributed, then what that added to the log is reported.
pub(crate) async fn watch(log: Arc<dyn EventLog>, progress: Arc<Progress>, shutdown: CancellationToken) {
    let measure = async {
        loop {
            if let Err(error) = progress.measure(&*log).await {
                tracing::warn!(%error, "the queue cannot be measured");
            }
            tokio::time::sleep(MEASURE_PAUSE).await;
        }
    };
    let round = async {
        loop {
            match advance(&*log, &progress).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the watermark waits for the event log"),
            }
            tokio::time::sleep(IDLE_PAUSE).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = round => {}
        () = measure => {}
    }
}

async fn advance(log: &dyn EventLog, progress: &Progress) -> Result<(), Error> {
    let mut through = i64::MAX;
    for (partition, consumed) in (0..).zip(&progress.consumed) {
        let end = log.end(partition).await?;
        through = through.min(end.time_micros);
        reach(consumed, end.offset).await;
    }
    // Re-decides were acknowledged before the positions above were committed, so they stand before these ends; they
    // cause none themselves.
    for (partition, written) in (0..).zip(&progress.written) {
        reach(written, log.end(partition).await?.offset).await;
    }
    progress.complete_through_micros.send_if_modified(|last| {
        let moved = through > *last;
        *last = through.max(*last);
        moved
    });
    Ok(())
}

async fn reach(position: &watch::Sender<u64>, offset: u64) {
    // The sender is alive, so waiting cannot fail.
    let _ = position.subscribe().wait_for(|at| *at >= offset).await;
}
