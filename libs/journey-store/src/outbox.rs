//! What the warehouse is owed, and the store's own generation.

use std::sync::Arc;

use fail::fail_point;

use crate::{
    Continuation, EditionChange, Effects, Generation, IdentityChange, Plan, StoreError,
    continuation::Continuations,
    kv::{Batch, Kv, Reader, Table},
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
                        retracted: row.retracted,
                        asserted: row.asserted,
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
            batch.remove(Table::Effects, pair?.0.to_vec());
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
