//! The memory of one process: [`Recent`] for ids, governor for quotas.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use governor::{DefaultDirectRateLimiter, RateLimiter, clock::Clock};
use moka::sync::Cache as Moka;

use crate::{
    CACHE_AVAILABLE, Cache, CacheError, Quota, SEEN_TTL_SECONDS_DEFAULT, Taken, check, key::Id, parameter,
    recent::Recent, seconds,
};

/// Ids remembered unless the URL says otherwise.
const SEEN_MAX_DEFAULT: u64 = 1_000_000;

/// Tenants whose quotas are remembered; more than one process serves.
const TENANTS_MAX: u64 = 100_000;

/// A cache that ends with its process.
pub struct MemoryCache {
    seen: Recent,
    quotas: Moka<String, Arc<Bucket>>,
}

struct Bucket {
    quota: Quota,
    limiter: DefaultDirectRateLimiter,
}

impl MemoryCache {
    /// Opens one by what its URL has behind `memory://`.
    ///
    /// # Errors
    /// A parameter is unknown, given twice, or not a number or time within its bounds.
    pub fn open(rest: &str) -> Result<Self, CacheError> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !place.is_empty() {
            return Err(parameter(place, "memory:// has no host and no path"));
        }
        let (mut seen_max, mut seen_ttl) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match name {
                "seen_max" => &mut seen_max,
                "seen_ttl" => &mut seen_ttl,
                _ => return Err(parameter(name, "unknown; known are seen_max, seen_ttl")),
            };
            if slot.replace(value).is_some() {
                return Err(parameter(name, "given twice"));
            }
        }
        let seen_max = match seen_max {
            None => SEEN_MAX_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|&count| count > 0)
                .ok_or_else(|| parameter("seen_max", "a number of ids from 1 on"))?,
        };
        let seen_ttl = match seen_ttl {
            None => SEEN_TTL_SECONDS_DEFAULT,
            Some(text) => seconds(text)
                .ok_or_else(|| parameter("seen_ttl", "1s to 365d, such as 7d, 12h, 30m or 90s"))?,
        };
        let seen = Recent::new(seen_max, Duration::from_secs(seen_ttl));
        metrics::gauge!(CACHE_AVAILABLE).set(1);
        Ok(Self { seen, quotas: Moka::new(TENANTS_MAX) })
    }

    /// Forgets the ids that were marked up to a moment, for somebody else knows them. One that was marked within a second of
    /// a later one may stay as long as that.
    pub fn forget(&self, marked_until: Instant) {
        self.seen.forget(marked_until);
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn seen(&self, _: &str, ids: &[Id<'_>]) -> Result<Vec<bool>, CacheError> {
        check(ids)?;
        Ok(self.seen.contains(ids))
    }

    async fn mark(&self, _: &str, ids: &[Id<'_>]) -> Result<(), CacheError> {
        check(ids)?;
        self.seen.insert(ids);
        Ok(())
    }

    async fn take(&self, tenant: &str, events: NonZeroU32, quota: Quota) -> Result<Taken, CacheError> {
        let fits = |bucket: &Arc<Bucket>| bucket.quota == quota;
        let bucket = match self.quotas.get(tenant).filter(fits) {
            Some(bucket) => bucket,
            // New, or changed in the settings: two at once must share one bucket.
            None => {
                let entry = self.quotas.entry_by_ref(tenant);
                let swap = |old: &Arc<Bucket>| !fits(old);
                entry.or_insert_with_if(|| Arc::new(Bucket::new(quota)), swap).into_value()
            }
        };
        Ok(match bucket.limiter.check_n(events) {
            Ok(Ok(())) => Taken::Yes,
            Ok(Err(until)) => Taken::After(until.wait_time_from(bucket.limiter.clock().now())),
            Err(_) => Taken::Never,
        })
    }
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        let rate = governor::Quota::per_second(quota.events_per_second).allow_burst(quota.burst_events);
        Self { quota, limiter: RateLimiter::direct(rate) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::key::Keys;

    #[tokio::test]
    async fn as_many_ids_are_kept_as_the_url_says_and_they_are_the_newest() {
        let (cache, keys) = (MemoryCache::open("?seen_max=100").unwrap(), Keys::default());
        for batch in 0..100 {
            let ids: Vec<String> = (0..100).map(|i| format!("{batch}-{i}")).collect();
            let ids = keys.ids("t", ids.iter().map(String::as_str));
            cache.mark("t", &ids).await.unwrap();
            assert!(cache.seen("t", &ids).await.unwrap().into_iter().all(|seen| seen), "batch {batch}");
        }
        assert_eq!(cache.seen("t", &keys.ids("t", ["98-99"])).await.unwrap(), [false]);
    }

    #[tokio::test]
    async fn an_id_is_forgotten_after_its_time() {
        let cache = MemoryCache::open("?seen_ttl=1s").unwrap();
        let ids = Keys::default().ids("t", ["a"]);
        cache.mark("t", &ids).await.unwrap();
        assert_eq!(cache.seen("t", &ids).await.unwrap(), [true]);
        let begin = std::time::Instant::now();
        while cache.seen("t", &ids).await.unwrap() == [true] {
            assert!(begin.elapsed() < Duration::from_secs(10), "not forgotten");
            tokio::task::yield_now().await;
        }
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    }
}
