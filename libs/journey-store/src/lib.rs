//! What is known of persons: touches, links, conversions, decisions, and what the warehouse is still owed.
//!
//! Owns de-duplication, the joining of persons and the editions of decisions. It never decides: it is told.
//! It is an index over the event log and can be rebuilt from it.

mod affected;
mod continuation;
#[cfg(test)]
mod damage_tests;
mod editions;
mod explained;
mod folding;
mod journeys;
mod keyspaces;
mod kv;
mod local;
mod memory;
mod met;
mod metrics;
mod outbox;
mod persons;
#[cfg(test)]
mod reads_tests;
mod recent;
mod record;
mod rows;
mod scores;
mod scylla;
pub mod simulated;
mod store;
mod url;
mod witness;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::IdentityHash;
use proto::events::{DecisionReason, Event};
use thiserror::Error;

use crate::{local::Local, memory::Memory, scylla::Scylla, store::Store, url::Location};

pub use continuation::{Continuation, Left};
pub use explained::{EVENT_ID_BYTES_MAX, conceal, event_millis, explained, time_millis};
pub use scores::{ConversionScores, NewScores, Owed, ScoreKind, Scores, TouchScore, ValueScore};

/// The most identities of one person; a larger set is shared, and none of its links is followed.
pub const IDENTITIES_MAX: usize = 100;

/// The most past editions kept of one conversion.
pub const EDITIONS_MAX: usize = 100;

/// A place in the log that names one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The record's offset.
    pub offset: u64,
    /// The event's index in the record, counted over its frames.
    pub index: u32,
}

/// An accepted event as the log holds it.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Where it stands.
    pub position: Position,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// The settings edition stamped on it.
    pub settings_edition: Arc<str>,
    /// The time of its record, Unix microseconds.
    pub recorded_at_micros: i64,
    /// The event, complete.
    pub event: Event,
}

/// What `record` found out about one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The id was never met before; from now on this position is its first.
    First,
    /// The position is the id's first, and was recorded before: by a process before this one, or by a call that failed; or
    /// it takes the place of one that was lost with its log.
    Replayed,
    /// The id was met at an earlier position: the event changes nothing.
    Repeat,
}

/// A stored conversion that a new touch, link or conversion could change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affected {
    /// Its tenant.
    pub tenant: Arc<str>,
    /// Its event id.
    pub conversion_id: String,
    /// The identity it is stored under: its partition is `home.partition(partitions)`.
    pub home: IdentityHash,
    /// The position of the conversion itself.
    pub position: Position,
    /// Why it could change.
    pub reason: DecisionReason,
}

/// What `record` answers.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// One for each event, in order.
    pub outcomes: Vec<Outcome>,
    /// Conversions that could change, each once (with the first reason found). Those of the same call are among them
    /// only if a link or touch of this call comes with them; the caller decides what needs no second look.
    pub affected: Vec<Affected>,
}

/// Asks for the journey of one conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JourneyQuery {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The event id of the conversion.
    pub conversion_id: String,
}

/// A conversion with what its person did before it.
#[derive(Debug, Clone)]
pub struct StoredJourney {
    /// The conversion as stored.
    pub conversion: StoredConversion,
    /// The person: the smallest hash of the joined identities.
    pub person: IdentityHash,
    /// Whether the set is shared.
    pub shared: bool,
    /// The newest touches at or before the conversion, within 90 days of it (both ends included), over all identities of
    /// the person: at most one more than [`model::journey::JOURNEY_TOUCHES_MAX`], so that the reader sees a cut.
    /// Ordered by (time, event id).
    pub touches: Vec<Event>,
    /// Time of the latest conversion of the same name that comes before this one by (time, event id) and within 90 days of
    /// it, Unix milliseconds. Further back there is no touch left to cut.
    pub previous_conversion_millis: Option<i64>,
    /// The newest conversions of the person at or before this one, itself among them, as many as were asked for. Ordered by
    /// (time, event id).
    pub conversions: Vec<PastConversion>,
}

/// What is told of a person's conversions. Absent strings are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastConversion {
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// The app.
    pub app_id: String,
    /// A decimal number.
    pub value: String,
    /// The value's currency.
    pub currency: String,
}

/// A conversion as it came in.
#[derive(Debug, Clone)]
pub struct StoredConversion {
    /// Where it stands.
    pub position: Position,
    /// The settings edition stamped on it.
    pub settings_edition: Arc<str>,
    /// The time of its record, Unix microseconds.
    pub recorded_at_micros: i64,
    /// The identity it is stored under.
    pub home: IdentityHash,
    /// The event.
    pub event: Event,
}

/// A decision to store.
#[derive(Debug, Clone)]
pub struct NewEdition {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The event id of the conversion.
    pub conversion_id: String,
    /// The conversion or re-decide record that led to it.
    pub cause: Position,
    /// Why.
    pub reason: DecisionReason,
    /// The time of the cause's record, Unix microseconds.
    pub recorded_at_micros: i64,
    /// Over everything it was decided from; an equal one is not stored again.
    pub digest: [u8; 16],
    /// The decision, encoded by the caller.
    pub decision: Bytes,
}

