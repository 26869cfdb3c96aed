//! Events from Kafka to stored decisions in a CQL store, in this process: what the worker of one partition does.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use event_log::{Entry, EventLog};
use futures_util::{StreamExt, TryStreamExt, stream};
use journey_store::{Incoming, JourneyQuery, JourneyStore, NewEdition, Outcome, Position};
use model::Rules;
use prost::Message;
use proto::events::{DecisionReason, Event, EventType, Frame, FrameKind};
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    statement::prepared::PreparedStatement,
};
use tokio::{runtime::Runtime, time::Instant};

use super::servers;
use crate::{
    Bench,
    events::{Mix, event},
    measure::{self, Rounds},
    table::Row,
};

const ROUNDS: usize = 5;
const ROUND_EVENTS: u64 = 4_000;
/// Nine touches and a conversion.
const PERSON_EVENTS: u64 = 10;
const FRAME_EVENTS: u64 = 100;
/// As the worker reads.
const READ_BYTES: usize = 1 << 20;
const READ_WAIT: Duration = Duration::from_secs(30);
/// As many as the store has under way at most.
const IN_FLIGHT: usize = 256;
/// A row of the bare loop: about as many bytes as a stored touch has.
const VALUE_BYTES: usize = 300;

pub(crate) fn stored(bench: &Bench) -> Result<Vec<Row>> {
    let (log, store) = (servers::kafka("bench-cql")?, servers::cql("bench")?);
    Runtime::new()?.block_on(measured(bench, &log, &store))
}

async fn measured(bench: &Bench, log: &str, store: &str) -> Result<Vec<Row>> {
    let log = event_log::open(log).await?;
    let stores = journey_store::open(store).await?;
    let bare = Bare::new(store).await?;
    let events = bench.count(ROUND_EVENTS, 200) / FRAME_EVENTS * FRAME_EVENTS;
    let (mut ours, mut theirs, mut from) = (Rounds::default(), Rounds::default(), 0);
    let (mut statements, mut seconds) = ((0, 0), (0.0, 0.0));
    for round in 0..=ROUNDS as u64 {
        fill(&*log, round * events, events).await?;
        let before = bare.statements().await?;
        let attributing = timed(attribute(&*log, &*stores.journeys, from, events));
        let (to, took, cpu) = attributing.await?;
        from = to;
        let after = bare.statements().await?;
        let (reads, writes) = (after.0 - before.0, after.1 - before.1);
        let ((), bare_took, bare_cpu) = timed(bare.run(round, reads, writes)).await?;
        // The first warms everything.
        if round > 0 {
            ours.push(events as f64 / took);
            theirs.push(events as f64 / bare_took);
            statements = (statements.0 + reads, statements.1 + writes);
            seconds = (seconds.0 + cpu, seconds.1 + bare_cpu);
        }
    }
    let (ratio, all) = (ours.ratio(&theirs), (events * ROUNDS as u64) as f64);
    Ok(vec![Row {
        key: "cql",
        what: "Kafka → attributed → stored by CQL, one partition, events/s (proxy: as many statements by the driver)"
            .to_owned(),
        ours: ours.median(),
        proxy: Some(theirs.median()),
        ratio: Some(ratio),
        target: "≥ 0.60",
        met: Some(ratio >= 0.6),
        cpu_seconds_per_operation: Some(seconds.0 / all),
        spread: ours.spread(),
        note: format!(
            "{:.2} reads and {:.2} writes an event, which cost the driver alone {:.0} CPU-µs",
            statements.0 as f64 / all,
            statements.1 as f64 / all,
            seconds.1 / all * 1e6
        ),
    }])
}

/// What some work of this process came to, with its seconds by the clock and of the processor.
async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, f64, f64)> {
    let (pid, began) = (std::process::id(), Instant::now());
    let before = measure::cpu_seconds(pid)?;
    let done = work.await?;
    Ok((done, began.elapsed().as_secs_f64(), measure::cpu_seconds(pid)? - before))
}

/// Appends events to the first partition.
async fn fill(log: &dyn EventLog, from: u64, events: u64) -> Result<()> {
    let frames = (from..from + events).step_by(FRAME_EVENTS as usize).map(|first| Frame {
        version: 1,
        kind: FrameKind::Events.into(),
        tenant: "default".to_owned(),
        settings_edition: "sha256:bench".to_owned(),
        events: (first..first + FRAME_EVENTS).map(numbered).collect(),
        ..Frame::default()
    });
    let appends = frames.map(|frame| log.append(0, frame.encode_to_vec().into()));
    futures_util::future::try_join_all(appends).await?;
    Ok(())
}

fn numbered(number: u64) -> Event {
    let conversion = number % PERSON_EVENTS == PERSON_EVENTS - 1;
    let mix = if conversion { Mix::Journeys } else { Mix::Clicks };
    let mut made = event((number % PERSON_EVENTS) as usize, mix);
    made.event_id = format!("event-{number}");
    made.device_id = format!("device-{}", number / PERSON_EVENTS);
    made.currency = if conversion { "EUR".to_owned() } else { String::new() };
    made
}

