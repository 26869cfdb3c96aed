//! How far events have been attributed and reported.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use event_log::{EventLog, LogError};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Deps, assignment::Assigned, error::Error, generation, metrics};

// How often an idle platform moves its watermark.
const IDLE_PAUSE: Duration = Duration::from_millis(50);

// How often the stores are asked how far others have come.
const REFRESH_PAUSE: Duration = Duration::from_millis(500);

// How often the queue is measured.
const MEASURE_PAUSE: Duration = Duration::from_millis(200);

/// How far reports go. Neither moment ever moves back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Every event acknowledged before this moment, and every re-decision it caused, is in the warehouse; Unix
    /// microseconds, 0 while unknown.
    pub complete_through_micros: i64,
    /// Every fact recorded before this moment is in the warehouse, those re-decisions among them; not before
    /// `complete_through_micros`.
    pub known_through_micros: i64,
}

/// Positions of every partition, and how far reports go.
pub struct Progress {
    consumed: Vec<watch::Sender<u64>>,
    /// Whether it was learned yet where a partition stands.
    known: Vec<AtomicBool>,
    written: Vec<watch::Sender<u64>>,
    watermark: watch::Sender<Watermark>,
    /// Events in a record of those that were read last.
    record_events: AtomicU64,
    paces: Vec<Mutex<Pace>>,
    /// How far each partition is behind the log, microseconds.
    behind: Vec<AtomicU64>,
    pub(crate) ended: CancellationToken,
}

/// The batch that a worker has at hand, and how fast it was with the one before. A batch may take seconds: without it places
/// in the backlog would come free by tens of thousands at a time, and everybody who waits for one would be let in at once.
#[derive(Debug, Default)]
struct Pace {
    began: Option<Instant>,
    events: u64,
    /// Events of the last batch that had any, and how long it took.
    before: Option<(u64, Duration)>,
}

// === impl Pace ===

impl Pace {
    fn begin(&mut self, events: u64) {
        (self.began, self.events) = (Some(Instant::now()), events);
    }

    fn end(&mut self) {
        if let Some(began) = self.began.take().filter(|_| self.events > 0) {
            self.before = Some((self.events, began.elapsed()));
        }
    }

    /// How many events of the batch at hand are attributed by now if it is as fast as the one before.
    fn done(&self) -> u64 {
        let (Some(began), Some((events, took))) = (self.began, self.before) else { return 0 };
        let done = u128::from(events) * began.elapsed().as_micros() / took.as_micros().max(1);
        u64::try_from(done).unwrap_or(u64::MAX).min(self.events)
    }
}

// === impl Progress ===

impl Progress {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            consumed: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            known: (0..partitions).map(|_| AtomicBool::new(false)).collect(),
            written: (0..partitions).map(|_| watch::Sender::new(0)).collect(),
            watermark: watch::Sender::default(),
            record_events: AtomicU64::new(1),
            paces: (0..partitions).map(|_| Mutex::default()).collect(),
            behind: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            ended: CancellationToken::new(),
        }
    }

    /// How far reports go.
    pub fn watermark(&self) -> Watermark {
        *self.watermark.borrow()
    }

    /// Waits until reports are complete past a moment. Never returns if they never are.
    pub async fn wait_complete(&self, past_micros: i64) {
        let mut watch = self.watermark.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = watch.wait_for(|watermark| watermark.complete_through_micros > past_micros).await;
    }

    /// Waits until everything that is in the log by now is attributed.
    ///
    /// # Errors
    /// The log does not tell its end.
    pub async fn wait_attributed(&self, log: &dyn EventLog) -> Result<(), LogError> {
        for (partition, consumed) in (0..).zip(&self.consumed) {
            let end = log.end(partition).await?;
            reach(consumed, end.offset).await;
        }
        Ok(())
    }

    /// The offset up to which the worker has committed.
    pub fn consumed_to(&self, partition: u32) -> u64 {
        *self.consumed[partition as usize].borrow()
    }

    /// The same, as soon as it is learned where the partition stands.
    pub fn known_to(&self, partition: u32) -> Option<u64> {
        self.known[partition as usize].load(Ordering::Acquire).then(|| self.consumed_to(partition))
    }

    /// Events from there on that are attributed too, if the batch at hand is as fast as the one before.
    pub fn events_ahead(&self, partition: u32) -> u64 {
        self.paces[partition as usize].lock().done()
    }

    /// Events in a record, by what was read last.
    pub fn record_events(&self) -> u64 {
        self.record_events.load(Ordering::Relaxed)
    }

    pub(crate) fn start_at(&self, partition: u32, consumed: u64, written: u64) {
        self.consumed[partition as usize].send_replace(consumed);
        self.written[partition as usize].send_replace(written);
        self.known[partition as usize].store(true, Ordering::Release);
    }

    /// How far somebody else has come; never moves back.
    pub(crate) fn reached(&self, partition: u32, consumed: u64, written: u64) {
        let forward = |position: &watch::Sender<u64>, to: u64| {
            position.send_if_modified(|at| std::mem::replace(at, to.max(*at)) < to);
        };
        forward(&self.consumed[partition as usize], consumed);
        forward(&self.written[partition as usize], written);
        self.known[partition as usize].store(true, Ordering::Release);
    }

    /// Records were read that hold so many events. Told before they are worked on: how much waits must be known in the first
    /// seconds after a start, and when records become larger.
    pub(crate) fn read(&self, partition: u32, records: u64, events: u64) {
        self.record_events.store(events.div_ceil(records.max(1)).max(1), Ordering::Relaxed);
        self.paces[partition as usize].lock().begin(events);
    }

    pub(crate) fn consumed(&self, partition: u32, to: u64) {
        self.paces[partition as usize].lock().end();
        self.consumed[partition as usize].send_replace(to);
    }

    /// The worker of a partition reads a record that is so old; the end of the log is not behind.
    pub(crate) fn behind(&self, partition: u32, micros: u64) {
        self.behind[partition as usize].store(micros, Ordering::Relaxed);
    }

    /// How far the slowest of some partitions is behind the log, microseconds.
    fn slowest(&self, own: &BTreeSet<u32>) -> u64 {
        let behind = own.iter().map(|&partition| self.behind[partition as usize].load(Ordering::Relaxed));
        behind.max().unwrap_or(0)
    }

    /// Estimates how many events wait in the partitions of this process: those of all processes add up to what waits at all.
    /// It is the records that wait, by the events that those which were read last have held.
    async fn measure(&self, log: &dyn EventLog, own: &BTreeSet<u32>) -> Result<u64, Error> {
        let mut records = 0;
        for &partition in own {
            let consumed = self.consumed_to(partition);
            records += log.end(partition).await?.offset.saturating_sub(consumed);
        }
        Ok(records * self.record_events())
    }

    /// This process cannot go on: what it knows of the stores is another generation's.
    pub(crate) fn end(&self, error: &Error) {
        tracing::error!(%error, "attribution ends");
        self.ended.cancel();
    }

    pub(crate) fn written(&self, partition: u32, to: u64) {
        self.written[partition as usize].send_replace(to);
    }

    pub(crate) fn watch_consumed(&self, partition: u32) -> watch::Receiver<u64> {
        self.consumed[partition as usize].subscribe()
    }
}

