//! Ingestion into Kafka, by the processor time of the process that takes the events; and what the filter in Redis adds.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::future::try_join_all;
use rdkafka::{
    ClientConfig,
    error::KafkaError,
    producer::{FutureProducer, FutureRecord},
};
use tokio::{runtime::Runtime, time::Instant};

use super::{
    http::{CONNECTIONS, ROUNDS, Taken, round},
    log::frame,
    servers,
};
use crate::{
    Bench,
    child::Process,
    events::{Ids, Mix, Template},
    measure::{self, Latencies, Rounds},
    table::Row,
};

const ROUND_SECONDS: f64 = 3.0;
const BATCH_EVENTS: usize = 100;

/// What ingestion is held against: its requests received and parsed by one process, and as many events sent by a loop around
/// librdkafka in another; both processor times summed.
pub(crate) fn appended(bench: &Bench) -> Result<Vec<Row>> {
    let url = servers::kafka("bench")?;
    let data = bench.data("ingestion")?;
    let ours = Process::server(&["ingestion", "--log", &url], Some(&data))?;
    let parse = Process::server(&["http-parse"], None)?;
    let bare = Bare::new(&url)?;
    let (ids, template) = (Ids::new(), Template::json(BATCH_EVENTS, Mix::Clicks));
    let (mut packed, mut single, mut latencies) = (Taken::default(), Taken::default(), Latencies::new()?);
    for server in [&ours, &parse] {
        round(server, &template, &ids, bench.time(1.0))?;
    }
    bare.per_cpu_second(BATCH_EVENTS, bench.time(1.0))?;
    let time = bench.time(ROUND_SECONDS);
    for _ in 0..ROUNDS {
        let (loaded, cpu_seconds) = round(&ours, &template, &ids, time)?;
        latencies.add(&loaded.latencies)?;
        let (parsed, parsing_seconds) = round(&parse, &template, &ids, time)?;
        let parsing = parsing_seconds / parsed.events as f64;
        for (taken, record_events) in [(&mut packed, BATCH_EVENTS), (&mut single, 1)] {
            taken.note(true, &loaded, cpu_seconds);
            taken.proxy.push(1.0 / (parsing + 1.0 / bare.per_cpu_second(record_events, time)?));
        }
    }
    for taken in [&mut packed, &mut single] {
        taken.p99_micros = latencies.micros(0.99);
    }
    let what = |records| {
        format!(
            "HTTP JSON batches of 100 → Kafka, acks=all, events/CPU-s (proxy: hyper and parse, and librdkafka with {records})"
        )
    };
    Ok(vec![
        packed.row("kafka", &what("a record for 100 events"), "≥ 0.60", 0.6),
        single.row("kafka-single", &what("a record for each event"), "≥ 0.60", 0.6),
    ])
}

/// The same log, with ids in Redis and with next to none remembered.
pub(crate) fn filtered(bench: &Bench) -> Result<Vec<Row>> {
    let (url, redis) = (servers::kafka("bench-filter")?, servers::redis()?);
    let start = |folder: &str, cache: &str| -> Result<Process> {
        Process::server(&["ingestion", "--log", &url, "--cache", cache], Some(&bench.data(folder)?))
    };
    let (with, without) = (start("with", &redis)?, start("without", "memory://?seen_max=16")?);
    let (ids, template) = (Ids::new(), Template::json(BATCH_EVENTS, Mix::Clicks));
    let (mut ours, mut bare) = (Rounds::default(), Rounds::default());
    for server in [&with, &without] {
        round(server, &template, &ids, bench.time(1.0))?;
    }
    for _ in 0..ROUNDS {
        for (server, micros) in [(&with, &mut ours), (&without, &mut bare)] {
            let (loaded, cpu_seconds) = round(server, &template, &ids, bench.time(ROUND_SECONDS))?;
            micros.push(cpu_seconds * 1e6 / loaded.events as f64);
        }
    }
    let ratio = ours.ratio(&bare);
    Ok(vec![Row {
        key: "redis",
        what: "HTTP JSON batches of 100 → Kafka with ids in Redis, CPU-µs an event (proxy: without)"
            .to_owned(),
        ours: ours.median(),
        proxy: Some(bare.median()),
        ratio: Some(ratio),
        target: "≤ 1.15",
        met: Some(ratio <= 1.15),
        cpu_seconds_per_operation: Some(ours.median() / 1e6),
        spread: ours.spread(),
        note: "of ingestion's process".to_owned(),
    }])
}

/// A loop around librdkafka, with the settings of the log.
struct Bare {
    runtime: Runtime,
    producer: FutureProducer,
    topic: String,
}

impl Bare {
    fn new(url: &str) -> Result<Self> {
        let (brokers, topic) = servers::brokers(url)?;
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "zstd")
            .set("compression.level", "1");
        Ok(Self { runtime: Runtime::new()?, producer: config.create()?, topic: topic.to_owned() })
    }

    /// Sends as many events at a time as ingestion's clients do, so many in a record, until the time is over.
    fn per_cpu_second(&self, record_events: usize, time: Duration) -> Result<f64> {
        let records = CONNECTIONS * BATCH_EVENTS / record_events;
        // No two alike: equal ones would be compressed as no real ones are.
        let payloads: Vec<Bytes> = (0..records).map(|_| frame(record_events)).collect();
        let (pid, began) = (std::process::id(), Instant::now());
        let before = measure::cpu_seconds(pid)?;
        let sent = self.runtime.block_on(async {
            let loops = payloads.iter().zip(0..).map(async |(payload, number)| {
                let mut sent = 0_u64;
                while began.elapsed() < time {
                    let record: FutureRecord<'_, (), [u8]> = FutureRecord::to(&self.topic)
                        .partition(number % servers::PARTITIONS as i32)
                        .payload(payload);
                    self.producer.send(record, Duration::from_secs(60)).await.map_err(|(error, _)| error)?;
                    sent += 1;
                }
                Ok::<_, KafkaError>(sent)
            });
            try_join_all(loops).await
        })?;
        let events = sent.iter().sum::<u64>() * record_events as u64;
        // A tick at least: a short round may not see one.
        Ok(events as f64 / (measure::cpu_seconds(pid)? - before).max(0.01))
    }
}
