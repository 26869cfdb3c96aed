//! What is read of a person does not grow with the person's touches.

#![allow(clippy::unwrap_used)]

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use model::JOURNEY_TOUCHES_MAX;
use proto::events::{Event, EventType};

use crate::{
    Generation, Incoming, JourneyQuery, Position, StoreError,
    kv::{Batch, Kv, Pair, Table, View},
    memory::{Memory, MemoryView},
    store::Store,
};

/// Tables that count the rows that are read.
#[derive(Default)]
struct Counted {
    tables: Memory,
    rows: AtomicU64,
}

struct CountedView<'a>(MemoryView<'a>, &'a AtomicU64);

impl Counted {
    /// Since the last call.
    fn rows(&self) -> u64 {
        self.rows.swap(0, Ordering::Relaxed)
    }
}

impl Kv for Counted {
    type View<'a> = CountedView<'a>;

    fn view(&self) -> CountedView<'_> {
        CountedView(self.tables.view(), &self.rows)
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.tables.write(batch)
    }

    fn persist(&self) -> Result<(), StoreError> {
        self.tables.persist()
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.tables.clear()
    }
}

impl View for CountedView<'_> {
    type Slice = Bytes;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair<Bytes>, StoreError>> {
        self.0.range(table, keys).inspect(|_| {
            self.1.fetch_add(1, Ordering::Relaxed);
        })
    }
}

/// An event of one user with two devices.
fn incoming(offset: u64, event_type: EventType) -> Incoming {
    let timestamp = prost_types::Timestamp { seconds: 1_700_000_000 + offset as i64, nanos: 0 };
    Incoming {
        position: Position { partition: 0, offset, index: 0 },
        tenant: "acme".into(),
        settings_edition: "sha256:0".into(),
        recorded_at_micros: 5,
        event: Event {
            event_id: format!("event-{offset}"),
            event_type: event_type.into(),
            timestamp: Some(timestamp),
            device_id: format!("device-{}", offset % 2),
            user_id: "user".to_owned(),
            ..Event::default()
        },
    }
}

/// Rows that are read when a person with so many touches buys, when that is decided, and when a touch comes late.
fn rows_read(touches: u64) -> [u64; 3] {
    let store = Store::new(Counted::default());
    store.reset_now(Generation { log: 1, id: 2 }).unwrap();
    let clicks: Vec<_> = (1..=touches).map(|offset| incoming(offset, EventType::Click)).collect();
    for batch in clicks.chunks(1_000) {
        store.record_now(0, batch).unwrap();
    }
    store.kv.rows();
    let conversion = incoming(touches + 1, EventType::Conversion);
    let query = JourneyQuery { tenant: "acme".into(), conversion_id: conversion.event.event_id.clone() };
    store.record_now(0, &[conversion]).unwrap();
    let bought = store.kv.rows();
    let journeys = store.journeys_now(&[query], 0).unwrap();
    assert_eq!(journeys[0].as_ref().unwrap().touches.len(), JOURNEY_TOUCHES_MAX + 1);
    let decided = store.kv.rows();
    let recorded = store.record_now(0, &[incoming(0, EventType::Click)]).unwrap();
    assert_eq!(recorded.affected.len(), 1);
    [bought, decided, store.kv.rows()]
}

#[test]
fn a_person_with_ever_so_many_touches_costs_no_more_than_the_journey_limit() {
    let few = rows_read(2_000);
    assert_eq!(few, rows_read(40_000));
    let [bought, decided, late] = few;
    assert!(decided <= JOURNEY_TOUCHES_MAX as u64 + 20, "{decided}");
    assert!(bought <= 20 && late <= 20, "{bought}, {late}");
}

/// Rows that are read of the journey of a person whose touches all came lately.
fn journey_rows_read(touches: u64) -> u64 {
    let store = Store::new(Counted::default());
    store.reset_now(Generation { log: 1, id: 2 }).unwrap();
    for offset in 1..=touches {
        store.record_now(0, &[incoming(offset, EventType::Click)]).unwrap();
    }
    let conversion = incoming(touches + 1, EventType::Conversion);
    let query = JourneyQuery { tenant: "acme".into(), conversion_id: conversion.event.event_id.clone() };
    store.record_now(0, &[conversion]).unwrap();
    store.kv.rows();
    let journeys = store.journeys_now(&[query], 0).unwrap();
    assert_eq!(journeys[0].as_ref().unwrap().touches.len() as u64, touches);
    store.kv.rows()
}

#[test]
fn of_a_person_who_came_lately_no_touch_is_read() {
    assert_eq!(journey_rows_read(2), journey_rows_read(100));
}
