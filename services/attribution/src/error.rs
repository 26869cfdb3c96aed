//! Why the service cannot go on.

use event_log::LogError;
use journey_store::StoreError;
use thiserror::Error;

/// Why work stopped; everything but [`Error::Stopped`] and a store that was superseded is tried again after a pause.
#[derive(Debug, Error)]
pub enum Error {
    /// The event log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The journey store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The warehouse.
    #[error(transparent)]
    Warehouse(#[from] warehouse::Error),
    /// A frame that this version cannot read.
    #[error("partition {partition}, record {offset}: {reason}")]
    Frame {
        /// Its partition.
        partition: u32,
        /// Its record.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// An event stamped with rules that are not known.
    #[error("settings edition {edition} of tenant {tenant:?} is unknown: put its file back")]
    UnknownEdition {
        /// The tenant.
        tenant: String,
        /// The edition.
        edition: String,
    },
    /// A stored decision that cannot be read.
    #[error("a stored decision cannot be read: {0}")]
    Decision(String),
    /// The process that has the first partition has not made the stores one generation yet.
    #[error(
        "journey store and warehouse are not of one generation yet: the process that has partition 0 makes them so"
    )]
    NotAligned,
    /// A restored warehouse that is older than what the journey store still owes it.
    #[error(
        "partition {partition}: the warehouse ends with batch {written}, and the journey store knows batches from {planned} on alone: \
         restore a backup of the warehouse that was made after that of the journey store"
    )]
    Behind {
        /// Of the log.
        partition: u32,
        /// The last batch in the warehouse.
        written: u64,
        /// The batch that was planned last.
        planned: u64,
    },
    /// The stores are those of another log.
    #[error(
        "journey store and warehouse belong to the event log {other}, and this one is {log}: if that one is lost, set \
         ATTRIBUTION_CONTINUES={other} to go on with them in this one; or empty both"
    )]
    OtherLog {
        /// The id of this log.
        log: String,
        /// That of the other one.
        other: String,
    },
    /// The stores cannot be gone on with in another log.
    #[error("the stores cannot be gone on with in this event log: {0}")]
    NotContinued(String),
    /// The process is shutting down.
    #[error("shutting down")]
    Stopped,
}

// === impl Error ===

impl Error {
    /// Whether only a new process can go on.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Store(StoreError::Superseded))
    }
}
