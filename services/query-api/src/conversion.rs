//! One conversion: the decision in force, its editions, and what happened after it.

use journey_store::{DecidedConversion, Edition, JourneyStore};
use model::JOURNEY_TOUCHES_MAX;
use prost::Message;
use proto::{
    decisions::{self, Candidate, Decision, MatchType, Verdict},
    events::{Event, EventType},
};
use service::Error;

use crate::{error, fault::Faults, journey, render};

/// The longest `event_id`.
pub(crate) const EVENT_ID_BYTES_MAX: usize = 64;

/// Pages of a journey read in search of touches after a conversion: with fewer touches than conversions after it, the
/// list of these touches may end early, but an answer stays cheap.
const PAGES_AFTER_MAX: usize = 4;

/// The decision in force of a conversion, complete: with its editions, and with the touches after the conversion, the
/// nearest first, as far as [`JOURNEY_TOUCHES_MAX`] candidates leave room. No window applies to these, so theirs is 0.
/// `None`: there is no such conversion, or it is not decided yet.
///
/// # Errors
/// Invalid for an impossible id; unavailable or internal as the store says.
pub async fn decision(
    journeys: &dyn JourneyStore,
    tenant: &str,
    conversion_id: &str,
) -> Result<Option<Decision>, Error> {
    if conversion_id.is_empty() || conversion_id.len() > EVENT_ID_BYTES_MAX {
        return Err(Faults::one("event_id", format!("must be 1 to {EVENT_ID_BYTES_MAX} bytes")));
    }
    let stored = journeys.conversion(tenant, conversion_id).await.map_err(error::store)?;
    let Some(DecidedConversion { conversion, editions }) = stored else { return Ok(None) };
    let Some(in_force) = editions.first() else { return Ok(None) };
    let mut decision = Decision::decode(in_force.decision.clone()).map_err(Error::internal)?;
    decision.editions =
        editions.iter().enumerate().map(|(index, edition)| shown(edition, index == 0)).collect();
    let time_millis = journey::millis(&conversion.event);
    let room = JOURNEY_TOUCHES_MAX.saturating_sub(decision.candidates.len());
    let mut after = Some((time_millis, conversion.event.event_id));
    let mut later = Vec::new();
    for _ in 0..PAGES_AFTER_MAX {
        if later.len() >= room {
            break;
        }
        let page = journeys.page(tenant, conversion.home, after, journey::PAGE_EVENTS_MAX as usize).await;
        let Some(page) = page.map_err(error::store)? else { break };
        after = page.events.last().map(|event| (journey::millis(event), event.event_id.clone()));
        later.extend(
            page.events.into_iter().filter(|event| is_touch(event) && journey::millis(event) > time_millis),
        );
        if !page.more || after.is_none() {
            break;
        }
    }
    later.truncate(room);
    decision.candidates.extend(later.into_iter().map(|touch| after_conversion(touch, time_millis)));
    Ok(Some(decision))
}

fn shown(edition: &Edition, in_force: bool) -> decisions::Edition {
    let cause = edition.cause;
    let recorded_at = jiff::Timestamp::from_microsecond(edition.recorded_at_micros).ok();
    decisions::Edition {
        cause: Some(decisions::Position {
            partition: cause.partition,
            offset: cause.offset,
            index: cause.index,
        }),
        reason: edition.reason as i32,
        recorded_at: recorded_at.map(render::timestamp),
        digest: format!("{:032x}", u128::from_be_bytes(edition.digest)),
        in_force,
    }
}

fn after_conversion(mut touch: Event, conversion_millis: i64) -> Candidate {
    journey::conceal(&mut touch);
    Candidate {
        age_millis: conversion_millis.saturating_sub(journey::millis(&touch)),
        touch: Some(touch),
        verdict: Verdict::AfterConversion as i32,
        match_type: MatchType::Identity as i32,
        window_millis: 0,
    }
}

fn is_touch(event: &Event) -> bool {
    matches!(event.event_type(), EventType::Impression | EventType::Click | EventType::Visit)
}
