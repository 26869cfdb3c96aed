//! The log as each of two processes sees it that share its partitions, which move from one to the other.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use event_log::{Appended, End, Entry, EventLog, LocalLog, LogError};
use rand::{RngExt, rngs::SmallRng};
use tokio::sync::watch;

/// Longer than a request that was under way takes to its end: an insert that its sender gave up is over, as it is in a
/// cluster where the warehouse knows batches by their tokens.
const HAND_OVER: Duration = Duration::from_millis(200);

/// One process's view.
pub struct SharedLog {
    inner: Arc<LocalLog>,
    partitions: watch::Receiver<BTreeSet<u32>>,
}

/// Moves partitions for ever, one at a time: nobody has it for a moment, then the other one.
pub fn share(log: &Arc<LocalLog>, mut rng: SmallRng) -> [Arc<SharedLog>; 2] {
    let (one, other) = (0..log.partitions()).partition(|_| rng.random_bool(0.5));
    let (one, other) = (watch::Sender::new(one), watch::Sender::new(other));
    let views = [&one, &other].map(|partitions: &watch::Sender<BTreeSet<u32>>| {
        Arc::new(SharedLog { inner: Arc::clone(log), partitions: partitions.subscribe() })
    });
    let partitions = log.partitions();
    service::task::spawn("rebalance", async move {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..700))).await;
            let moved = rng.random_range(0..partitions);
            let (from, to) = if one.borrow().contains(&moved) { (&one, &other) } else { (&other, &one) };
            from.send_modify(|own| _ = own.remove(&moved));
            tokio::time::sleep(HAND_OVER).await;
            to.send_modify(|own| _ = own.insert(moved));
        }
    });
    views
}

#[async_trait]
impl EventLog for SharedLog {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    fn id(&self) -> u128 {
        self.inner.id()
    }

    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        self.inner.append(partition, frame).await
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        self.inner.read(partition, from, bytes_max, wait).await
    }

    async fn end(&self, partition: u32) -> Result<End, LogError> {
        self.inner.end(partition).await
    }

    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        self.inner.commit(consumer, partition, offset).await
    }

    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        self.inner.committed(consumer, partition).await
    }

    async fn join(&self, _: &str) -> Result<watch::Receiver<BTreeSet<u32>>, LogError> {
        Ok(self.partitions.clone())
    }
}
