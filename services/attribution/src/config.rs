//! The service's limits.

use serde::{Deserialize, Serialize};

/// Limits of the worker and the fact writer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// About how many bytes of records the worker reads at once.
    pub worker_batch_bytes_max: usize,
    /// Journeys read at once.
    pub journeys_max: usize,
    /// Rows of one fact batch; a single record may go past it.
    pub fact_rows_max: usize,
    /// Touches carried by the rows of one fact batch; a single record may go past it.
    pub fact_touches_max: usize,
    /// How long the fact writer waits for a batch to fill.
    pub fact_linger_millis: u64,
    /// Decisions a slow reader of the stream may be behind.
    pub stream_decisions_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            worker_batch_bytes_max: 2 * 1024 * 1024,
            journeys_max: 512,
            fact_rows_max: 20_000,
            fact_touches_max: 200_000,
            fact_linger_millis: 250,
            stream_decisions_max: 1_024,
        }
    }
}
