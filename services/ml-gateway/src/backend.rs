//! What runs a model: here, or on a server elsewhere.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{kserve, manifest::Output, onnx};

/// The name of the tensor of features, one row of 32-bit floats for each row to score.
pub(crate) const INPUT: &str = "features";

/// Runs one version of a model.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    /// Runs rows through the model. The answer is as the model gave it: nothing of it was checked.
    async fn infer(&self, rows: Rows) -> Result<Tensor, BackendError>;

    /// What runs it, in the words of the Open Inference Protocol.
    fn platform(&self) -> &'static str;
}

/// Rows of `width` features, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub(crate) values: Vec<f32>,
    pub(crate) width: usize,
}

/// A tensor that a model answered, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<i64>,
    pub(crate) values: Vec<f32>,
}

/// Why a model did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BackendError {
    /// It cannot be opened as described.
    #[error("{0}")]
    Refused(String),
    /// It did not answer.
    #[error("{0}")]
    Away(String),
    /// It answered what it must not.
    #[error("{0}")]
    Wrong(String),
}

/// Opens the back-end of a version: its own file, or a URL.
///
/// # Errors
/// An unknown scheme, a library or a model that cannot be loaded.
pub(crate) fn open(
    url: Option<&str>,
    model: &[u8],
    output: &str,
    calls_max: usize,
) -> Result<Arc<dyn Backend>, BackendError> {
    let Some(url) = url else { return Ok(Arc::new(onnx::Onnx::open(model, output, calls_max)?)) };
    match url.split_once("://") {
        Some(("kserve+grpc", rest)) => Ok(Arc::new(kserve::Grpc::open(rest, output)?)),
        Some(("kserve+http", rest)) => Ok(Arc::new(kserve::Http::open(rest, output)?)),
        _ => Err(BackendError::Refused(format!(
            "backend {url:?}: it begins with kserve+grpc:// or kserve+http://"
        ))),
    }
}

// === impl Rows ===

impl Rows {
    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.width
    }

    pub(crate) fn shape(&self) -> [i64; 2] {
        // Both are bounded far below 2^63.
        [self.count() as i64, self.width as i64]
    }
}

// === impl Tensor ===

impl Tensor {
    /// The column of the scores.
    ///
    /// # Errors
    /// Another shape than `count` rows have, or a score that cannot be, in words.
    pub(crate) fn scores(&self, output: &Output, count: usize) -> Result<Vec<f64>, String> {
        let columns = match self.shape[..] {
            [_] => 1,
            [_, columns] => usize::try_from(columns).unwrap_or(0),
            _ => 0,
        };
        let fits = self.shape.first() == Some(&(count as i64)) && self.values.len() == count * columns;
        if !fits || output.column >= columns {
            return Err(format!(
                "answered a tensor of shape {:?} with {} values for {count} rows",
                self.shape,
                self.values.len()
            ));
        }
        let column = self.values.iter().skip(output.column).step_by(columns);
        let scores: Vec<_> = column.map(|&score| f64::from(score)).collect();
        // Rounding to 32 bits may pass a bound by a hair.
        let slack = (output.maximum - output.minimum) * 1e-6;
        let range = output.minimum - slack..=output.maximum + slack;
        match scores.iter().position(|score| !range.contains(score)) {
            Some(row) => Err(format!("answered {} for row {row}", scores[row])),
            None => Ok(scores),
        }
    }
}
