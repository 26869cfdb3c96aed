//! Why the warehouse could not do what was asked.

use thiserror::Error;

/// What went wrong. Writes may be resumed after any of them.
#[derive(Debug, Error)]
pub enum Error {
    /// It could not be reached: nothing happened.
    #[error("the warehouse cannot be reached, try again: {0}")]
    Unavailable(String),
    /// The engine answered with an error: the statement did not happen.
    #[error("the warehouse refuses: {0}")]
    Rejected(String),
    /// The answer was lost: the statement may have happened.
    #[error("the warehouse did not confirm, resume the batch: {0}")]
    Indeterminate(String),
    /// The connection cannot be used as configured.
    #[error("warehouse configuration: {0}")]
    Config(String),
    /// The schema is not the one of this program.
    #[error("the warehouse's schema: {0}")]
    Schema(String),
    /// The report cannot be answered as asked.
    #[error("{field}: {reason}")]
    Spec {
        /// The field of the question, as in the public contract.
        field: &'static str,
        /// What to change.
        reason: String,
    },
}

// === impl Error ===

impl Error {
    /// Whether it certainly did not happen.
    pub fn is_determinate(&self) -> bool {
        !matches!(self, Self::Indeterminate(_))
    }

    pub(crate) fn spec(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Spec { field, reason: reason.into() }
    }
}

impl From<clickhouse::error::Error> for Error {
    fn from(error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error as E;
        let text = describe(&error);
        match error {
            // A quorum that was not there in time may come to be.
            E::BadResponse(_) if text.contains("UNKNOWN_STATUS_OF_INSERT") => Self::Indeterminate(text),
            E::BadResponse(_) => Self::Rejected(text),
            E::Network(_) if is_connect(&error) => Self::Unavailable(text),
            E::Network(_) | E::TimedOut | E::Other(_) => Self::Indeterminate(text),
            E::InvalidParams(_) | E::Unsupported(_) => Self::Config(text),
            _ => Self::Schema(text),
        }
    }
}

// Whether no connection was made.
fn is_connect(error: &clickhouse::error::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if cause.downcast_ref().is_some_and(hyper_util::client::legacy::Error::is_connect) {
            return true;
        }
        source = cause.source();
    }
    false
}

fn describe(error: &clickhouse::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