/// An edition as it is kept; of past ones the decision is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// What led to it.
    pub cause: Position,
    /// Why.
    pub reason: DecisionReason,
    /// The time of the cause's record, Unix microseconds.
    pub recorded_at_micros: i64,
    /// Over everything it was decided from.
    pub digest: [u8; 16],
    /// The decision as it was given; empty when it is no longer in force.
    pub decision: Bytes,
}

/// A conversion with its editions, the one in force first, then the newest; empty while it is not decided.
#[derive(Debug, Clone)]
pub struct DecidedConversion {
    /// The conversion.
    pub conversion: StoredConversion,
    /// At most one in force and [`EDITIONS_MAX`] past ones.
    pub editions: Vec<Edition>,
}

/// One page of a person's events.
#[derive(Debug, Clone)]
pub struct Page {
    /// The person.
    pub person: IdentityHash,
    /// Whether the set is shared.
    pub shared: bool,
    /// (kind, value) of every joined identity, ordered; at most [`IDENTITIES_MAX`].
    pub identities: Vec<(model::IdentityKind, String)>,
    /// Touches and conversions by (time, event id).
    pub events: Vec<Event>,
    /// Whether there are more.
    pub more: bool,
}

/// What the record at one offset changed, besides the touches that it carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effects {
    /// The record's offset.
    pub offset: u64,
    /// Indices of events that were repeats: no facts come from them.
    pub repeats: Vec<u32>,
    /// Identities whose person changed.
    pub identities: Vec<IdentityChange>,
    /// Editions that this record caused.
    pub editions: Vec<EditionChange>,
}

/// An identity that belongs to another person than before, or that turned out to be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityChange {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The identity.
    pub identity: IdentityHash,
    /// The person it belongs to now.
    pub person: IdentityHash,
    /// Whether its set is shared.
    pub shared: bool,
}

/// An edition that came in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditionChange {
    /// The tenant.
    pub tenant: Arc<str>,
    /// What led to it.
    pub cause: Position,
    /// The identity that the conversion is stored under.
    pub home: IdentityHash,
    /// The decision it took the place of.
    pub retracted: Option<Bytes>,
    /// The decision.
    pub asserted: Bytes,
}

/// A batch of facts that is about to be inserted into the warehouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// 1 for the first batch of a partition, then one more each.
    pub batch: u64,
    /// The offset of its first record.
    pub from: u64,
    /// The offset behind its last record.
    pub to: u64,
    /// Tells it from a batch of the same number that was taken back.
    pub stamp: u64,
}

impl Plan {
    /// Whether it comes right after the last plan.
    pub(crate) fn check_follows(self, last: Option<Self>) -> Result<(), StoreError> {
        let Self { batch, from, to, .. } = self;
        let (last_batch, last_to) = last.map_or((0, 0), |last| (last.batch, last.to));
        if last_batch.checked_add(1) == Some(batch) && last_to <= from && from < to {
            return Ok(());
        }
        Err(StoreError::Unavailable(format!(
            "batch {batch} of records {from} to {to} does not follow batch {last_batch}, which ends at {last_to}"
        )))
    }
}

/// Why the store could not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It certainly did not happen.
    #[error("the journey store refuses: {0}")]
    Unavailable(String),
    /// Another process began a new generation: what is known of positions counts no more, the process has to start again.
    #[error("another process began a new generation of the journey store: start again from its positions")]
    Superseded,
    /// It may have happened; every write may be repeated.
    #[error("the journey store did not confirm: {0}")]
    Indeterminate(String),
    /// A stored value is damaged; it is not served.
    #[error("the journey store holds a damaged value: {0}")]
    Corrupt(String),
    /// The URL cannot be used.
    #[error("journey store url: {0}")]
    Url(String),
}

/// Touches, persons, conversions and decisions.
///
/// Every write is idempotent under the same positions. What one call wrote, every later read sees. Writes are not durable on
/// return: after a crash the store is as it was after some earlier write, not before the last [`Outbox::put_plan`], and
/// [`Outbox::consumed_to`] says from where to go on.
#[async_trait]
pub trait JourneyStore: Send + Sync + 'static {
    /// Which of the event ids were recorded before.
    async fn seen(&self, tenant: &str, event_ids: &[&str]) -> Result<Vec<bool>, StoreError>;

    /// Records the events of one partition: ids with their first position, touches, links, conversions, and the effects
    /// on identities; all of them at once or none. Times are kept in milliseconds. An event of another partition, or without
    /// an id, a time or an identity, refuses the call.
    async fn record(&self, partition: u32, events: &[Incoming]) -> Result<Recorded, StoreError>;

    /// The journeys of conversions, each with at most so many conversions of the person; `None` where there is no such
    /// conversion.
    async fn journeys(
        &self,
        queries: &[JourneyQuery],
        conversions_max: usize,
    ) -> Result<Vec<Option<StoredJourney>>, StoreError>;

    /// Stores editions of one partition and the offset up to which it has been consumed, all at once. An edition is stored
    /// if its cause is later than the one in force and its digest differs; of a conversion that is not known, none is.
    /// Answers which were stored.
    async fn commit(
        &self,
        partition: u32,
        editions: &[NewEdition],
        consumed_to: u64,
    ) -> Result<Vec<bool>, StoreError>;

    /// A conversion with its editions.
    async fn conversion(
        &self,
        tenant: &str,
        conversion_id: &str,
    ) -> Result<Option<DecidedConversion>, StoreError>;

    /// A person's touches and conversions after `after` (time in Unix milliseconds, event id), oldest first; `None` if
    /// the tenant's identity was never met. `limit` is at most 1,000; a larger one counts as that.
    async fn page(
        &self,
        tenant: &str,
        identity: IdentityHash,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Option<Page>, StoreError>;
}

