//! What can be set of the standalone process, beside what can be set of any.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What can be set by file, environment or flag.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The folder of all data, made when it is not there.
    pub data: PathBuf,
    /// Partitions of a new event log.
    pub log_partitions: u32,
    /// Bytes of a file of the event log, set aside when the file is made; at least 1 MiB, and room for this many must be
    /// free for events to be taken.
    pub log_segment_bytes_max: u64,
    /// Event ids remembered between their append and their attribution; more than `ingestion.backlog_events_max`.
    pub seen_events_max: u64,
    /// Limits of ingestion.
    pub ingestion: ingestion::Config,
    /// Limits of attribution.
    pub attribution: attribution_service::Config,
    /// Limits of queries.
    pub query: query_api::Config,
    /// Models that give scores.
    pub ml: ml_gateway::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "data".into(),
            log_partitions: 1,
            log_segment_bytes_max: event_log::SEGMENT_BYTES_MAX,
            seen_events_max: 4_000_000,
            ingestion: ingestion::Config::default(),
            attribution: attribution_service::Config::default(),
            query: query_api::Config::default(),
            ml: ml_gateway::Config::default(),
        }
    }
}
