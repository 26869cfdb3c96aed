//! The way of a batch: quota, de-duplicate, stamp, append, mark as seen, and only then acknowledge.

use std::{num::NonZeroU32, sync::Arc};

use cache::{
    Cache, Quota, Taken,
    key::{Id, Keys},
};
use event_log::EventLog;
use fail::fail_point;
use futures_util::{FutureExt, future::join_all};
use service::{Error, Tenant};
use tracing::Instrument;

use crate::{
    backlog::{Bound, Place},
    batch::{Batch, Builder, Frame, Slot},
    encode::FrameHead,
    error,
    flights::{Boarding, Carrier, Flight, Flights},
    metrics::Metrics,
};

/// Takes batches in.
pub(crate) struct Acceptor {
    log: Arc<dyn EventLog>,
    cache: Arc<dyn Cache>,
    /// Of the ids, in flight and in the cache.
    keys: Keys,
    /// None where nobody tells how much waits.
    backlog: Option<Bound>,
    flights: Flights,
    metrics: Metrics,
}

/// A batch of which every event is durable, known or rejected.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) batch: Batch,
    /// How many are durable by this request.
    pub(crate) accepted: usize,
    /// How many were accepted before.
    pub(crate) duplicate: usize,
    /// How many broke a rule.
    pub(crate) rejected: usize,
}

