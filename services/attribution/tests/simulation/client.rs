//! A client that sends every event, again and again until it is answered, and remembers what it was told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use proto::{
    events::Event,
    ingestion::{
        IngestEventsRequest, IngestEventsResponse, ingestion_service_client::IngestionServiceClient,
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use service::Peer;

use crate::{events::Sent, world::World};

/// Requests at the same time.
const CONNECTIONS: usize = 3;

/// The client; clones are the same.
#[derive(Clone)]
pub struct Client(Arc<Mutex<State>>);

struct State {
    rng: SmallRng,
    events: Vec<Sent>,
    waiting: VecDeque<Batch>,
    /// Sent and not answered, by number.
    flying: BTreeMap<u64, Batch>,
    next: u64,
    acknowledged: BTreeSet<(&'static str, String)>,
    wrong: Option<String>,
    /// Whether nothing is given up.
    all: bool,
}

#[derive(Clone)]
struct Batch {
    tenant: &'static str,
    events: Vec<Event>,
}

impl Client {
    /// Will send each event one to `repeats_max` times, in any order, in any batches.
    pub fn new(seed: u64, events: &[Sent], repeats_max: usize, all: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut copies = Vec::new();
        for event in events {
            let repeats = if rng.random_bool(0.5) { 1 } else { rng.random_range(1..=repeats_max) };
            copies.extend(std::iter::repeat_n(event.clone(), repeats));
        }
        copies.shuffle(&mut rng);
        let mut waiting: VecDeque<Batch> = VecDeque::new();
        let mut room = 0;
        for (tenant, event) in copies {
            match waiting.back_mut() {
                Some(batch) if room > 0 && batch.tenant == tenant => batch.events.push(event),
                _ => {
                    room = rng.random_range(1..20);
                    waiting.push_back(Batch { tenant, events: vec![event] });
                }
            }
            room -= 1;
        }
        let (flying, acknowledged) = (BTreeMap::new(), BTreeSet::new());
        let events = events.to_vec();
        let state = State { rng, events, waiting, flying, next: 0, acknowledged, wrong: None, all };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Sends until nothing is left.
    pub async fn run(&self, world: &World, ingestion: &Peer) -> Result<(), String> {
        let connections = (0..CONNECTIONS).map(|_| self.connection(world, ingestion));
        futures_util::future::join_all(connections).await;
        self.0.lock().unwrap().wrong.take().map_or(Ok(()), Err)
    }

    async fn connection(&self, world: &World, ingestion: &Peer) {
        loop {
            let (number, batch, pause) = {
                let mut state = self.0.lock().unwrap();
                let Some(batch) = state.waiting.pop_front() else { return };
                let number = state.next;
                state.next += 1;
                state.flying.insert(number, batch.clone());
                (number, batch, state.rng.random_range(0..15))
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let request = IngestEventsRequest { events: batch.events.clone() };
            let answer =
                IngestionServiceClient::new(ingestion.for_tenant(batch.tenant)).ingest_events(request).await;
            // An answer on its way when the process dies reaches nobody.
            if world.is_dead() {
                return;
            }
            let pause = self.0.lock().unwrap().answered(world, number, batch, answer);
            tokio::time::sleep(pause).await;
        }
    }

    /// The process died: what was on its way is sent again, or given up.
    pub fn disconnected(&self) {
        let mut state = self.0.lock().unwrap();
        let flying = std::mem::take(&mut state.flying);
        flying.into_values().for_each(|batch| state.again(batch));
    }

    /// What was acknowledged may be lost: everything is sent once more, however often it was sent, in any order.
    pub fn send_all_again(&self) {
        let state = &mut *self.0.lock().unwrap();
        state.acknowledged.clear();
        let mut events = state.events.clone();
        events.shuffle(&mut state.rng);
        for (tenant, event) in events {
            let place = state.rng.random_range(0..=state.waiting.len());
            state.waiting.insert(place, Batch { tenant, events: vec![event] });
        }
    }

    pub fn acknowledged(&self) -> BTreeSet<(&'static str, String)> {
        self.0.lock().unwrap().acknowledged.clone()
    }
}

impl State {
    /// Notes an answer; how long to wait after it.
    fn answered(
        &mut self,
        world: &World,
        number: u64,
        batch: Batch,
        answer: Result<tonic::Response<IngestEventsResponse>, tonic::Status>,
    ) -> Duration {
        self.flying.remove(&number);
        match answer {
            Ok(answer) => {
                let IngestEventsResponse { accepted, duplicate, rejected, items } = answer.into_inner();
                world.trace.note(&format!("{} ms: {number} {accepted} {duplicate}", world.millis()));
                if rejected > 0 || items.len() != batch.events.len() {
                    self.wrong = Some(format!("of {} valid events {items:?}", batch.events.len()));
                }
                let ids = batch.events.into_iter().map(|event| (batch.tenant, event.event_id));
                self.acknowledged.extend(ids);
                Duration::ZERO
            }
            Err(status) => {
                world.trace.note(&format!("{} ms: {number} {:?}", world.millis(), status.code()));
                self.again(batch);
                Duration::from_millis(self.rng.random_range(0..200))
            }
        }
    }

    /// Puts a batch back, some of it perhaps, in other batches perhaps.
    fn again(&mut self, mut batch: Batch) {
        if self.rng.random_bool(0.1) && !self.all {
            batch.events.truncate(batch.events.len() / 2);
        }
        if batch.events.is_empty() {
            return;
        }
        let split = self.rng.random_range(0..batch.events.len());
        let rest = batch.events.split_off(split);
        let place = self.rng.random_range(0..=self.waiting.len());
        self.waiting.insert(place, Batch { tenant: batch.tenant, events: rest });
        if !batch.events.is_empty() {
            self.waiting.push_front(batch);
        }
    }
}
