//! The store in a cluster: tables of ScyllaDB or Cassandra, written by the workers of many processes.
//!
//! There is no transaction over rows, so the order of writes and what is read again after them hold the promises:
//! every row is either written by the worker of one partition of the log alone, and then the later position counts, or it is
//! only ever added. A call that was cut short is made again under the same positions and leaves what it would have left.

mod affected;
mod cql;
mod editions;
mod journeys;
mod outbox;
mod persons;
mod record;
mod schema;
mod scores;
pub(crate) mod settings;
mod tables;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use model::IdentityHash;
use parking_lot::Mutex;

use self::{
    cql::Cql,
    settings::Settings,
    tables::{Kind, Place, Read, Row, Write},
};
use crate::{
    Continuation, DecidedConversion, Effects, Generation, Incoming, JourneyQuery, JourneyStore, NewEdition,
    Outbox, Page, Plan, Recorded, StoreError, StoredJourney, continuation::Continuations,
};

/// A keyspace.
pub(crate) struct Scylla {
    cql: Cql,
    state: Mutex<State>,
}

/// What this process remembers of the rows of one generation; all of it may be forgotten.
#[derive(Default)]
struct State {
    epoch: [u8; 16],
    continuations: Arc<Continuations>,
    young: HashSet<Fact>,
    old: HashSet<Fact>,
    /// Marks of spans that are cut into slices.
    marks: HashMap<(IdentityHash, Kind, i64), u32>,
}

/// Something that is so for as long as the generation: no other process makes it undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fact {
    Named(IdentityHash),
    Linked(IdentityHash, IdentityHash),
    Shared(IdentityHash),
    Span(IdentityHash, Kind, i64),
    Effects(u32, i64),
}

/// The rows of one generation: those of another one are not seen, also where they were written late or not removed yet.
#[derive(Clone, Copy)]
struct Tables<'a> {
    store: &'a Scylla,
    epoch: [u8; 16],
}

/// About 20 MB for each of the two halves.
const FACTS_MAX: usize = 250_000;
const MARKS_MAX: usize = 10_000;

// === impl Scylla ===

impl Scylla {
    /// Connects, and makes what is missing.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let store = Self { cql: Cql::connect(settings).await?, state: Mutex::default() };
        store.generation_now().await?;
        Ok(store)
    }

    fn tables(&self) -> Tables<'_> {
        Tables { store: self, epoch: self.state.lock().epoch }
    }

    /// From now on the rows of this generation are meant.
    fn begin(&self, epoch: [u8; 16], continuations: Continuations) {
        let mut state = self.state.lock();
        if state.epoch != epoch {
            *state = State { epoch, ..State::default() };
        }
        state.continuations = Arc::new(continuations);
    }

    fn continuations(&self) -> Arc<Continuations> {
        Arc::clone(&self.state.lock().continuations)
    }

    fn knows(&self, fact: Fact) -> bool {
        let state = self.state.lock();
        state.young.contains(&fact) || state.old.contains(&fact)
    }

    /// Remembers what was written, unless another generation began meanwhile.
    fn learn(&self, tables: Tables<'_>, facts: impl IntoIterator<Item = Fact>) {
        let mut state = self.state.lock();
        if state.epoch != tables.epoch {
            return;
        }
        for fact in facts {
            if state.young.len() >= FACTS_MAX && !state.young.contains(&fact) {
                state.old = std::mem::take(&mut state.young);
            }
            state.young.insert(fact);
        }
    }

    fn marks(&self, home: IdentityHash, kind: Kind, span: i64) -> u32 {
        self.state.lock().marks.get(&(home, kind, span)).copied().unwrap_or(0)
    }

    fn learn_marks(&self, tables: Tables<'_>, home: IdentityHash, kind: Kind, span: i64, marks: u32) {
        let mut state = self.state.lock();
        if state.epoch == tables.epoch {
            if state.marks.len() >= MARKS_MAX {
                state.marks.clear();
            }
            state.marks.insert((home, kind, span), marks);
        }
    }
}

// === impl Tables ===

impl Tables<'_> {
    async fn read(self, reads: Vec<Read>) -> Result<Vec<Vec<Row>>, StoreError> {
        self.store.cql.read(&self.epoch, reads).await
    }

    async fn write(self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.store.cql.write(&self.epoch, writes).await
    }

    async fn drop(self, places: Vec<Place>, stamp: i64) -> Result<(), StoreError> {
        self.store.cql.drop(&self.epoch, places, stamp).await
    }
}

/// After a write, an error of a read no longer says that nothing happened.
fn after_write(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(what) => StoreError::Indeterminate(what),
        error => error,
    }
}

#[async_trait]
impl JourneyStore for Scylla {
    async fn seen(&self, tenant: &str, event_ids: &[&str]) -> Result<Vec<bool>, StoreError> {
        self.seen_now(tenant, event_ids).await
    }

    async fn record(&self, partition: u32, events: &[Incoming]) -> Result<Recorded, StoreError> {
        Box::pin(self.record_now(partition, events)).await
    }

    async fn journeys(
        &self,
        queries: &[JourneyQuery],
        conversions_max: usize,
    ) -> Result<Vec<Option<StoredJourney>>, StoreError> {
        self.journeys_now(queries, conversions_max).await
    }

    async fn commit(
        &self,
        partition: u32,
        editions: &[NewEdition],
        consumed_to: u64,
    ) -> Result<Vec<bool>, StoreError> {
        self.commit_now(partition, editions, consumed_to).await
    }

    async fn conversion(
        &self,
        tenant: &str,
        conversion_id: &str,
    ) -> Result<Option<DecidedConversion>, StoreError> {
        self.conversion_now(tenant, conversion_id).await
    }

    async fn page(
        &self,
        tenant: &str,
        identity: IdentityHash,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Option<Page>, StoreError> {
        self.page_now(tenant, identity, after, limit).await
    }
}

#[async_trait]
impl Outbox for Scylla {
    async fn generation(&self) -> Result<Option<Generation>, StoreError> {
        self.generation_now().await
    }

    async fn reset(&self, generation: Generation) -> Result<(), StoreError> {
        self.reset_now(generation).await
    }

    async fn continuations(&self) -> Result<Vec<Continuation>, StoreError> {
        self.generation_now().await?;
        Ok(Scylla::continuations(self).0.clone())
    }

    async fn continue_in(&self, log: u128, continuation: Continuation) -> Result<(), StoreError> {
        self.continue_in_now(log, continuation).await
    }

    async fn consumed_to(&self, partition: u32) -> Result<u64, StoreError> {
        self.consumed_to_now(partition).await
    }

    async fn effects(&self, partition: u32, from: u64, to: u64) -> Result<Vec<Effects>, StoreError> {
        self.effects_now(partition, from, to).await
    }

    async fn plan(&self, partition: u32) -> Result<Option<Plan>, StoreError> {
        self.plan_now(partition).await
    }

    async fn put_plan(&self, partition: u32, plan: Plan) -> Result<(), StoreError> {
        self.put_plan_now(partition, plan).await
    }
}