/// One item of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// Durable.
    Accepted(&'a str),
    /// Accepted before.
    Duplicate(&'a str),
    /// It broke a rule.
    Rejected(Option<&'a str>, &'a crate::event::Rejection),
}

// === impl Acceptor ===

impl Acceptor {
    pub(crate) fn new(
        log: Arc<dyn EventLog>,
        cache: Arc<dyn Cache>,
        keys: Keys,
        backlog: Option<Bound>,
    ) -> Self {
        Self { log, cache, keys, backlog, flights: Flights::default(), metrics: Metrics::new() }
    }

    /// Begins a batch of a tenant's events that came in at a time in Unix microseconds: about so many by their bytes, which
    /// are counted if not every batch may be taken on.
    ///
    /// # Errors
    /// It may not be taken on, so it need not be read.
    pub(crate) fn batch<'t>(
        &'t self,
        tenant: &'t Tenant,
        now_micros: i64,
        about: usize,
        count: impl FnOnce() -> usize,
    ) -> Result<Builder<'t>, Error> {
        if let Some(backlog) = &self.backlog {
            backlog.open(&tenant.name, count)?;
        }
        Ok(Builder::new(tenant, &self.keys, self.log.partitions(), now_micros.div_euclid(1_000), about))
    }

    /// Makes the new events of a batch durable.
    ///
    /// # Errors
    /// Over quota, or unavailable: then nothing of the batch is acknowledged. What of it became durable all the same is
    /// answered as a duplicate when it is sent again.
    pub(crate) async fn accept(
        &self,
        tenant: &Tenant,
        mut batch: Batch,
        now_micros: i64,
    ) -> Result<Answer, Error> {
        // Whatever becomes of it, an event that was sent is work, and counts.
        self.take(tenant, batch.len()).await?;
        if batch.valid() == 0 {
            return Ok(self.answer(batch));
        }
        let place = match &self.backlog {
            Some(backlog) => Some(backlog.take(&tenant.name, batch.valid() as u64)?),
            None => None,
        };
        let (boarding, others) = self.board(tenant, &mut batch).await;
        let head = FrameHead {
            tenant: &tenant.name,
            settings_edition: &tenant.edition,
            received_at_micros: now_micros,
            traceparent: "",
        };
        let appending = self.append(&head, &batch, place);
        if acknowledges_first() {
            // The frames are queued, nothing more.
            let _ = appending.now_or_never();
        } else {
            appending.await?;
        }
        boarding.durable();
        // Only now: whoever waits for this request must not be waited for before it has landed.
        for other in others {
            if !other.landed().await {
                return Err(error::shared_failure());
            }
        }
        Ok(self.answer(batch))
    }

    async fn take(&self, tenant: &Tenant, events: usize) -> Result<(), Error> {
        // At most as many as a batch may have.
        let (Some(quota), Some(events)) = (tenant.quota, NonZeroU32::new(events as u32)) else {
            return Ok(());
        };
        let quota = Quota { events_per_second: quota.events_per_second, burst_events: quota.burst_events };
        match self.cache.take(&tenant.name, events, quota).await {
            Ok(Taken::Yes) => Ok(()),
            Ok(Taken::After(wait)) => Err(error::over_quota(wait)),
            Ok(Taken::Never) => Err(error::over_burst(quota.burst_events)),
            // A cache that is down refuses nobody, and says itself that it is.
            Err(error) => {
                tracing::debug!(%error, "quotas are not kept");
                Ok(())
            }
        }
    }

    /// Which ids were seen. Without the cache none: the worker still counts each once.
    async fn seen(&self, tenant: &str, ids: &[Id<'_>]) -> Vec<bool> {
        if ids.is_empty() {
            return Vec::new();
        }
        self.cache.seen(tenant, ids).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "repeats are not recognised");
            vec![false; ids.len()]
        })
    }

    async fn mark(&self, tenant: &str, ids: &[Id<'_>]) {
        if !ids.is_empty()
            && let Err(error) = self.cache.mark(tenant, ids).await
        {
            tracing::debug!(%error, "repeats will not be recognised");
        }
    }

    /// Marks the repeats of a batch: those within it, those in flight elsewhere, which are answered, and those seen before.
    async fn board(&self, tenant: &Tenant, batch: &mut Batch) -> (Boarding<'_>, Vec<Arc<Flight>>) {
        let (boarding, repeats) = self.flights.board(batch.new_ids().map(|(slot, id)| (slot, id.key)));
        let mut others = Vec::new();
        for (slot, carrier) in repeats {
            batch.set_duplicate(slot);
            if let Carrier::Other(flight) = carrier
                && !others.iter().any(|known| Arc::ptr_eq(known, &flight))
            {
                others.push(flight);
            }
        }
        // Asked after boarding: whoever carried an id before has marked it before it left.
        let mut asked = (Vec::with_capacity(batch.valid()), Vec::with_capacity(batch.valid()));
        asked.extend(batch.new_ids());
        let (slots, ids) = asked;
        let seen = self.seen(&tenant.name, &ids).await;
        for (slot, seen) in slots.into_iter().zip(seen) {
            if seen {
                batch.set_duplicate(slot);
            }
        }
        (boarding, others)
    }

    async fn append(
        &self,
        head: &FrameHead<'_>,
        batch: &Batch,
        mut place: Option<Place<'_>>,
    ) -> Result<(), Error> {
        if marks_first() {
            let ids: Vec<_> = batch.new_ids().map(|(_, id)| id).collect();
            self.mark(head.tenant, &ids).await;
        }
        let span = tracing::debug_span!("append", otel.kind = "producer", events = batch.valid());
        let traceparent = span.in_scope(telemetry::trace::current_traceparent);
        let frames = batch.frames(&FrameHead { traceparent: &traceparent, ..*head });
        let events = frames.iter().map(|frame| frame.slots.len()).sum();
        let waiting = self.metrics.waiting(events);
        if let Some(place) = &mut place {
            place.given_back((batch.valid() - events) as u64);
        }
        let appends =
            frames.iter().map(|Frame { partition, bytes, .. }| self.log.append(*partition, bytes.clone()));
        let outcomes = join_all(appends).instrument(span).await;
        drop(waiting);
        fail_point!("ingestion::after_append");
        let mut durable = Vec::with_capacity(events);
        let mut failure = None;
        for (frame, outcome) in frames.iter().zip(outcomes) {
            let Frame { partition, .. } = frame;
            let events = frame.slots.len() as u64;
            match outcome {
                Ok(appended) => {
                    durable.extend(batch.ids_at(&frame.slots));
                    if let Some(place) = &mut place {
                        place.appended(*partition, appended.offset, events);
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    if let Some(place) = &mut place {
                        place.given_back(events);
                    }
                }
            }
        }
        self.mark(head.tenant, &durable).await;
        fail_point!("ingestion::before_acknowledgement");
        failure.map_or(Ok(()), |error| Err(error::not_appended(error)))
    }

    fn answer(&self, batch: Batch) -> Answer {
        let duplicate =
            batch.slots().iter().filter(|slot| matches!(slot, Slot::Valid(valid) if valid.duplicate)).count();
        let accepted = batch.valid() - duplicate;
        let rejected = batch.len() - batch.valid();
        self.metrics.answered(accepted, duplicate, rejected);
        Answer { batch, accepted, duplicate, rejected }
    }
}

/// Only a mutant acknowledges before the append.
fn acknowledges_first() -> bool {
    fail_point!("mutant::ack_before_append", |_| true);
    false
}

/// Only a mutant marks ids as seen before their append.
fn marks_first() -> bool {
    fail_point!("mutant::mark_seen_before_append", |_| true);
    false
}

// === impl Answer ===

impl Answer {
    /// One for each event, in order.
    pub(crate) fn items(&self) -> impl ExactSizeIterator<Item = Item<'_>> {
        self.batch.slots().iter().map(|slot| match slot {
            Slot::Valid(valid) if valid.duplicate => Item::Duplicate(self.batch.event_id(valid)),
            Slot::Valid(valid) => Item::Accepted(self.batch.event_id(valid)),
            Slot::Rejected(rejected) => Item::Rejected(rejected.event_id.as_deref(), &rejected.why),
        })
    }

    /// Whether there is nothing in it but rejections.
    pub(crate) fn all_rejected(&self) -> bool {
        self.rejected > 0 && self.rejected == self.batch.len()
    }
}
