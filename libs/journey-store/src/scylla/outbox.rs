//! What the warehouse is owed, and the store's own generation.

use fail::fail_point;

use super::{
    Scylla, Tables,
    tables::{self, InForceRow, Place, meta},
};
use crate::{
    Continuation, EditionChange, Effects, Generation, IdentityChange, Plan, StoreError,
    continuation::Continuations,
    kv::{self, Table, damaged},
    outbox::no_other_log,
    rows::{self, EffectKey, EmptyRow, GenerationRow, IdentityEffectRow, OffsetRow, PlanRow},
};

/// The row of the generation, among those that processes race for.
const GENERATION: &str = "journeys";

// === impl Scylla ===

impl Scylla {
    /// See [`crate::Outbox::generation`]. From here on this process works in it.
    pub(super) async fn generation_now(&self) -> Result<Option<Generation>, StoreError> {
        let (generation, continuations) = read_generation(self.cql.raced(GENERATION).await?.as_deref())?;
        self.begin(epoch(generation), continuations);
        Ok(generation)
    }

    /// See [`crate::Outbox::continue_in`].
    pub(super) async fn continue_in_now(
        &self,
        log: u128,
        continuation: Continuation,
    ) -> Result<(), StoreError> {
        let found = self.cql.raced(GENERATION).await?;
        let (generation, mut continuations) = read_generation(found.as_deref())?;
        let generation = generation.filter(|generation| generation.log != log).ok_or_else(no_other_log)?;
        let (first, partitions) = (continuation.first, continuation.left.len() as u32);
        continuations.add(continuation)?;
        let row = GenerationRow::new(Generation { log, ..generation }, &continuations);
        if !self.cql.swap(GENERATION, found, sealed(&row)).await? {
            return Err(StoreError::Unavailable(
                "another process changed the generation: try again".to_owned(),
            ));
        }
        self.begin(epoch(Some(generation)), continuations);
        let consumed = (0..partitions).map(|partition| {
            let row = OffsetRow { offset: first };
            Place::meta(partition).write(meta::CONSUMED.to_vec(), &row, tables::last(first, 0))
        });
        // A worker that finds an earlier position comes over what is missing by itself.
        self.tables().write(consumed.collect()).await.map_err(super::after_write)
    }

    /// Refuses to go on when another process began another generation: what this one wrote would not be seen.
    pub(super) async fn check_generation(&self, tables: Tables<'_>) -> Result<(), StoreError> {
        let (generation, _) = read_generation(self.cql.raced(GENERATION).await?.as_deref())?;
        if epoch(generation) == tables.epoch {
            return Ok(());
        }
        Err(StoreError::Superseded)
    }

    /// The rows of the generation that is in force, and where it goes on, for who only reads: this process goes on working in
    /// its own.
    pub(super) async fn in_force(&self) -> Result<(Tables<'_>, Continuations), StoreError> {
        let (generation, continuations) = read_generation(self.cql.raced(GENERATION).await?.as_deref())?;
        Ok((Tables { store: self, epoch: epoch(generation) }, continuations))
    }

    /// See [`crate::Outbox::reset`]. While it lasts there is no generation, so a reset that was interrupted is made again.
    ///
    /// Rows of another generation are never seen, so clearing only frees their space; it must not meet rows of a generation
    /// that another process began meanwhile, so only one process at a time comes to it.
    pub(super) async fn reset_now(&self, generation: Generation) -> Result<(), StoreError> {
        let busy =
            || StoreError::Unavailable("another process is starting a generation: try again".to_owned());
        let found = self.cql.raced(GENERATION).await?;
        let (last, continuations) = read_generation(found.as_deref())?;
        let other = last.is_some_and(|last| last.log != generation.log);
        let kept = if other { Continuations::default() } else { continuations };
        let token = Generation { log: 0, id: rand::random() };
        let token = GenerationRow { log: Vec::new(), ..GenerationRow::new(token, &kept) };
        let pending = sealed(&token);
        if !self.cql.swap(GENERATION, found, pending.clone()).await? {
            return Err(busy());
        }
        fail_point!("journey_store::before_clear");
        self.cql.truncate().await?;
        fail_point!("journey_store::after_clear");
        if !self.cql.swap(GENERATION, Some(pending), sealed(&GenerationRow::new(generation, &kept))).await? {
            // What was cleared may have been the other one's already.
            self.cql.remove(GENERATION).await?;
            return Err(busy());
        }
        self.begin(epoch(Some(generation)), kept);
        Ok(())
    }

