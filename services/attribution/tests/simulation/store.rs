//! A journey store that takes its time, so that what several workers do is mixed, and whose calls fail.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use journey_store::{
    DecidedConversion, Incoming, JourneyQuery, JourneyStore, NewEdition, Page, Recorded, StoreError,
    StoredJourney,
};
use model::IdentityHash;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// The store of one process.
pub struct Faulty {
    inner: Arc<dyn JourneyStore>,
    rng: Mutex<SmallRng>,
    failing_percent: u32,
}

impl Faulty {
    pub fn wrap(inner: Arc<dyn JourneyStore>, seed: u64, failing_percent: u32) -> Arc<dyn JourneyStore> {
        Arc::new(Self { inner, rng: Mutex::new(SmallRng::seed_from_u64(seed)), failing_percent })
    }

    /// Waits; the call may fail before it happens.
    async fn before(&self) -> Result<(), StoreError> {
        let pause = self.rng.lock().unwrap().random_range(0..4);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        match self.fails() {
            true => Err(StoreError::Unavailable("as planned".to_owned())),
            false => Ok(()),
        }
    }

    /// A write that happened may fail all the same.
    fn after(&self) -> Result<(), StoreError> {
        match self.fails() {
            true => Err(StoreError::Indeterminate("as planned".to_owned())),
            false => Ok(()),
        }
    }

    fn fails(&self) -> bool {
        self.rng.lock().unwrap().random_range(0..100) < self.failing_percent
    }
}

#[async_trait]
impl JourneyStore for Faulty {
    async fn seen(&self, tenant: &str, event_ids: &[&str]) -> Result<Vec<bool>, StoreError> {
        self.inner.seen(tenant, event_ids).await
    }

    async fn record(&self, partition: u32, events: &[Incoming]) -> Result<Recorded, StoreError> {
        self.before().await?;
        let recorded = self.inner.record(partition, events).await?;
        self.after()?;
        Ok(recorded)
    }

    async fn journeys(
        &self,
        queries: &[JourneyQuery],
        conversions_max: usize,
    ) -> Result<Vec<Option<StoredJourney>>, StoreError> {
        self.before().await?;
        self.inner.journeys(queries, conversions_max).await
    }

    async fn commit(
        &self,
        partition: u32,
        editions: &[NewEdition],
        consumed_to: u64,
    ) -> Result<Vec<bool>, StoreError> {
        self.before().await?;
        let stored = self.inner.commit(partition, editions, consumed_to).await?;
        self.after()?;
        Ok(stored)
    }

    async fn conversion(&self, tenant: &str, id: &str) -> Result<Option<DecidedConversion>, StoreError> {
        self.inner.conversion(tenant, id).await
    }

    async fn page(
        &self,
        tenant: &str,
        identity: IdentityHash,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Option<Page>, StoreError> {
        self.inner.page(tenant, identity, after, limit).await
    }
}
