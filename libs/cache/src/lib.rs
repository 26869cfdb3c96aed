//! What may be forgotten: recently seen event ids, and quotas.
//!
//! Owns the [`Cache`] trait, its implementations and the suite that every one of them passes.
//! It must never be needed for a right answer: an empty cache makes answers slower or less precise, not wrong.

pub mod key;
mod memory;
mod recent;
mod redis;
pub mod suite;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use telemetry::metrics::CACHE_AVAILABLE;

use crate::key::Id;
pub use crate::memory::MemoryCache;

/// A cache shared by the pods of a service, or the memory of one process.
///
/// - Nothing here is durable; any entry may be gone at any time.
/// - `seen` never says yes to an id that was not marked; it may say no to one that was.
/// - Tenants share nothing: an id marked for one is not seen by another, a quota taken by one is not missed by another.
/// - Every call may be repeated; `mark` twice is `mark` once.
/// - Who calls makes the keys of all ids by the same [`Keys`](key::Keys): what was marked under another key may not be seen.
#[async_trait]
pub trait Cache: Send + Sync {
    /// Which of the ids were marked, in their order. At most [`IDS_MAX`] ids.
    async fn seen(&self, tenant: &str, ids: &[Id<'_>]) -> Result<Vec<bool>, CacheError>;

    /// Remembers ids. Call it only after the append of their events was acknowledged. At most [`IDS_MAX`] ids.
    async fn mark(&self, tenant: &str, ids: &[Id<'_>]) -> Result<(), CacheError>;

    /// Takes `events` out of the tenant's quota, all of them or none.
    async fn take(&self, tenant: &str, events: NonZeroU32, quota: Quota) -> Result<Taken, CacheError>;
}

/// Ids of one call: those of the largest batch.
pub const IDS_MAX: usize = 10_000;

/// How long unless the URL says otherwise, seconds: 7 days.
const SEEN_TTL_SECONDS_DEFAULT: u64 = 7 * 24 * 60 * 60;

/// The longest time to live, seconds: a year.
const SEEN_TTL_SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// What a tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// In the long run.
    pub events_per_second: NonZeroU32,
    /// At once. A batch of more events never passes.
    pub burst_events: NonZeroU32,
}

/// Whether the quota had room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It had.
    Yes,
    /// It will have, after this time.
    After(Duration),
    /// It never will: more events at once than the burst.
    Never,
}

/// Why a cache could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The URL's scheme is none that is compiled in.
    #[error("unknown cache {0:?}; there are memory://, redis:// and rediss://, with -cluster and -sentinel")]
    UnknownScheme(String),
    /// A parameter is unknown or has no value that fits.
    #[error("cache parameter {name}: {reason}")]
    Parameter {
        /// Its name.
        name: String,
        /// What to write instead.
        reason: String,
    },
    /// More ids than one call takes.
    #[error("at most {IDS_MAX} ids a call: {0}")]
    TooManyIds(usize),
    /// It is away, or did not answer in time: what was asked may have happened, and may be asked again.
    #[error("the cache does not answer: {0}")]
    Unavailable(String),
}

/// Opens the cache that a URL names.
///
/// `memory://?seen_max=1000000&seen_ttl=7d`: ids remembered (default a million) and for how long (default 7 days; a
/// whole number of `s`, `m`, `h` or `d`, at most 365 days).
///
/// `redis://user:password@host:6379?seen_ttl=7d&timeout_millis=500&prefix=attribution:`: a Redis shared by all pods, over TLS
/// by `rediss://`. `redis-cluster://host:6379?node=other:6379` is a cluster, `redis-sentinel://host:26379?service_name=main`
/// one behind sentinels. It is connected to in the background, on the runtime of the caller.
///
/// # Errors
/// Unknown schemes and parameters.
pub fn open(url: &str) -> Result<Arc<dyn Cache>, CacheError> {
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    match scheme {
        "memory" => Ok(Arc::new(MemoryCache::open(rest)?)),
        "redis" | "rediss" | "redis-cluster" | "rediss-cluster" | "redis-sentinel" | "rediss-sentinel" => {
            metrics::gauge!(CACHE_AVAILABLE).set(1);
            Ok(Arc::new(redis::RedisCache::open(scheme, rest)?))
        }
        other => Err(CacheError::UnknownScheme(other.to_owned())),
    }
}

fn check(ids: &[Id<'_>]) -> Result<(), CacheError> {
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
    async fn memory_passes_the_suite() {
        suite::run(|| open("memory://").unwrap()).await;
    }

    #[test]
    fn what_is_unknown_in_a_url_is_an_error_that_names_it() {
        let error = |url: &str| open(url).map(drop).unwrap_err().to_string();
        assert!(error("memcached://localhost").contains("memcached"));
        assert!(error("memory://?seen_maximum=1").contains("seen_maximum"));
        assert!(error("memory://host").contains("host"));
        assert!(error("memory://?seen_max=0").contains("seen_max"));
        assert!(error("memory://?seen_max=x").contains("seen_max"));
        assert!(error("memory://?seen_max=1&seen_max=2").contains("seen_max"));
        for ttl in ["0s", "7", "d", "7w", "-1s", "+1s", "99999999999999999999d", "400d"] {
            assert!(error(&format!("memory://?seen_ttl={ttl}")).contains("seen_ttl"), "{ttl}");
        }
        assert!(open("memory://?seen_max=10&seen_ttl=365d").is_ok());
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