    /// See [`crate::Outbox::consumed_to`].
    pub(super) async fn consumed_to_now(&self, partition: u32) -> Result<u64, StoreError> {
        let tables = self.tables();
        let read = tables.read(vec![Place::meta(partition).one(meta::CONSUMED.to_vec())]);
        let ((), rows) = tokio::try_join!(self.check_generation(tables), read)?;
        let row = rows.into_iter().flatten().next();
        let row: Option<OffsetRow> = row.map(|row| row.decode(Table::Meta)).transpose()?;
        Ok(row.map_or(0, |row| row.offset))
    }

    /// See [`crate::Outbox::plan`].
    pub(super) async fn plan_now(&self, partition: u32) -> Result<Option<Plan>, StoreError> {
        let value = self.cql.raced(&plan_name(partition)).await?;
        read_plan(&self.tables().epoch, partition, value.as_deref())
    }

    /// See [`crate::Outbox::put_plan`]. Every write is durable when it is acknowledged, as far as the servers are told to make
    /// it so, and so are those before.
    pub(super) async fn put_plan_now(&self, partition: u32, plan: Plan) -> Result<(), StoreError> {
        let tables = self.tables();
        let name = plan_name(partition);
        let found = self.cql.raced(&name).await?;
        let last = read_plan(&tables.epoch, partition, found.as_deref())?;
        if last != Some(plan) {
            self.check_generation(tables).await?;
            plan.check_follows(last)?;
            if !self.cql.swap(&name, found, sealed_plan(&tables.epoch, partition, plan)).await? {
                return Err(StoreError::Unavailable(format!(
                    "another process planned a batch of partition {partition}"
                )));
            }
        }
        let end = meta::effects(tables::effect_bucket(plan.from));
        let done =
            buckets(tables, partition, meta::effects(0), end.clone()).await.map_err(super::after_write)?;
        if done.is_empty() {
            return Ok(());
        }
        let places = done.into_iter().map(|bucket| Place::effects(partition, bucket)).collect();
        tables.drop(places, tables::last(plan.from, 0)).await?;
        // After the effects, so that none is forgotten.
        self.cql.cut(&tables.epoch, &Place::meta(partition), meta::effects(0), end, tables::ADDED).await
    }

