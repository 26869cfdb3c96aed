//! The worker of one partition: write before read, decide, send re-decides, and commit the position last.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use event_log::{Entry, EventLog};
use fail::fail_point;
use journey_store::{Affected, JourneyQuery, JourneyStore, NewEdition, Outcome, Position, StoredJourney};
use parking_lot::Mutex;
use prost::Message;
use proto::{
    decisions::Decision,
    events::{DecisionReason, EventType},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    Config, Deps, Made, Progress, RulesOf, decision,
    error::Error,
    frames::{self, Contents},
    held::Held,
    metrics,
    scoring::{Scorer, Scoring, ToScore, WorkerScores},
};

const READ_WAIT: Duration = Duration::from_millis(250);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Worker {
    partition: u32,
    batch_bytes_max: usize,
    journeys_max: usize,
    log: Arc<dyn EventLog>,
    journeys: Arc<dyn JourneyStore>,
    rules: RulesOf,
    progress: Arc<Progress>,
    decisions: broadcast::Sender<Made>,
    held: Arc<Held>,
    scorer: Option<WorkerScores>,
    /// Those of the batch before, for their memory: a new one of this size is asked of the system page by page.
    contents: Mutex<Contents>,
}

/// A conversion that has to be decided in this batch.
struct Due {
    /// Whether it was never met before, so that no edition of it can be stored.
    new: bool,
    cause: Position,
    reason: DecisionReason,
    recorded_at_micros: i64,
    traceparent: Option<String>,
}

type Key = (Arc<str>, String);

/// Ids with the reasons to decide them again.
type Conversions = Vec<(String, DecisionReason)>;

// === impl Worker ===

impl Worker {
    pub(crate) fn new(
        partition: u32,
        config: &Config,
        deps: &Deps,
        held: Arc<Held>,
        progress: Arc<Progress>,
        decisions: broadcast::Sender<Made>,
        scorer: Option<Arc<Scorer>>,
    ) -> Self {
        Self {
            partition,
            batch_bytes_max: config.worker_batch_bytes_max,
            journeys_max: config.journeys_max,
            log: Arc::clone(&deps.log),
            journeys: Arc::clone(&deps.journeys),
            rules: Arc::clone(&deps.rules),
            progress,
            decisions,
            held,
            scorer: scorer.map(|scorer| WorkerScores::new(partition, scorer)),
            contents: Mutex::default(),
        }
    }

