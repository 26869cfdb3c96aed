//! Editions of decisions, written by the worker of the conversion's partition alone.
//!
//! The edition in force is read before it is written: it decides whether the new one counts, and the warehouse takes it back.
//! An edition goes before what the warehouse is owed for it, and carries it: a call that was cut short between the two finds
//! its own cause when it is made again, or what is in force from behind the consumed offset, and writes the rest from there.
//! The consumed offset goes last.

use std::collections::{BTreeMap, VecDeque};

use fail::fail_point;
use model::EventHash;

use super::{
    Fact, Scylla, Tables, after_write,
    journeys::{around, find, stored},
    tables::{self, InForceRow, Place, Write, meta},
};
use crate::{
    DecidedConversion, Edition, NewEdition, Position, StoreError,
    continuation::Continuations,
    kv::Table,
    rows::{
        EditionEffectRow, EditionRow, EffectKey, EmptyRow, OffsetRow, SeenRow, edition_key, past_edition_key,
    },
};

/// A conversion of this partition, as the call leaves it.
struct Current {
    hash: EventHash,
    home: Vec<u8>,
    in_force: Option<InForceRow>,
    /// Indices of its new editions that are not looked at yet.
    waiting: VecDeque<usize>,
}

// === impl Scylla ===

impl Scylla {
    /// See [`crate::JourneyStore::commit`].
    pub(super) async fn commit_now(
        &self,
        partition: u32,
        editions: &[NewEdition],
        consumed_to: u64,
    ) -> Result<Vec<bool>, StoreError> {
        let tables = self.tables();
        let (mut currents, consumed) =
            tokio::try_join!(currents(tables, partition, editions), self.consumed_to_now(partition))?;
        // A call that was cut short may have stored an edition and not what the warehouse is owed for it. Made again it may
        // have read more, and then asks under a later cause.
        let untold = currents.iter().filter_map(|current| current.untold(partition, consumed)).collect();
        self.write_effects(tables, partition, Vec::new(), untold).await.map_err(after_write)?;
        let (continuations, mut stored) = (self.continuations(), vec![false; editions.len()]);
        fail_point!("journey_store::before_commit");
        // One edition of each conversion at a time; more than one of a conversion is rare.
        while currents.iter().any(|current| !current.waiting.is_empty()) {
            let (mut rows, mut effects) = (Vec::new(), Vec::new());
            for current in &mut currents {
                let Some(index) = current.waiting.pop_front() else { continue };
                stored[index] = current.put(partition, &editions[index], &continuations, &mut rows);
                effects.extend(current.effect(partition, &editions[index]));
            }
            self.write_effects(tables, partition, rows, effects).await.map_err(after_write)?;
        }
        let row = OffsetRow { offset: consumed_to };
        let consumed =
            Place::meta(partition).write(meta::CONSUMED.to_vec(), &row, tables::last(consumed_to, 0));
        tables.write(vec![consumed]).await?;
        fail_point!("journey_store::after_commit");
        Ok(stored)
    }

    async fn write_effects(
        &self,
        tables: Tables<'_>,
        partition: u32,
        rows: Vec<Write>,
        mut effects: Vec<Write>,
    ) -> Result<(), StoreError> {
        tables.write(rows).await?;
        let mut facts = Vec::new();
        for bucket in
            effects.iter().map(|effect| effect.place.bucket).collect::<std::collections::BTreeSet<_>>()
        {
            let fact = Fact::Effects(partition, bucket);
            if !self.knows(fact) {
                facts.push(fact);
                let at = meta::effects(bucket);
                effects.push(Place::meta(partition).write(at, &EmptyRow {}, tables::ADDED));
            }
        }
        tables.write(effects).await?;
        self.learn(tables, facts);
        Ok(())
    }

    /// See [`crate::JourneyStore::conversion`].
    pub(super) async fn conversion_now(
        &self,
        tenant: &str,
        conversion_id: &str,
    ) -> Result<Option<DecidedConversion>, StoreError> {
        let (tables, continuations) = self.in_force().await?;
        let hash = EventHash::new(tenant, conversion_id);
        let Some(found) = find(tables, hash).await? else { return Ok(None) };
        let place = Place::editions(hash, found.partition);
        let (graph, rows) = tokio::try_join!(around(tables, &found), tables.read(vec![place.all()]))?;
        let conversion = stored(tables, &graph, &found, tenant, conversion_id).await?;
        // Of a batch that was lost half done nobody was told: what its editions took the place of still counts.
        let lost = |edition: &EditionRow| continuations.lost_edition(edition.cause.into());
        let (mut editions, mut still): (Vec<EditionRow>, _) = (Vec::new(), None);
        for row in rows.into_iter().flatten() {
            editions.push(match row.at[..] {
                [0] => {
                    let row: InForceRow = row.decode(Table::Editions)?;
                    if lost(&row.edition) {
                        still = row.effect.retracted.map(|decision| (row.edition.number - 1, decision));
                        continue;
                    }
                    row.whole()
                }
                _ => row.decode(Table::Editions)?,
            });
        }
        editions.retain(|edition| !lost(edition));
        // The one in force has the highest number.
        editions.sort_by_key(|row| std::cmp::Reverse(row.number));
        if let Some((number, decision)) = still {
            match editions.first_mut() {
                Some(in_force) if in_force.number == number => in_force.decision = decision,
                // More than one was lost, and the decision of the one before them is kept nowhere.
                _ => editions.clear(),
            }
        }
        let editions = editions.into_iter().map(Edition::try_from).collect::<Result<_, _>>()?;
        Ok(Some(DecidedConversion { conversion, editions }))
    }
}

