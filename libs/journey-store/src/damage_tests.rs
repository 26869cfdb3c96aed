//! No damaged value is ever served: not by a reader, and not by the store.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use model::{IdentityHash, IdentityKind};
use proto::events::{DecisionReason, Event, EventType};

use crate::{
    ConversionScores, Generation, Incoming, JourneyQuery, NewEdition, NewScores, Owed, Plan, Position,
    ScoreKind, StoreError, TouchScore, ValueScore,
    kv::{Reader, TABLES, Table},
    memory::Memory,
    rows::EmptyRow,
    store::Store,
};

const TABLE: [Table; TABLES] = [
    Table::Meta,
    Table::Seen,
    Table::Identities,
    Table::Persons,
    Table::Members,
    Table::Touches,
    Table::Conversions,
    Table::Names,
    Table::Editions,
    Table::Effects,
    Table::Scores,
    Table::Owed,
    Table::Met,
    Table::Decisions,
];

fn incoming(offset: u64, event_type: EventType, id: &str) -> Incoming {
    let timestamp = prost_types::Timestamp { seconds: 1_700_000_000 + offset as i64, nanos: 0 };
    Incoming {
        position: Position { partition: 0, offset, index: 0 },
        tenant: "acme".into(),
        settings_edition: "sha256:0".into(),
        recorded_at_micros: 5,
        event: Event {
            event_id: id.to_owned(),
            event_type: event_type as i32,
            timestamp: Some(timestamp),
            device_id: "d".to_owned(),
            user_id: "u".to_owned(),
            conversion: if event_type == EventType::Conversion { "buy".to_owned() } else { String::new() },
            ..Event::default()
        },
    }
}

fn edition(offset: u64) -> NewEdition {
    NewEdition {
        tenant: "acme".into(),
        conversion_id: "late".to_owned(),
        cause: Position { partition: 0, offset, index: 0 },
        reason: DecisionReason::LateTouch,
        recorded_at_micros: 5,
        digest: [offset as u8; 16],
        decision: "decision".into(),
    }
}

/// A score and a value, and one that is owed.
fn scored(offset: u64) -> (NewScores, Owed) {
    let (tenant, conversion_id): (Arc<str>, _) = ("acme".into(), "late".to_owned());
    let cause = Position { partition: 0, offset, index: 0 };
    let score = TouchScore {
        touch_id: "touch".to_owned(),
        model: "fraud".to_owned(),
        version: "1".to_owned(),
        probability: 0.5,
        reasons: Vec::new(),
    };
    let value = ValueScore {
        model: "value".to_owned(),
        version: "1".to_owned(),
        value: 20.0,
        lower: 0.0,
        upper: 50.0,
        level: 0.8,
    };
    let scores = ConversionScores { touches: vec![score], value: Some(value) };
    let kind = ScoreKind::Fraud;
    let owed = Owed { kind, tenant: Arc::clone(&tenant), conversion_id: conversion_id.clone(), cause };
    (NewScores { tenant, conversion_id, cause, scores }, owed)
}

/// A store with rows in every table.
fn filled() -> Store<Memory> {
    let store = Store::new(Memory::default());
    store.reset_now(Generation { log: 1, id: 2 }).unwrap();
    let events = [
        incoming(0, EventType::Click, "touch"),
        incoming(1, EventType::Conversion, "early"),
        incoming(2, EventType::Conversion, "late"),
    ];
    store.record_now(0, &events).unwrap();
    store.commit_now(0, &[edition(3), edition(4)], 5).unwrap();
    store.put_plan_now(0, Plan { batch: 1, from: 0, to: 5, stamp: 0 }).unwrap();
    let (scores, owed) = scored(3);
    store.put_scores_now(0, &[scores], &[owed]).unwrap();
    store
}

