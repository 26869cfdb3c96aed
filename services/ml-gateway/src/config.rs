//! The service's limits.

use serde::{Deserialize, Serialize};

/// Where models are, and the limits of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of models, `onnx:///var/lib/models`; empty: no models are served.
    pub models: String,
    /// Milliseconds between two looks into the folder.
    pub reload_millis: u64,
    /// Bytes of one model's file.
    pub model_bytes_max: u64,
    /// Rows of one call.
    pub rows_max: usize,
    /// Runs of one version at the same time; further calls wait for their turn.
    pub calls_per_version_max: usize,
    /// Waiting calls that are joined into one run; 1: none are.
    pub batch_calls_max: usize,
    /// Rows of one run; calls with more are run in parts, behind what is urgent.
    pub batch_rows_max: usize,
    /// Calls that wait for their turn at one version, urgent ones and others apart; one more is answered 503 with
    /// `Retry-After`.
    pub queue_calls_max: usize,
    /// Milliseconds that a model has for a call, its turn included.
    pub inference_millis_max: u64,
    /// Failures of a version in a row after which its calls are refused at once.
    pub failures_in_a_row_max: u32,
    /// Milliseconds for which they are; then one call is let through to see.
    pub failures_pause_millis: u64,
    /// Rows after which the drift of a version is told.
    pub drift_rows: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            models: String::new(),
            reload_millis: 2_000,
            model_bytes_max: 256 * 1024 * 1024,
            rows_max: 10_000,
            calls_per_version_max: 2,
            batch_calls_max: 64,
            batch_rows_max: 512,
            queue_calls_max: 256,
            inference_millis_max: 5_000,
            failures_in_a_row_max: 5,
            failures_pause_millis: 1_000,
            drift_rows: 10_000,
        }
    }
}
