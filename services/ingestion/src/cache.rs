//! What ingestion asks of a cache.

use std::{num::NonZeroU32, time::Duration};

use async_trait::async_trait;

/// A tenant's quota.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// In the long run.
    pub events_per_second: NonZeroU32,
    /// At once.
    pub burst_events: NonZeroU32,
}

/// The cache did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the cache does not answer: {0}")]
pub struct CacheError(pub String);

/// Recently seen ids, and quotas.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// Which of the event ids were marked before.
    async fn seen(&self, tenant: &str, event_ids: &[&str]) -> Result<Vec<bool>, CacheError>;
    /// Marks event ids.
    async fn mark(&self, tenant: &str, event_ids: &[&str]) -> Result<(), CacheError>;
    /// Takes events from a quota; `Err` inside says how long to wait.
    async fn take(&self, tenant: &str, events: u32, quota: Quota) -> Result<Result<(), Duration>, CacheError>;
}
