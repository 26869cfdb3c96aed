//! Recording a batch of events, in a bounded number of rounds whatever its size:
//!
//! 1. Read the ids, and the persons of identities that are not known to be linked. Ids are read before they are written because
//!    the first position of an id counts; the worker's own partition alone writes the row that is its answer.
//! 2. Write everything but links and marks of shared identities: the ids say which events join sets, and the effects say what
//!    follows for whom. So what is found linked after a crash is found with the record of who linked it.
//! 3. Write links and marks.
//! 4. Read the persons again. Of two workers that add to one set at the same moment, the one whose write ends last sees
//!    both links here, and tells and marks what neither could know before.
//! 5. Read the conversions that could change. Of a touch and a conversion at the same moment, the later one sees the other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use fail::fail_point;
use model::{EventHash, IdentityHash};
use proto::events::EventType;

use super::{
    Fact, Scylla, Tables,
    affected::{self, Converted, Wishes},
    after_write,
    persons::{Graph, Reach},
    tables::{self, Kind, Place, Row, Told, Write},
};
use crate::{
    Incoming, Outcome, Position, Recorded, StoreError,
    continuation::Continuations,
    kv::Table,
    record::{Known, conversion_row},
    rows::{self, EffectKey, EmptyRow, IdentityEffectRow, IdentityRow, SeenRow},
};

/// A stored or new first position.
#[derive(Clone, Copy)]
struct First {
    position: Position,
    /// Whether the event joined sets, or made identities shared.
    joined: bool,
    /// Whether it was lost with its log before it was reported: the next one takes its place.
    lost: bool,
}

/// One call, before it is written.
struct Recording<'a> {
    tables: Tables<'a>,
    continuations: Arc<Continuations>,
    partition: u32,
    /// As the call leaves it.
    graph: Graph,
    writes: Vec<Write>,
    /// What is known once this is written.
    facts: HashSet<Fact>,
    /// Links and marks, which come after everything else.
    joins: Vec<Write>,
    joined: Vec<Joined>,
    /// What is told of identities, with the tenant.
    told: BTreeMap<Tell, Arc<str>>,
    /// Identities that this call turns shared, or turned when it was made before.
    turned: BTreeSet<IdentityHash>,
    wishes: Wishes,
}

/// Of a record at an offset: the identity, its person, whether it is shared.
type Tell = (u64, IdentityHash, IdentityHash, bool);

/// An event that joined sets.
struct Joined {
    offset: u64,
    tenant: Arc<str>,
    identities: Vec<IdentityHash>,
}

// === impl Scylla ===

