//! The log in memory: every promise but survival. For tests and for trying things out.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Appended, End, Entry, EventLog, LogError, Record,
    limits::{PARTITIONS_MAX, check_consumer, check_frame, check_partition, check_within},
    url::LogUrl,
};

/// The most bytes of frames that all partitions hold together; past it appends are refused.
pub const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// A log that is gone with the process.
pub struct MemoryLog {
    id: u128,
    bytes_max: u64,
    bytes: Mutex<u64>,
    partitions: Vec<Partition>,
    committed: Mutex<HashMap<(String, u32), u64>>,
}

struct Partition {
    records: Mutex<Records>,
    end: watch::Sender<u64>,
}

#[derive(Default)]
struct Records {
    list: Vec<Record>,
    last_micros: i64,
}

impl MemoryLog {
    /// An empty log of so many partitions (at least one), which holds up to [`MEMORY_BYTES_MAX`].
    pub fn new(partitions: u32) -> Arc<Self> {
        Self::with_bytes_max(partitions, MEMORY_BYTES_MAX)
    }

    /// An empty log that refuses appends past so many bytes of frames.
    pub fn with_bytes_max(partitions: u32, bytes_max: u64) -> Arc<Self> {
        let partition = || Partition { records: Mutex::new(Records::default()), end: watch::channel(0).0 };
        Arc::new(Self {
            id: rand::random(),
            bytes_max,
            bytes: Mutex::new(0),
            partitions: (0..partitions.max(1)).map(|_| partition()).collect(),
            committed: Mutex::new(HashMap::new()),
        })
    }

    pub(crate) fn from_url(mut url: LogUrl) -> Result<Arc<Self>, LogError> {
        if !url.path.is_empty() {
            return Err(LogError::Url(format!("memory:// takes no path: {:?}", url.path)));
        }
        let partitions = url.number("partitions", 1, PARTITIONS_MAX)?.unwrap_or(1) as u32;
        let bytes_max = url.number("bytes_max", 1, u64::MAX)?.unwrap_or(MEMORY_BYTES_MAX);
        url.finish("partitions, bytes_max")?;
        Ok(Self::with_bytes_max(partitions, bytes_max))
    }

    fn partition(&self, partition: u32) -> Result<&Partition, LogError> {
        check_partition(partition, self.partitions.len())?;
        Ok(&self.partitions[partition as usize])
    }

    fn reserve(&self, bytes: usize) -> Result<(), LogError> {
        let mut held = self.bytes.lock();
        let after = held.saturating_add(bytes as u64);
        if after > self.bytes_max {
            return Err(LogError::Unavailable(format!(
                "the log in memory holds at most {} bytes; use file:// to keep more",
                self.bytes_max
            )));
        }
        *held = after;
        Ok(())
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn id(&self) -> u128 {
        self.id
    }

    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        let partition = self.partition(partition)?;
        check_frame(&frame)?;
        self.reserve(frame.len())?;
        let mut records = partition.records.lock();
        let time_micros = records.now();
        let offset = records.list.len() as u64;
        records.list.push(Record { offset, time_micros, frames: vec![frame] });
        partition.end.send_replace(offset + 1);
        Ok(Appended { offset, time_micros })
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        let partition = self.partition(partition)?;
        let mut end = partition.end.subscribe();
        check_within(from, *end.borrow())?;
        let ready = tokio::time::timeout(wait, end.wait_for(|end| from < *end)).await;
        if !matches!(ready, Ok(Ok(_))) {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for record in &partition.records.lock().list[from as usize..] {
            if !entries.is_empty() && bytes >= bytes_max {
                break;
            }
            bytes += record.frames.iter().map(Bytes::len).sum::<usize>();
            entries.push(Entry::Record(record.clone()));
        }
        Ok(entries)
    }

    async fn end(&self, partition: u32) -> Result<End, LogError> {
        let mut records = self.partition(partition)?.records.lock();
        Ok(End { offset: records.list.len() as u64, time_micros: records.now() })
    }

    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        check_consumer(consumer)?;
        let end = *self.partition(partition)?.end.borrow();
        check_within(offset, end)?;
        self.committed.lock().insert((consumer.to_owned(), partition), offset);
        Ok(())
    }

    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        check_consumer(consumer)?;
        self.partition(partition)?;
        Ok(self.committed.lock().get(&(consumer.to_owned(), partition)).copied())
    }
}

impl Records {
    /// The time of the next record: the clock's, but always past an earlier answer, so that a moment tells two records apart.
    fn now(&mut self) -> i64 {
        self.last_micros = (self.last_micros + 1).max(unix_micros());
        self.last_micros
    }
}

/// The wall clock, Unix microseconds.
pub(crate) fn unix_micros() -> i64 {
    // A clock before 1970 reads as 1970: the log only needs times that do not run backwards.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
