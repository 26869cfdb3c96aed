//! One conversion with 20 touches, read, decided and stored, in this process: what the worker does for it.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use journey_store::{Incoming, JourneyQuery, JourneyStore, NewEdition, Position};
use model::Rules;
use prost::Message;
use proto::events::{DecisionReason, EventType};
use rand::seq::SliceRandom;

use crate::{
    Bench,
    events::{Mix, event},
    measure::{self, Latencies, Rounds},
    table::Row,
};

const TOUCHES: usize = 20;
const PERSONS: u64 = 20_000;
const ROUNDS: usize = 5;
/// Persons recorded at once.
const RECORDED: usize = 200;

pub(crate) fn stored(bench: &Bench) -> Result<Vec<Row>> {
    let folder = bench.data("journeys")?;
    let persons = bench.count(PERSONS, 100);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let stores = journey_store::open(&format!("file://{}", folder.display())).await?;
        fill(stores.journeys.as_ref(), persons).await?;
        measured(stores.journeys.as_ref(), persons).await
    })
}

async fn fill(store: &dyn JourneyStore, persons: u64) -> Result<()> {
    let (tenant, edition): (Arc<str>, Arc<str>) = ("default".into(), "sha256:bench".into());
    let all: Vec<u64> = (0..persons).collect();
    for some in all.chunks(RECORDED) {
        let events = some.iter().flat_map(|&person| (0..=TOUCHES).map(move |index| (person, index)));
        let incoming: Vec<Incoming> = events
            .map(|(person, index)| Incoming {
                position: Position { partition: 0, offset: person, index: index as u32 },
                tenant: Arc::clone(&tenant),
                settings_edition: Arc::clone(&edition),
                recorded_at_micros: 1_767_225_600_000_000,
                event: stored_event(person, index),
            })
            .collect();
        store.record(0, &incoming).await?;
    }
    Ok(())
}

/// Twenty clicks, then the conversion.
fn stored_event(person: u64, index: usize) -> proto::events::Event {
    let mut stored = event(index, Mix::Clicks);
    stored.event_id = format!("{person}-{index}");
    stored.device_id = format!("device-{person}");
    if index == TOUCHES {
        stored = proto::events::Event {
            event_id: conversion_id(person),
            conversion: "purchase".to_owned(),
            value: "49.9".to_owned(),
            currency: "EUR".to_owned(),
            sub_publisher: String::new(),
            ..stored
        };
        stored.set_event_type(EventType::Conversion);
    }
    stored
}

fn conversion_id(person: u64) -> String {
    format!("conversion-{person}")
}

/// Of two persons one is attributed, of the other the same value is only read.
async fn measured(store: &dyn JourneyStore, persons: u64) -> Result<Vec<Row>> {
    let rules = Rules::default();
    let mut order: Vec<u64> = (0..persons).collect();
    order.shuffle(&mut rand::rng());
    let (mut ours, mut bare) = (Rounds::default(), Rounds::default());
    let (mut all, mut reads) = (Latencies::new()?, Latencies::new()?);
    let cpu = measure::cpu_seconds(std::process::id())?;
    for persons in order.chunks(order.len().div_ceil(ROUNDS)) {
        let (mut our_latencies, mut bare_latencies) = (Latencies::new()?, Latencies::new()?);
        for pair in persons.chunks_exact(2) {
            let began = Instant::now();
            attribute(store, pair[0], &rules).await?;
            our_latencies.record(began.elapsed());
            let began = Instant::now();
            read(store, pair[1]).await?;
            bare_latencies.record(began.elapsed());
        }
        ours.push(our_latencies.micros(0.95));
        bare.push(bare_latencies.micros(0.95));
        all.add(&our_latencies)?;
        reads.add(&bare_latencies)?;
    }
    let cpu_seconds = (measure::cpu_seconds(std::process::id())? - cpu) / (persons / 2) as f64;
    Ok(vec![Row {
        key: "attribute",
        what: "attribute one conversion with 20 touches, stored, in process, P95 µs (proxy: the read of the journey)"
            .to_owned(),
        ours: ours.median(),
        proxy: Some(bare.median()),
        ratio: Some(ours.ratio(&bare)),
        target: "≤ 100 µs",
        met: Some(ours.median() <= 100.0),
        cpu_seconds_per_operation: Some(cpu_seconds),
        spread: ours.spread(),
        note: format!("p50 {:.0} µs, the read {:.0} µs; its CPU time has a read of another in it", all.micros(0.5), reads.micros(0.5)),
    }])
}

async fn read(store: &dyn JourneyStore, person: u64) -> Result<journey_store::StoredJourney> {
    let query = JourneyQuery { tenant: "default".into(), conversion_id: conversion_id(person) };
    let journey =
        store.journeys(&[query], 0).await?.pop().flatten().context("the conversion is not stored")?;
    ensure!(journey.touches.len() == TOUCHES, "not every touch was found");
    Ok(journey)
}

async fn attribute(store: &dyn JourneyStore, person: u64, rules: &Rules) -> Result<()> {
    let journey = read(store, person).await?;
    let (cause, recorded_at_micros) = (journey.conversion.position, journey.conversion.recorded_at_micros);
    let decision = attribution_service::decide(journey, rules)?.encode_to_vec();
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(&decision).as_bytes()[..16]);
    let edition = NewEdition {
        tenant: "default".into(),
        conversion_id: conversion_id(person),
        cause,
        reason: DecisionReason::Conversion,
        recorded_at_micros,
        digest,
        decision: decision.into(),
    };
    let stored = store.commit(0, &[edition], person + 1).await?;
    ensure!(stored == [true], "the decision was not stored");
    Ok(())
}
