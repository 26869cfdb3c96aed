//! The fact writer of one partition: plans a batch durably, inserts it, and never gets ahead of the worker.

use std::{pin::pin, sync::Arc, time::Duration};

use event_log::{Entry, EventLog, LogError};
use fail::fail_point;
use journey_store::{Outbox, Plan};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use warehouse::{Facts, Warehouse};

use crate::{Config, Deps, Progress, error::Error, facts, held::Held};

const READ_BYTES: usize = 1024 * 1024;
/// A start waits for its warehouse by these pauses, and is not ready meanwhile.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// After so long an insert that is not answered is told of. It is waited for all the same, as long as its connection
/// lives: it may still be applied, and would then be there twice if it was sent again.
const INSERT_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct FactWriter {
    partition: u32,
    rows_max: usize,
    touches_max: usize,
    linger: Duration,
    log: Arc<dyn EventLog>,
    outbox: Arc<dyn Outbox>,
    warehouse: Warehouse,
    progress: Arc<Progress>,
    held: Arc<Held>,
}

/// Where the writer stands between two steps.
struct State {
    /// The last batch that is in the warehouse.
    batch: u64,
    /// The offset from which on nothing was looked at yet.
    from: u64,
    /// Whether more is waiting.
    full: bool,
}

enum Bound {
    Batch,
    None,
}

/// Facts of a range of records.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) facts: Facts,
    /// The offset behind the last record.
    pub(crate) to: u64,
    /// Append time of the last record, Unix microseconds.
    pub(crate) time_micros: i64,
    /// Touches in the rows, each of a journey counted.
    pub(crate) touches: usize,
    /// Of sampled requests, at most [`TRACES_MAX`].
    pub(crate) traceparents: Vec<String>,
}

/// The most requests whose traces are followed into one batch.
pub(crate) const TRACES_MAX: usize = 64;

// === impl FactWriter ===

