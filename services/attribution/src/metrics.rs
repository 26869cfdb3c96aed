//! What the service counts.

use std::time::Duration;

use telemetry::metrics::{ATTRIBUTION_FRESHNESS, ATTRIBUTION_LATENCY, ATTRIBUTION_QUEUE};

/// Time from reading a conversion to its decision being stored.
pub(crate) fn decided(latency: Duration) {
    metrics::histogram!(ATTRIBUTION_LATENCY).record(latency.as_secs_f64());
}

/// How far the slowest partition of this process is behind the log.
pub(crate) fn behind(seconds: f64) {
    metrics::gauge!(ATTRIBUTION_FRESHNESS).set(seconds);
}

/// Events appended to the partitions of this process and not yet attributed.
pub(crate) fn queued(events: u64) {
    metrics::gauge!(ATTRIBUTION_QUEUE).set(events as f64);
}
