//! What goes wrong, and what callers are told of it.

use std::{num::NonZeroU32, time::Duration};

use event_log::LogError;
use thiserror::Error;

use crate::{batch::TooMany, config::BATCH_EVENTS_MAX, parse::Unreadable};

/// How long a client should wait when the log refuses.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// How long a client should wait while attribution catches up.
const BACKLOG_RETRY: Duration = Duration::from_secs(5);

/// Why the service could not start.
#[derive(Debug, Error)]
pub enum Error {
    /// The log could not be read for the ids behind the worker.
    #[error("partition {partition} of the event log cannot be read from offset {from}: {source}")]
    Recovery {
        /// Which partition.
        partition: u32,
        /// From where.
        from: u64,
        /// Why.
        source: LogError,
    },
    /// The ids read could not be marked as seen.
    #[error("the cache takes no ids: {0}")]
    Cache(#[source] cache::CacheError),
}

impl From<Unreadable> for service::Error {
    fn from(error: Unreadable) -> Self {
        Self::invalid(error.to_string()).code("unreadable_body")
    }
}

impl From<TooMany> for service::Error {
    fn from(TooMany: TooMany) -> Self {
        Self::too_large(format!("a batch has at most {BATCH_EVENTS_MAX} events; send less at once"))
            .code("too_many_events")
    }
}

/// An append that failed: none of the request is acknowledged, though some of it may be durable.
pub(crate) fn not_appended(error: LogError) -> service::Error {
    match error {
        LogError::Unavailable(_) | LogError::Corrupt(_) => {
            service::Error::unavailable("the event log takes no events now; send them again")
                .code("log_unavailable")
        }
        LogError::Indeterminate(_) => service::Error::unavailable(
            "the event log did not confirm in time; send the events again with the same event_id",
        )
        .code("log_unconfirmed"),
        error => return service::Error::internal(error),
    }
    .retry_after(LOG_RETRY)
    .source(error)
}

/// The request that carries the same id was not acknowledged.
pub(crate) fn shared_failure() -> service::Error {
    service::Error::unavailable(
        "another request with the same event_id is not confirmed; send the events again",
    )
    .code("log_unconfirmed")
    .retry_after(LOG_RETRY)
}

pub(crate) fn backlog_full() -> service::Error {
    service::Error::unavailable("attribution is too far behind; send the events again later")
        .code("backlog_full")
        .retry_after(BACKLOG_RETRY)
}

pub(crate) fn backlog_full_of_tenant() -> service::Error {
    service::Error::unavailable(
        "attribution is too far behind with this tenant's events; send them again later",
    )
    .code("backlog_full")
    .retry_after(BACKLOG_RETRY)
}

pub(crate) fn streams_full() -> service::Error {
    service::Error::unavailable("too many streams at once; try again, or send single batches")
        .code("overloaded")
}

pub(crate) fn over_quota(wait: Duration) -> service::Error {
    service::Error::over_quota("the tenant's quota of events is used up; send less, or wait")
        .retry_after(wait)
}

/// It will not pass however long the client waits, so it is told what to do instead.
pub(crate) fn over_burst(events_max: NonZeroU32) -> service::Error {
    let detail =
        format!("the tenant's quota takes at most {events_max} events at once; send smaller batches");
    service::Error::over_quota(detail).code("batch_over_quota")
}