impl Scylla {
    /// See [`crate::JourneyStore::seen`].
    pub(super) async fn seen_now(&self, tenant: &str, event_ids: &[&str]) -> Result<Vec<bool>, StoreError> {
        let hashes = event_ids.iter().map(|id| EventHash::new(tenant, id));
        let rows = self.tables().read(hashes.map(|hash| Place::seen(hash).all()).collect()).await?;
        let continuations = self.continuations();
        let counts = |rows: Vec<Row>| -> Result<bool, StoreError> {
            if continuations.0.is_empty() {
                return Ok(!rows.is_empty());
            }
            for row in rows {
                let row: SeenRow = row.decode(Table::Seen)?;
                if !continuations.lost(row.position.into()) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        rows.into_iter().map(counts).collect()
    }

    /// See [`crate::JourneyStore::record`].
    pub(super) async fn record_now(
        &self,
        partition: u32,
        events: &[Incoming],
    ) -> Result<Recorded, StoreError> {
        let known = events.iter().map(|incoming| Known::new(partition, incoming));
        let known = known.collect::<Result<Vec<_>, _>>()?;
        let tables = self.tables();
        let (firsts, graph, ()) = tokio::try_join!(
            firsts(tables, partition, &known),
            self.persons_to_link(tables, &known),
            self.check_generation(tables),
        )?;
        let mut recording = Recording {
            tables,
            continuations: self.continuations(),
            partition,
            graph,
            writes: Vec::new(),
            facts: HashSet::new(),
            joins: Vec::new(),
            joined: Vec::new(),
            told: BTreeMap::new(),
            turned: turned_before(tables, &known, &firsts).await?,
            wishes: Wishes::default(),
        };
        let mut firsts = firsts;
        let outcomes: Vec<Outcome> = known.iter().map(|known| recording.event(known, &mut firsts)).collect();
        let (graph, wishes) = recording.write().await.map_err(after_write)?;
        let affected = affected::find(tables, &graph, wishes).await.map_err(after_write)?;
        Ok(Recorded { outcomes, affected })
    }

    /// The persons of identities that come together, unless it is known already that these are linked.
    async fn persons_to_link(&self, tables: Tables<'_>, events: &[Known<'_>]) -> Result<Graph, StoreError> {
        let mut graph = Graph::default();
        let unknown = events.iter().filter(|known| !self.knows_linked(known));
        graph.load(tables, unknown.flat_map(identities).collect::<Vec<_>>()).await?;
        Ok(graph)
    }

    fn knows_linked(&self, known: &Known<'_>) -> bool {
        let [home, others @ ..] = &known.identities[..] else { return true };
        others.iter().all(|other| self.knows(Fact::Linked(home.hash, other.hash)))
            || identities(known).all(|identity| self.knows(Fact::Shared(identity)))
    }
}

// === impl Recording ===

impl Recording<'_> {
    fn event(&mut self, known: &Known<'_>, firsts: &mut HashMap<EventHash, First>) -> Outcome {
        let position = known.incoming.position;
        let found = first_position(firsts, known.hash);
        if let Some(first) = found.filter(|first| first.position != position && !first.lost) {
            if self.continuations.between(first.position, position) {
                if first.joined {
                    self.note_joined(known);
                }
                self.wish(known);
            }
            let at = tables::effect_at(position.offset, EffectKey::Repeat(position.index));
            self.effect(position.offset, at, &EmptyRow {});
            return Outcome::Repeat;
        }
        // What was recorded before may not be there whole, so all of it is written again.
        let joined = self.link(known) || found.is_some_and(|first| first.joined);
        if joined {
            self.note_joined(known);
        }
        self.store(known, joined, found);
        self.wish(known);
        firsts.insert(known.hash, First { position, joined, lost: false });
        if found.is_some() { Outcome::Replayed } else { Outcome::First }
    }

    fn note_joined(&mut self, known: &Known<'_>) {
        self.joined.push(Joined {
            offset: known.incoming.position.offset,
            tenant: Arc::clone(&known.incoming.tenant),
            identities: identities(known).collect(),
        });
    }

    /// Says where to look for conversions that it could change.
    fn wish(&mut self, known: &Known<'_>) {
        let Known { incoming, identities, time_millis, .. } = known;
        let (home, event, time_millis) = (identities[0].hash, &incoming.event, *time_millis);
        match event.event_type() {
            EventType::Impression | EventType::Click | EventType::Visit => {
                self.wishes.touched.entry(home).or_default().push(time_millis);
            }
            EventType::Conversion => {
                let (name, event_id) = (event.conversion.clone(), event.event_id.clone());
                let tenant = Arc::clone(&incoming.tenant);
                self.wishes.converted.push(Converted { home, tenant, name, time_millis, event_id });
            }
            EventType::Activity | EventType::Unspecified => {}
        }
    }