    /// Works until the shutdown; what fails is tried again, for every effect is idempotent.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut pause = Duration::from_millis(50);
        while !shutdown.is_cancelled() {
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                step = self.step() => step,
            };
            match step {
                Ok(()) => {
                    self.held.goes_on(self.partition);
                    pause = Duration::from_millis(50);
                }
                Err(error) if error.is_final() => return self.progress.end(&error),
                Err(error) => {
                    tracing::error!(partition = self.partition, %error, "attribution is held up and tries again");
                    self.held.up(self.partition, error.to_string());
                    if let Some(scorer) = &self.scorer {
                        scorer.failed();
                    }
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    pub(crate) async fn step(&self) -> Result<(), Error> {
        let from = self.progress.consumed_to(self.partition);
        let entries = self.log.read(self.partition, from, self.batch_bytes_max, READ_WAIT).await?;
        let read_at = Instant::now();
        if let Some(scorer) = &self.scorer {
            scorer.read(from, &entries);
            scorer.ask_again(&*self.log).await?;
        }
        if entries.is_empty() {
            self.progress.behind(self.partition, 0);
            *self.contents.lock() = Contents::default();
            return Ok(());
        }
        let mut contents = std::mem::take(&mut *self.contents.lock());
        contents.clear();
        let mut to = from;
        for entry in &entries {
            match entry {
                Entry::Record(record) => {
                    frames::decode(self.partition, record, &mut contents)?;
                    to = record.offset + 1;
                    self.progress.behind(self.partition, micros_since(record.time_micros));
                }
                Entry::Gap { from, to: until, reason } => {
                    tracing::error!(
                        partition = self.partition,
                        from,
                        until,
                        reason,
                        "events are missing from the log"
                    );
                    to = *until;
                }
            }
        }
        self.progress.read(self.partition, to - from, contents.events.len() as u64);
        self.process(&contents, to).await?;
        let conversions =
            contents.events.iter().filter(|e| e.event.event_type() == EventType::Conversion).count();
        for _ in 0..conversions {
            metrics::decided(read_at.elapsed());
        }
        self.progress.consumed(self.partition, to);
        *self.contents.lock() = contents;
        Ok(())
    }

    async fn process(&self, contents: &Contents, to: u64) -> Result<(), Error> {
        if commits_first() {
            self.journeys.commit(self.partition, &[], to).await?;
        }
        let recorded = self.journeys.record(self.partition, &contents.events).await?;
        fail_point!("worker::after_record");
        if let Some(scorer) = &self.scorer {
            scorer.saw(&contents.events, &recorded.outcomes);
        }
        let due = due(contents, &recorded.outcomes);
        self.send_redecides(recorded.affected, &due).await?;
        fail_point!("worker::after_redecides");
        let mut editions = Vec::with_capacity(due.len());
        let mut made = Vec::new();
        let due: Vec<(Key, Due)> = due.into_iter().collect();
        for chunk in due.chunks(self.journeys_max) {
            self.decide(contents, chunk, &mut editions, &mut made).await?;
        }
        fail_point!("worker::before_commit");
        let stored = self.journeys.commit(self.partition, &editions, to).await?;
        fail_point!("worker::after_commit");
        if self.decisions.receiver_count() > 0 {
            for (_, decision) in made.into_iter().enumerate().filter(|(index, _)| stored[*index]) {
                // Without a reader there is nobody to tell.
                let _ = self.decisions.send(Arc::new(decision));
            }
        }
        Ok(())
    }

    /// New conversions of this batch are decided after its writes, so only others need a second look. One that was met
    /// before may have an edition of the same cause already, which a batch that is tried again with more in it cannot
    /// take the place of.
    async fn send_redecides(&self, affected: Vec<Affected>, due: &BTreeMap<Key, Due>) -> Result<(), Error> {
        let partitions = self.log.partitions();
        let mut asked: BTreeMap<(u32, Arc<str>), Conversions> = BTreeMap::new();
        for conversion in affected {
            let key = (Arc::clone(&conversion.tenant), conversion.conversion_id);
            if due.get(&key).is_some_and(|due| due.new) {
                continue;
            }
            let partition = conversion.home.partition(partitions);
            asked.entry((partition, conversion.tenant)).or_default().push((key.1, conversion.reason));
        }
        for ((partition, tenant), conversions) in asked {
            for frame in frames::encode_redecides(&tenant, now_micros(), conversions) {
                self.log.append(partition, frame).await?;
            }
        }
        Ok(())
    }

    async fn decide(
        &self,
        contents: &Contents,
        due: &[(Key, Due)],
        editions: &mut Vec<NewEdition>,
        made: &mut Vec<(Arc<str>, Decision)>,
    ) -> Result<(), Error> {
        let queries: Vec<JourneyQuery> = due
            .iter()
            .map(|((tenant, id), _)| JourneyQuery { tenant: Arc::clone(tenant), conversion_id: id.clone() })
            .collect();
        let conversions_max = self.scorer.as_ref().map_or(0, WorkerScores::conversions_max);
        let mut journeys = self.journeys.journeys(&queries, conversions_max).await?;
        read_early(&mut journeys, contents);
        let mut cases = Vec::with_capacity(due.len());
        for (((tenant, id), due), journey) in due.iter().zip(journeys) {
            let Some(journey) = journey else {
                // A re-decide is only sent for a stored conversion; one that is gone was damaged and reported.
                tracing::error!(%tenant, conversion = %id, "a conversion to decide again is not stored");
                continue;
            };
            let edition = Arc::clone(&journey.conversion.settings_edition);
            let rules = (self.rules)(tenant, &edition).ok_or_else(|| Error::UnknownEdition {
                tenant: tenant.to_string(),
                edition: edition.to_string(),
            })?;
            cases.push((tenant, id, due, journey, rules));
        }
        let mut given = match &self.scorer {
            Some(scorer) => {
                let due: Vec<ToScore<'_>> = cases
                    .iter()
                    .map(|(tenant, id, due, journey, rules)| ToScore {
                        tenant,
                        conversion_id: id,
                        cause: due.cause,
                        new: due.new,
                        journey,
                        rules,
                    })
                    .collect();
                scorer.given(&due).await?
            }
            None => Vec::new(),
        }
        .into_iter();
        for (tenant, id, due, journey, rules) in cases {
            let given = given.next();
            let scoring = given.as_ref().map_or(Scoring::Off, Scoring::Given);
            let decision = match &due.traceparent {
                Some(parent) => {
                    let span = tracing::info_span!("decide", conversion = %id);
                    telemetry::trace::set_parent(&span, parent);
                    async { decision::decide_scored(journey, &rules, &scoring) }.instrument(span).await?
                }
                None => decision::decide_scored(journey, &rules, &scoring)?,
            };
            let encoded = decision.encode_to_vec();
            let mut digest = [0; 16];
            digest.copy_from_slice(&blake3::hash(&encoded).as_bytes()[..16]);
            editions.push(NewEdition {
                tenant: Arc::clone(tenant),
                conversion_id: id.clone(),
                cause: due.cause,
                reason: due.reason,
                recorded_at_micros: due.recorded_at_micros,
                digest,
                decision: encoded.into(),
            });
            if let Some(scorer) = self.scorer.as_ref().filter(|_| due.new) {
                scorer.decided(tenant, &decision);
            }
            made.push((Arc::clone(tenant), decision));
        }
        Ok(())
    }
}

/// What this batch has to decide: its own new conversions under their own positions, and of the re-decides of one
/// conversion the last.
fn due(contents: &Contents, outcomes: &[Outcome]) -> BTreeMap<Key, Due> {
    let mut due = BTreeMap::new();
    for asked in &contents.asked {
        due.insert(
            (Arc::clone(&asked.tenant), asked.redecide.conversion_id.clone()),
            Due {
                new: false,
                cause: asked.position,
                reason: asked.redecide.reason(),
                recorded_at_micros: asked.recorded_at_micros,
                traceparent: None,
            },
        );
    }
    let mut traces = contents.traces.iter().peekable();
    let mut traceparent = None;
    for (index, (incoming, outcome)) in contents.events.iter().zip(outcomes).enumerate() {
        while let Some((_, parent)) = traces.next_if(|(first, _)| *first <= index) {
            traceparent = Some(parent).filter(|parent| !parent.is_empty());
        }
        if incoming.event.event_type() != EventType::Conversion || *outcome == Outcome::Repeat {
            continue;
        }
        let key = (Arc::clone(&incoming.tenant), incoming.event.event_id.clone());
        let new = *outcome == Outcome::First;
        // What was asked of one met before is the later cause.
        if !new && due.contains_key(&key) {
            continue;
        }
        due.insert(
            key,
            Due {
                new,
                cause: incoming.position,
                reason: DecisionReason::Conversion,
                recorded_at_micros: incoming.recorded_at_micros,
                traceparent: traceparent.cloned(),
            },
        );
    }
    due
}

/// Only a mutant commits the position before its effects.
fn commits_first() -> bool {
    fail_point!("mutant::commit_before_effect", |_| true);
    false
}

/// Only a mutant reads journeys as they were before the batch was written.
fn read_early(_journeys: &mut [Option<StoredJourney>], _written: &Contents) {
    fail_point!("mutant::read_before_write", |_| for journey in _journeys.iter_mut().flatten() {
        journey.touches.retain(|touch| _written.events.iter().all(|e| e.event.event_id != touch.event_id));
    });
}

fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

fn micros_since(time_micros: i64) -> u64 {
    (now_micros() - time_micros).max(0).unsigned_abs()
}
