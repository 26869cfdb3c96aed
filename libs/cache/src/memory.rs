//! The memory of one process: moka for ids, governor for quotas.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use governor::{DefaultDirectRateLimiter, RateLimiter, clock::Clock};
use moka::{policy::EvictionPolicy, sync::Cache as Moka};

use crate::{Cache, CacheError, IDS_MAX, Quota, Taken};

/// Ids remembered unless the URL says otherwise.
const SEEN_MAX_DEFAULT: u64 = 1_000_000;

/// How long unless the URL says otherwise, seconds: 7 days.
const SEEN_TTL_SECONDS_DEFAULT: u64 = 7 * 24 * 60 * 60;

/// The longest time to live, seconds: a year.
const SEEN_TTL_SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// Tenants whose quotas are remembered; more than one process serves.
const TENANTS_MAX: u64 = 100_000;

/// 16 bytes instead of the id: two ids of one hash are less likely than a broken machine.
type IdHash = [u8; 16];

pub(crate) struct MemoryCache {
    seen: Moka<IdHash, (), HashIsTheKey>,
    quotas: Moka<String, Arc<Bucket>>,
}

struct Bucket {
    quota: Quota,
    limiter: DefaultDirectRateLimiter,
}

impl MemoryCache {
    pub(crate) fn open(rest: &str) -> Result<Self, CacheError> {
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
        let seen = Moka::builder()
            .max_capacity(seen_max)
            // The newest count most; by default moka keeps the most asked for and turns new ones away.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(Duration::from_secs(seen_ttl))
            .build_with_hasher(HashIsTheKey);
        Ok(Self { seen, quotas: Moka::new(TENANTS_MAX) })
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn seen(&self, tenant: &str, ids: &[&str]) -> Result<Vec<bool>, CacheError> {
        check(ids)?;
        let tenant = hasher(tenant);
        // Not `contains_key`: an id that is asked for again should be among the last to be forgotten.
        Ok(ids.iter().map(|id| self.seen.get(&hash(&tenant, id)).is_some()).collect())
    }

    async fn mark(&self, tenant: &str, ids: &[&str]) -> Result<(), CacheError> {
        check(ids)?;
        let tenant = hasher(tenant);
        for id in ids {
            self.seen.insert(hash(&tenant, id), ());
        }
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

/// The keys are hashes already; their first bytes spread well.
#[derive(Clone, Default)]
struct HashIsTheKey;

#[derive(Default)]
struct FirstBytes(u64);

impl std::hash::BuildHasher for HashIsTheKey {
    type Hasher = FirstBytes;

    fn build_hasher(&self) -> FirstBytes {
        FirstBytes::default()
    }
}

impl std::hash::Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some((first, _)) = bytes.split_first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of an array comes first and says nothing.
    fn write_usize(&mut self, _: usize) {}
}

fn hasher(tenant: &str) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    // With its length, so that no two pairs of tenant and id run into the same bytes.
    hasher.update(&(tenant.len() as u64).to_le_bytes());
    hasher.update(tenant.as_bytes());
    hasher
}

fn hash(tenant: &blake3::Hasher, id: &str) -> IdHash {
    let mut out = IdHash::default();
    tenant.clone().update(id.as_bytes()).finalize_xof().fill(&mut out);
    out
}

fn check(ids: &[&str]) -> Result<(), CacheError> {
    if ids.len() > IDS_MAX { Err(CacheError::TooManyIds(ids.len())) } else { Ok(()) }
}

fn seconds(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=SEEN_TTL_SECONDS_MAX).contains(&seconds).then_some(seconds)
}

fn parameter(name: &str, reason: &str) -> CacheError {
    CacheError::Parameter { name: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn no_more_ids_are_kept_than_the_url_says_and_they_are_the_newest() {
        let cache = MemoryCache::open("?seen_max=100").unwrap();
        for batch in 0..100 {
            let ids: Vec<String> = (0..100).map(|i| format!("{batch}-{i}")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            cache.mark("t", &ids).await.unwrap();
            cache.seen.run_pending_tasks();
            assert_eq!(cache.seen.entry_count(), 100);
            assert!(cache.seen("t", &ids).await.unwrap().into_iter().all(|seen| seen), "batch {batch}");
        }
    }

    #[tokio::test]
    async fn an_id_is_forgotten_after_its_time() {
        let cache = MemoryCache::open("?seen_ttl=1s").unwrap();
        cache.mark("t", &["a"]).await.unwrap();
        assert_eq!(cache.seen("t", &["a"]).await.unwrap(), [true]);
        let begin = std::time::Instant::now();
        while cache.seen("t", &["a"]).await.unwrap() == [true] {
            assert!(begin.elapsed() < Duration::from_secs(10), "not forgotten");
            tokio::task::yield_now().await;
        }
        assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    }

    #[test]
    fn the_boundary_between_tenant_and_id_counts() {
        assert_ne!(hash(&hasher("ab"), "c"), hash(&hasher("a"), "bc"));
        assert_eq!(hash(&hasher("ab"), "c"), hash(&hasher("ab"), "c"));
    }

    #[test]
    fn a_time_to_live_is_read_at_its_bounds() {
        assert_eq!(seconds("1s"), Some(1));
        assert_eq!(seconds("365d"), Some(SEEN_TTL_SECONDS_MAX));
        assert_eq!(seconds("8760h"), Some(SEEN_TTL_SECONDS_MAX));
        assert_eq!(seconds("8761h"), None);
        assert_eq!(seconds("0m"), None);
    }
}
