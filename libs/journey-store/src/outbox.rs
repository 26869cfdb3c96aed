//! What the warehouse is owed, and the store's own generation.

use std::sync::Arc;

use fail::fail_point;

use crate::{
    Continuation, EditionChange, Effects, Generation, IdentityChange, Plan, StoreError,
    continuation::Continuations,
    kv::{Batch, Kv, Reader, Table, damaged},
    rows::{
        self, EditionEffectRow, EffectKey, EmptyRow, GenerationRow, IdentityEffectRow, OffsetRow, PlanRow,
    },
    store::Store,
};

// === impl Store ===

impl<K: Kv> Store<K> {
    /// See [`crate::Outbox::generation`].
    pub(crate) fn generation_now(&self) -> Result<Option<Generation>, StoreError> {
        self.generation_row()?.map(Generation::try_from).transpose()
    }

    fn generation_row(&self) -> Result<Option<GenerationRow>, StoreError> {
        Reader::new(self.kv.view()).get(Table::Meta, &rows::generation_key())
    }

    /// See [`crate::Outbox::continuations`].
    pub(crate) fn continuations_now(&self) -> Result<Arc<Continuations>, StoreError> {
        let mut known = self.continuations.lock();
        if let Some(known) = &*known {
            return Ok(Arc::clone(known));
        }
        let read = self.generation_row()?.map(|mut row| row.take_continuations()).unwrap_or_default();
        Ok(Arc::clone(known.insert(Arc::new(read))))
    }

    /// See [`crate::Outbox::continue_in`].
    pub(crate) fn continue_in_now(&self, log: u128, continuation: Continuation) -> Result<(), StoreError> {
        let generation = self.generation_now()?.filter(|generation| generation.log != log);
        let generation = generation.ok_or_else(no_other_log)?;
        let mut continuations = (*self.continuations_now()?).clone();
        let (first, partitions) = (continuation.first, continuation.left.len() as u32);
        continuations.add(continuation)?;
        let mut batch = Batch::default();
        let row = GenerationRow::new(Generation { log, ..generation }, &continuations);
        batch.put(Table::Meta, rows::generation_key(), &row);
        for partition in 0..partitions {
            batch.put(Table::Meta, rows::consumed_key(partition), &OffsetRow { offset: first });
        }
        let cache = self.writer.lock();
        self.write(batch)?;
        drop(cache);
        *self.continuations.lock() = Some(Arc::new(continuations));
        self.kv.persist()
    }

    /// See [`crate::Outbox::reset`]. The generation goes first and comes last, each durably: a store that was interrupted
    /// on the way says that it has none, so it is reset again.
    pub(crate) fn reset_now(&self, generation: Generation) -> Result<(), StoreError> {
        // One that was interrupted before has none.
        let other = self.generation_now()?.is_some_and(|found| found.log != generation.log);
        let kept = if other { Arc::default() } else { self.continuations_now()? };
        *self.continuations.lock() = Some(Arc::clone(&kept));
        let mut cache = self.writer.lock();
        cache.clear();
        self.recent.clear();
        let mut batch = Batch::default();
        batch.remove(Table::Meta, rows::generation_key());
        self.write(batch)?;
        self.kv.persist()?;
        fail_point!("journey_store::before_clear");
        self.kv.clear()?;
        fail_point!("journey_store::after_clear");
        let mut batch = Batch::default();
        batch.put(Table::Meta, rows::generation_key(), &GenerationRow::new(generation, &kept));
        self.met.begin_again(&mut batch);
        self.write(batch)?;
        self.kv.persist()
    }

    /// See [`crate::Outbox::consumed_to`].
    pub(crate) fn consumed_to_now(&self, partition: u32) -> Result<u64, StoreError> {
        let row: Option<OffsetRow> =
            Reader::new(self.kv.view()).get(Table::Meta, &rows::consumed_key(partition))?;
        Ok(row.map_or(0, |row| row.offset))
    }

    /// See [`crate::Outbox::effects`].
    pub(crate) fn effects_now(&self, partition: u32, from: u64, to: u64) -> Result<Vec<Effects>, StoreError> {
        let continuations = self.continuations_now()?;
        let reader = Reader::new(self.kv.view());
        let mut all: Vec<Effects> = Vec::new();
        let keys = rows::effects_key(partition, from)..rows::effects_key(partition, to);
        let decision = |key: Vec<u8>| {
            reader.get_encoded(Table::Decisions, &key)?.ok_or_else(|| damaged(Table::Decisions))
        };
        for pair in reader.range(Table::Effects, keys) {
            let (key, payload) = pair?;
            let (offset, effect) = rows::effect_parts(&key)?;
            if all.last().is_none_or(|last| last.offset != offset) {
                all.push(Effects { offset, ..Effects::default() });
            }
            // There is one now.
            let Some(effects) = all.last_mut() else { continue };
            match effect {
                EffectKey::Repeat(index) => {
                    payload.decode::<EmptyRow>(Table::Effects)?;
                    effects.repeats.push(index);
                }
                EffectKey::Identity(identity) => {
                    let row: IdentityEffectRow = payload.decode(Table::Effects)?;
                    let person = rows::identity(Table::Effects, &row.person)?;
                    let (tenant, shared) = (row.tenant.into(), row.shared);
                    effects.identities.push(IdentityChange { tenant, identity, person, shared });
                }
                EffectKey::Edition(..) => {
                    let row: EditionEffectRow = payload.decode(Table::Effects)?;
                    if continuations.lost_edition(row.cause.into()) {
                        continue;
                    }
                    effects.editions.push(EditionChange {
                        tenant: row.tenant.into(),
                        cause: row.cause.into(),
                        home: rows::identity(Table::Effects, &row.home)?,
                        retracted: row.retracted_key.map(decision).transpose()?.or(row.retracted),
                        asserted: row.asserted_key.map(decision).transpose()?.unwrap_or(row.asserted),
                    });
                }
            }
        }
        Ok(all)
    }

