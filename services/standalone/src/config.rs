//! The configuration of the standalone process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that can be set, by file, environment or flag.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of all data, made when it is not there.
    pub data: PathBuf,
    /// The address of gRPC and REST.
    pub listen: String,
    /// The address of metrics and health.
    pub metrics: String,
    /// `auto`, `json` or `pretty`.
    pub log_format: String,
    /// Such as `info,ingestion=debug`; empty: the default.
    pub log_filter: String,
    /// Where traces go, OTLP over gRPC: `http://127.0.0.1:4317`; empty: nowhere.
    pub otlp_endpoint: String,
    /// The share of traces kept, 0 to 1.
    pub trace_sample_ratio: f64,
    /// Partitions of a new event log.
    pub log_partitions: u32,
    /// Event ids remembered between their append and their attribution; more than `ingestion.backlog_events_max`.
    pub seen_events_max: u64,
    /// The certificate chain (PEM) of the public listener; empty: plain.
    pub tls_certificate: PathBuf,
    /// Its key (PEM).
    pub tls_key: PathBuf,
    /// Limits of the listener.
    pub limits: service::Limits,
    /// Limits of ingestion.
    pub ingestion: ingestion::Config,
    /// Limits of attribution.
    pub attribution: attribution_service::Config,
    /// Limits of queries.
    pub query: query_api::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "data".into(),
            listen: "127.0.0.1:8080".into(),
            metrics: "127.0.0.1:9090".into(),
            log_format: "auto".into(),
            log_filter: String::new(),
            otlp_endpoint: String::new(),
            trace_sample_ratio: 1.0,
            log_partitions: 1,
            seen_events_max: 4_000_000,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            limits: service::Limits::default(),
            ingestion: ingestion::Config::default(),
            attribution: attribution_service::Config::default(),
            query: query_api::Config::default(),
        }
    }
}
