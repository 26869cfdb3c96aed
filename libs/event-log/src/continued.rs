//! A log that goes on where another one was lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{Appended, End, Entry, EventLog, LogError, Record};

/// A log whose offsets begin past those of a lost one, so that positions in either cannot be taken for each other. What is
/// before its first offset is a gap.
pub struct Continued {
    log: Arc<dyn EventLog>,
    first: u64,
}

// === impl Continued ===

impl Continued {
    /// The first record of every partition has this offset.
    pub fn new(log: Arc<dyn EventLog>, first: u64) -> Self {
        Self { log, first }
    }
}

#[async_trait]
impl EventLog for Continued {
    fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    fn id(&self) -> u128 {
        self.log.id()
    }

    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        let appended = self.log.append(partition, frame).await?;
        Ok(Appended { offset: self.first + appended.offset, ..appended })
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        let Some(from) = from.checked_sub(self.first) else {
            let reason = "lost with the log that this one continues".to_owned();
            return Ok(vec![Entry::Gap { from, to: self.first, reason }]);
        };
        let mut entries = self.log.read(partition, from, bytes_max, wait).await?;
        for entry in &mut entries {
            match entry {
                Entry::Record(Record { offset, .. }) => *offset += self.first,
                Entry::Gap { from, to, .. } => {
                    *from += self.first;
                    *to += self.first;
                }
            }
        }
        Ok(entries)
    }

    async fn end(&self, partition: u32) -> Result<End, LogError> {
        let end = self.log.end(partition).await?;
        Ok(End { offset: self.first + end.offset, ..end })
    }

    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        self.log.commit(consumer, partition, offset.saturating_sub(self.first)).await
    }

    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        Ok(self.log.committed(consumer, partition).await?.map(|offset| self.first + offset))
    }

    async fn join(&self, consumer: &str) -> Result<watch::Receiver<BTreeSet<u32>>, LogError> {
        self.log.join(consumer).await
    }

    fn health(&self) -> Result<(), String> {
        self.log.health()
    }

    fn queue_depth(&self) -> usize {
        self.log.queue_depth()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{MemoryLog, conformance};

    const FIRST: u64 = 1 << 32;

    #[tokio::test]
    async fn what_is_before_the_first_offset_is_a_gap_and_the_rest_is_the_log_further_on() {
        let inner: Arc<dyn EventLog> = MemoryLog::new(2);
        // It may hold records before anybody continues in it.
        inner.append(1, "early".into()).await.unwrap();
        let log = Continued::new(Arc::clone(&inner), FIRST);
        assert_eq!((log.id(), log.partitions()), (inner.id(), 2));
        let appended = log.append(1, "late".into()).await.unwrap();
        let frames = |records: &[Record]| -> Vec<(u64, Bytes)> {
            records.iter().map(|record| (record.offset, record.frames[0].clone())).collect()
        };
        let all = conformance::read_all(&log, 1, FIRST).await;
        assert_eq!(frames(&all), [(FIRST, "early".into()), (FIRST + 1, "late".into())]);
        assert_eq!(appended.offset, FIRST + 1);
        let end = log.end(1).await.unwrap();
        assert_eq!((end.offset, log.end(0).await.unwrap().offset), (FIRST + 2, FIRST));
        assert!(all.iter().all(|record| record.time_micros < end.time_micros));
        for from in [0, 7, FIRST - 1] {
            let before = log.read(1, from, 1 << 20, Duration::ZERO).await.unwrap();
            let [Entry::Gap { from: at, to, reason }] = &before[..] else { panic!("a gap: {before:?}") };
            assert_eq!((*at, *to), (from, FIRST));
            assert!(reason.contains("continues"), "{reason}");
        }
        let past = log.read(1, FIRST + 3, 1 << 20, Duration::ZERO).await;
        assert!(matches!(past, Err(LogError::Corrupt(_))), "{past:?}");
        log.commit("worker", 1, FIRST + 1).await.unwrap();
        assert_eq!(log.committed("worker", 1).await.unwrap(), Some(FIRST + 1));
        assert_eq!(inner.committed("worker", 1).await.unwrap(), Some(1));
        assert_eq!(log.committed("worker", 0).await.unwrap(), None);
    }
}
