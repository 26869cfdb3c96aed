//! Recording a batch of events: what is new is stored, what it links is joined, what it could change is named.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use fail::fail_point;
use model::{EventHash, IdentityHash};
use proto::events::EventType;

use crate::{
    Incoming, Outcome, Position, Recorded, StoreError,
    affected::{self, NewConversion, NewConversions, Scans},
    continuation::Continuations,
    folding::Folding,
    kv::{Batch, Kv, Reader, Table, View},
    persons::{self, Link, Named, Persons},
    rows::{self, ConversionRow, EffectKey, EmptyRow, IdentityEffectRow, SeenRow},
    store::Store,
};

/// Rows of nearly every event at most.
const ROWS_OF_EVENT: usize = 4;

/// One call of `record`, before it is written.
struct Recording<'a, V> {
    partition: u32,
    continuations: &'a Continuations,
    reader: &'a Reader<V>,
    persons: Persons<'a, V>,
    batch: Batch,
    /// First positions: those that are stored of this call's events, and those first met in it.
    seen: HashMap<EventHash, Position, Folding>,
    /// Conversions first met in this call.
    new: NewConversions,
    /// Homes that had no touch before this call.
    first_touched: HashSet<IdentityHash, Folding>,
    wishes: Wishes,
}

/// Where to look for conversions, in terms of identities; persons are looked up when all links are known.
#[derive(Default)]
struct Wishes {
    /// Identities that were linked: everything of their persons.
    linked: BTreeSet<IdentityHash>,
    /// Identities that left a set which turned shared: everything of their own.
    left: BTreeSet<IdentityHash>,
    /// Times of touches by home.
    touched: BTreeMap<IdentityHash, Vec<i64>>,
    /// Home, name, time and event id of conversions.
    converted: Vec<(IdentityHash, String, i64, String)>,
}

/// An event with what identifies it.
pub(crate) struct Known<'a> {
    pub(crate) incoming: &'a Incoming,
    pub(crate) hash: EventHash,
    pub(crate) identities: Vec<Named<'a>>,
    pub(crate) time_millis: i64,
}

// === impl Store ===

impl<K: Kv> Store<K> {
    /// See [`crate::JourneyStore::record`].
    pub(crate) fn record_now(&self, partition: u32, events: &[Incoming]) -> Result<Recorded, StoreError> {
        // It may take a second in the first call, and nobody else who writes has to wait for that.
        self.learn(events.len())?;
        let mut cache = self.writer.lock();
        let continuations = self.continuations_now()?;
        let reader = self.reader();
        let mut recording = Recording {
            partition,
            continuations: &continuations,
            reader: &reader,
            persons: Persons::new(&reader, &mut cache),
            batch: Batch::with_capacity(events.len() * ROWS_OF_EVENT),
            seen: HashMap::with_capacity_and_hasher(events.len(), Folding::default()),
            new: NewConversions::default(),
            first_touched: HashSet::default(),
            wishes: Wishes::default(),
        };
        let known = events.iter().map(|incoming| Known::new(partition, incoming));
        let known = known.collect::<Result<Vec<_>, _>>()?;
        recording.look_up(&known)?;
        let outcomes =
            known.into_iter().map(|known| recording.event(known)).collect::<Result<Vec<_>, _>>()?;
        let scans = recording.scans()?;
        let Recording { mut batch, persons, first_touched, .. } = recording;
        let changed = persons.finish(&mut batch);
        // The view goes before the write: in memory both take the same lock.
        drop(reader);
        // Whether a write that failed took place is not known, so nothing that was cached before it counts.
        fail_point!("journey_store::before_record");
        self.recent.begin(&batch, &first_touched);
        self.write(batch).inspect_err(|_| cache.clear())?;
        self.recent.done();
        fail_point!("journey_store::after_record");
        persons::remember(&mut cache, changed);
        drop(cache);

        // Only after the write: of two calls at the same time, at least one sees what the other wrote.
        let affected = affected::find(&self.reader(), scans)?;
        Ok(Recorded { outcomes, affected })
    }
}

// === impl Recording ===

