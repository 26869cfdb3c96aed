//! Events as the features of the models take them, and the features of past conversions for training.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use journey_store::{
    Incoming, JourneyQuery, JourneyStore, Position, StoreError, StoredJourney, event_millis, time_millis,
};
use model::{
    Rules,
    features::{
        Converted, Engagement, Features, PURCHASES_MAX, Purchase, VALUE_FEATURES, features, value_features,
    },
    traffic::Traffic,
};
use proto::events::{Event, EventType};

use crate::{decision, error::Error};

/// The most events that features are exported of at once: they are kept in memory.
pub const EXPORT_EVENTS_MAX: usize = 10_000_000;

const BATCH_EVENTS: usize = 1_000;
const TENANT: &str = "export";

/// The features of a conversion and the touch that won it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The conversion.
    pub conversion_id: String,
    /// The touch.
    pub touch_id: String,
    /// What the model would have been asked.
    pub features: Features,
}

/// The features of a conversion's person.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueExample {
    /// The conversion.
    pub conversion_id: String,
    /// What the model would have been asked.
    pub features: [f64; VALUE_FEATURES],
}

/// A touch; `None` for other events.
pub(crate) fn engagement<'a>(tenant: &'a str, event: &'a Event) -> Option<Engagement<'a>> {
    let devices = [&event.device_id, &event.cookie_id, &event.user_id];
    Some(Engagement {
        tenant,
        kind: decision::touch_kind(event)?,
        time_millis: event_millis(event),
        device: devices.into_iter().find(|id| !id.is_empty()).map_or("", String::as_str),
        ip: &event.ip,
        user_agent: &event.user_agent,
        country: &event.country,
        partner: &event.partner,
        sub_publisher: &event.sub_publisher,
    })
}

/// A conversion.
pub(crate) fn converted(event: &Event) -> Converted<'_> {
    Converted {
        time_millis: event_millis(event),
        install_begin_millis: event.install_begin.as_ref().map(time_millis),
        user_agent: &event.user_agent,
        country: &event.country,
    }
}

/// What the person bought up to a conversion: conversions of its app and its currency with a value above zero. Refunds are no
/// purchases, and take nothing from them.
///
/// # Errors
/// A value that is no number.
pub(crate) fn purchases(journey: &StoredJourney) -> Result<Vec<Purchase>, Error> {
    let conversion = &journey.conversion.event;
    let mut purchases = Vec::new();
    for past in &journey.conversions {
        if past.app_id != conversion.app_id || past.currency != conversion.currency {
            continue;
        }
        let value_micros = decision::value_micros(&past.value, "a conversion of the person")?;
        if value_micros > 0 {
            purchases.push(Purchase { time_millis: past.time_millis, value_micros });
        }
    }
    Ok(purchases)
}

/// The features of every conversion that a touch won, in the order of time, as if the events had come in in this order:
/// by the same joining of persons, the same decision and the same code as when a score is asked for.
///
/// # Errors
/// An event that could not have been accepted: without an id, a time or an identity, or with a value that is no number.
pub async fn export(mut events: Vec<Event>, rules: &Rules) -> Result<Vec<Example>, Error> {
    let journeys = recorded(&mut events).await?;
    let mut traffic = Traffic::new(events.len());
    let mut examples = Vec::new();
    for event in &events {
        if let Some(touch) = engagement(TENANT, event) {
            traffic.touch(&touch);
        }
        if event.event_type() != EventType::Conversion {
            continue;
        }
        let journey = journey(&*journeys, event, 0).await?;
        let touches: HashMap<String, Event> =
            journey.touches.iter().map(|touch| (touch.event_id.clone(), touch.clone())).collect();
        let winner = decision::decide(journey, rules)?.winner.unwrap_or_default();
        let Some(touch) = touches.get(&winner.event_id).and_then(|touch| engagement(TENANT, touch)) else {
            continue;
        };
        examples.push(Example {
            conversion_id: event.event_id.clone(),
            touch_id: winner.event_id.clone(),
            features: features(&traffic, &touch, &converted(event)),
        });
        traffic.converted(TENANT, touch.partner, touch.time_millis, event_millis(event));
    }
    Ok(examples)
}

/// The features of the person's value at every conversion before which, or with which, the person bought something, in the
/// order of time.
///
/// # Errors
/// As [`export`].
pub async fn export_values(mut events: Vec<Event>) -> Result<Vec<ValueExample>, Error> {
    let journeys = recorded(&mut events).await?;
    let mut examples = Vec::new();
    for event in events.iter().filter(|event| event.event_type() == EventType::Conversion) {
        let journey = journey(&*journeys, event, PURCHASES_MAX).await?;
        if let Some(features) = value_features(&purchases(&journey)?, event_millis(event)) {
            examples.push(ValueExample { conversion_id: event.event_id.clone(), features });
        }
    }
    Ok(examples)
}

/// Sorts the events and records them in a store of their own.
async fn recorded(events: &mut [Event]) -> Result<Arc<dyn JourneyStore>, Error> {
    events.sort_by(in_order);
    let tenant: Arc<str> = TENANT.into();
    let journeys = journey_store::open("memory://").await?.journeys;
    for (offset, batch) in (0..).zip(events.chunks(BATCH_EVENTS)) {
        let incoming = |(index, event): (u32, &Event)| Incoming {
            position: Position { partition: 0, offset, index },
            tenant: Arc::clone(&tenant),
            settings_edition: TENANT.into(),
            recorded_at_micros: event_millis(event).saturating_mul(1_000),
            event: event.clone(),
        };
        let batch: Vec<Incoming> = (0..).zip(batch).map(incoming).collect();
        journeys.record(0, &batch).await?;
    }
    Ok(journeys)
}

async fn journey(
    journeys: &dyn JourneyStore,
    conversion: &Event,
    conversions_max: usize,
) -> Result<StoredJourney, Error> {
    let query = JourneyQuery { tenant: TENANT.into(), conversion_id: conversion.event_id.clone() };
    let journey = journeys.journeys(&[query], conversions_max).await?.pop().flatten();
    Ok(journey.ok_or_else(|| StoreError::Corrupt("a conversion is gone".into()))?)
}

/// By time; at one moment touches come before the conversions that they may have led to.
fn in_order(one: &Event, other: &Event) -> Ordering {
    let order = |event: &Event| (event_millis(event), event.event_type() == EventType::Conversion);
    order(one).cmp(&order(other)).then_with(|| one.event_id.cmp(&other.event_id))
}
