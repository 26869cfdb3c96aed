//! Which ids were seen: in memory those that are not attributed yet, and for ever those that the journey store knows.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cache::{Cache, CacheError, MemoryCache, Quota, Taken, key::Id};
use event_log::LogError;
use journey_store::JourneyStore;

/// Between two times that ids in memory are forgotten.
const FORGET_PAUSE: Duration = Duration::from_secs(1);

/// A cache that asks the journey store for what it does not remember itself.
pub(crate) struct Seen {
    pub(crate) memory: Arc<MemoryCache>,
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

/// Forgets ids in memory as soon as the journey store knows them: `attributed` waits until everything that is in the log by
/// then is attributed. Never returns.
pub(crate) async fn forget_attributed<F>(memory: &MemoryCache, attributed: impl Fn() -> F)
where
    F: Future<Output = Result<(), LogError>>,
{
    loop {
        // What was marked before was appended before.
        let marked_until = Instant::now();
        match attributed().await {
            Ok(()) => memory.forget(marked_until),
            Err(error) => tracing::warn!(%error, "ids stay in memory: the event log does not tell its end"),
        }
        tokio::time::sleep(FORGET_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cache::key::Keys;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_id_is_forgotten_once_what_was_in_the_log_behind_it_is_attributed() {
        let (memory, keys) = (MemoryCache::open("").unwrap(), Keys::default());
        let marked = async |id: &str| memory.seen("t", &keys.ids("t", [id])).await.unwrap()[0];
        let (asked, attributed) = (Semaphore::new(0), Semaphore::new(0));
        let wait = || async {
            asked.add_permits(1);
            attributed.acquire().await.unwrap().forget();
            Ok(())
        };
        let check = async {
            memory.mark("t", &keys.ids("t", ["first"])).await.unwrap();
            // The round that began before.
            for kept in [true, false] {
                asked.acquire().await.unwrap().forget();
                assert!(marked("first").await, "it is not attributed yet");
                attributed.add_permits(1);
                tokio::time::sleep(FORGET_PAUSE / 2).await;
                assert_eq!(marked("first").await, kept);
            }
        };
        tokio::select! {
            biased;
            () = forget_attributed(&memory, wait) => unreachable!("it never returns"),
            () = check => {}
        }
    }
}