// === impl Current ===

impl Current {
    /// Stores an edition if it counts, with the one before it in one mutation.
    fn put(
        &mut self,
        partition: u32,
        edition: &NewEdition,
        continuations: &Continuations,
        rows: &mut Vec<Write>,
    ) -> bool {
        let past = self.in_force.as_ref();
        // What was stored and lost before anybody was told of it does not count: what it took the place of still does.
        let lost = past.is_some_and(|past| continuations.lost_edition(past.cause()));
        if past.is_some_and(|past| {
            edition.cause <= past.cause() || (edition.digest[..] == past.edition.digest && !lost)
        }) {
            return false;
        }
        let retracted = match past {
            Some(past) if lost => past.effect.retracted.clone(),
            past => past.map(|past| past.effect.asserted.clone()),
        };
        let row = InForceRow {
            effect: EditionEffectRow {
                tenant: edition.tenant.to_string(),
                cause: edition.cause.into(),
                home: self.home.clone(),
                retracted,
                asserted: edition.decision.clone(),
                retracted_key: None,
                asserted_key: None,
            },
            edition: EditionRow {
                number: past.map_or(1, |past| past.edition.number + 1),
                cause: edition.cause.into(),
                reason: edition.reason as i32,
                recorded_at_micros: edition.recorded_at_micros,
                digest: edition.digest.to_vec(),
                decision: bytes::Bytes::new(),
            },
        };
        let stamp = tables::last(edition.cause.offset, edition.cause.index);
        let place = Place::editions(self.hash, partition);
        let at = |key: Vec<u8>| key[self.hash.0.len()..].to_vec();
        rows.push(place.clone().write(at(edition_key(self.hash)), &row, stamp));
        if let Some(past) = past {
            let at = at(past_edition_key(self.hash, row.edition.number));
            rows.push(place.write(at, &past.edition, stamp));
        }
        self.in_force = Some(row);
        true
    }

    /// What the warehouse is owed for a cause that is in force: just stored, or stored before and not told.
    fn effect(&self, partition: u32, edition: &NewEdition) -> Option<Write> {
        let row = self.in_force.as_ref().filter(|row| row.cause() == edition.cause)?;
        Some(self.owed(partition, row))
    }

    /// What it is owed for an edition that a call stored which did not come to its end.
    fn untold(&self, partition: u32, consumed: u64) -> Option<Write> {
        let row = self.in_force.as_ref().filter(|row| row.cause().offset >= consumed)?;
        Some(self.owed(partition, row))
    }

    fn owed(&self, partition: u32, row: &InForceRow) -> Write {
        let Position { offset, index, .. } = row.cause();
        let at = tables::effect_at(offset, EffectKey::Edition(index, self.hash));
        let place = Place::effects(partition, tables::effect_bucket(offset));
        place.write(at, row, tables::last(offset, index))
    }
}

// === impl InForceRow ===

impl InForceRow {
    fn cause(&self) -> Position {
        self.edition.cause.into()
    }

    fn whole(self) -> EditionRow {
        EditionRow { decision: self.effect.asserted, ..self.edition }
    }
}

/// The conversions of new editions that this partition knows, with what is in force of them.
async fn currents(
    tables: Tables<'_>,
    partition: u32,
    editions: &[NewEdition],
) -> Result<Vec<Current>, StoreError> {
    let mut waiting: BTreeMap<EventHash, VecDeque<usize>> = BTreeMap::new();
    for (index, edition) in editions.iter().enumerate() {
        waiting.entry(EventHash::new(&edition.tenant, &edition.conversion_id)).or_default().push_back(index);
    }
    let reads = waiting.keys().flat_map(|hash| {
        let seen = Place::seen(*hash).one(partition.to_be_bytes().to_vec());
        [seen, Place::editions(*hash, partition).one(vec![0])]
    });
    let mut rows = tables.read(reads.collect()).await?.into_iter();
    let mut currents = Vec::with_capacity(waiting.len());
    for (hash, waiting) in waiting {
        let seen = rows.next().unwrap_or_default();
        let in_force = rows.next().unwrap_or_default();
        let seen: Option<SeenRow> = seen.first().map(|row| row.decode(Table::Seen)).transpose()?;
        let in_force = in_force.first().map(|row| row.decode(Table::Editions)).transpose()?;
        if let Some(seen) = seen.filter(|seen| !seen.home.is_empty()) {
            currents.push(Current { hash, home: seen.home, in_force, waiting });
        }
    }
    Ok(currents)
}