/// Every way to read, and what each answers.
fn reads(store: &Store<Memory>) -> Vec<(&'static str, Result<(), StoreError>)> {
    let identity = IdentityHash::new("acme", IdentityKind::User, "u");
    let query = JourneyQuery { tenant: "acme".into(), conversion_id: "late".to_owned() };
    vec![
        ("journeys", store.journeys_now(std::slice::from_ref(&query), 0).map(drop)),
        ("conversions", store.journeys_now(std::slice::from_ref(&query), 9).map(drop)),
        ("conversion", store.conversion_now("acme", "late").map(drop)),
        ("page", store.page_now("acme", identity, None, 10).map(drop)),
        ("generation", store.generation_now().map(drop)),
        ("consumed_to", store.consumed_to_now(0).map(drop)),
        ("effects", store.effects_now(0, 0, 9).map(drop)),
        ("plan", store.plan_now(0).map(drop)),
        ("replay", store.record_now(0, &[incoming(0, EventType::Click, "touch")]).map(drop)),
        ("record", store.record_now(0, &[incoming(1, EventType::Click, "new")]).map(drop)),
        ("earlier", store.record_now(0, &[incoming(0, EventType::Conversion, "earlier")]).map(drop)),
        ("commit", store.commit_now(0, &[edition(9)], 9).map(drop)),
        ("scores", store.scores_now(&[query]).map(drop)),
        ("put_scores", store.put_scores_now(0, &[scored(9).0], &[]).map(drop)),
        ("owed", store.owed_now(0, ScoreKind::Fraud, 9).map(drop)),
        ("settle", store.settle_now(0, &[scored(0).1]).map(drop)),
    ]
}

#[test]
fn every_flipped_or_missing_byte_of_every_value_is_found() {
    let store = filled();
    for table in TABLE {
        let rows = store.kv.tables.read()[table as usize].clone();
        assert!(!rows.is_empty(), "nothing to damage in {table:?}");
        for (key, value) in rows {
            let found = |key: Bytes, value: Bytes| {
                let damaged = Memory::default();
                damaged.tables.write()[table as usize].insert(key.clone(), value);
                let found = Reader::new(crate::kv::Kv::view(&damaged)).get::<EmptyRow>(table, &key);
                matches!(found, Err(StoreError::Corrupt(_)))
            };
            for at in 0..value.len() {
                for bit in 0..8 {
                    let mut bytes = value.to_vec();
                    bytes[at] ^= 1 << bit;
                    assert!(found(key.clone(), bytes.into()), "{table:?}: bit {bit} of byte {at}");
                }
                assert!(found(key.clone(), value.slice(..at)), "{table:?}: cut at {at}");
            }
            for at in 0..key.len() {
                let mut bytes = key.to_vec();
                bytes[at] ^= 1;
                assert!(found(bytes.into(), value.clone()), "{table:?}: byte {at} of the key");
            }
            let other = TABLE[(table as usize + 1) % TABLES];
            let moved = Memory::default();
            moved.tables.write()[other as usize].insert(key.clone(), value);
            assert!(
                Reader::new(crate::kv::Kv::view(&moved)).contains(other, &key).is_err(),
                "{table:?} as {other:?}"
            );
        }
    }
}

#[test]
fn a_store_with_a_damaged_table_says_so() {
    assert!(reads(&filled()).iter().all(|(_, answer)| answer.is_ok()));
    let expected: [(Table, &[&str]); TABLES] = [
        (
            Table::Meta,
            &[
                "generation",
                "consumed_to",
                "effects",
                "plan",
                "replay",
                "record",
                "earlier",
                "commit",
                "put_scores",
                "settle",
            ],
        ),
        (Table::Seen, &["journeys", "conversions", "conversion", "replay", "commit"]),
        (Table::Identities, &["page"]),
        (Table::Persons, &["journeys", "conversions", "page", "replay", "record", "earlier"]),
        (Table::Members, &["journeys", "conversions", "page", "replay", "record", "earlier"]),
        (Table::Touches, &["journeys", "conversions", "page"]),
        (
            Table::Conversions,
            &["journeys", "conversions", "conversion", "page", "replay", "record", "earlier"],
        ),
        (Table::Names, &["journeys", "conversions", "earlier"]),
        (Table::Editions, &["conversion", "commit"]),
        (Table::Effects, &["effects", "replay"]),
        (Table::Scores, &["scores", "put_scores"]),
        (Table::Owed, &["owed", "settle"]),
        (Table::Decisions, &["conversion", "effects"]),
        (Table::Met, &["replay", "record", "earlier", "commit", "put_scores", "settle"]),
    ];
    for (table, named) in expected {
        let store = filled();
        for value in store.kv.tables.write()[table as usize].values_mut() {
            let mut bytes = value.to_vec();
            bytes[0] ^= 0x10;
            *value = bytes.into();
        }
        // With nothing in memory, as after a start.
        let store = Store::new(store.kv);
        for (name, answer) in reads(&store) {
            let corrupt = matches!(answer, Err(StoreError::Corrupt(_)));
            assert_eq!(corrupt, named.contains(&name), "{name} with damage in {table:?}: {answer:?}");
        }
    }
}