    fn store(&mut self, known: &Known<'_>, joined: bool, found: Option<First>) {
        let Known { incoming, hash, identities, time_millis } = known;
        let (time_millis, position) = (*time_millis, incoming.position);
        let (home, event_id) = (identities[0].hash, &incoming.event.event_id);
        for identity in identities {
            if self.is_news(Fact::Named(identity.hash)) {
                let row = IdentityRow::new(&incoming.tenant, identity.kind, identity.value);
                self.writes.push(Place::identity(identity.hash).write(Vec::new(), &row, tables::ADDED));
            }
        }
        let mut seen = SeenRow { position: position.into(), joined, ..SeenRow::default() };
        let stamp = tables::last(position.offset, position.index);
        let at = rows::timeline_key(home, time_millis, event_id).split_off(home.0.len());
        let span = tables::span(time_millis);
        match incoming.event.event_type() {
            EventType::Impression | EventType::Click | EventType::Visit => {
                let slice = self.slice(home, Kind::Touches, span, *hash);
                let place = Place::timeline(Table::Touches, home.0.to_vec(), span, slice);
                self.writes.push(place.write(at, &rows::stripped(&incoming.event), stamp));
            }
            EventType::Conversion => {
                let name = &incoming.event.conversion;
                let slice = self.slice(home, Kind::Conversions, span, *hash);
                let names = Place::timeline(Table::Names, rows::name_prefix(home, name), span, slice);
                self.writes.push(names.write(at.clone(), &EmptyRow {}, tables::ADDED));
                let place = Place::timeline(Table::Conversions, home.0.to_vec(), span, slice);
                self.writes.push(place.write(at, &conversion_row(incoming), stamp));
                seen = SeenRow { home: home.0.to_vec(), time_millis, ..seen };
            }
            EventType::Activity | EventType::Unspecified => {}
        }
        let at = self.partition.to_be_bytes().to_vec();
        // Where it was met and lost is earlier, and must not count.
        let stamp = found.filter(|found| found.lost).map(|found| tables::first(found.position) + 1);
        let stamp = stamp.unwrap_or_else(|| tables::first(position));
        self.writes.push(Place::seen(*hash).write(at, &seen, stamp));
    }

    /// The slice for an event, which the row of its home tells of.
    fn slice(&mut self, home: IdentityHash, kind: Kind, span: i64, event: EventHash) -> u32 {
        if self.is_news(Fact::Span(home, kind, span)) {
            self.writes.push(Told::Span { kind, span, marked: false }.write(home, None));
        }
        if tables::is_marked(event) {
            self.writes.push(Told::Span { kind, span, marked: true }.write(home, Some(event)));
        }
        tables::slice(event, tables::slices(self.tables.store.marks(home, kind, span)))
    }

    /// Joins the sets of an event's identities; whether anything changed.
    fn link(&mut self, known: &Known<'_>) -> bool {
        if self.tables.store.knows_linked(known) {
            return false;
        }
        let Incoming { position, tenant, .. } = known.incoming;
        let Reach { identities: all, shared } = self.graph.reach(identities(known), &BTreeSet::new());
        if shared {
            self.facts.extend(identities(known).map(Fact::Shared));
            return self.share(position.offset, tenant, all);
        }
        let home = known.identities[0].hash;
        let mut joined = false;
        for other in identities(known).skip(1) {
            let reaches = |from, to| self.graph.reach([from], &BTreeSet::new()).identities.contains(&to);
            // From both sides: a call that was cut short may have written one of the two rows of a link.
            let apart = !reaches(home, other) || !reaches(other, home);
            if apart {
                self.add_link(home, other);
            }
            joined |= apart;
            self.facts.insert(Fact::Linked(home, other));
        }
        joined
    }

    fn add_link(&mut self, one: IdentityHash, other: IdentityHash) {
        if self.graph.link(one, other) {
            self.joins.extend([Told::Link(other).write(one, None), Told::Link(one).write(other, None)]);
        }
    }

    fn share(&mut self, offset: u64, tenant: &Arc<str>, all: impl IntoIterator<Item = IdentityHash>) -> bool {
        let mut changed = false;
        for identity in all {
            if !self.graph.is_shared(identity) {
                changed = true;
                self.graph.share(identity);
                self.turned.insert(identity);
                self.told.insert((offset, identity, identity, true), Arc::clone(tenant));
                self.joins.push(Told::Shared.write(identity, None));
            }
        }
        changed
    }

