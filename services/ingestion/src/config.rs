//! The service's limits.

use serde::{Deserialize, Serialize};

/// The events of one batch: part of the contract, so no key.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// What one process takes on at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes of one request body or message, before and after decompression.
    pub body_bytes_max: usize,
    /// Events appended and not yet attributed; what would go past it is refused until attribution has caught up. Of one tenant
    /// at most three times as many may wait as are left.
    pub backlog_events_max: u64,
    /// Open streams; one more is refused until one has ended.
    pub streams_max: usize,
    /// Batches of one stream that are worked on at the same time; further ones are not read.
    pub stream_batches_in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: service::BODY_BYTES_MAX,
            backlog_events_max: 2_000_000,
            streams_max: 1_024,
            stream_batches_in_flight_max: 4,
        }
    }
}
