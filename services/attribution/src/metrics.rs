//! What the service counts.

use std::time::Duration;

use telemetry::metrics::{ATTRIBUTION_FRESHNESS, ATTRIBUTION_LATENCY};

/// Time from reading a conversion to its decision being stored.
pub(crate) fn decided(latency: Duration) {
    metrics::histogram!(ATTRIBUTION_LATENCY).record(latency.as_secs_f64());
}

/// How far attribution is behind the log.
pub(crate) fn behind(seconds: f64) {
    metrics::gauge!(ATTRIBUTION_FRESHNESS).set(seconds);
}