impl FactWriter {
    pub(crate) fn new(
        partition: u32,
        config: &Config,
        deps: &Deps,
        held: Arc<Held>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            partition,
            rows_max: config.fact_rows_max,
            touches_max: config.fact_touches_max,
            linger: Duration::from_millis(config.fact_linger_millis),
            log: Arc::clone(&deps.log),
            outbox: Arc::clone(&deps.outbox),
            warehouse: deps.warehouse.clone(),
            progress,
            held,
        }
    }

    /// Works until the shutdown. After any failure it starts over from the plan: what is in the warehouse stays as it is.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut pause = Duration::from_millis(50);
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let failed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                failed = self.work() => failed,
            };
            if let Err(error) = failed {
                if error.is_final() {
                    return self.progress.end(&error);
                }
                tracing::error!(partition = self.partition, %error, "facts are held up; decisions go on");
                self.held.up(self.partition, error.to_string());
            }
            if began.elapsed() > RETRY_PAUSE_MAX {
                pause = Duration::from_millis(50);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    async fn work(&self) -> Result<(), Error> {
        let mut state = self.resume().await?;
        self.held.goes_on(self.partition);
        loop {
            self.step(&mut state).await?;
        }
    }

    /// Finishes the batch that was planned last, whatever of it is in the warehouse already. Where a restored journey store
    /// is older than the warehouse, what it knows nothing of is taken back: it is made again from the log.
    async fn resume(&self) -> Result<State, Error> {
        let batch = |plan: Option<Plan>| plan.map_or(0, |plan| plan.batch);
        let mut plan = self.outbox.plan(self.partition).await?;
        let written = self.warehouse.progress().await?;
        let written =
            written.iter().filter(|p| p.partition == self.partition).map(|p| p.batch).max().unwrap_or(0);
        if written + 1 < batch(plan) {
            return Err(Error::Behind { partition: self.partition, written, planned: batch(plan) });
        }
        if written > batch(plan) {
            // Another process may have planned and written meanwhile; nothing is written that was not planned before.
            plan = self.outbox.plan(self.partition).await?;
        }
        let plan = plan.unwrap_or(Plan { batch: 0, from: 0, to: 0, stamp: 0 });
        if written != plan.batch {
            let collected = self.collect(plan.from, plan.to, Bound::None).await?;
            let id = self.id(plan, &collected);
            if written < plan.batch {
                // A process that was killed while it stored the plan leaves one that is there and not durable yet.
                self.put_plan(plan).await?;
                self.warehouse.resume_batch(id, plan.stamp, &collected.facts).await?;
                tracing::info!(
                    partition = self.partition,
                    batch = plan.batch,
                    "a planned batch was finished"
                );
            } else {
                self.warehouse.cut(id, random_stamp()).await?;
                tracing::warn!(
                    partition = self.partition,
                    planned = plan.batch,
                    written,
                    "the warehouse was ahead of the journey store: later batches were taken back and are made again"
                );
            }
        }
        self.progress.written(self.partition, plan.to);
        Ok(State { batch: plan.batch, from: plan.to, full: true })
    }

    async fn step(&self, state: &mut State) -> Result<(), Error> {
        let consumed = self.wait(state).await;
        let collected = self.collect(state.from, consumed, Bound::Batch).await?;
        state.full = collected.to < consumed;
        if collected.facts.rows() > 0 {
            let stamp = random_stamp();
            let plan = Plan { batch: state.batch + 1, from: state.from, to: collected.to, stamp };
            if !plans_late() {
                self.put_plan(plan).await?;
            }
            fail_point!("fact_writer::after_plan");
            self.insert(plan, &collected).await?;
            fail_point!("fact_writer::after_insert");
            if plans_late() {
                self.put_plan(plan).await?;
            }
            state.batch = plan.batch;
            let rows = collected.facts.rows();
            tracing::debug!(partition = self.partition, batch = plan.batch, rows, "a batch was reported");
        }
        // Records without facts need no batch: after a restart they are looked at again.
        state.from = collected.to;
        self.progress.written(self.partition, collected.to);
        Ok(())
    }

    /// Waits for something to write and, unless there is plenty already, for more of it.
    async fn wait(&self, state: &State) -> u64 {
        let mut consumed = self.progress.watch_consumed(self.partition);
        // The sender lives as long as `self.progress`, so waiting cannot fail.
        let _ = consumed.wait_for(|to| *to > state.from).await;
        if !state.full {
            tokio::time::sleep(self.linger).await;
        }
        *consumed.borrow()
    }

    async fn put_plan(&self, plan: Plan) -> Result<(), Error> {
        Ok(self.outbox.put_plan(self.partition, plan).await?)
    }

    async fn insert(&self, plan: Plan, collected: &Collected) -> Result<(), Error> {
        let spans: Vec<_> = collected
            .traceparents
            .iter()
            .map(|parent| {
                let span = tracing::info_span!("report", partition = self.partition, batch = plan.batch);
                telemetry::trace::set_parent(&span, parent);
                span
            })
            .collect();
        let insert = self.warehouse.write_batch(self.id(plan, collected), plan.stamp, &collected.facts);
        let span = spans.first().cloned().unwrap_or_else(tracing::Span::none);
        let mut insert = pin!(insert.instrument(span));
        let Ok(inserted) = tokio::time::timeout(INSERT_PATIENCE, &mut insert).await else {
            tracing::warn!(partition = self.partition, batch = plan.batch, "the warehouse does not answer");
            self.held.up(self.partition, "the warehouse does not answer");
            insert.await?;
            self.held.goes_on(self.partition);
            return Ok(());
        };
        Ok(inserted?)
    }

    fn id(&self, plan: Plan, collected: &Collected) -> warehouse::Progress {
        let (partition, Plan { batch, to, .. }) = (self.partition, plan);
        warehouse::Progress { partition, batch, to, time_micros: collected.time_micros }
    }

    /// The facts of records from an offset on, up to another or to the bound of a batch.
    async fn collect(&self, from: u64, to: u64, bound: Bound) -> Result<Collected, Error> {
        let mut collected = Collected { to: from, ..Collected::default() };
        while collected.to < to {
            let entries = self.log.read(self.partition, collected.to, READ_BYTES, Duration::ZERO).await?;
            let last = entries.last().map(|entry| match entry {
                Entry::Record(record) => record.offset + 1,
                Entry::Gap { to, .. } => *to,
            });
            let Some(last) = last else {
                return Err(LogError::Unavailable(format!("record {} is not there", collected.to)).into());
            };
            let mut effects =
                self.outbox.effects(self.partition, collected.to, last.min(to)).await?.into_iter().peekable();
            for entry in entries {
                match entry {
                    Entry::Gap { from, to: until, reason } => {
                        let until = until.min(to);
                        tracing::warn!(
                            partition = self.partition,
                            from,
                            until,
                            reason,
                            "records are missing: what was decided because of them is reported, their touches are not"
                        );
                        collected.time_micros = self.log.end(self.partition).await?.time_micros;
                        while let Some(effects) = effects.next_if(|effects| effects.offset < until) {
                            facts::add_effects(&effects, collected.time_micros, &mut collected)?;
                        }
                        collected.to = until;
                        if matches!(bound, Bound::Batch) && self.is_full(&collected) {
                            return Ok(collected);
                        }
                    }
                    Entry::Record(record) if record.offset >= to => break,
                    Entry::Record(record) => {
                        let effects = effects.next_if(|effects| effects.offset == record.offset);
                        facts::add(self.partition, &record, effects.as_ref(), &mut collected)?;
                        collected.to = record.offset + 1;
                        if matches!(bound, Bound::Batch) && self.is_full(&collected) {
                            return Ok(collected);
                        }
                    }
                }
            }
        }
        Ok(collected)
    }

    fn is_full(&self, collected: &Collected) -> bool {
        collected.facts.rows() >= self.rows_max || collected.touches >= self.touches_max
    }
}

/// What no other plan has.
fn random_stamp() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}

/// Only a mutant plans a batch after it was inserted.
fn plans_late() -> bool {
    fail_point!("mutant::plan_after_insert", |_| true);
    false
}
