//! Short ways to write events.

use std::sync::Arc;

use journey_store::{Incoming, NewEdition, Position};
use model::{IdentityHash, IdentityKind};
use proto::events::{DecisionReason, Event, EventType};
use rand::{SeedableRng, rngs::StdRng};

pub const TENANT: &str = "acme";
pub const DAY: i64 = 24 * 60 * 60 * 1_000;
/// Some moment, Unix milliseconds.
pub const T: i64 = 1_767_225_600_123;

/// Says which seed failed.
pub struct Seed(pub u64);

impl Seed {
    /// Random numbers of this seed.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

/// The seeds to try: those from 0 on, or the one in `SEED`.
pub fn seeds(count: u64) -> impl Iterator<Item = Seed> {
    let chosen: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    chosen.map_or(0..count, |seed| seed..seed + 1).map(Seed)
}

/// An event; identities are written `d:device c:cookie u:user`.
pub fn event(id: &str, event_type: EventType, time: i64, identities: &str) -> Event {
    let mut event = Event {
        event_id: id.to_owned(),
        event_type: event_type as i32,
        timestamp: Some(prost_types::Timestamp {
            seconds: time.div_euclid(1_000),
            nanos: (time.rem_euclid(1_000) * 1_000_000) as i32,
        }),
        app_id: "default".to_owned(),
        ..Event::default()
    };
    for part in identities.split_whitespace() {
        let (kind, value) = part.split_once(':').unwrap();
        match kind {
            "d" => event.device_id = value.to_owned(),
            "c" => event.cookie_id = value.to_owned(),
            "u" => event.user_id = value.to_owned(),
            _ => panic!("{part}"),
        }
    }
    event
}

pub fn click(id: &str, time: i64, identities: &str) -> Event {
    Event { channel: format!("channel of {id}"), ..event(id, EventType::Click, time, identities) }
}

pub fn activity(id: &str, identities: &str) -> Event {
    event(id, EventType::Activity, T, identities)
}

pub fn conversion(id: &str, name: &str, time: i64, identities: &str) -> Event {
    Event {
        conversion: name.to_owned(),
        value: "1.5".to_owned(),
        ..event(id, EventType::Conversion, time, identities)
    }
}

pub fn place(offset: u64, index: u32) -> Position {
    Position { partition: 0, offset, index }
}

/// An event of the usual tenant in partition 0.
pub fn incoming(offset: u64, index: u32, event: Event) -> Incoming {
    of_tenant(TENANT, place(offset, index), event)
}

pub fn of_tenant(tenant: &str, position: Position, event: Event) -> Incoming {
    Incoming {
        position,
        tenant: tenant.into(),
        settings_edition: "sha256:0".into(),
        recorded_at_micros: 1_000 + position.offset as i64,
        event,
    }
}

/// The events of one record.
pub fn record(offset: u64, events: impl IntoIterator<Item = Event>) -> Vec<Incoming> {
    events.into_iter().enumerate().map(|(index, event)| incoming(offset, index as u32, event)).collect()
}

pub fn identity(text: &str) -> IdentityHash {
    identity_of(TENANT, text)
}

pub fn identity_of(tenant: &str, text: &str) -> IdentityHash {
    let (kind, value) = text.split_once(':').unwrap();
    let kind = match kind {
        "d" => IdentityKind::Device,
        "c" => IdentityKind::Cookie,
        _ => IdentityKind::User,
    };
    IdentityHash::new(tenant, kind, value)
}

pub fn edition(conversion_id: &str, cause: Position, digest: u8) -> NewEdition {
    NewEdition {
        tenant: Arc::from(TENANT),
        conversion_id: conversion_id.to_owned(),
        cause,
        reason: DecisionReason::LateTouch,
        recorded_at_micros: 1_000 + cause.offset as i64,
        digest: [digest; 16],
        decision: format!("{conversion_id} by {cause:?} is {digest}").into(),
    }
}
