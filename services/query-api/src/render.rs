//! Events and decisions as REST writes them, from the messages that gRPC sends.

use proto::{
    decisions::{
        Candidate, Decision, Edition, FraudFinding, FraudRule, LifetimeValue, MatchType, ModelCredit, Score,
        TouchCredit, Verdict, Winner,
    },
    events::{DecisionReason, Event, EventType},
};
use serde_json::{Map, Value, json};

const MICROS: f64 = 1_000_000.0;

/// An event: its fields in the order of the documentation, absent ones left out.
pub(crate) fn event(event: &Event) -> Value {
    let mut out = Map::new();
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            out.insert(name.to_owned(), Value::from(value));
        }
    };
    text("event_id", &event.event_id);
    text("event_type", event_type(event.event_type()));
    text("timestamp", &time(event.timestamp.as_ref()));
    text("device_id", &event.device_id);
    text("cookie_id", &event.cookie_id);
    text("user_id", &event.user_id);
    text("click_id", &event.click_id);
    text("app_id", &event.app_id);
    text("platform", &event.platform);
    text("channel", &event.channel);
    text("partner", &event.partner);
    text("campaign_id", &event.campaign_id);
    text("ad_group_id", &event.ad_group_id);
    text("creative_id", &event.creative_id);
    text("keyword", &event.keyword);
    text("sub_publisher", &event.sub_publisher);
    text("country", &event.country);
    text("conversion", &event.conversion);
    text("value", &event.value);
    text("currency", &event.currency);
    text("install_begin", &time(event.install_begin.as_ref()));
    if let Some(properties) = &event.properties {
        let properties = properties.fields.iter().map(|(name, value)| (name.clone(), property(value)));
        let mut properties: Vec<_> = properties.collect();
        properties.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        out.insert("properties".to_owned(), Value::Object(properties.into_iter().collect()));
    }
    Value::Object(out)
}

/// A decision with everything that it says; what there is none of is `null`.
pub(crate) fn decision(decision: &Decision) -> Value {
    json!({
        "conversion_id": decision.conversion_id,
        "conversion": decision.conversion.as_ref().map(event),
        "person_id": decision.person_id,
        "shared": decision.shared,
        "settings_edition": decision.settings_edition,
        "candidates": decision.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "truncated": decision.truncated,
        "winner": decision.winner.as_ref().map(winner),
        "credit": decision.credit.iter().map(credit).collect::<Vec<_>>(),
        "score": decision.score.as_ref().map(score),
        "lifetime_value": decision.lifetime_value.as_ref().map(lifetime_value),
        "editions": decision.editions.iter().map(edition).collect::<Vec<_>>(),
        "explanation": decision.explanation,
        "fraud": decision.fraud.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// A moment in RFC 3339, UTC; empty when absent or past what the calendar holds.
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    timestamp
        .and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// The message of a moment.
pub(crate) fn timestamp(time: jiff::Timestamp) -> prost_types::Timestamp {
    // A moment before 1970 has its fraction counted forward from the second before it.
    let nanos = time.subsec_nanosecond();
    let before = i64::from(nanos < 0);
    prost_types::Timestamp {
        seconds: time.as_second() - before,
        nanos: nanos + if nanos < 0 { 1_000_000_000 } else { 0 },
    }
}

/// A number in its shortest form: whole ones without a fraction.
pub(crate) fn number(value: f64) -> Value {
    // Every whole number up to here is exact, so the conversion changes nothing.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

/// The name of a kind of event.
pub(crate) fn event_type(kind: EventType) -> &'static str {
    match kind {
        EventType::Unspecified => "",
        EventType::Impression => "impression",
        EventType::Click => "click",
        EventType::Visit => "visit",
        EventType::Activity => "activity",
        EventType::Conversion => "conversion",
    }
}

/// The name of a verdict.
pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "",
        Verdict::Eligible => "eligible",
        Verdict::OutsideWindow => "outside_window",
        Verdict::OtherApp => "other_app",
        Verdict::AfterConversion => "after_conversion",
        Verdict::BeforePreviousConversion => "before_previous_conversion",
        Verdict::Fraud => "fraud",
    }
}

/// The name of a rule of fraud.
pub(crate) fn fraud_rule(rule: FraudRule) -> &'static str {
    match rule {
        FraudRule::Unspecified => "",
        FraudRule::ClickToInstall => "click_to_install",
        FraudRule::AfterInstallBegin => "after_install_begin",
        FraudRule::CapMinutes => "cap_minutes",
        FraudRule::CapHour => "cap_hour",
        FraudRule::CapDay => "cap_day",
    }
}

/// The name of a way of matching.
pub(crate) fn match_type(match_type: MatchType) -> &'static str {
    match match_type {
        MatchType::Unspecified => "",
        MatchType::Identity => "identity",
        MatchType::ClickId => "click_id",
        MatchType::InstallReferrer => "install_referrer",
        MatchType::Probabilistic => "probabilistic",
    }
}

/// The name of a reason for a decision.
pub(crate) fn reason(reason: DecisionReason) -> &'static str {
    match reason {
        DecisionReason::Unspecified => "",
        DecisionReason::Conversion => "conversion",
        DecisionReason::LateTouch => "late_touch",
        DecisionReason::Link => "link",
        DecisionReason::EarlierConversion => "earlier_conversion",
        DecisionReason::Score => "score",
        DecisionReason::Settings => "settings",
    }
}

