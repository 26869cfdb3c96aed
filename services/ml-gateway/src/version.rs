//! One version of a model at work: its deadline, its breaker, what it takes, and how far that has drifted.

use std::sync::Arc;

use service::{Error, Result};

use crate::{
    Config,
    backend::{Backend, BackendError, Rows},
    drift::Drift,
    manifest::Manifest,
    metrics::{self, Failure},
    runner::{RunError, Runner, Scored, Urgency},
};

/// A version that was loaded, and ran a row before anybody saw it.
pub(crate) struct Version {
    pub(crate) manifest: Manifest,
    runner: Arc<Runner>,
    drift: Drift,
}

// === impl Version ===

impl Version {
    pub(crate) fn new(manifest: Manifest, backend: Arc<dyn Backend>, config: &Config) -> Self {
        let runner = Runner::new(backend, &manifest, config);
        let drift = Drift::new(&manifest, config.drift_rows);
        Self { manifest, runner, drift }
    }

    /// Runs the defaults of all features: a version that cannot do this is broken.
    ///
    /// # Errors
    /// What it did instead, in words.
    pub(crate) async fn warm_up(&self) -> Result<(), String> {
        let rows = Rows { values: self.defaults(), width: self.width() };
        let answer =
            tokio::time::timeout(self.runner.patience(), self.runner.score(rows, Urgency::RealTime)).await;
        match answer {
            Err(_) | Ok(Err(RunError::Deadline)) => Err("did not answer in time".into()),
            Ok(Err(RunError::QueueFull)) => Err("its queue is full".into()),
            Ok(Err(RunError::Model(error))) => Err(error.to_string()),
            Ok(Ok(_)) => Ok(()),
        }
    }

    pub(crate) fn width(&self) -> usize {
        self.manifest.inputs.len()
    }

    pub(crate) fn platform(&self) -> &'static str {
        self.runner.platform()
    }

    /// The default of every feature.
    pub(crate) fn defaults(&self) -> Vec<f32> {
        self.manifest.inputs.iter().map(|input| input.default as f32).collect()
    }

    /// Scores rows that were checked by [`Version::check_rows`].
    ///
    /// # Errors
    /// 503 when the queue is full or the model is away, 504 past the deadline, 503 for an answer that cannot be.
    pub(crate) async fn score(&self, rows: Rows, urgency: Urgency) -> Result<Scored> {
        let breaker = self.runner.breaker();
        if breaker.refuses() {
            return Err(self.failed(Failure::Paused, "it failed too often; it is asked again soon"));
        }
        let patience = self.runner.patience();
        let answer = tokio::time::timeout(patience, self.runner.score(rows, urgency)).await;
        let error = match answer {
            Ok(Ok(scored)) => return Ok(scored),
            Ok(Err(error)) => error,
            Err(_) => {
                breaker.note(false);
                RunError::Deadline
            }
        };
        Err(match error {
            RunError::QueueFull => self.failed(Failure::QueueFull, "its queue is full"),
            RunError::Deadline => {
                let detail = format!("no answer within {} ms", patience.as_millis());
                self.failed(Failure::Deadline, &detail)
            }
            RunError::Model(error) => {
                let (name, number) = (&self.manifest.name, &self.manifest.version);
                tracing::warn!(model = %name, version = %number, %error, "a model failed");
                match error {
                    BackendError::Wrong(_) => {
                        self.failed(Failure::WrongAnswer, "it gave an answer that cannot be")
                    }
                    BackendError::Refused(_) | BackendError::Away(_) => {
                        self.failed(Failure::Away, "it does not answer")
                    }
                }
            }
        })
    }

    /// Counts what was scored for a caller against what was trained on.
    pub(crate) fn note(&self, rows: &Rows, scored: &Scored) {
        self.drift.note(rows, &scored.scores);
    }

    /// Refuses what is not a number, or out of its range, by the names of row and feature.
    ///
    /// # Errors
    /// 400 with a field for each, the first ten.
    pub(crate) fn check_rows(&self, rows: &Rows) -> Result<()> {
        const TOLD_MAX: usize = 10;
        let mut error: Option<Error> = None;
        let mut told = 0;
        for (at, &value) in rows.values.iter().enumerate() {
            let (row, input) = (at / rows.width, &self.manifest.inputs[at % rows.width]);
            // Bounds are compared as the value came: with 32 bits.
            if value >= input.minimum as f32 && value <= input.maximum as f32 {
                continue;
            }
            let field = format!("rows[{row}].values.{}", input.name);
            let reason = format!(
                "{value} is not in the range {} to {} ({})",
                input.minimum, input.maximum, input.unit
            );
            let known = error.take();
            let known =
                known.unwrap_or_else(|| Error::invalid("a feature is out of its range").code("out_of_range"));
            error = Some(known.field(field, reason));
            told += 1;
            if told == TOLD_MAX {
                break;
            }
        }
        error.map_or(Ok(()), Err)
    }

    fn failed(&self, failure: Failure, detail: &str) -> Error {
        let (name, number) = (&self.manifest.name, &self.manifest.version);
        metrics::failed(name, number, failure);
        let detail = format!("{name}/{number}: {detail}");
        let error = match failure {
            Failure::Deadline => Error::timed_out(detail),
            _ => Error::unavailable(detail),
        };
        error.code(failure.code())
    }
}
