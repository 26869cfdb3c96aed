//! One conversion as it is answered: the decision in force, its editions, and what happened after it.

use model::{IdentityHash, JOURNEY_TOUCHES_MAX};
use prost::Message;
use proto::{
    decisions::{self, Candidate, Decision, MatchType, Verdict},
    events::{Event, EventType},
};

use crate::{DecidedConversion, Edition, JourneyStore, StoreError};

/// The longest `event_id`, bytes; no event has a longer one.
pub const EVENT_ID_BYTES_MAX: usize = 64;

/// Pages of a journey read in search of touches after a conversion: with fewer touches than conversions after it, the
/// list of these touches may end early, but an answer stays cheap.
const PAGES_AFTER_MAX: usize = 4;

const PAGE_EVENTS_MAX: usize = 1_000;

/// The decision in force of a conversion, complete: with its editions, and with the touches after the conversion, the
/// nearest first, as far as [`JOURNEY_TOUCHES_MAX`] candidates leave room. No window applies to these, so theirs is 0.
/// `None`: there is no such conversion, or it is not decided yet.
///
/// # Errors
/// As the store says; [`StoreError::Corrupt`] for a stored decision that cannot be read.
pub async fn explained(
    journeys: &dyn JourneyStore,
    tenant: &str,
    conversion_id: &str,
) -> Result<Option<Decision>, StoreError> {
    if conversion_id.is_empty() || conversion_id.len() > EVENT_ID_BYTES_MAX {
        return Ok(None);
    }
    let Some(DecidedConversion { conversion, editions }) = journeys.conversion(tenant, conversion_id).await?
    else {
        return Ok(None);
    };
    let Some(in_force) = editions.first() else { return Ok(None) };
    let mut decision = Decision::decode(in_force.decision.clone())
        .map_err(|error| StoreError::Corrupt(format!("the decision of {conversion_id:?}: {error}")))?;
    decision.editions =
        editions.iter().enumerate().map(|(index, edition)| shown(edition, index == 0)).collect();
    let room = JOURNEY_TOUCHES_MAX.saturating_sub(decision.candidates.len());
    let later = touches_after(journeys, tenant, conversion.home, &conversion.event, room).await?;
    let time_millis = event_millis(&conversion.event);
    decision.candidates.extend(later.into_iter().map(|touch| after_conversion(touch, time_millis)));
    Ok(Some(decision))
}

/// Removes what is kept for fraud checks alone and shown to nobody.
pub fn conceal(event: &mut Event) {
    event.ip.clear();
    event.user_agent.clear();
}

/// Event time, Unix milliseconds.
pub fn event_millis(event: &Event) -> i64 {
    event.timestamp.as_ref().map_or(0, time_millis)
}

/// A moment within the calendar in Unix milliseconds; what is past 64 bits is taken to their end.
pub fn time_millis(time: &prost_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos) / 1_000_000)
}

async fn touches_after(
    journeys: &dyn JourneyStore,
    tenant: &str,
    identity: IdentityHash,
    conversion: &Event,
    room: usize,
) -> Result<Vec<Event>, StoreError> {
    let time_millis = event_millis(conversion);
    let mut after = Some((time_millis, conversion.event_id.clone()));
    let mut later = Vec::new();
    for _ in 0..PAGES_AFTER_MAX {
        if later.len() >= room {
            break;
        }
        let Some(page) = journeys.page(tenant, identity, after, PAGE_EVENTS_MAX).await? else { break };
        after = page.events.last().map(|event| (event_millis(event), event.event_id.clone()));
        let touches = page.events.into_iter().filter(is_touch);
        later.extend(touches.filter(|event| event_millis(event) > time_millis));
        if !page.more || after.is_none() {
            break;
        }
    }
    later.truncate(room);
    Ok(later)
}

fn shown(edition: &Edition, in_force: bool) -> decisions::Edition {
    let cause = edition.cause;
    let micros = edition.recorded_at_micros;
    decisions::Edition {
        cause: Some(decisions::Position {
            partition: cause.partition,
            offset: cause.offset,
            index: cause.index,
        }),
        reason: edition.reason as i32,
        recorded_at: Some(prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
        }),
        digest: format!("{:032x}", u128::from_be_bytes(edition.digest)),
        in_force,
    }
}

fn after_conversion(mut touch: Event, conversion_millis: i64) -> Candidate {
    conceal(&mut touch);
    Candidate {
        age_millis: conversion_millis.saturating_sub(event_millis(&touch)),
        touch: Some(touch),
        verdict: Verdict::AfterConversion as i32,
        match_type: MatchType::Identity as i32,
        window_millis: 0,
        ..Candidate::default()
    }
}

fn is_touch(event: &Event) -> bool {
    matches!(event.event_type(), EventType::Impression | EventType::Click | EventType::Visit)
}