    /// Tells each identity of the sets that were joined who it belongs to, under the last record that joined its set.
    fn tell(&mut self) {
        let mut last = BTreeMap::new();
        for joined in &self.joined {
            // Each identity of an event is in the same set.
            let Some(home) = joined.identities.first() else { continue };
            let person = self.graph.person(*home);
            if !person.shared {
                last.insert(person.id, (joined.offset, Arc::clone(&joined.tenant), person.members));
            }
        }
        for (person, (offset, tenant, members)) in last {
            let members = members.into_iter().filter(|member| *member != person);
            self.told.extend(members.map(|member| ((offset, member, person, false), Arc::clone(&tenant))));
        }
    }

    /// Rounds 2 to 4. Answers the persons as they are after the write, and where to look for conversions.
    async fn write(mut self) -> Result<(Graph, Wishes), StoreError> {
        self.tell();
        fail_point!("journey_store::before_record");
        let mut told = BTreeSet::new();
        loop {
            self.write_news(&mut told);
            self.tables.write(std::mem::take(&mut self.writes)).await?;
            self.tables.write(std::mem::take(&mut self.joins)).await?;
            fail_point!("journey_store::after_record");
            self.graph = Graph::default();
            self.read_again().await?;
            self.settle();
            if self.joins.is_empty() && self.told.len() == told.len() {
                break;
            }
        }
        self.shorten();
        self.tables.write(std::mem::take(&mut self.joins)).await?;
        self.remember();
        self.wishes.left = self.turned;
        self.wishes.linked = self.joined.into_iter().flat_map(|joined| joined.identities).collect();
        Ok((self.graph, self.wishes))
    }

    /// The persons of every event that could change something.
    async fn read_again(&mut self) -> Result<(), StoreError> {
        let homes = self.wishes.touched.keys().copied();
        let homes = homes.chain(self.wishes.converted.iter().map(|conversion| conversion.home));
        let linked = self.joined.iter().flat_map(|joined| joined.identities.iter().copied());
        self.graph.load(self.tables, homes.chain(linked).collect::<Vec<_>>()).await?;
        self.graph.load_through(self.tables, &self.turned).await
    }

    /// Draws what follows from what others wrote meanwhile.
    fn settle(&mut self) {
        let joined = std::mem::take(&mut self.joined);
        for joined in &joined {
            let reach = self.graph.reach(joined.identities.iter().copied(), &self.turned);
            if reach.shared {
                self.share(joined.offset, &joined.tenant, reach.identities);
            }
        }
        self.joined = joined;
        self.tell();
    }

    /// Links the identities of the sets that were joined to the smallest one, so that a person is read in three rounds
    /// however its links came about.
    fn shorten(&mut self) {
        let homes: Vec<_> =
            self.joined.iter().filter_map(|joined| joined.identities.first().copied()).collect();
        for home in homes {
            let person = self.graph.person(home);
            if !person.shared && person.members.len() > 2 {
                for member in person.members.into_iter().filter(|member| *member != person.id) {
                    self.add_link(person.id, member);
                }
            }
        }
    }

    fn write_news(&mut self, told: &mut BTreeSet<Tell>) {
        let news: Vec<_> = self.told.iter().filter(|(tell, _)| !told.contains(tell)).collect();
        let news: Vec<_> = news.into_iter().map(|(tell, tenant)| (*tell, tenant.to_string())).collect();
        for ((offset, identity, person, shared), tenant) in news {
            let row = IdentityEffectRow { tenant, person: person.0.to_vec(), shared };
            self.effect(offset, tables::identity_at(offset, identity, person, shared), &row);
            told.insert((offset, identity, person, shared));
        }
    }

    fn effect(&mut self, offset: u64, at: Vec<u8>, row: &impl prost::Message) {
        let bucket = tables::effect_bucket(offset);
        if self.is_news(Fact::Effects(self.partition, bucket)) {
            let row =
                Place::meta(self.partition).write(tables::meta::effects(bucket), &EmptyRow {}, tables::ADDED);
            self.writes.push(row);
        }
        let stamp = tables::last(offset, 0);
        self.writes.push(Place::effects(self.partition, bucket).write(at, row, stamp));
    }

