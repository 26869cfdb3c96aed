//! The real servers of rows that want them: those that `KAFKA_URL`, `SCYLLA_URL` and `REDIS_URL` name, as for tests.
//!
//! `make bench-cluster` starts them; this program may not, for what starts them turns fail points on.

use anyhow::{Context, Result};

/// Partitions of a topic.
pub(crate) const PARTITIONS: u32 = 4;

/// The log in a topic of its own.
pub(crate) fn kafka(topic: &str) -> Result<String> {
    let url = named("KAFKA_URL")?;
    let (address, parameters) = url.split_once('?').unwrap_or((&url, "acks=all"));
    let topic = format!("{topic}-{}", std::process::id());
    Ok(format!("{}/{topic}?partitions={PARTITIONS}&{parameters}", address.trim_end_matches('/')))
}

/// The addresses and the topic of such a URL.
pub(crate) fn brokers(url: &str) -> Result<(&str, &str)> {
    let place = url.trim_start_matches("kafka://").split('?').next().unwrap_or_default();
    place.split_once('/').context("no topic")
}

/// The journey store in a keyspace of its own.
pub(crate) fn cql(keyspace: &str) -> Result<String> {
    let url = named("SCYLLA_URL")?;
    let (address, parameters) = url.split_once('?').unwrap_or((&url, ""));
    Ok(format!("{address}/{keyspace}_{}?{parameters}", std::process::id()))
}

/// The cache with keys of its own.
pub(crate) fn redis() -> Result<String> {
    Ok(format!("{}?prefix=bench-{}:&seen_ttl=1h", named("REDIS_URL")?, std::process::id()))
}

fn named(variable: &str) -> Result<String> {
    std::env::var(variable).with_context(|| format!("{variable} names no server: use make bench-cluster"))
}