/// What the warehouse is owed, and how far it was told.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// The generation of this store, and the id of the log it was made from; `None` when it is new and empty.
    async fn generation(&self) -> Result<Option<Generation>, StoreError>;

    /// Empties the store and starts a generation; durable on return.
    async fn reset(&self, generation: Generation) -> Result<(), StoreError>;

    /// The logs that were lost, the last one last.
    async fn continuations(&self) -> Result<Vec<Continuation>, StoreError>;

    /// Goes on in another log, of the same generation: what was consumed to somewhere is consumed to its first offset. The
    /// store is emptied for yet another log, and keeps where it goes on when it is emptied for this one.
    async fn continue_in(&self, log: u128, continuation: Continuation) -> Result<(), StoreError>;

    /// The offset up to which a partition has been consumed, as the last `commit` said.
    async fn consumed_to(&self, partition: u32) -> Result<u64, StoreError>;

    /// Effects of the records from one offset to another (exclusive), ordered; records without effects are left out, and so
    /// are editions of a lost log that was not consumed so far.
    async fn effects(&self, partition: u32, from: u64, to: u64) -> Result<Vec<Effects>, StoreError>;

    /// The last plan of a partition.
    async fn plan(&self, partition: u32) -> Result<Option<Plan>, StoreError>;

    /// Stores a plan, durable on return together with everything written before. Effects before `plan.from` may go.
    ///
    /// Taken is the successor of the last plan, or that one again; of two processes that plan the same batch one is refused,
    /// and has to start over from the plan that is stored.
    async fn put_plan(&self, partition: u32, plan: Plan) -> Result<(), StoreError>;
}

/// Which data a store belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// The id of the event log.
    pub log: u128,
    /// Random; shared with the warehouse.
    pub id: u128,
}

/// The sides of one store.
#[derive(Clone)]
pub struct Stores {
    /// Persons and decisions.
    pub journeys: Arc<dyn JourneyStore>,
    /// What the warehouse is owed.
    pub outbox: Arc<dyn Outbox>,
    /// Scores of touches, and predicted values.
    pub scores: Arc<dyn Scores>,
}

/// Opens the store that the URL names.
///
/// `memory://` is gone with the process. `file:///path?cache_bytes_max=…` is a folder of this store's own, made if there is
/// none; the cache of blocks is 128 MiB unless said otherwise, at least 1 MiB. Of two processes the second one is refused, and
/// so is a folder of a newer format, before anything is written.
///
/// `scylla://host,host/keyspace?…` is a keyspace of ScyllaDB or Cassandra, made if there is none, and shared by all processes
/// that open it. Its parameters: `user` and `password` (or `SCYLLA_USER` and `SCYLLA_PASSWORD` in the environment), `tls_ca`
/// (a file with the certificates that servers are checked against; without it connections are not encrypted), `datacenter`
/// (the only one asked), `replicas` (of a keyspace that is made; 3), `in_flight_max` (requests at once; 256) and
/// `timeout_millis` (of one request; 10,000).
pub async fn open(url: &str) -> Result<Stores, StoreError> {
    match url::parse(url)? {
        Location::Memory => Ok(stores(Store::new(Memory::default()))),
        Location::File { path, cache_bytes_max } => {
            // The database may panic over damaged files.
            let opened = tokio::task::spawn_blocking(move || Local::open(&path, cache_bytes_max)).await;
            let local = opened.map_err(|error| StoreError::Corrupt(format!("{url}: {error}")))??;
            Ok(stores(Store::new(local)))
        }
        Location::Scylla(settings) => Ok(stores(Scylla::open(&settings).await?)),
    }
}

/// Checks, without writing anything, that [`open`] would find a store of its own format, or none.
///
/// # Errors
/// What [`open`] refuses too: another format, or a folder that is no journey store.
pub fn check(url: &str) -> Result<(), StoreError> {
    match url::parse(url)? {
        Location::Memory | Location::Scylla(_) => Ok(()),
        Location::File { path, .. } => local::known_format(&path).map(drop),
    }
}

fn stores<S: JourneyStore + Outbox + Scores>(store: S) -> Stores {
    let store = Arc::new(store);
    Stores { journeys: Arc::<S>::clone(&store), outbox: Arc::<S>::clone(&store), scores: store }
}