impl<V: View> Recording<'_, V> {
    fn event(&mut self, known: Known<'_>) -> Result<Outcome, StoreError> {
        let position = known.incoming.position;
        let outcome = match self.first_position(known.hash) {
            Some(first) if first != position && self.continuations.lost(first) => {
                self.again(&known, first)?;
                self.replayed(&known, first)?;
                Outcome::Replayed
            }
            Some(first) if first != position => {
                if self.continuations.between(first, position) {
                    self.replayed(&known, first)?;
                    self.wish(&known);
                }
                self.effect(position.offset, EffectKey::Repeat(position.index), &EmptyRow {});
                return Ok(Outcome::Repeat);
            }
            // All that a first meeting writes is written at once, so none of it is missing.
            Some(first) => {
                self.replayed(&known, first)?;
                Outcome::Replayed
            }
            None => {
                self.first(&known)?;
                Outcome::First
            }
        };
        self.wish(&known);
        Ok(outcome)
    }

    fn first_position(&self, hash: EventHash) -> Option<Position> {
        fail_point!("mutant::skip_dedup", |_| None);
        self.seen.get(&hash).copied()
    }

    /// Reads what is stored of the events' ids and identities, in the order of the tables: in random order every look-up
    /// misses the processor's cache.
    fn look_up(&mut self, events: &[Known<'_>]) -> Result<(), StoreError> {
        let mut hashes: Vec<EventHash> = events.iter().map(|known| known.hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        for hash in hashes {
            if let Some(row) = self.reader.get::<SeenRow>(Table::Seen, &hash.0)? {
                self.seen.insert(hash, row.position.into());
            }
        }
        let identities = events.iter().flat_map(|known| &known.identities).map(|identity| identity.hash);
        self.persons.look_up(identities.collect())
    }

    fn first(&mut self, known: &Known<'_>) -> Result<(), StoreError> {
        let Known { incoming, hash, identities, time_millis } = known;
        let (home, event_id) = (identities[0].hash, &incoming.event.event_id);
        let mut seen = SeenRow { position: incoming.position.into(), ..SeenRow::default() };

        let Link { changed, joined } = self.persons.link(&incoming.tenant, identities, &mut self.batch)?;
        for (identity, state) in &changed {
            let row = IdentityEffectRow {
                tenant: incoming.tenant.to_string(),
                person: state.person.0.to_vec(),
                shared: state.shared,
            };
            self.effect(incoming.position.offset, EffectKey::Identity(*identity), &row);
        }
        if joined {
            self.wishes.linked.extend(identities.iter().map(|identity| identity.hash));
            self.wishes
                .left
                .extend(changed.iter().filter(|(_, state)| state.shared).map(|(identity, _)| *identity));
        }

        let key = rows::timeline_key(home, *time_millis, event_id);
        match incoming.event.event_type() {
            EventType::Impression | EventType::Click | EventType::Visit => {
                self.batch.put_encoded(Table::Touches, key, rows::encode_stripped(&incoming.event));
                if self.persons.note_touch(home)? {
                    self.first_touched.insert(home);
                }
            }
            EventType::Conversion => {
                let name = rows::name_key(home, &incoming.event.conversion, *time_millis, event_id);
                self.batch.put(Table::Names, name, &EmptyRow {});
                let (tenant, position) = (Arc::clone(&incoming.tenant), incoming.position);
                let new = NewConversion { tenant, position, name: incoming.event.conversion.clone() };
                self.new.entry(home).or_default().insert(key.clone(), new);
                self.batch.put(Table::Conversions, key, &conversion_row(incoming));
                self.persons.note_conversion(home, *time_millis)?;
                seen = SeenRow { home: home.0.to_vec(), time_millis: *time_millis, ..seen };
            }
            EventType::Activity | EventType::Unspecified => {}
        }
        self.batch.put(Table::Seen, hash.0.to_vec(), &seen);
        self.seen.insert(*hash, incoming.position);
        Ok(())
    }

    /// Takes the place of a first meeting that was lost with its log. All else that it wrote is there.
    fn again(&mut self, known: &Known<'_>, stored_at: Position) -> Result<(), StoreError> {
        let Known { incoming, hash, identities, time_millis } = known;
        let stored: Option<SeenRow> = self.reader.get(Table::Seen, &hash.0)?;
        let seen = SeenRow { position: incoming.position.into(), ..stored.unwrap_or_default() };
        self.batch.put(Table::Seen, hash.0.to_vec(), &seen);
        let told = self.identity_effects(stored_at)?;
        for (identity, row) in told {
            self.effect(incoming.position.offset, EffectKey::Identity(identity), &row);
        }
        self.seen.insert(*hash, incoming.position);
        if incoming.event.event_type() == EventType::Conversion {
            let key = rows::timeline_key(identities[0].hash, *time_millis, &incoming.event.event_id);
            self.batch.put(Table::Conversions, key, &conversion_row(incoming));
        }
        Ok(())
    }

    /// What the event joined when it was first met is no longer visible in the sets, so everything of the person is named
    /// again, and everything of the identities that this record turned shared.
    fn replayed(&mut self, known: &Known<'_>, first: Position) -> Result<(), StoreError> {
        if known.identities.len() < 2 {
            return Ok(());
        }
        self.wishes.linked.extend(known.identities.iter().map(|identity| identity.hash));
        let shared = self.identity_effects(first)?.into_iter().filter(|(_, row)| row.shared);
        self.wishes.left.extend(shared.map(|(identity, _)| identity));
        Ok(())
    }

    /// What the record there told of identities.
    fn identity_effects(&self, at: Position) -> Result<Vec<(IdentityHash, IdentityEffectRow)>, StoreError> {
        let Position { partition, offset, .. } = at;
        let from = rows::effect_key(partition, offset, EffectKey::Identity(IdentityHash([0; 16])));
        let end = rows::effect_key(partition, offset, EffectKey::Edition(0, EventHash([0; 16])));
        let mut told = Vec::new();
        for pair in self.reader.range(Table::Effects, from..end) {
            let (key, payload) = pair?;
            if let (_, EffectKey::Identity(identity)) = rows::effect_parts(&key)? {
                told.push((identity, payload.decode(Table::Effects)?));
            }
        }
        Ok(told)
    }

    fn wish(&mut self, known: &Known<'_>) {
        let (event, home) = (&known.incoming.event, known.identities[0].hash);
        match event.event_type() {
            EventType::Impression | EventType::Click | EventType::Visit => {
                self.wishes.touched.entry(home).or_default().push(known.time_millis);
            }
            EventType::Conversion => {
                let wish = (home, event.conversion.clone(), known.time_millis, event.event_id.clone());
                self.wishes.converted.push(wish);
            }
            EventType::Activity | EventType::Unspecified => {}
        }
    }

    /// Turns wishes into ranges of single identities, leaving out identities without a conversion late enough.
    fn scans(&mut self) -> Result<Scans, StoreError> {
        let wishes = std::mem::take(&mut self.wishes);
        let mut scans = Scans::default();
        for identity in wishes.left {
            self.scan_all(identity, &mut scans)?;
        }
        let mut persons = BTreeSet::new();
        for identity in wishes.linked {
            persons.insert(self.persons.state(identity)?.person);
        }
        for person in persons {
            for member in self.persons.members(person)? {
                self.scan_all(member, &mut scans)?;
            }
        }
        for (home, times) in wishes.touched {
            let person = self.persons.state(home)?.person;
            for member in self.persons.members(person)? {
                if let Some(latest) = self.persons.state(member)?.latest_conversion_millis {
                    let late = times.iter().copied().filter(|time| *time <= latest);
                    scans.touched.entry(member).or_default().extend(late);
                }
            }
        }
        for (home, name, time_millis, event_id) in wishes.converted {
            let person = self.persons.state(home)?.person;
            for member in self.persons.members(person)? {
                if self.persons.state(member)?.latest_conversion_millis >= Some(time_millis) {
                    scans.converted.push((member, name.clone(), time_millis, event_id.clone()));
                }
            }
        }
        for (home, conversions) in std::mem::take(&mut self.new) {
            if self.persons.state(home)?.conversions == conversions.len() as u64 {
                scans.new.insert(home, conversions);
            }
        }
        Ok(scans)
    }

    fn scan_all(&mut self, identity: IdentityHash, scans: &mut Scans) -> Result<(), StoreError> {
        if self.persons.state(identity)?.latest_conversion_millis.is_some() {
            scans.linked.insert(identity);
        }
        Ok(())
    }

    fn effect(&mut self, offset: u64, effect: EffectKey, row: &impl prost::Message) {
        self.batch.put(Table::Effects, rows::effect_key(self.partition, offset, effect), row);
    }
}

// === impl Known ===

impl<'a> Known<'a> {
    pub(crate) fn new(partition: u32, incoming: &'a Incoming) -> Result<Self, StoreError> {
        let Incoming { position, tenant, event, .. } = incoming;
        let refuse = |what| Err(StoreError::Unavailable(format!("the event at {position:?} {what}")));
        if position.partition != partition {
            return refuse("is of another partition");
        }
        let identities = Named::of(tenant, event);
        if identities.is_empty() {
            return refuse("has no identity");
        }
        let Some(time_millis) = rows::time_millis(event) else {
            return refuse("has no time");
        };
        if event.event_id.is_empty() {
            return refuse("has no event id");
        }
        Ok(Self { incoming, hash: EventHash::new(tenant, &event.event_id), identities, time_millis })
    }
}

pub(crate) fn conversion_row(incoming: &Incoming) -> ConversionRow {
    ConversionRow {
        tenant: incoming.tenant.to_string(),
        position: incoming.position.into(),
        settings_edition: incoming.settings_edition.to_string(),
        recorded_at_micros: incoming.recorded_at_micros,
        event: rows::stripped(&incoming.event),
    }
}
