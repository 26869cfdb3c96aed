//! What the service measures besides the requests themselves.

use telemetry::metrics::POOL_UTILIZATION;

/// How much of the warehouse's share for reports is in use, 0 to 1.
pub(crate) fn warehouse_utilization(used: usize, max: usize) {
    metrics::gauge!(POOL_UTILIZATION, "store" => "warehouse").set(used as f64 / max.max(1) as f64);
}
