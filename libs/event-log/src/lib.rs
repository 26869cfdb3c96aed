//! The event log: what was appended is durable, in order, and read again as it was written.
//!
//! Owns records, offsets, times and consumer positions. It never looks inside a frame.

pub mod conformance;
mod continued;
mod damage;
pub mod disk;
#[cfg(feature = "kafka")]
mod kafka;
mod limits;
mod local;
mod memory;
mod partition;
mod positions;
mod recovery;
mod scan;
mod sealed;
mod segment;
pub mod simulated;
mod url;
mod writer;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

pub use crate::{
    continued::Continued,
    damage::Damage,
    local::{
        Clock, Host, LocalLog, Options, QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX, SEGMENT_BYTES_LEAST,
        SEGMENT_BYTES_MAX, Writers,
    },
    memory::{MEMORY_BYTES_MAX, MemoryLog},
};

/// The most bytes of frames in one record, before compression.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// The most bytes of one frame: a frame is never split, so it must fit a record.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX - 64;

/// Where and when a frame became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its record.
    pub offset: u64,
    /// The record's time, Unix microseconds, as far as it is known: where others append too it may be read as a later one.
    pub time_micros: i64,
}

/// A record as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset: the first record of a partition has 0 (of a [`Continued`] log another one), each next one more.
    pub offset: u64,
    /// Its time, Unix microseconds: the same at every read, and later than that of the record before it.
    pub time_micros: i64,
    /// The frames of one flush, in the order of their appends.
    pub frames: Vec<Bytes>,
}

/// What a read yields, in the order of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An intact record.
    Record(Record),
    /// Records that were damaged on disk, or removed by retention, and cannot be read any more: the reader must say so.
    Gap {
        /// The first offset that is missing.
        from: u64,
        /// The first offset that is there again.
        to: u64,
        /// What happened, for the operator.
        reason: String,
    },
}

/// The end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The offset that the next record will have.
    pub offset: u64,
    /// Every record at or past `offset` will carry at least this time, and every one before it an earlier one, Unix
    /// microseconds.
    pub time_micros: i64,
}

/// Why the log could not do what was asked.
#[derive(Debug, Error)]
pub enum LogError {
    /// It certainly did not happen; the log is full, failing or closed.
    #[error("the event log refuses: {0}")]
    Unavailable(String),
    /// It may have happened: the caller may append again, with the same event ids.
    #[error("the event log did not confirm in time: {0}")]
    Indeterminate(String),
    /// A frame past [`FRAME_BYTES_MAX`]; it did not happen.
    #[error("a frame holds at most {FRAME_BYTES_MAX} bytes: {0}")]
    FrameTooLarge(usize),
    /// There is no such partition; it did not happen.
    #[error("the log has partitions 0 to {last}: {asked}")]
    NoSuchPartition {
        /// What was asked.
        asked: u32,
        /// The last there is.
        last: u32,
    },
    /// The files cannot be used.
    #[error("the log's files cannot be used: {0}")]
    Corrupt(String),
    /// The URL cannot be used.
    #[error("log url: {0}")]
    Url(String),
}

/// A durable, partitioned, append-only log.
///
/// Appends of one partition are totally ordered. An append that returned is durable: it survives the process and, where
/// the implementation says so, power loss. An append that failed as determinate is not read by anybody, ever. Records are
/// at most [`RECORD_BYTES_MAX`]; the queue of appends is bounded, past it they are refused. Dropping the future of an
/// append leaves it undecided.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// How many partitions; fixed when the log was made.
    fn partitions(&self) -> u32;

    /// The log's identity: random, made with the log, never changed.
    fn id(&self) -> u128;

    /// Appends a frame; returns once it is durable.
    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError>;

    /// Reads from an offset on: at least one entry and about `bytes_max`, or nothing if there is none within `wait`.
    /// Only what is durable is read. `from` past the end is an error: such a position belongs to another log.
    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError>;

    /// The durable end of a partition.
    async fn end(&self, partition: u32) -> Result<End, LogError>;

    /// Stores how far a consumer has come: all its effects before `offset` are durable elsewhere. Retention keeps
    /// everything that some consumer still needs. A position may go back; one past the end is an error. After a crash
    /// it may be an earlier one than the last that was stored.
    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError>;

    /// How far a consumer has come.
    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError>;

    /// Joins those who consume the log under a name and share its partitions: those that this process has, as they change,
    /// until the receiver is dropped. A partition that is gone from it may be another's already, so work on it stops at
    /// once; what was under way may still take effect, and must be idempotent. When the sender is gone they never change.
    async fn join(&self, consumer: &str) -> Result<watch::Receiver<BTreeSet<u32>>, LogError> {
        limits::check_consumer(consumer)?;
        Ok(watch::channel((0..self.partitions()).collect()).1)
    }

    /// Whether appends can succeed now; the reason if not, for readiness.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    /// How many frames wait to become durable, over all partitions.
    fn queue_depth(&self) -> usize {
        0
    }
}

/// Opens the log that the URL names: `memory://?partitions=1`, `file:///folder?partitions=1`.
///
/// `kafka://broker:9092,broker:9092/topic?acks=all` names a topic; with `partitions=` it is made where it is missing.
/// The other parameters stand in `docs/kafka.md`.
///
/// `file://` takes also `segment_bytes_max`, `queue_bytes_max`, `queue_frames_max`, `retention_bytes` and
/// `retention_seconds` (see [`Options`]), `memory://` takes `bytes_max`.
///
/// An unknown scheme or parameter is an error that names the known ones.
pub async fn open(url: &str) -> Result<Arc<dyn EventLog>, LogError> {
    let url = url::LogUrl::parse(url)?;
    match url.scheme.as_str() {
        "memory" => Ok(MemoryLog::from_url(url)?),
        "file" => {
            let options = Options::from_url(url)?;
            let opened = tokio::task::spawn_blocking(move || LocalLog::open(options)).await;
            let stopped = |error| Err(LogError::Unavailable(format!("the runtime stops: {error}")));
            Ok(Arc::new(opened.unwrap_or_else(stopped)?))
        }
        #[cfg(feature = "kafka")]
        "kafka" => Ok(kafka::KafkaLog::open(url).await?),
        #[cfg(not(feature = "kafka"))]
        "kafka" => Err(LogError::Url("this build has no feature kafka: use file:// or memory://".to_owned())),
        other => {
            Err(LogError::Url(format!("there is no log {other}://, only file://, kafka:// and memory://")))
        }
    }
}