/// Attributes what was appended last, in batches as they are read.
async fn attribute(log: &dyn EventLog, store: &dyn JourneyStore, from: u64, events: u64) -> Result<u64> {
    let (tenant, edition): (Arc<str>, Arc<str>) = ("default".into(), "sha256:bench".into());
    let (rules, mut to, mut done) = (Rules::default(), from, 0);
    while done < events {
        let mut incoming = Vec::new();
        for entry in log.read(0, to, READ_BYTES, READ_WAIT).await? {
            let Entry::Record(record) = entry else { anyhow::bail!("a gap in the log") };
            to = record.offset + 1;
            let mut index = 0;
            for frame in &record.frames {
                for event in Frame::decode(frame.clone())?.events {
                    incoming.push(Incoming {
                        position: Position { partition: 0, offset: record.offset, index },
                        tenant: Arc::clone(&tenant),
                        settings_edition: Arc::clone(&edition),
                        recorded_at_micros: record.time_micros,
                        event,
                    });
                    index += 1;
                }
            }
        }
        ensure!(!incoming.is_empty(), "the log holds less than was appended");
        let outcomes = store.record(0, &incoming).await?.outcomes;
        ensure!(outcomes.iter().all(|outcome| *outcome == Outcome::First), "an id was not new");
        let conversions = incoming.iter().filter(|i| i.event.event_type() == EventType::Conversion);
        let queries: Vec<JourneyQuery> = conversions
            .map(|i| JourneyQuery { tenant: Arc::clone(&tenant), conversion_id: i.event.event_id.clone() })
            .collect();
        let mut editions = Vec::with_capacity(queries.len());
        for (query, journey) in queries.iter().zip(store.journeys(&queries, 0).await?) {
            editions.push(decided(query, journey.context("a conversion is not stored")?, &rules)?);
        }
        ensure!(!store.commit(0, &editions, to).await?.contains(&false), "a decision was not stored");
        done += incoming.len() as u64;
    }
    Ok(to)
}

fn decided(query: &JourneyQuery, journey: journey_store::StoredJourney, rules: &Rules) -> Result<NewEdition> {
    let (cause, recorded_at_micros) = (journey.conversion.position, journey.conversion.recorded_at_micros);
    ensure!(journey.touches.len() as u64 == PERSON_EVENTS - 1, "not every touch was found");
    let decision = attribution_service::decide(journey, rules)?.encode_to_vec();
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(&decision).as_bytes()[..16]);
    Ok(NewEdition {
        tenant: Arc::clone(&query.tenant),
        conversion_id: query.conversion_id.clone(),
        cause,
        reason: DecisionReason::Conversion,
        recorded_at_micros,
        digest,
        decision: decision.into(),
    })
}

/// A loop around the driver, on a table of the same columns.
struct Bare {
    session: Session,
    keyspace: String,
    read: PreparedStatement,
    write: PreparedStatement,
}

impl Bare {
    /// In the keyspace of a store that is there.
    async fn new(url: &str) -> Result<Self> {
        let place = url.trim_start_matches("scylla://").split('?').next().unwrap_or_default();
        let (hosts, keyspace) = place.split_once('/').context("no keyspace")?;
        let session = SessionBuilder::new().known_nodes(hosts.split(',')).build().await?;
        session.use_keyspace(keyspace, false).await?;
        let columns = "key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at)";
        session.query_unpaged(format!("CREATE TABLE bare ({columns})"), ()).await?;
        session.await_schema_agreement().await?;
        let mut read = session
            .prepare(
                "SELECT at, value FROM bare WHERE key = ? AND bucket = 0 AND at >= ? ORDER BY at LIMIT 1000",
            )
            .await?;
        let mut write =
            session.prepare("INSERT INTO bare (key, bucket, at, value) VALUES (?, 0, ?, ?)").await?;
        for statement in [&mut read, &mut write] {
            statement.set_consistency(scylla::statement::Consistency::LocalQuorum);
        }
        Ok(Self { session, keyspace: keyspace.to_owned(), read, write })
    }

    /// Reads and writes of the keyspace so far, as the server counts them.
    async fn statements(&self) -> Result<(u64, u64)> {
        let count = async |table: &str| -> Result<u64> {
            let query = format!("SELECT keyspace_name, count FROM system_views.{table}");
            let rows = self.session.query_unpaged(query, ()).await?.into_rows_result()?;
            let mut counted = 0;
            for row in rows.rows::<(String, i64)>()? {
                let (keyspace, count) = row?;
                counted += if keyspace == self.keyspace { u64::try_from(count)? } else { 0 };
            }
            Ok(counted)
        };
        Ok((count("coordinator_read_latency").await?, count("coordinator_write_latency").await?))
    }

    /// Runs so many of each, in turn as they come. Half of the reads find a row.
    async fn run(&self, round: u64, reads: u64, writes: u64) -> Result<()> {
        let key = |number: u64| blake3::hash(&number.to_le_bytes()).as_bytes()[..16].to_vec();
        let statements = (0..reads + writes).map(async |number| -> Result<()> {
            let own = key(round << 32 | number);
            // Reads among the writes, in proportion.
            let is_write = (number + 1) * writes / (reads + writes) > number * writes / (reads + writes);
            if is_write {
                self.session
                    .execute_unpaged(&self.write, (own, [0_u8; 24].as_slice(), vec![7_u8; VALUE_BYTES]))
                    .await?;
            } else {
                let key = if number % 2 == 0 { own } else { key(round << 32 | (number / 2)) };
                self.session.execute_unpaged(&self.read, (key, [0_u8; 0].as_slice())).await?;
            }
            Ok(())
        });
        stream::iter(statements).buffer_unordered(IN_FLIGHT).try_collect().await
    }
}
