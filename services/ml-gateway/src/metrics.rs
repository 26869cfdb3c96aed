//! What the service counts, by model and version.

use std::time::Duration;

use telemetry::metrics::{
    ML_BATCH_ROWS, ML_DRIFT, ML_FAILURES, ML_FALLBACKS, ML_INFERENCE, ML_SHADOW_DIFFERENCE,
};

/// Why a model gave no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It does not answer.
    Away,
    /// It did not answer in time.
    Deadline,
    /// Its answer has the wrong shape, or a number that cannot be.
    WrongAnswer,
    /// Too many calls wait for it.
    QueueFull,
    /// It failed too often just before.
    Paused,
}

impl Failure {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Away => "model_away",
            Self::Deadline => "model_deadline",
            Self::WrongAnswer => "model_wrong_answer",
            Self::QueueFull => "model_queue_full",
            Self::Paused => "model_paused",
        }
    }
}

/// One run of a model.
pub(crate) fn ran(model: &str, version: &str, took: Duration, rows: usize) {
    let labels = [("model", model.to_owned()), ("version", version.to_owned())];
    metrics::histogram!(ML_INFERENCE, &labels).record(took.as_secs_f64());
    metrics::histogram!(ML_BATCH_ROWS, &labels).record(rows as f64);
}

/// Another version answered in place of this one.
pub(crate) fn fell_back(model: &str, version: &str) {
    let labels = [("model", model.to_owned()), ("version", version.to_owned())];
    metrics::counter!(ML_FALLBACKS, &labels).increment(1);
}

/// By how much a shadow differs from the version that answered, by row.
pub(crate) fn shadowed(model: &str, version: &str, difference: f64) {
    let labels = [("model", model.to_owned()), ("version", version.to_owned())];
    metrics::histogram!(ML_SHADOW_DIFFERENCE, &labels).record(difference);
}

/// The population stability index of an input, or of the score.
pub(crate) fn drifted(model: &str, version: &str, input: &str, index: f64) {
    let labels = [("model", model.to_owned()), ("version", version.to_owned()), ("input", input.to_owned())];
    metrics::gauge!(ML_DRIFT, &labels).set(index);
}

pub(crate) fn failed(model: &str, version: &str, failure: Failure) {
    let labels =
        [("model", model.to_owned()), ("version", version.to_owned()), ("reason", failure.code().to_owned())];
    metrics::counter!(ML_FAILURES, &labels).increment(1);
}
