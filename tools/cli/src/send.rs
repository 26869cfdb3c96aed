//! Events to the platform: in batches, several under way, until each one has its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::{Answer, Client},
    progress::Progress,
    source::Item,
};

/// A batch: well under the 10,000 events and 8 MiB that the platform takes.
const BATCH_EVENTS_MAX: usize = 2_000;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Batches under way at once, and as many read ahead.
const BATCHES_IN_FLIGHT: usize = 4;

/// How long one batch is tried: a platform that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rejections that are kept to be shown.
const REJECTIONS_SHOWN: usize = 10;

/// What became of the events.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) accepted: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
    /// The first ones by place.
    pub(crate) rejections: Vec<Rejection>,
}

/// An event that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rejection {
    /// Its line or item.
    pub(crate) place: u64,
    /// The field, where one is to blame, and what is wrong.
    pub(crate) reason: String,
}

#[derive(Debug, Default)]
struct Batch {
    /// The events with commas between them.
    json: Vec<u8>,
    places: Vec<u64>,
    bad: Vec<Rejection>,
    /// How far the source was read when the batch was cut.
    position: u64,
}

#[derive(Deserialize)]
struct Taken<'a> {
    accepted: u64,
    duplicate: u64,
    rejected: u64,
    #[serde(borrow)]
    items: &'a RawValue,
}

#[derive(Deserialize)]
struct TakenItem {
    index: usize,
    status: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    field: String,
    #[serde(default)]
    reason: String,
}

/// Sends all items. `position` says how far their source was read, for the progress. What was sent until an error is in
/// the tally.
///
/// # Errors
/// The source cannot be read, or the platform did not take a batch in time or refused it as a whole.
pub(crate) async fn send_all(
    client: &Client,
    items: impl Iterator<Item = Result<Item>> + Send + 'static,
    position: impl Fn() -> u64 + Send + 'static,
    progress: &Progress,
    tally: &mut Tally,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
    let reader = tokio::task::spawn_blocking(move || cut(items, &position, &sender));
    let furthest = Arc::new(AtomicU64::new(0));
    let mut answers = ReceiverStream::new(receiver)
        .map(|batch| {
            let furthest = furthest.clone();
            async move {
                let batch: Batch = batch?;
                let answer = send(client, batch.json, &batch.places).await?;
                furthest.fetch_max(batch.position, Ordering::Relaxed);
                anyhow::Ok((answer, batch.bad))
            }
        })
        .buffer_unordered(BATCHES_IN_FLIGHT);
    let work = async {
        while let Some((taken, bad)) = answers.try_next().await? {
            tally.add(taken);
            tally.add(Tally { rejected: bad.len() as u64, rejections: bad, ..Tally::default() });
            progress.at(furthest.load(Ordering::Relaxed), tally.events());
        }
        anyhow::Ok(())
    };
    progress.during(work).await?;
    reader.await.context("the reader of the file stopped")
}

// === impl Tally ===

impl Tally {
    /// Everything that has its answer.
    pub(crate) fn events(&self) -> u64 {
        self.accepted + self.duplicate + self.rejected
    }

    /// Adds what became of others.
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.duplicate += other.duplicate;
        self.rejected += other.rejected;
        self.rejections.extend(other.rejections);
        self.rejections.sort_unstable();
        self.rejections.truncate(REJECTIONS_SHOWN);
    }
}

// === impl Batch ===

impl Batch {
    fn push(&mut self, item: Item) {
        match item {
            Item::Event { place, json } => {
                if !self.places.is_empty() {
                    self.json.push(b',');
                }
                self.json.extend_from_slice(json.as_bytes());
                self.places.push(place);
            }
            Item::Bad { place, reason } => self.bad.push(Rejection { place, reason }),
        }
    }

    /// Whether it takes no more, `next` being the bytes of what comes next.
    fn is_full(&self, next: usize) -> bool {
        let items = self.places.len() + self.bad.len();
        items >= BATCH_EVENTS_MAX || (items > 0 && self.json.len() + next > BATCH_BYTES_MAX)
    }
}

/// Reads and cuts until the end, an error, or nobody wants more.
fn cut(
    items: impl Iterator<Item = Result<Item>>,
    position: &impl Fn() -> u64,
    sender: &mpsc::Sender<Result<Batch>>,
) {
    let mut batch = Batch::default();
    for item in items {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                // What was read so far goes out first; then nobody may be there to hear of the error.
                let _ = sender.blocking_send(Ok(batch));
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        let next = if let Item::Event { json, .. } = &item { json.len() + 3 } else { 0 };
        if batch.is_full(next) {
            batch.position = position();
            if sender.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                return;
            }
        }
        batch.push(item);
    }
    batch.position = position();
    // As above.
    let _ = sender.blocking_send(Ok(batch));
}

async fn send(client: &Client, json: Vec<u8>, places: &[u64]) -> Result<Tally> {
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(Tally::default()) };
    let body = Bytes::from([b"[", json.as_slice(), b"]"].concat());
    let answer = client
        .persist(PATIENCE, is_answer, || client.post("/v1/events", body.clone()))
        .await
        .with_context(|| format!("events {first} to {last} were not taken"))?;
    read(&answer, places)
}

/// A batch of which every event was rejected is answered with 400 and the items; a problem has another media type.
pub(crate) fn is_answer(answer: &Answer) -> bool {
    let media_type = answer.headers.get(reqwest::header::CONTENT_TYPE);
    answer.status == StatusCode::BAD_REQUEST
        && media_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

fn read(answer: &Answer, places: &[u64]) -> Result<Tally> {
    let taken: Taken<'_> = answer.json()?;
    let mut rejections = Vec::new();
    if taken.rejected > 0 {
        let items: Vec<TakenItem> = serde_json::from_str(taken.items.get()).context("the answer's items")?;
        rejections.extend(items.into_iter().filter(|item| item.status == "rejected").map(|item| Rejection {
            place: places.get(item.index).copied().unwrap_or_default(),
            reason: match item.field.is_empty() {
                true => format!("{} ({})", item.reason, item.code),
                false => format!("{}: {} ({})", item.field, item.reason, item.code),
            },
        }));
    }
    let Taken { accepted, duplicate, rejected, .. } = taken;
    Ok(Tally { accepted, duplicate, rejected, rejections })
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