fn candidate(candidate: &Candidate) -> Value {
    json!({
        "touch": candidate.touch.as_ref().map(event),
        "verdict": verdict(candidate.verdict()),
        "match_type": match_type(candidate.match_type()),
        "age_millis": candidate.age_millis,
        "window_millis": candidate.window_millis,
        "fraud": candidate.fraud().map(fraud_rule).collect::<Vec<_>>(),
        "fraud_probability": candidate.fraud_probability.map(number),
    })
}

fn finding(finding: &FraudFinding) -> Value {
    json!({ "rule": fraud_rule(finding.rule()), "reason": finding.reason })
}

fn winner(winner: &Winner) -> Value {
    json!({
        "event_id": given(&winner.event_id),
        "reason": winner.reason,
        "runner_up": given(&winner.runner_up),
        "decided_by": winner.decided_by,
        "margin_millis": winner.margin_millis,
    })
}

fn credit(credit: &ModelCredit) -> Value {
    json!({
        "model": credit.model,
        "touches": credit.touches.iter().map(share).collect::<Vec<_>>(),
    })
}

fn share(share: &TouchCredit) -> Value {
    json!({
        "event_id": given(&share.event_id),
        "conversions": number(share.conversion_micros as f64 / MICROS),
        "value": model::money::format_micros(i128::from(share.value_micros)),
    })
}

fn score(score: &Score) -> Value {
    let probability = score.present.then(|| number(score.fraud_probability));
    json!({
        "present": score.present,
        "fraud_probability": probability,
        "reasons": score.reasons,
        "event_id": given(&score.event_id),
        "model": given(&score.model),
        "version": given(&score.version),
    })
}

fn lifetime_value(value: &LifetimeValue) -> Value {
    let said = |number_of: f64| value.present.then(|| number(number_of));
    json!({
        "present": value.present,
        "value": said(value.value),
        "lower": said(value.lower),
        "upper": said(value.upper),
        "level": said(value.level),
        "currency": given(&value.currency),
        "horizon_weeks": value.present.then_some(value.horizon_weeks),
        "model": given(&value.model),
        "version": given(&value.version),
        "reason": given(&value.reason),
    })
}

fn edition(edition: &Edition) -> Value {
    let cause = edition
        .cause
        .as_ref()
        .map(|cause| json!({ "partition": cause.partition, "offset": cause.offset, "index": cause.index }));
    json!({
        "cause": cause,
        "reason": reason(edition.reason()),
        "recorded_at": time(edition.recorded_at.as_ref()),
        "digest": edition.digest,
        "in_force": edition.in_force,
    })
}

fn property(value: &prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(value)) => Value::from(value.as_str()),
        Some(Kind::BoolValue(value)) => Value::from(*value),
        Some(Kind::ListValue(list)) => list.values.iter().map(property).collect(),
        Some(Kind::StructValue(object)) => {
            object.fields.iter().map(|(name, value)| (name.clone(), property(value))).collect()
        }
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_event_is_shown_as_it_can_be_sent() {
        let shown = event(&Event {
            event_id: "c-1".into(),
            event_type: EventType::Conversion as i32,
            timestamp: Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 5_000_000 }),
            user_id: "u".into(),
            value: "12.5".into(),
            currency: "EUR".into(),
            properties: Some(prost_types::Struct {
                fields: [("n", 3.0), ("a", 0.25)]
                    .map(|(name, n)| {
                        let kind = Some(prost_types::value::Kind::NumberValue(n));
                        (name.to_owned(), prost_types::Value { kind })
                    })
                    .into(),
            }),
            ..Event::default()
        });
        let expected = r#"{"event_id":"c-1","event_type":"conversion","timestamp":"2026-01-01T00:00:00.005Z","user_id":"u","value":"12.5","currency":"EUR","properties":{"a":0.25,"n":3}}"#;
        assert_eq!(shown.to_string(), expected);
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (value, text) in [
            (20.0, "20"),
            (12.333333, "12.333333"),
            (0.1, "0.1"),
            (-3.0, "-3"),
            (0.0, "0"),
            (9_007_199_254_740_992.0, "9007199254740992"),
        ] {
            assert_eq!(number(value).to_string(), text);
        }
    }

    #[test]
    fn micros_become_decimals_and_organic_has_no_touch() {
        let shown = credit(&ModelCredit {
            model: "linear".into(),
            touches: vec![
                TouchCredit { event_id: "a".into(), conversion_micros: 333_333, value_micros: -1 },
                TouchCredit {
                    event_id: String::new(),
                    conversion_micros: 1_000_000,
                    value_micros: 7_500_000,
                },
            ],
        });
        let expected = r#"{"model":"linear","touches":[{"event_id":"a","conversions":0.333333,"value":"-0.000001"},{"event_id":null,"conversions":1,"value":"7.500000"}]}"#;
        assert_eq!(shown.to_string(), expected);
    }

    #[test]
    fn the_names_of_the_model_and_of_the_answers_are_the_same() {
        for of_model in model::Verdict::ALL {
            let number = i32::from(of_model as u8);
            assert_eq!(verdict(Verdict::try_from(number).unwrap()), of_model.name());
        }
        for kind in [model::TouchKind::Click, model::TouchKind::Impression, model::TouchKind::Visit] {
            let names = [EventType::Impression, EventType::Click, EventType::Visit].map(event_type);
            assert!(names.contains(&kind.name()));
        }
    }
}
