//! A record and its effects as facts. The same record gives the same facts in the same order.

use event_log::Record;
use journey_store::{EditionChange, Effects};
use model::{IdentityHash, IdentityKind};
use prost::Message;
use proto::{
    decisions::{Candidate, Decision, Verdict},
    events::Event,
};
use warehouse::{CandidateFact, ConversionFact, IdentityFact, MatchType, Sign, TouchFact};

use crate::{
    decision::{event_to_conversion, touch_kind},
    error::Error,
    fact_writer::{Collected, TRACES_MAX},
    frames::{self, Contents},
};

/// Adds the facts of one record.
pub(crate) fn add(
    partition: u32,
    record: &Record,
    effects: Option<&Effects>,
    into: &mut Collected,
) -> Result<(), Error> {
    let mut contents = Contents::default();
    frames::decode(partition, record, &mut contents)?;
    into.time_micros = record.time_micros;
    let sampled =
        contents.traces.into_iter().map(|(_, parent)| parent).filter(|parent| parent.ends_with("-01"));
    let room = TRACES_MAX.saturating_sub(into.traceparents.len());
    into.traceparents.extend(sampled.take(room));
    let repeats = effects.map_or(&[][..], |effects| &effects.repeats);
    for incoming in contents.events {
        if repeats.contains(&incoming.position.index) {
            continue;
        }
        if let Some(touch) = touch(&incoming.tenant, record.time_micros, incoming.event) {
            into.facts.touches.push(touch);
            into.touches += 1;
        }
    }
    effects.map_or(Ok(()), |effects| add_effects(effects, record.time_micros, into))
}

/// Adds the facts that do not come from a record itself.
pub(crate) fn add_effects(
    effects: &Effects,
    recorded_at_micros: i64,
    into: &mut Collected,
) -> Result<(), Error> {
    into.facts.identities.extend(effects.identities.iter().map(|change| IdentityFact {
        tenant: change.tenant.to_string(),
        identity: change.identity,
        person: change.person,
        shared: change.shared,
        recorded_at_micros,
    }));
    for change in &effects.editions {
        for (sign, bytes) in
            [(Sign::Retract, change.retracted.as_ref()), (Sign::Assert, Some(&change.asserted))]
        {
            let Some(bytes) = bytes else { continue };
            let decision =
                Decision::decode(bytes.as_ref()).map_err(|error| Error::Decision(error.to_string()))?;
            let fact = conversion(change, sign, recorded_at_micros, decision)?;
            into.touches += fact.candidates.len();
            into.facts.conversions.push(fact);
        }
    }
    Ok(())
}

fn touch(tenant: &str, recorded_at_micros: i64, event: Event) -> Option<TouchFact> {
    let kind = touch_kind(&event)?;
    Some(TouchFact {
        tenant: tenant.to_owned(),
        identity: home(tenant, &event)?,
        kind,
        time_millis: journey_store::event_millis(&event),
        recorded_at_micros,
        app_id: event.app_id,
        touch_id: event.event_id,
        channel: event.channel,
        partner: event.partner,
        campaign_id: event.campaign_id,
        ad_group_id: event.ad_group_id,
        creative_id: event.creative_id,
        keyword: event.keyword,
        platform: event.platform,
        country: event.country,
    })
}

fn conversion(
    change: &EditionChange,
    sign: Sign,
    recorded_at_micros: i64,
    decision: Decision,
) -> Result<ConversionFact, Error> {
    let event = decision.conversion.ok_or_else(|| Error::Decision("it holds no conversion".into()))?;
    let conversion = event_to_conversion(&event)?;
    let winning = decision.winner.map(|winner| winner.event_id).unwrap_or_default();
    let candidates: Vec<CandidateFact> = decision.candidates.into_iter().filter_map(candidate).collect();
    // At most 1,000 candidates, so an index fits.
    let winner =
        candidates.iter().position(|c| !winning.is_empty() && c.touch_id == winning).map(|i| i as u16);
    Ok(ConversionFact {
        tenant: change.tenant.to_string(),
        app_id: conversion.app_id,
        conversion_id: conversion.id,
        time_millis: conversion.time_millis,
        recorded_at_micros,
        sign,
        identity: change.home,
        platform: event.platform,
        country: event.country,
        conversion: conversion.name,
        currency: conversion.currency,
        value_micros: conversion.value_micros,
        candidates,
        winner,
    })
}

fn candidate(candidate: Candidate) -> Option<CandidateFact> {
    let verdict = verdict(candidate.verdict());
    let touch = candidate.touch?;
    Some(CandidateFact {
        kind: touch_kind(&touch)?,
        time_millis: journey_store::event_millis(&touch),
        touch_id: touch.event_id,
        channel: touch.channel,
        partner: touch.partner,
        campaign_id: touch.campaign_id,
        ad_group_id: touch.ad_group_id,
        creative_id: touch.creative_id,
        keyword: touch.keyword,
        match_type: MatchType::Identity,
        verdict: verdict?,
    })
}

fn verdict(verdict: Verdict) -> Option<model::Verdict> {
    Some(match verdict {
        Verdict::Eligible => model::Verdict::Eligible,
        Verdict::OutsideWindow => model::Verdict::OutsideWindow,
        Verdict::OtherApp => model::Verdict::OtherApp,
        Verdict::BeforePreviousConversion => model::Verdict::BeforePreviousConversion,
        Verdict::Fraud => model::Verdict::Fraud,
        // Not part of a path: only shown.
        Verdict::AfterConversion | Verdict::Unspecified => return None,
    })
}

/// The person key: the first of device, cookie and user.
fn home(tenant: &str, event: &Event) -> Option<IdentityHash> {
    [
        (IdentityKind::Device, &event.device_id),
        (IdentityKind::Cookie, &event.cookie_id),
        (IdentityKind::User, &event.user_id),
    ]
    .into_iter()
    .find(|(_, value)| !value.is_empty())
    .map(|(kind, value)| IdentityHash::new(tenant, kind, value))
}
