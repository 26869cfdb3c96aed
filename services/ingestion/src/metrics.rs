//! What is counted.

use metrics::{Counter, Gauge, counter, gauge};
use telemetry::metrics::{INGESTION_EVENTS, PRODUCER_QUEUE};

/// The handles; made once the recorder is installed.
#[derive(Clone)]
pub(crate) struct Metrics {
    accepted: Counter,
    duplicate: Counter,
    rejected: Counter,
    queue: Gauge,
}

/// Events that wait for the log, for as long as this lives.
pub(crate) struct Waiting<'a>(&'a Gauge, f64);

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!(INGESTION_EVENTS, "result" => "accepted"),
            duplicate: counter!(INGESTION_EVENTS, "result" => "duplicate"),
            rejected: counter!(INGESTION_EVENTS, "result" => "rejected"),
            queue: gauge!(PRODUCER_QUEUE),
        }
    }

    pub(crate) fn answered(&self, accepted: usize, duplicate: usize, rejected: usize) {
        self.accepted.increment(accepted as u64);
        self.duplicate.increment(duplicate as u64);
        self.rejected.increment(rejected as u64);
    }

    pub(crate) fn waiting(&self, events: usize) -> Waiting<'_> {
        let events = events as f64;
        self.queue.increment(events);
        Waiting(&self.queue, events)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.decrement(self.1);
    }
}
