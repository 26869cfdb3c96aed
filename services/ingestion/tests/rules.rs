//! The rules of an event against a plain reading of the contract: what is accepted and stored, and what is rejected for
//! which field.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{Sandbox, post};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use prost_types::{Struct, Value as ProtoValue, value::Kind};
use proto::events::{Event, EventType};
use serde_json::{Map, Value, json};

type Mistake = (&'static str, String);

const LABELS: [&str; 9] = [
    "click_id",
    "app_id",
    "platform",
    "channel",
    "partner",
    "campaign_id",
    "ad_group_id",
    "creative_id",
    "keyword",
];
const OF_CONVERSIONS: [&str; 4] = ["conversion", "value", "currency", "install_begin"];

fn mistake<T>(code: &'static str, field: &str) -> Result<T, Mistake> {
    Err((code, field.to_owned()))
}

/// What the contract says of one item.
fn judge(item: &Value, now: Timestamp) -> Result<Event, Mistake> {
    if item.to_string().len() > 65_536 {
        return mistake("too_large", "");
    }
    let Value::Object(fields) = item else { return mistake("invalid_value", "") };
    form(fields)?;
    let mut event = Event { event_id: bounded(fields, "event_id", 64)?, ..Event::default() };
    let of_an_id = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    if text(fields, "event_id").is_some_and(|id| id.is_empty() || !id.chars().all(of_an_id)) {
        return mistake("invalid_value", "event_id");
    }
    event.set_event_type(match text(fields, "event_type") {
        None => return mistake("missing_field", "event_type"),
        Some("impression") => EventType::Impression,
        Some("click") => EventType::Click,
        Some("visit") => EventType::Visit,
        Some("activity") => EventType::Activity,
        Some("conversion") => EventType::Conversion,
        Some(_) => return mistake("invalid_value", "event_type"),
    });
    event.timestamp = moment(fields, "timestamp", now)?;
    if event.timestamp.is_none() {
        return mistake("missing_field", "timestamp");
    }
    const IDENTITIES: [&str; 3] = ["device_id", "cookie_id", "user_id"];
    for name in IDENTITIES {
        if bounded(fields, name, 128)?.is_empty() && fields.contains_key(name) {
            return mistake("invalid_value", name);
        }
    }
    if IDENTITIES.into_iter().all(|name| !fields.contains_key(name)) {
        return mistake("missing_field", "device_id");
    }
    let labels = LABELS.map(|name| bounded(fields, name, 256));
    let [click_id, app_id, platform, channel, partner, campaign_id, ad_group_id, creative_id, keyword] =
        labels;
    event = Event {
        device_id: bounded(fields, "device_id", 128)?,
        cookie_id: bounded(fields, "cookie_id", 128)?,
        user_id: bounded(fields, "user_id", 128)?,
        click_id: click_id?,
        app_id: Some(app_id?).filter(|app| !app.is_empty()).unwrap_or_else(|| "default".to_owned()),
        platform: platform?,
        channel: channel?,
        partner: partner?,
        campaign_id: campaign_id?,
        ad_group_id: ad_group_id?,
        creative_id: creative_id?,
        keyword: keyword?,
        ..event
    };
    of_its_kind(event, fields, now)
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

fn bounded(fields: &Map<String, Value>, name: &str, bytes_max: usize) -> Result<String, Mistake> {
    match text(fields, name) {
        Some(text) if text.len() > bytes_max => mistake("too_long", name),
        given => Ok(given.unwrap_or_default().to_owned()),
    }
}

/// The first name that is unknown or value of another type, in the order of the body.
fn form(fields: &Map<String, Value>) -> Result<(), Mistake> {
    for (name, value) in fields {
        let fits = match name.as_str() {
            "timestamp" | "install_begin" | "value" => value.is_number() || value.is_string(),
            "properties" => value.is_object(),
            "event_id" | "event_type" | "device_id" | "cookie_id" | "user_id" | "sub_publisher"
            | "country" | "conversion" | "currency" | "ip" | "user_agent" => value.is_string(),
            label if LABELS.contains(&label) => value.is_string(),
            _ => return mistake("unknown_field", name),
        };
        if !fits {
            return mistake("invalid_value", name);
        }
    }
    Ok(())
}

/// What depends on the type of event, and what comes behind it.
fn of_its_kind(mut event: Event, fields: &Map<String, Value>, now: Timestamp) -> Result<Event, Mistake> {
    let is_touch = matches!(event.event_type(), EventType::Impression | EventType::Click | EventType::Visit);
    if !is_touch && fields.contains_key("sub_publisher") {
        return mistake("unknown_field", "sub_publisher");
    }
    let is_conversion = event.event_type() == EventType::Conversion;
    if !is_conversion && let Some(name) = OF_CONVERSIONS.into_iter().find(|name| fields.contains_key(*name)) {
        return mistake("unknown_field", name);
    }
    // The generator knows no other country, currency or address that is one.
    let one_of = |name: &str, known: [&str; 2]| match text(fields, name) {
        Some(given) if !known.contains(&given) => mistake("invalid_value", name),
        given => Ok(given.map(str::to_owned)),
    };
    event.sub_publisher = bounded(fields, "sub_publisher", 256)?;
    event.country = one_of("country", ["DE", "US"])?.unwrap_or_default();
    let name = bounded(fields, "conversion", 128)?;
    let value = fields.get("value").map_or_else(|| Ok("0".to_owned()), decimal)?;
    let currency = one_of("currency", ["CHF", "JPY"])?.unwrap_or_else(|| "CHF".to_owned());
    event.install_begin = moment(fields, "install_begin", now)?;
    if is_conversion {
        event.conversion = if name.is_empty() { "conversion".to_owned() } else { name };
        event.value = value;
        event.currency = currency;
    }
    event.ip = one_of("ip", ["1.2.3.4", "2001:db8::1"])?.unwrap_or_default();
    event.user_agent = bounded(fields, "user_agent", 1_024)?;
    event.properties = fields.get("properties").map(properties).transpose()?;
    Ok(event)
}

fn moment(
    fields: &Map<String, Value>,
    name: &str,
    now: Timestamp,
) -> Result<Option<prost_types::Timestamp>, Mistake> {
    fields.get(name).map(|value| time(name, value, now)).transpose()
}

fn time(name: &str, value: &Value, now: Timestamp) -> Result<prost_types::Timestamp, Mistake> {
    let at = match value {
        Value::String(text) => match text.parse::<Timestamp>() {
            Ok(at) => at,
            Err(_) => return mistake("invalid_value", name),
        },
        number => match number.as_i64() {
            Some(millis) => match Timestamp::from_millisecond(millis) {
                Ok(at) => at,
                Err(_) => return mistake("out_of_range", name),
            },
            None if number.is_u64() => return mistake("out_of_range", name),
            None => return mistake("invalid_value", name),
        },
    };
    let from: Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
    if at < from || at > now + SignedDuration::from_hours(24) {
        return mistake("out_of_range", name);
    }
    let millis = at.as_millisecond();
    let nanos = (millis.rem_euclid(1_000) * 1_000_000) as i32;
    Ok(prost_types::Timestamp { seconds: millis.div_euclid(1_000), nanos })
}

/// A value in its shortest form, digit by digit.
fn decimal(value: &Value) -> Result<String, Mistake> {
    let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (negative, rest) = given.strip_prefix('-').map_or((false, given.as_str()), |rest| (true, rest));
    let mut text = rest.to_owned();
    if value.is_number()
        && let Some((mantissa, power)) = rest.split_once('e')
    {
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let power: i32 = power.parse().unwrap();
        // Moves the point one digit at a time.
        let (mut left, mut right): (Vec<char>, Vec<char>) =
            (whole.chars().collect(), fraction.chars().collect());
        for _ in 0..power {
            left.push(if right.is_empty() { '0' } else { right.remove(0) });
        }
        for _ in power..0 {
            right.insert(0, left.pop().unwrap_or('0'));
        }
        text = format!("0{}.{}0", String::from_iter(left), String::from_iter(right));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    if whole.is_empty()
        || fraction.is_empty()
        || !(whole.to_owned() + fraction).chars().all(|c| c.is_ascii_digit())
    {
        return mistake("invalid_value", "value");
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if fraction.len() > 6 {
        return mistake("invalid_value", "value");
    }
    let most = 9_000_000_000_000_000_000;
    let micros = format!("{whole}{fraction:0<6}").parse::<u128>().unwrap_or(u128::MAX);
    if micros > most {
        return mistake("out_of_range", "value");
    }
    let sign = if negative && micros > 0 { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Ok(format!("{sign}{whole}{point}{fraction}"))
}

fn properties(value: &Value) -> Result<Struct, Mistake> {
    let given = value.as_object().unwrap();
    if given.len() > 64 {
        return mistake("too_large", "properties");
    }
    let mut fields = BTreeMap::new();
    for (key, value) in given {
        let kind = match value {
            Value::String(text) => Kind::StringValue(text.clone()),
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Value::Bool(value) => Kind::BoolValue(*value),
            _ => return mistake("invalid_value", "properties"),
        };
        fields.insert(key.clone(), ProtoValue { kind: Some(kind) });
    }
    if value.to_string().len() > 8_192 {
        return mistake("too_large", "properties");
    }
    Ok(Struct { fields })
}

fn x(bytes: usize) -> Value {
    json!("x".repeat(bytes))
}

/// Values for a field: most that may be, some at a bound, one past it, or of another form.
fn values(name: &str, now: Timestamp) -> Vec<Value> {
    let sized = |bytes: usize| {
        vec![x(1), x(bytes), json!("é".repeat(bytes / 2)), x(bytes + 1), json!("a\u{0}\n\"😀")]
    };
    let keys = |count: usize| (0..count).map(|i| (format!("k{i}"), json!(i))).collect::<Map<_, _>>();
    let mut values = match name {
        "event_id" => vec![json!("a"), json!("b"), json!("C_.:-9"), x(64), x(65), json!("a b"), json!("")],
        "event_type" => ["impression", "click", "visit", "activity", "conversion", "conversion", "Click", ""]
            .map(Value::from)
            .to_vec(),
        "timestamp" | "install_begin" => {
            let shifted = |minutes: i64| (now + SignedDuration::from_mins(minutes)).as_millisecond();
            vec![
                json!(1_767_225_600_123_i64),
                json!(946_684_800_000_i64),
                json!(946_684_799_999_i64),
                json!(shifted(24 * 60 - 10)),
                json!(shifted(24 * 60 + 10)),
                json!("2000-01-01T00:00:00Z"),
                json!("1999-12-31T23:59:59.999Z"),
                json!("2025-06-30T23:59:60+00:00"),
                json!("2025-06-30T12:00:00.987654321-05:30"),
                json!("2025-02-30T00:00:00Z"),
                json!("yesterday"),
                json!(1_767_225_600_000.5),
                json!(-1),
                json!(u64::MAX),
            ]
        }
        "device_id" | "cookie_id" | "user_id" => [sized(128), vec![json!("")]].concat(),
        "user_agent" => [sized(1_024), vec![json!(""), x(70_000)]].concat(),
        "conversion" => [sized(128), vec![json!(""), json!("install")]].concat(),
        "country" => ["DE", "US", "de", "ZZ", "USA", ""].map(Value::from).to_vec(),
        "currency" => ["CHF", "JPY", "jpy", "ZZZ", "EURO", ""].map(Value::from).to_vec(),
        "ip" => ["1.2.3.4", "2001:db8::1", "1.2.3", "1.2.3.4:5", "x", ""].map(Value::from).to_vec(),
        "value" => vec![
            json!("12.340"),
            json!("-0"),
            json!("-0.000001"),
            json!("9000000000000"),
            json!("-9000000000000.000001"),
            json!("0.0000001"),
            json!("1e3"),
            json!("NaN"),
            json!(""),
            json!("٣"),
            json!(-0.0),
            json!(0.000_001),
            json!(0.000_000_1),
            json!(9e12),
            json!(9_000_000_000_001_i64),
            json!(-1e300),
            json!(12.5),
            json!(3),
        ],
        "properties" => vec![
            json!({}),
            json!({"s": "é\n", "n": -1.5, "t": true, "": ""}),
            json!({"a": null}),
            json!({"a": {"b": 1}}),
            json!({"a": []}),
            json!(keys(64)),
            json!(keys(65)),
            json!({"k": "x".repeat(8_192 - 8)}),
            json!({"k": "x".repeat(8_192 - 7)}),
        ],
        "unknown" => vec![json!(1), json!({"a": [1, {}]})],
        _ => [sized(256), vec![json!("")]].concat(),
    };
    // Now and then of another type.
    values.extend([json!(null), json!(true), json!([1])]);
    values
}

const NAMES: [&str; 25] = [
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
    "install_begin",
    "ip",
    "user_agent",
    "properties",
    "unknown",
];

fn some_item(now: Timestamp) -> impl Strategy<Value = Value> {
    // The first three values of a field may be; most events have no mistake, so that they are stored.
    let field = prop::sample::select(NAMES.to_vec()).prop_flat_map(move |name| {
        let all = values(name, now);
        let good = if name == "unknown" { all.clone() } else { all[..3.min(all.len())].to_vec() };
        (Just(name), prop_oneof![6 => prop::sample::select(good), 2 => prop::sample::select(all)])
    });
    let types = prop::sample::select(vec!["impression", "click", "visit", "activity", "conversion"]);
    let event = (types, any::<bool>(), prop::collection::vec(field, 0..8)).prop_map(
        |(event_type, device, changes)| {
            let mut fields = Map::new();
            if device {
                fields.insert("device_id".to_owned(), json!("d"));
            }
            fields.insert("timestamp".to_owned(), json!(1_767_225_600_000_i64));
            fields.insert("event_type".to_owned(), json!(event_type));
            for (name, value) in changes {
                // At the end, wherever it stood: the order is that of the body.
                fields.shift_remove(name);
                fields.insert(name.to_owned(), value);
            }
            Value::Object(fields)
        },
    );
    prop_oneof![20 => event, 1 => prop::sample::select(vec![json!(7), json!(null), json!([[]]), json!("x")])]
}

/// The answers' items, and the events stored, both with assigned ids left out.
async fn take(content_type: &str, body: String, items: &[Value]) -> (u16, Vec<Value>, Vec<Event>) {
    let sandbox = Sandbox::new(2).await;
    let answer = sandbox.send(post("key-acme", content_type).body(body.into()).unwrap()).await;
    let mut given = answer.json["items"].as_array().unwrap_or_else(|| panic!("{}", answer.json)).clone();
    let mut stored = BTreeMap::new();
    for event in sandbox.log.events().await {
        assert!(stored.insert(event.event_id.clone(), event).is_none());
    }
    let mut in_order = Vec::new();
    for (index, (answered, item)) in given.iter_mut().zip(items).enumerate() {
        let answered = answered.as_object_mut().unwrap();
        assert_eq!(answered.remove("index"), Some(json!(index)));
        assert!(
            answered.remove("reason").is_none_or(|reason| answered["status"] == "rejected" && reason != "")
        );
        let id = answered.get("event_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        if item.get("event_id").is_none() && answered["status"] == "accepted" {
            assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7);
            answered.remove("event_id");
        }
        if answered["status"] == "accepted" {
            let mut event = stored.remove(&id).unwrap();
            if item.get("event_id").is_none() {
                event.event_id.clear();
            }
            in_order.push(event);
        }
    }
    assert!(stored.is_empty(), "stored without being accepted: {stored:?}");
    (answer.status.as_u16(), given, in_order)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn events_are_taken_and_rejected_as_the_contract_says(
        items in prop::collection::vec(some_item(Timestamp::now()), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut answers, mut stored, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
            for item in &items {
                let id = item.get("event_id").and_then(Value::as_str).unwrap_or_default();
                let mut answer = json!({});
                match judge(item, Timestamp::now()) {
                    Ok(event) => {
                        let first = event.event_id.is_empty() || seen.insert(event.event_id.clone());
                        if !id.is_empty() {
                            answer["event_id"] = json!(id);
                        }
                        answer["status"] = json!(if first { "accepted" } else { "duplicate" });
                        if first {
                            stored.push(event);
                        }
                    }
                    Err((code, field)) => {
                        let valid = (1..=64).contains(&id.len())
                            && id.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c));
                        if valid {
                            answer["event_id"] = json!(id);
                        }
                        answer["status"] = json!("rejected");
                        answer["code"] = json!(code);
                        if !field.is_empty() {
                            answer["field"] = json!(field);
                        }
                    }
                }
                answers.push(answer);
            }
            let rejected = answers.iter().all(|answer| answer["status"] == "rejected");
            let expected = (if rejected { 400 } else { 200 }, answers, stored);
            let lines: String = items.iter().map(|item| format!("{item}\r\n\n")).collect();
            assert_eq!(take("application/x-ndjson", lines, &items).await, expected);
            assert_eq!(take("application/json", json!(items).to_string(), &items).await, expected);
        });
    }
}