    /// See [`crate::Outbox::effects`].
    pub(super) async fn effects_now(
        &self,
        partition: u32,
        from: u64,
        to: u64,
    ) -> Result<Vec<Effects>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let tables = self.tables();
        let first = meta::effects(tables::effect_bucket(from));
        // The bucket of the last record, and what comes right behind it.
        let end = [&meta::effects(tables::effect_bucket(to - 1))[..], &[0]].concat();
        let (plan, buckets) =
            tokio::try_join!(self.plan_now(partition), buckets(tables, partition, first, end))?;
        // Removed buckets are removed as a whole, and what is left of records before the plan is not owed any more.
        let from = from.max(plan.map_or(0, |plan| plan.from));
        let (first, end) = (tables::effects_from(from), tables::effects_from(to));
        let reads = buckets.into_iter().map(|bucket| {
            let place = Place::effects(partition, bucket);
            place.range(first.clone(), end.clone())
        });
        let continuations = self.continuations();
        let mut all: Vec<Effects> = Vec::new();
        for row in tables.read(reads.collect()).await?.into_iter().flatten() {
            let (offset, effect) = tables::effect_parts(&row.at)?;
            if all.last().is_none_or(|last| last.offset != offset) {
                all.push(Effects { offset, ..Effects::default() });
            }
            // There is one now.
            let Some(effects) = all.last_mut() else { continue };
            match effect {
                EffectKey::Repeat(index) => {
                    row.decode::<EmptyRow>(Table::Effects)?;
                    effects.repeats.push(index);
                }
                EffectKey::Identity(identity) => {
                    let row: IdentityEffectRow = row.decode(Table::Effects)?;
                    let person = rows::identity(Table::Effects, &row.person)?;
                    let (tenant, shared) = (row.tenant.into(), row.shared);
                    told(effects, IdentityChange { tenant, identity, person, shared });
                }
                EffectKey::Edition(..) => {
                    let row = row.decode::<InForceRow>(Table::Effects)?.effect;
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
}

/// Adds what a record tells of an identity; of several persons the smallest counts, and that it is shared.
fn told(effects: &mut Effects, change: IdentityChange) {
    match effects.identities.last_mut() {
        Some(last) if last.identity == change.identity => {
            last.shared |= change.shared;
            last.person = if last.shared { last.identity } else { last.person.min(change.person) };
        }
        _ => effects.identities.push(change),
    }
}

/// Buckets in which a partition has effects, ordered.
async fn buckets(
    tables: Tables<'_>,
    partition: u32,
    from: Vec<u8>,
    to: Vec<u8>,
) -> Result<Vec<i64>, StoreError> {
    let rows = tables.read(vec![Place::meta(partition).range(from, to)]).await?.into_iter().flatten();
    rows.map(|row| {
        row.decode::<EmptyRow>(Table::Meta)?;
        meta::bucket(&row.at).ok_or_else(|| damaged(Table::Meta))
    })
    .collect()
}

/// What a stored generation says, and where it goes on; one that is only pending is none.
fn read_generation(value: Option<&[u8]>) -> Result<(Option<Generation>, Continuations), StoreError> {
    let Some(value) = value else { return Ok(Default::default()) };
    let value = kv::opened(Table::Meta, &rows::generation_key(), value)?;
    let mut row = <GenerationRow as prost::Message>::decode(value).map_err(|_| damaged(Table::Meta))?;
    let continuations = row.take_continuations();
    let generation = if row.log.is_empty() { None } else { Some(Generation::try_from(row)?) };
    Ok((generation, continuations))
}

fn sealed(row: &GenerationRow) -> Vec<u8> {
    kv::sealed(Table::Meta, &rows::generation_key(), row)
}

fn plan_name(partition: u32) -> String {
    format!("plan {partition}")
}

/// What a stored plan says: the epoch that it belongs to, and the row. One of another epoch is none.
fn read_plan(epoch: &[u8; 16], partition: u32, value: Option<&[u8]>) -> Result<Option<Plan>, StoreError> {
    let Some(value) = value else { return Ok(None) };
    let (of, sealed) = value.split_at_checked(epoch.len()).ok_or_else(|| damaged(Table::Meta))?;
    let row = kv::opened(Table::Meta, &[of, &rows::plan_key(partition)].concat(), sealed)?;
    let row = <PlanRow as prost::Message>::decode(row).map_err(|_| damaged(Table::Meta))?;
    Ok((of == epoch).then(|| Plan::from(row)))
}

fn sealed_plan(epoch: &[u8; 16], partition: u32, plan: Plan) -> Vec<u8> {
    let key = [&epoch[..], &rows::plan_key(partition)].concat();
    [epoch.to_vec(), kv::sealed(Table::Meta, &key, &PlanRow::from(plan))].concat()
}

fn epoch(generation: Option<Generation>) -> [u8; 16] {
    generation.map_or([0; 16], |generation| generation.id.to_be_bytes())
}
