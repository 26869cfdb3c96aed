//! What the crate measures.

use telemetry::metrics::POOL_UTILIZATION;

/// Requests under way to a server of the journey store.
pub(crate) fn in_flight(used: usize, max: usize) {
    metrics::gauge!(POOL_UTILIZATION, "store" => "journeys").set(used as f64 / max.max(1) as f64);
}
