//! The service's limits.

use serde::{Deserialize, Serialize};

/// Limits of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Reports worked on by the warehouse at the same time, at least 1; further ones wait for their turn.
    pub reports_in_flight_max: usize,
    /// Seconds a report waits for its turn; then it is refused with `Retry-After`.
    pub report_queue_seconds_max: u64,
    /// Seconds a report with `consistency=acknowledged` waits; less where requests have less time.
    pub consistency_seconds_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { reports_in_flight_max: 32, report_queue_seconds_max: 5, consistency_seconds_max: 30 }
    }
}
