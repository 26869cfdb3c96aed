//! Editions of decisions: which one is in force, and which were before.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;
use fail::fail_point;
use model::EventHash;
use proto::events::DecisionReason;

use crate::{
    DecidedConversion, EDITIONS_MAX, Edition, NewEdition, Position, StoreError,
    journeys::conversion,
    kv::{Batch, Kv, Reader, Table, View, damaged},
    rows::{self, EditionEffectRow, EditionRow, EffectKey, OffsetRow, SeenRow},
    store::Store,
};

/// A conversion's edition in force, as this call leaves it.
struct Current {
    /// The identity that the conversion is stored under.
    home: Vec<u8>,
    in_force: Option<EditionRow>,
}

// === impl Store ===

impl<K: Kv> Store<K> {
    /// See [`crate::JourneyStore::commit`].
    pub(crate) fn commit_now(
        &self,
        partition: u32,
        editions: &[NewEdition],
        consumed_to: u64,
    ) -> Result<Vec<bool>, StoreError> {
        let mut cache = self.writer.lock();
        let reader = self.reader();
        let mut batch = Batch::default();
        let mut currents = HashMap::new();
        let mut stored = Vec::with_capacity(editions.len());
        for edition in editions {
            let hash = EventHash::new(&edition.tenant, &edition.conversion_id);
            let current = match currents.entry(hash) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(current(&reader, hash)?),
            };
            stored.push(match current {
                Some(current) => put_edition(&reader, &mut batch, partition, hash, current, edition)?,
                None => false,
            });
        }
        batch.put(Table::Meta, rows::consumed_key(partition), &OffsetRow { offset: consumed_to });
        drop(reader);
        fail_point!("journey_store::before_commit");
        self.write(batch).inspect_err(|_| cache.clear())?;
        fail_point!("journey_store::after_commit");
        Ok(stored)
    }

    /// See [`crate::JourneyStore::conversion`].
    pub(crate) fn conversion_now(
        &self,
        tenant: &str,
        conversion_id: &str,
    ) -> Result<Option<DecidedConversion>, StoreError> {
        let reader = self.reader();
        let Some(conversion) = conversion(&reader, tenant, conversion_id)? else {
            return Ok(None);
        };
        let hash = EventHash::new(tenant, conversion_id);
        let mut rows: Vec<EditionRow> = Vec::new();
        if let Some(row) = reader.get::<EditionRow>(Table::Editions, &rows::edition_key(hash))? {
            rows.push(EditionRow { decision: decision(&reader, hash, &row)?, ..row });
        }
        for pair in reader.range(Table::Editions, rows::past_editions(hash)) {
            rows.push(pair?.1.decode(Table::Editions)?);
        }
        // The one in force has the highest number.
        rows.sort_by_key(|row| std::cmp::Reverse(row.number));
        let editions = rows.into_iter().map(Edition::try_from).collect::<Result<_, _>>()?;
        Ok(Some(DecidedConversion { conversion, editions }))
    }
}

// === impl Edition ===

impl TryFrom<EditionRow> for Edition {
    type Error = StoreError;

    fn try_from(row: EditionRow) -> Result<Self, StoreError> {
        Ok(Self {
            cause: row.cause.into(),
            reason: DecisionReason::try_from(row.reason).map_err(|_| damaged(Table::Editions))?,
            recorded_at_micros: row.recorded_at_micros,
            digest: row.digest.try_into().map_err(|_| damaged(Table::Editions))?,
            decision: row.decision,
        })
    }
}

fn current<V: View>(reader: &Reader<V>, hash: EventHash) -> Result<Option<Current>, StoreError> {
    let seen: Option<SeenRow> = reader.get(Table::Seen, &hash.0)?;
    let Some(seen) = seen.filter(|seen| !seen.home.is_empty()) else {
        return Ok(None);
    };
    let in_force = reader.get(Table::Editions, &rows::edition_key(hash))?;
    Ok(Some(Current { home: seen.home, in_force }))
}

/// The decision of the edition in force: in its row in a store of format 2, or in a table of its own.
fn decision<V: View>(reader: &Reader<V>, hash: EventHash, row: &EditionRow) -> Result<Bytes, StoreError> {
    if !row.decision.is_empty() {
        return Ok(row.decision.clone());
    }
    let stored = reader.get_encoded(Table::Decisions, &rows::decision_key(hash, row))?;
    stored.ok_or_else(|| damaged(Table::Decisions))
}

fn put_edition<V: View>(
    reader: &Reader<V>,
    batch: &mut Batch,
    partition: u32,
    hash: EventHash,
    current: &mut Current,
    edition: &NewEdition,
) -> Result<bool, StoreError> {
    let in_force = &mut current.in_force;
    if in_force
        .as_ref()
        .is_some_and(|row| edition.cause <= Position::from(row.cause) || edition.digest[..] == row.digest)
    {
        return Ok(false);
    }
    let row = EditionRow {
        number: in_force.as_ref().map_or(1, |row| row.number + 1),
        cause: edition.cause.into(),
        reason: edition.reason as i32,
        recorded_at_micros: edition.recorded_at_micros,
        digest: edition.digest.to_vec(),
        decision: Bytes::new(),
    };
    let key = rows::decision_key(hash, &row);
    batch.put_encoded(Table::Decisions, key.clone(), edition.decision.to_vec());
    batch.put(Table::Editions, rows::edition_key(hash), &row);
    let mut effect = EditionEffectRow {
        tenant: edition.tenant.to_string(),
        cause: edition.cause.into(),
        home: current.home.clone(),
        asserted_key: Some(key),
        ..EditionEffectRow::default()
    };
    if let Some(past) = in_force.replace(row) {
        // Its decision goes with this effect. By then the effect that asserts it is gone too, unless that is another
        // partition's: of a log that was lost.
        match past.decision.is_empty() && Position::from(past.cause).partition == partition {
            true => effect.retracted_key = Some(rows::decision_key(hash, &past)),
            false => effect.retracted = Some(decision(reader, hash, &past)?),
        }
        let row = EditionRow { decision: Bytes::new(), ..past };
        batch.put(Table::Editions, rows::past_edition_key(hash, row.number), &row);
    }
    let key = EffectKey::Edition(edition.cause.index, hash);
    batch.put(Table::Effects, rows::effect_key(partition, edition.cause.offset, key), &effect);
    Ok(true)
}

// A slot of a past edition is one byte of its key.
const _: () = assert!(EDITIONS_MAX <= 256);