    /// Whether something is not known yet; from then on it is, when the call ends well.
    fn is_news(&mut self, fact: Fact) -> bool {
        !self.tables.store.knows(fact) && self.facts.insert(fact)
    }

    fn remember(&mut self) {
        let store = self.tables.store;
        store.learn(self.tables, std::mem::take(&mut self.facts));
        let homes = self.wishes.touched.keys().map(|home| (*home, Kind::Touches));
        let converted = self.wishes.converted.iter().map(|conversion| (conversion.home, Kind::Conversions));
        for (home, kind) in homes.chain(converted) {
            for (span, marks) in self.graph.spans(home, kind) {
                if tables::slices(marks) > 1 {
                    store.learn_marks(self.tables, home, kind, span, marks);
                }
            }
        }
    }
}

fn identities<'a>(known: &'a Known<'_>) -> impl Iterator<Item = IdentityHash> + use<'a> {
    known.identities.iter().map(|identity| identity.hash)
}

fn first_position(firsts: &HashMap<EventHash, First>, hash: EventHash) -> Option<First> {
    fail_point!("mutant::skip_dedup", |_| None);
    firsts.get(&hash).copied()
}

/// The first positions that are stored: of the own partition, or else of another one that met the id under another person key.
async fn firsts(
    tables: Tables<'_>,
    partition: u32,
    events: &[Known<'_>],
) -> Result<HashMap<EventHash, First>, StoreError> {
    let hashes: BTreeSet<EventHash> = events.iter().map(|known| known.hash).collect();
    let found = tables.read(hashes.iter().map(|hash| Place::seen(*hash).all()).collect()).await?;
    let continuations = tables.store.continuations();
    let mut firsts = HashMap::with_capacity(hashes.len());
    for (hash, rows) in hashes.into_iter().zip(found) {
        let mut stored = Vec::with_capacity(rows.len());
        for row in rows {
            let row: SeenRow = row.decode(Table::Seen)?;
            let position = row.position.into();
            stored.push(First { position, joined: row.joined, lost: continuations.lost(position) });
        }
        let own = stored.iter().find(|first| first.position.partition == partition);
        let first = own.or_else(|| stored.iter().min_by_key(|first| (first.lost, first.position)));
        firsts.extend(first.map(|first| (hash, *first)));
    }
    Ok(firsts)
}

/// What events that are recorded again turned shared before: it may not be marked yet, or not all that hangs on it.
async fn turned_before(
    tables: Tables<'_>,
    events: &[Known<'_>],
    firsts: &HashMap<EventHash, First>,
) -> Result<BTreeSet<IdentityHash>, StoreError> {
    let continuations = tables.store.continuations();
    let replayed = events.iter().filter_map(|known| {
        let (first, now) = (firsts.get(&known.hash)?, known.incoming.position);
        let again = first.position == now || first.lost || continuations.between(first.position, now);
        (first.joined && again).then_some((first.position.partition, first.position.offset))
    });
    let places: BTreeSet<(u32, u64)> = replayed.collect();
    let reads = places.iter().map(|(partition, offset)| {
        let place = Place::effects(*partition, tables::effect_bucket(*offset));
        place.range(
            tables::effect_at(*offset, EffectKey::Identity(IdentityHash([0; 16]))),
            tables::effect_at(*offset, EffectKey::Edition(0, EventHash([0; 16]))),
        )
    });
    let mut turned = BTreeSet::new();
    for row in tables.read(reads.collect()).await?.into_iter().flatten() {
        let (_, effect) = tables::effect_parts(&row.at)?;
        let row: IdentityEffectRow = row.decode(Table::Effects)?;
        if let (true, EffectKey::Identity(identity)) = (row.shared, effect) {
            turned.insert(identity);
        }
    }
    Ok(turned)
}
