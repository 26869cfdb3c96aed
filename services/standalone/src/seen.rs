//! Which ids were seen: those in memory, and for ever those that the journey store knows.

use std::{num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use cache::{Cache, CacheError, Quota, Taken, key::Id};
use journey_store::JourneyStore;

/// A cache that asks the journey store for what it does not remember itself.
pub(crate) struct Seen {
    pub(crate) memory: Arc<dyn Cache>,
    pub(crate) journeys: Arc<dyn JourneyStore>,
}

#[async_trait]
impl Cache for Seen {
    async fn seen(&self, tenant: &str, ids: &[Id<'_>]) -> Result<Vec<bool>, CacheError> {
        let mut seen = self.memory.seen(tenant, ids).await?;
        let unknown: Vec<usize> = (0..ids.len()).filter(|&index| !seen[index]).collect();
        let asked: Vec<&str> = unknown.iter().map(|&index| ids[index].text).collect();
        match self.journeys.seen(tenant, &asked).await {
            Ok(stored) => {
                for (index, stored) in unknown.into_iter().zip(stored) {
                    seen[index] = stored;
                }
            }
            // The worker is the judge: a repeat that is let through here is not counted.
            Err(error) => tracing::warn!(%error, "ids are checked against memory alone"),
        }
        Ok(seen)
    }

    async fn mark(&self, tenant: &str, ids: &[Id<'_>]) -> Result<(), CacheError> {
        self.memory.mark(tenant, ids).await
    }

    async fn take(&self, tenant: &str, events: NonZeroU32, quota: Quota) -> Result<Taken, CacheError> {
        self.memory.take(tenant, events, quota).await
    }
}
