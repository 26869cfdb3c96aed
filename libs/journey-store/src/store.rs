//! The store over any tables: one writer at a time, readers see a consistent state.

use std::sync::Arc;

use async_trait::async_trait;
use model::{EventHash, IdentityHash};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    Continuation, DecidedConversion, Effects, Generation, Incoming, JourneyQuery, JourneyStore, NewEdition,
    Outbox, Page, Plan, Recorded, StoreError, StoredJourney,
    continuation::Continuations,
    kv::{Batch, Kv, Reader, Table},
    met::Met,
    persons::StateCache,
    recent::{Recent, Writes},
    rows::SeenRow,
};

/// Everything of this crate, over tables.
pub(crate) struct Store<K> {
    pub(crate) kv: K,
    /// Held by whoever writes; what is in it is as it is stored.
    pub(crate) writer: Mutex<StateCache>,
    /// As they are stored, once they were read.
    pub(crate) continuations: Mutex<Option<Arc<Continuations>>>,
    pub(crate) met: Arc<Met>,
    pub(crate) recent: Arc<Recent>,
}

// === impl Store ===

impl<K: Kv> Store<K> {
    pub(crate) fn new(kv: K) -> Self {
        Self {
            kv,
            writer: Mutex::default(),
            continuations: Mutex::default(),
            met: Arc::default(),
            recent: Arc::default(),
        }
    }

    /// Reads what every write before it left.
    pub(crate) fn reader(&self) -> Reader<K::View<'_>> {
        let done = self.recent.writes().done;
        let view = self.kv.view();
        let writes = Writes { done, begun: self.recent.writes().begun };
        Reader::knowing(view, &self.met, (&self.recent, writes))
    }

    /// Learns a piece of what was stored before this process began, the larger the more events it has at once.
    pub(crate) fn learn(&self, events: usize) -> Result<(), StoreError> {
        self.met.read_on(&self.kv, events)
    }

    /// Applies all of a batch or nothing.
    pub(crate) fn write(&self, mut batch: Batch) -> Result<(), StoreError> {
        // Before: what is there must never be taken for absent.
        self.met.add(&self.kv, &mut batch)?;
        self.kv.write(batch).inspect_err(|_| self.recent.clear())
    }
}

#[async_trait]
impl<K: Kv> JourneyStore for Store<K> {
    async fn seen(&self, tenant: &str, event_ids: &[&str]) -> Result<Vec<bool>, StoreError> {
        let continuations = self.continuations_now()?;
        let reader = self.reader();
        // In the order of the table: in random order every look-up misses the processor's cache.
        let mut hashes: Vec<(EventHash, usize)> =
            event_ids.iter().enumerate().map(|(index, id)| (EventHash::new(tenant, id), index)).collect();
        hashes.sort_unstable();
        let mut seen = vec![false; event_ids.len()];
        for (hash, index) in hashes {
            seen[index] = match continuations.0.is_empty() {
                true => reader.contains(Table::Seen, &hash.0)?,
                false => reader
                    .get::<SeenRow>(Table::Seen, &hash.0)?
                    .is_some_and(|row| !continuations.lost(row.position.into())),
            };
        }
        Ok(seen)
    }

    async fn record(&self, partition: u32, events: &[Incoming]) -> Result<Recorded, StoreError> {
        blocking(|| self.record_now(partition, events))
    }

    async fn journeys(
        &self,
        queries: &[JourneyQuery],
        conversions_max: usize,
    ) -> Result<Vec<Option<StoredJourney>>, StoreError> {
        blocking(|| self.journeys_now(queries, conversions_max))
    }

    async fn commit(
        &self,
        partition: u32,
        editions: &[NewEdition],
        consumed_to: u64,
    ) -> Result<Vec<bool>, StoreError> {
        blocking(|| self.commit_now(partition, editions, consumed_to))
    }

    async fn conversion(
        &self,
        tenant: &str,
        conversion_id: &str,
    ) -> Result<Option<DecidedConversion>, StoreError> {
        self.conversion_now(tenant, conversion_id)
    }

    async fn page(
        &self,
        tenant: &str,
        identity: IdentityHash,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Option<Page>, StoreError> {
        blocking(|| self.page_now(tenant, identity, after, limit))
    }
}

#[async_trait]
impl<K: Kv> Outbox for Store<K> {
    async fn generation(&self) -> Result<Option<Generation>, StoreError> {
        self.generation_now()
    }

    async fn reset(&self, generation: Generation) -> Result<(), StoreError> {
        blocking(|| self.reset_now(generation))
    }

    async fn continuations(&self) -> Result<Vec<Continuation>, StoreError> {
        Ok(self.continuations_now()?.0.clone())
    }

    async fn continue_in(&self, log: u128, continuation: Continuation) -> Result<(), StoreError> {
        blocking(|| self.continue_in_now(log, continuation))
    }

    async fn consumed_to(&self, partition: u32) -> Result<u64, StoreError> {
        self.consumed_to_now(partition)
    }

    async fn effects(&self, partition: u32, from: u64, to: u64) -> Result<Vec<Effects>, StoreError> {
        blocking(|| self.effects_now(partition, from, to))
    }

    async fn plan(&self, partition: u32) -> Result<Option<Plan>, StoreError> {
        self.plan_now(partition)
    }

    async fn put_plan(&self, partition: u32, plan: Plan) -> Result<(), StoreError> {
        blocking(|| self.put_plan_now(partition, plan))
    }
}

/// Runs what may wait for the disk without holding up the other tasks of this thread, where the runtime can do that.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
