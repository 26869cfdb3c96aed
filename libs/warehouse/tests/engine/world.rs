//! Facts made by hand, and questions about them.

use model::{IdentityHash, IdentityKind, Model, Rules, TouchKind, Verdict};
use warehouse::{
    CandidateFact, ConversionFact, Dimension, Facts, IdentityFact, MatchType, Measure, ModelSpec, Progress,
    ReportAnswer, ReportSpec, Sign, TouchFact, Warehouse,
};

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;
/// 2026-01-10T12:00:00Z, a Saturday.
pub(crate) const NOON: i64 = 1_768_046_400_000;
pub(crate) const TENANT: &str = "default";

pub(crate) fn identity(name: &str) -> IdentityHash {
    IdentityHash::new(TENANT, IdentityKind::Device, name)
}

/// A click of a channel this long before noon.
pub(crate) fn click(channel: &str, before: i64) -> CandidateFact {
    CandidateFact {
        touch_id: format!("{channel}-{before}"),
        kind: TouchKind::Click,
        time_millis: NOON - before,
        channel: channel.into(),
        partner: String::new(),
        campaign_id: String::new(),
        ad_group_id: String::new(),
        creative_id: String::new(),
        keyword: String::new(),
        match_type: MatchType::Identity,
        verdict: Verdict::Eligible,
    }
}

/// A conversion at noon of 10 euros; the last touch that is eligible wins.
pub(crate) fn conversion(id: &str, who: &str, candidates: Vec<CandidateFact>) -> ConversionFact {
    let winner = candidates.iter().rposition(|c| c.verdict == Verdict::Eligible);
    ConversionFact {
        tenant: TENANT.into(),
        app_id: "app".into(),
        conversion_id: id.into(),
        time_millis: NOON,
        recorded_at_micros: NOON * 1_000,
        sign: Sign::Assert,
        identity: identity(who),
        platform: String::new(),
        country: String::new(),
        conversion: "purchase".into(),
        currency: "EUR".into(),
        value_micros: 10_000_000,
        winner: winner.map(|index| index as u16),
        candidates,
    }
}

pub(crate) fn retraction(of: &ConversionFact, recorded_at_micros: i64) -> ConversionFact {
    ConversionFact { sign: Sign::Retract, recorded_at_micros, ..of.clone() }
}

/// A click of a person this long before noon.
pub(crate) fn touch(who: &str, channel: &str, before: i64) -> TouchFact {
    TouchFact {
        tenant: TENANT.into(),
        app_id: "app".into(),
        touch_id: format!("{who}-{channel}-{before}"),
        time_millis: NOON - before,
        recorded_at_micros: NOON * 1_000,
        identity: identity(who),
        kind: TouchKind::Click,
        channel: channel.into(),
        partner: String::new(),
        campaign_id: String::new(),
        ad_group_id: String::new(),
        creative_id: String::new(),
        keyword: String::new(),
        platform: String::new(),
        country: String::new(),
    }
}

pub(crate) fn known_as(who: &str, person: &str, shared: bool, recorded_at_micros: i64) -> IdentityFact {
    IdentityFact {
        tenant: TENANT.into(),
        identity: identity(who),
        person: identity(person),
        shared,
        recorded_at_micros,
    }
}

pub(crate) fn progress(batch: u64) -> Progress {
    Progress { partition: 0, batch, to: batch * 10, time_micros: NOON * 1_000 + batch as i64 }
}

pub(crate) async fn written(warehouse: &Warehouse, conversions: Vec<ConversionFact>) {
    let facts = Facts { conversions, ..Facts::default() };
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
}

/// January 2026, last touch by channel: conversions and value.
pub(crate) fn spec() -> ReportSpec {
    ReportSpec {
        tenant: TENANT.into(),
        from_millis: NOON - 9 * DAY - 12 * HOUR,
        to_millis: NOON + 21 * DAY + 12 * HOUR,
        models: vec![ModelSpec::Rule(Model::LastTouch)],
        dimensions: vec![Dimension::Channel],
        measures: vec![Measure::Conversions, Measure::Value],
        filters: Vec::new(),
        lookback_millis: None,
        transforms: Vec::new(),
        order_by: Vec::new(),
        limit: 1_000,
        as_of_micros: i64::MAX,
        rules: Rules::default(),
    }
}

/// The rows as text: model, dimensions, currency, and the measures asked.
pub(crate) fn shown(spec: &ReportSpec, answer: &ReportAnswer) -> Vec<String> {
    let row = |row: &warehouse::ReportRow| {
        let mut text = vec![spec.models[row.model].name().to_owned()];
        text.extend(row.dimensions.iter().cloned());
        if spec.measures(Measure::Value) {
            text.push(row.currency.clone());
        }
        for measure in &spec.measures {
            text.push(match measure {
                Measure::Conversions => model::money::format_micros(row.conversions_micros),
                Measure::Value => model::money::format_micros(row.value_micros),
                Measure::Touches => row.touches.to_string(),
                Measure::Persons => row.persons.to_string(),
            });
        }
        text.join(" ")
    };
    answer.rows.iter().map(row).collect()
}

pub(crate) async fn answered(warehouse: &Warehouse, spec: &ReportSpec) -> Vec<String> {
    shown(spec, &warehouse.report(spec).await.unwrap())
}