    /// See [`crate::Outbox::plan`].
    pub(crate) fn plan_now(&self, partition: u32) -> Result<Option<Plan>, StoreError> {
        let row: Option<PlanRow> =
            Reader::new(self.kv.view()).get(Table::Meta, &rows::plan_key(partition))?;
        Ok(row.map(Plan::from))
    }

    /// See [`crate::Outbox::put_plan`].
    pub(crate) fn put_plan_now(&self, partition: u32, plan: Plan) -> Result<(), StoreError> {
        let mut cache = self.writer.lock();
        let mut batch = Batch::default();
        batch.put(Table::Meta, rows::plan_key(partition), &PlanRow::from(plan));
        // What the plan before last covered is gone already, and its removed keys are slow to walk over.
        let last = self.plan_now(partition)?;
        if last != Some(plan) {
            plan.check_follows(last)?;
        }
        let from = last.map_or(0, |last| last.from);
        let reader = Reader::new(self.kv.view());
        let keys = rows::effects_key(partition, from)..rows::effects_key(partition, plan.from);
        for pair in reader.range(Table::Effects, keys) {
            let (key, payload) = pair?;
            if let (_, EffectKey::Edition(..)) = rows::effect_parts(&key)? {
                // Nobody is told again of what it retracts.
                let row: EditionEffectRow = payload.decode(Table::Effects)?;
                row.retracted_key.into_iter().for_each(|key| batch.remove(Table::Decisions, key));
            }
            batch.remove(Table::Effects, key.to_vec());
        }
        drop(reader);
        self.write(batch).inspect_err(|_| cache.clear())?;
        drop(cache);
        fail_point!("journey_store::before_persist");
        self.kv.persist()
    }
}

/// What is refused when there is nothing to go on with.
pub(crate) fn no_other_log() -> StoreError {
    StoreError::Unavailable("it is no store of another log".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{Incoming, NewEdition, Position, memory::Memory};
    use proto::events::{DecisionReason, Event, EventType};

    /// A store with one conversion.
    fn store() -> Store<Memory> {
        let store = Store::new(Memory::default());
        store.reset_now(Generation { log: 1, id: 2 }).unwrap();
        let event = Event {
            event_id: "c".to_owned(),
            event_type: EventType::Conversion as i32,
            timestamp: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            user_id: "u".to_owned(),
            conversion: "buy".to_owned(),
            ..Event::default()
        };
        let incoming = Incoming {
            position: Position { partition: 0, offset: 0, index: 0 },
            tenant: "acme".into(),
            settings_edition: "sha256:0".into(),
            recorded_at_micros: 5,
            event,
        };
        store.record_now(0, &[incoming]).unwrap();
        store
    }

    fn decide(store: &Store<Memory>, partition: u32, offset: u64) {
        let edition = NewEdition {
            tenant: "acme".into(),
            conversion_id: "c".to_owned(),
            cause: Position { partition, offset, index: 0 },
            reason: DecisionReason::LateTouch,
            // Also when many come at one moment.
            recorded_at_micros: 5,
            digest: [offset as u8; 16],
            decision: text(offset),
        };
        assert_eq!(store.commit_now(partition, &[edition], offset + 1).unwrap(), [true]);
    }

    fn text(offset: u64) -> bytes::Bytes {
        format!("decision {offset}").into()
    }

    /// Offset, what is retracted and asserted.
    fn told(
        store: &Store<Memory>,
        partition: u32,
        from: u64,
    ) -> Vec<(u64, Option<bytes::Bytes>, bytes::Bytes)> {
        let effects = store.effects_now(partition, from, u64::MAX).unwrap().into_iter();
        effects
            .flat_map(|effects| {
                effects
                    .editions
                    .into_iter()
                    .map(move |change| (effects.offset, change.retracted, change.asserted))
            })
            .collect()
    }

    fn decisions(store: &Store<Memory>) -> usize {
        store.kv.tables.read()[Table::Decisions as usize].len()
    }

    #[test]
    fn a_decision_is_kept_as_long_as_it_is_in_force_or_somebody_may_be_told_of_it() {
        let store = store();
        (3..6).for_each(|offset| decide(&store, 0, offset));
        assert_eq!(decisions(&store), 3);
        store.put_plan_now(0, Plan { batch: 1, from: 0, to: 5, stamp: 0 }).unwrap();
        let all = [(3, None, text(3)), (4, Some(text(3)), text(4)), (5, Some(text(4)), text(5))];
        assert_eq!(told(&store, 0, 0), all);
        store.put_plan_now(0, Plan { batch: 2, from: 5, to: 6, stamp: 0 }).unwrap();
        assert_eq!(told(&store, 0, 5), all[2..]);
        assert_eq!(decisions(&store), 2);
        store.put_plan_now(0, Plan { batch: 3, from: 6, to: 7, stamp: 0 }).unwrap();
        assert_eq!(decisions(&store), 1);
        assert_eq!(store.conversion_now("acme", "c").unwrap().unwrap().editions[0].decision, text(5));
    }

    #[test]
    fn what_another_partition_may_still_be_told_of_is_kept() {
        let store = store();
        decide(&store, 0, 3);
        decide(&store, 1, 4);
        store.put_plan_now(1, Plan { batch: 1, from: 5, to: 6, stamp: 0 }).unwrap();
        store.put_plan_now(1, Plan { batch: 2, from: 6, to: 7, stamp: 0 }).unwrap();
        assert_eq!(told(&store, 1, 0), []);
        assert_eq!(told(&store, 0, 0), [(3, None, text(3))]);
    }
}
