//! What REST writes, read back into the messages of gRPC: written from the contract, not from the code that writes.

use proto::{
    decisions::{
        Candidate, Decision, Edition, FraudFinding, LifetimeValue, ModelCredit, Position, Score, TouchCredit,
        Winner,
    },
    events::Event,
    query::{GetJourneyResponse, Identity, Row},
};
use serde_json::Value;

pub fn event(value: &Value) -> Event {
    let known = [
        "event_id",
        "event_type",
        "timestamp",
        "device_id",
        "cookie_id",
        "user_id",
        "click_id",
        "app_id",
        "platform",
        "channel",
        "partner",
        "campaign_id",
        "ad_group_id",
        "creative_id",
        "keyword",
        "sub_publisher",
        "country",
        "conversion",
        "value",
        "currency",
    ];
    for name in value.as_object().unwrap().keys() {
        assert!(known.contains(&name.as_str()), "{name}");
    }
    let kinds = ["", "impression", "click", "visit", "activity", "conversion"];
    Event {
        event_id: text(value, "event_id"),
        event_type: place(&kinds, value, "event_type"),
        timestamp: time(&value["timestamp"]),
        device_id: text(value, "device_id"),
        cookie_id: text(value, "cookie_id"),
        user_id: text(value, "user_id"),
        click_id: text(value, "click_id"),
        app_id: text(value, "app_id"),
        platform: text(value, "platform"),
        channel: text(value, "channel"),
        partner: text(value, "partner"),
        campaign_id: text(value, "campaign_id"),
        ad_group_id: text(value, "ad_group_id"),
        creative_id: text(value, "creative_id"),
        keyword: text(value, "keyword"),
        sub_publisher: text(value, "sub_publisher"),
        country: text(value, "country"),
        conversion: text(value, "conversion"),
        value: text(value, "value"),
        currency: text(value, "currency"),
        ..Event::default()
    }
}

pub fn journey(value: &Value) -> GetJourneyResponse {
    GetJourneyResponse {
        person_id: text(value, "person_id"),
        identities: list(value, "identities", |identity| Identity {
            kind: text(identity, "kind"),
            value: text(identity, "value"),
        }),
        shared: value["shared"].as_bool().unwrap(),
        events: list(value, "events", event),
        next_page_token: text(value, "next_page_token"),
    }
}

pub fn decision(value: &Value) -> Decision {
    let winner = &value["winner"];
    let score = &value["score"];
    Decision {
        conversion_id: text(value, "conversion_id"),
        conversion: Some(event(&value["conversion"])),
        person_id: text(value, "person_id"),
        shared: value["shared"].as_bool().unwrap(),
        settings_edition: text(value, "settings_edition"),
        candidates: list(value, "candidates", candidate),
        truncated: value["truncated"].as_bool().unwrap(),
        winner: Some(Winner {
            event_id: text(winner, "event_id"),
            reason: text(winner, "reason"),
            runner_up: text(winner, "runner_up"),
            decided_by: text(winner, "decided_by"),
            margin_millis: winner["margin_millis"].as_i64().unwrap(),
        }),
        credit: list(value, "credit", |credit| ModelCredit {
            model: text(credit, "model"),
            touches: list(credit, "touches", |touch| TouchCredit {
                event_id: text(touch, "event_id"),
                conversion_micros: (touch["conversions"].as_f64().unwrap() * 1e6).round() as i64,
                value_micros: text(touch, "value").replace('.', "").parse().unwrap(),
            }),
        }),
        score: Some(Score {
            present: score["present"].as_bool().unwrap(),
            fraud_probability: score["fraud_probability"].as_f64().unwrap_or_default(),
            reasons: list(score, "reasons", |reason| reason.as_str().unwrap().to_owned()),
            event_id: text(score, "event_id"),
            model: text(score, "model"),
            version: text(score, "version"),
        }),
        editions: list(value, "editions", edition),
        explanation: text(value, "explanation"),
        fraud: list(value, "fraud", |finding| FraudFinding {
            rule: place(&FRAUD_RULES, finding, "rule"),
            reason: text(finding, "reason"),
        }),
        lifetime_value: Some(&value["lifetime_value"]).filter(|value| !value.is_null()).map(lifetime_value),
    }
}

fn lifetime_value(value: &Value) -> LifetimeValue {
    let number = |name: &str| value[name].as_f64().unwrap_or_default();
    LifetimeValue {
        present: value["present"].as_bool().unwrap(),
        value: number("value"),
        lower: number("lower"),
        upper: number("upper"),
        level: number("level"),
        currency: text(value, "currency"),
        horizon_weeks: value["horizon_weeks"].as_u64().unwrap_or_default() as u32,
        model: text(value, "model"),
        version: text(value, "version"),
        reason: text(value, "reason"),
    }
}

/// A row, given the dimensions that were asked.
pub fn row(value: &Value, dimensions: &[&str]) -> Row {
    let number = |name: &str| value.get(name).and_then(Value::as_i64).unwrap_or_default();
    Row {
        model: text(value, "model"),
        dimensions: dimensions.iter().map(|name| ((*name).to_owned(), text(value, name))).collect(),
        // Without `value` it is a dimension and nothing else.
        currency: if value.get("value").is_some() { text(value, "currency") } else { String::new() },
        conversions: value.get("conversions").and_then(Value::as_f64).unwrap_or_default(),
        value: text(value, "value"),
        touches: number("touches"),
        persons: number("persons"),
    }
}

fn candidate(value: &Value) -> Candidate {
    let verdicts = [
        "",
        "eligible",
        "outside_window",
        "other_app",
        "after_conversion",
        "before_previous_conversion",
        "fraud",
    ];
    Candidate {
        touch: Some(event(&value["touch"])),
        verdict: place(&verdicts, value, "verdict"),
        match_type: place(&["", "identity"], value, "match_type"),
        age_millis: value["age_millis"].as_i64().unwrap(),
        window_millis: value["window_millis"].as_i64().unwrap(),
        fraud: list(value, "fraud", |rule| named(&FRAUD_RULES, rule)),
        fraud_probability: value["fraud_probability"].as_f64(),
    }
}

fn edition(value: &Value) -> Edition {
    let cause = &value["cause"];
    let reasons = ["", "conversion", "late_touch", "link", "earlier_conversion", "score", "settings"];
    Edition {
        cause: Some(Position {
            partition: cause["partition"].as_u64().unwrap() as u32,
            offset: cause["offset"].as_u64().unwrap(),
            index: cause["index"].as_u64().unwrap() as u32,
        }),
        reason: place(&reasons, value, "reason"),
        recorded_at: time(&value["recorded_at"]),
        digest: text(value, "digest"),
        in_force: value["in_force"].as_bool().unwrap(),
    }
}

pub fn time(value: &Value) -> Option<prost_types::Timestamp> {
    let time: jiff::Timestamp = value.as_str().unwrap().parse().unwrap();
    Some(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

fn list<T>(value: &Value, name: &str, read: impl Fn(&Value) -> T) -> Vec<T> {
    value[name].as_array().unwrap().iter().map(read).collect()
}

const FRAUD_RULES: [&str; 6] =
    ["", "click_to_install", "after_install_begin", "cap_minutes", "cap_hour", "cap_day"];

fn place(names: &[&str], value: &Value, field: &str) -> i32 {
    named(names, &value[field])
}

fn named(names: &[&str], value: &Value) -> i32 {
    let name = value.as_str().unwrap();
    names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name}")) as i32
}

// Absent and null are the empty string of a message.
fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(text) => text.as_str().unwrap().to_owned(),
    }
}