/// Moves the watermark: what was in the log at a moment is attributed, then what that added to the log is reported. What
/// others attribute and report is learned from the stores.
pub(crate) async fn watch(deps: &Deps, assigned: Assigned, progress: &Progress, shutdown: CancellationToken) {
    let log = &*deps.log;
    let others = async {
        loop {
            let own = assigned.borrow().clone();
            let others: Vec<u32> =
                (0..log.partitions()).filter(|partition| !own.contains(partition)).collect();
            if !others.is_empty()
                && let Err(error) = generation::refresh(deps, others, progress).await
            {
                if error.is_final() {
                    progress.end(&error);
                    return;
                }
                tracing::warn!(%error, "how far others have come is not known");
            }
            tokio::time::sleep(REFRESH_PAUSE).await;
        }
    };
    let measure = async {
        loop {
            let own = assigned.borrow().clone();
            metrics::behind(progress.slowest(&own) as f64 / 1e6);
            match progress.measure(log, &own).await {
                Ok(events) => metrics::queued(events),
                Err(error) => tracing::warn!(%error, "the queue cannot be measured"),
            }
            tokio::time::sleep(MEASURE_PAUSE).await;
        }
    };
    let round = async {
        loop {
            match advance(log, progress).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the watermark waits for the event log"),
            }
            tokio::time::sleep(IDLE_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = round => {}
        () = measure => {}
        () = others => {}
    }
}

async fn advance(log: &dyn EventLog, progress: &Progress) -> Result<(), Error> {
    let (mut complete, mut known) = (i64::MAX, i64::MAX);
    for (partition, consumed) in (0..).zip(&progress.consumed) {
        let end = log.end(partition).await?;
        complete = complete.min(end.time_micros);
        reach(consumed, end.offset).await;
    }
    // Re-decides were acknowledged before the positions above were committed, so they stand before these ends; they
    // cause none themselves.
    for (partition, written) in (0..).zip(&progress.written) {
        let end = log.end(partition).await?;
        known = known.min(end.time_micros);
        reach(written, end.offset).await;
    }
    progress.watermark.send_if_modified(|last| {
        let next = Watermark {
            complete_through_micros: last.complete_through_micros.max(complete),
            known_through_micros: last.known_through_micros.max(known),
        };
        std::mem::replace(last, next) != next
    });
    Ok(())
}

async fn reach(position: &watch::Sender<u64>, offset: u64) {
    // The sender is alive, so waiting cannot fail.
    let _ = position.subscribe().wait_for(|at| *at >= offset).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_waits_is_told_of_the_own_partitions_and_the_slowest_of_them() {
        let log = event_log::open("memory://?partitions=3").await.unwrap();
        let progress = Progress::new(3);
        for (partition, behind) in [(0, 5), (1, 7), (2, 9)] {
            for _ in 0..=partition {
                log.append(partition, "event".into()).await.unwrap();
            }
            progress.behind(partition, behind);
        }
        let own = BTreeSet::from([0, 1]);
        assert_eq!(progress.measure(&*log, &own).await.unwrap(), 3, "records of one event each");
        assert_eq!(progress.slowest(&own), 7);
        // One partition at its end does not hide the other.
        progress.behind(0, 0);
        assert_eq!(progress.slowest(&own), 7);
        progress.consumed(1, 2);
        progress.behind(1, 0);
        assert_eq!((progress.measure(&*log, &own).await.unwrap(), progress.slowest(&own)), (1, 0));
        assert_eq!(progress.slowest(&BTreeSet::new()), 0);
    }

    #[tokio::test]
    async fn what_waits_is_told_by_the_events_of_what_was_read_last_before_any_of_it_is_attributed() {
        let log = event_log::open("memory://").await.unwrap();
        let progress = Progress::new(1);
        for _ in 0..5 {
            log.append(0, "events".into()).await.unwrap();
        }
        for (records, events, waiting) in [(2, 200, 500), (2, 3, 10), (1, 0, 5), (0, 0, 5)] {
            progress.read(0, records, events);
            let measured = progress.measure(&*log, &BTreeSet::from([0])).await.unwrap();
            assert_eq!(measured, waiting, "{events} in {records}");
        }
    }

    #[tokio::test]
    async fn what_is_in_the_log_is_attributed_once_every_partition_is_past_it() {
        let log = event_log::open("memory://?partitions=2").await.unwrap();
        let progress = Progress::new(2);
        for partition in [0, 1, 1] {
            log.append(partition, "event".into()).await.unwrap();
        }
        let mut attributed = std::pin::pin!(progress.wait_attributed(&*log));
        let mut is_attributed = async || {
            tokio::select! {
                biased;
                done = &mut attributed => done.is_ok(),
                () = tokio::task::yield_now() => false,
            }
        };
        for (partition, consumed, expected) in [(1, 1, false), (0, 1, false), (1, 2, true)] {
            progress.consumed(partition, consumed);
            assert_eq!(is_attributed().await, expected, "{partition} at {consumed}");
        }
    }

    #[test]
    fn where_a_partition_stands_is_not_known_before_it_is_learned() {
        let progress = Progress::new(3);
        progress.start_at(1, 7, 5);
        progress.reached(2, 9, 9);
        assert_eq!([0, 1, 2].map(|partition| progress.known_to(partition)), [None, Some(7), Some(9)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_at_hand_is_as_fast_as_the_one_before() {
        let progress = Progress::new(2);
        let after = async |millis| {
            tokio::time::advance(Duration::from_millis(millis)).await;
            progress.events_ahead(0)
        };
        progress.read(0, 10, 1_000);
        assert_eq!(after(1_000).await, 0, "there was none before");
        progress.consumed(0, 10);
        assert_eq!(after(500).await, 0, "nothing is at hand");
        progress.read(0, 20, 2_000);
        assert_eq!([after(0).await, after(300).await, after(650).await], [0, 300, 950]);
        assert_eq!(after(9_000).await, 2_000, "held up, it is all of the batch and no more");
        // Begun again, nothing of it is done.
        progress.read(0, 20, 2_000);
        assert_eq!([after(0).await, after(100).await], [0, 100]);
        assert_eq!(progress.events_ahead(1), 0);
        // What holds nothing tells nothing of the pace.
        progress.consumed(0, 30);
        progress.read(0, 1, 0);
        assert_eq!(after(50).await, 0);
        progress.consumed(0, 31);
        progress.read(0, 1, 10);
        assert_eq!(after(1).await, 10);
    }

    #[tokio::test]
    async fn the_re_decisions_of_what_is_complete_are_known() {
        let log = event_log::open("memory://").await.unwrap();
        let progress = Progress::new(1);
        let event = log.append(0, "event".into()).await.unwrap();
        let work = async {
            // After the first look at the log: the event's re-decision, then the position, as the worker does it.
            let redecide = log.append(0, "redecide".into()).await.unwrap();
            progress.consumed(0, redecide.offset);
            tokio::task::yield_now().await;
            assert_eq!(progress.watermark(), Watermark::default());
            progress.consumed(0, redecide.offset + 1);
            progress.written(0, redecide.offset + 1);
            redecide
        };
        let (advanced, redecide) = tokio::join!(advance(&*log, &progress), work);
        advanced.unwrap();
        let Watermark { complete_through_micros, known_through_micros } = progress.watermark();
        assert!(event.time_micros < complete_through_micros);
        assert!(complete_through_micros <= redecide.time_micros, "the look came first");
        assert!(redecide.time_micros < known_through_micros);
    }
}
