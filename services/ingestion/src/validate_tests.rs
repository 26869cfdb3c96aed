#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::parse::{Format, Items};

/// 2026-01-01.
const NOW: i64 = 1_767_225_600_000;

fn check_body(body: &str) -> Result<Checked, (Code, String)> {
    let mut items = Items::new(body.as_bytes(), Format::Json).unwrap();
    let mut event = EventRef::default();
    let form = items.next(&mut event).unwrap().unwrap();
    let answer = size(&event).and(form).and_then(|()| validate(&event, NOW));
    answer.map_err(|rejection| {
        assert!(!rejection.reason.is_empty());
        (rejection.code, rejection.field.into_owned())
    })
}

/// Checks a valid click or conversion after a change: `None` takes a field out.
fn check(event_type: &str, changes: &[(&str, Option<Value>)]) -> Result<Checked, (Code, String)> {
    let mut event = json!({"event_type": event_type, "timestamp": NOW, "device_id": "d"});
    let fields = event.as_object_mut().unwrap();
    for (name, value) in changes {
        match value {
            Some(value) => drop(fields.insert((*name).to_owned(), value.clone())),
            None => drop(fields.remove(*name)),
        }
    }
    check_body(&event.to_string())
}

fn with(event_type: &str, field: &str, value: Value) -> Result<Checked, (Code, String)> {
    check(event_type, &[(field, Some(value))])
}

fn err<T>(code: Code, field: &str) -> Result<T, (Code, String)> {
    Err((code, field.to_owned()))
}

#[test]
fn the_example_of_the_contract_is_valid() {
    let body = r#"{"event_type":"click","timestamp":1767225600000,"device_id":"d","campaign_id":"c","user_agent":"Mozilla/5.0","ip":"1.2.3.4"}"#;
    let checked = check_body(body).unwrap();
    assert_eq!((checked.event_type, checked.time_millis), (EventType::Click, NOW));
}

#[test]
fn an_event_id_is_1_to_64_of_its_characters() {
    for id in ["a".to_owned(), "aZ09_.:-".to_owned(), "x".repeat(64)] {
        assert!(with("click", "event_id", json!(id)).is_ok(), "{id}");
    }
    assert_eq!(with("click", "event_id", json!("x".repeat(65))), err(Code::TooLong, "event_id"));
    for id in ["", " ", "a b", "a/b", "é", "a\n", "\0"] {
        assert_eq!(with("click", "event_id", json!(id)), err(Code::InvalidValue, "event_id"), "{id:?}");
    }
}

#[test]
fn a_type_is_one_of_five() {
    for (name, meant) in [
        ("impression", EventType::Impression),
        ("click", EventType::Click),
        ("visit", EventType::Visit),
        ("activity", EventType::Activity),
        ("conversion", EventType::Conversion),
    ] {
        assert_eq!(check(name, &[]).unwrap().event_type, meant);
    }
    for name in ["", "Click", "clicks", "EVENT_TYPE_CLICK", "unspecified"] {
        assert_eq!(check(name, &[]), err(Code::InvalidValue, "event_type"), "{name}");
    }
    assert_eq!(check("click", &[("event_type", None)]), err(Code::MissingField, "event_type"));
}

#[test]
fn a_time_is_from_2000_to_a_day_ahead() {
    let ahead = NOW + TIME_AHEAD_MILLIS_MAX;
    for (time, meant) in [
        (json!(TIME_MILLIS_MIN), TIME_MILLIS_MIN),
        (json!(ahead), ahead),
        (json!("2000-01-01T00:00:00Z"), TIME_MILLIS_MIN),
        (json!("2000-01-01T01:00:00+01:00"), TIME_MILLIS_MIN),
        (json!("2026-01-02T00:00:00.000999Z"), ahead),
    ] {
        assert_eq!(with("click", "timestamp", time).unwrap().time_millis, meant);
    }
    for time in [
        json!(TIME_MILLIS_MIN - 1),
        json!(ahead + 1),
        json!(0),
        json!(-1),
        json!("1999-12-31T23:59:59.999Z"),
        json!("2026-01-02T00:00:00.001Z"),
        json!(u64::MAX),
    ] {
        assert_eq!(with("click", "timestamp", time.clone()), err(Code::OutOfRange, "timestamp"), "{time}");
        let conversion = with("conversion", "install_begin", time.clone());
        assert_eq!(conversion, err(Code::OutOfRange, "install_begin"), "{time}");
    }
    for time in [json!(""), json!("yesterday"), json!("1767225600000"), json!(1.5), json!(1.7672256e12)] {
        assert_eq!(with("click", "timestamp", time.clone()), err(Code::InvalidValue, "timestamp"), "{time}");
    }
    assert_eq!(check("click", &[("timestamp", None)]), err(Code::MissingField, "timestamp"));
    let begun = with("conversion", "install_begin", json!(TIME_MILLIS_MIN)).unwrap();
    assert_eq!(begun.install_begin_millis, Some(TIME_MILLIS_MIN));
}

#[test]
fn there_is_one_identity_of_1_to_128_bytes() {
    for field in ["device_id", "cookie_id", "user_id"] {
        let only = |value: Value| check("click", &[("device_id", None), (field, Some(value))]);
        assert!(only(json!("x")).is_ok());
        assert!(only(json!("x".repeat(128))).is_ok());
        assert!(only(json!("é".repeat(64))).is_ok());
        assert_eq!(only(json!("x".repeat(129))), err(Code::TooLong, field));
        assert_eq!(only(json!(format!("x{}", "é".repeat(64)))), err(Code::TooLong, field));
        assert_eq!(only(json!("")), err(Code::InvalidValue, field));
    }
    assert_eq!(check("click", &[("device_id", None)]), err(Code::MissingField, "device_id"));
    assert_eq!(check("activity", &[("device_id", None)]), err(Code::MissingField, "device_id"));
}

#[test]
fn every_string_has_its_length() {
    for (field, event_type, bytes_max) in [
        ("click_id", "click", 256),
        ("app_id", "click", 256),
        ("platform", "activity", 256),
        ("channel", "visit", 256),
        ("partner", "impression", 256),
        ("campaign_id", "click", 256),
        ("ad_group_id", "conversion", 256),
        ("creative_id", "click", 256),
        ("keyword", "click", 256),
        ("sub_publisher", "visit", 256),
        ("conversion", "conversion", 128),
        ("user_agent", "activity", 1_024),
    ] {
        for length in [0, 1, bytes_max] {
            assert!(with(event_type, field, json!("x".repeat(length))).is_ok(), "{field} {length}");
        }
        let past = with(event_type, field, json!("x".repeat(bytes_max + 1)));
        assert_eq!(past, err(Code::TooLong, field));
    }
}

#[test]
fn a_field_of_the_other_kind_of_event_is_unknown() {
    let own = [
        ("sub_publisher", json!("p"), ["impression", "click", "visit"].as_slice()),
        ("conversion", json!("install"), &["conversion"]),
        ("value", json!("1"), &["conversion"]),
        ("currency", json!("EUR"), &["conversion"]),
        ("install_begin", json!(NOW), &["conversion"]),
    ];
    for event_type in ["impression", "click", "visit", "activity", "conversion"] {
        for (field, value, types) in &own {
            let answer = with(event_type, field, value.clone());
            if types.contains(&event_type) {
                assert!(answer.is_ok(), "{event_type} {field}");
            } else {
                assert_eq!(answer, err(Code::UnknownField, field), "{event_type}");
            }
        }
    }
}

#[test]
fn codes_are_those_of_their_standards() {
    assert!(with("click", "country", json!("DE")).is_ok());
    assert!(with("conversion", "currency", json!("EUR")).is_ok());
    for code in ["", "de", "UK", "ZZ", "DEU"] {
        assert_eq!(with("click", "country", json!(code)), err(Code::InvalidValue, "country"), "{code}");
    }
    for code in ["", "eur", "EURO", "ZZZ"] {
        assert_eq!(with("conversion", "currency", json!(code)), err(Code::InvalidValue, "currency"));
    }
    let event = EventRef {
        event_type: Some(TypeRef::Known(EventType::Conversion)),
        timestamp: Some(TimeRef::Number("1767225600000")),
        ..EventRef::default()
    };
    let mut event = event;
    event.texts[Field::DeviceId as usize] = Some("d".into());
    event.texts[Field::Currency as usize] = Some("EURO".into());
    let rejection = validate(&event, NOW).unwrap_err();
    assert_eq!(rejection.reason, "not an ISO 4217 code: \"EURO\"");
}

#[test]
fn a_value_is_a_decimal_number_of_bounded_size() {
    for (text, micros) in [
        ("0", 0),
        ("-0", 0),
        ("-0.000", 0),
        ("0.000001", 1),
        ("12.34", 12_340_000),
        ("12.3400000000", 12_340_000),
        ("-12.34", -12_340_000),
        ("9000000000000", 9_000_000_000_000_000_000),
        ("-9000000000000", -9_000_000_000_000_000_000),
        ("9000000000000.000000", 9_000_000_000_000_000_000),
    ] {
        for value in [format!("\"{text}\""), text.to_owned()] {
            let body =
                format!(r#"{{"event_type":"conversion","timestamp":{NOW},"device_id":"d","value":{value}}}"#);
            assert_eq!(check_body(&body).unwrap().value_micros, micros, "{value}");
        }
    }
    for (value, micros) in
        [("1e3", 1_000_000_000), ("-1.5E+2", -150_000_000), ("1e-06", 1), ("9e12", 9_000_000_000_000_000_000)]
    {
        let body =
            format!(r#"{{"event_type":"conversion","timestamp":{NOW},"device_id":"d","value":{value}}}"#);
        assert_eq!(check_body(&body).unwrap().value_micros, micros, "{value}");
    }
    for (value, code) in [
        ("\"9000000000000.000001\"", Code::OutOfRange),
        ("-9000000000000.000001", Code::OutOfRange),
        ("9000000000001", Code::OutOfRange),
        ("\"10000000000000000000000000000000000\"", Code::OutOfRange),
        ("0.0000001", Code::InvalidValue),
        ("\"0.0000001\"", Code::InvalidValue),
        ("1e-7", Code::InvalidValue),
        ("9.000000000000000001e12", Code::OutOfRange),
        ("1e400", Code::OutOfRange),
        ("\"1e-06\"", Code::InvalidValue),
        ("\"1e3\"", Code::InvalidValue),
        ("\"\"", Code::InvalidValue),
        ("\"-\"", Code::InvalidValue),
        ("\"+1\"", Code::InvalidValue),
        ("\" 1\"", Code::InvalidValue),
        ("\"1.\"", Code::InvalidValue),
        ("\".5\"", Code::InvalidValue),
        ("\"1,5\"", Code::InvalidValue),
        ("\"NaN\"", Code::InvalidValue),
        ("\"Infinity\"", Code::InvalidValue),
        ("\"٣\"", Code::InvalidValue),
        ("null", Code::InvalidValue),
        ("true", Code::InvalidValue),
    ] {
        let body =
            format!(r#"{{"event_type":"conversion","timestamp":{NOW},"device_id":"d","value":{value}}}"#);
        assert_eq!(check_body(&body), err(code, "value"), "{value}");
    }
    let padded = |zeros: usize| with("conversion", "value", json!(format!("{}1", "0".repeat(zeros))));
    assert!(padded(VALUE_BYTES_MAX - 1).is_ok());
    assert_eq!(padded(VALUE_BYTES_MAX), err(Code::TooLong, "value"));
}

#[test]
fn an_address_is_of_either_family() {
    for ip in ["1.2.3.4", "::1", "2001:db8::1", "::ffff:1.2.3.4"] {
        assert!(with("click", "ip", json!(ip)).is_ok(), "{ip}");
    }
    for ip in ["", "1.2.3", "1.2.3.256", "1.2.3.4:80", "fe80::1%eth0", "localhost", "01.2.3.4"] {
        assert_eq!(with("click", "ip", json!(ip)), err(Code::InvalidValue, "ip"), "{ip}");
    }
}

#[test]
fn properties_are_few_small_and_flat() {
    let good = json!({"s": "x", "n": 1.5, "i": -3, "t": true, "f": false, "": "", "é": "\n"});
    assert!(with("click", "properties", good).is_ok());
    assert!(with("activity", "properties", json!({})).is_ok());
    for bad in [json!({"a": null}), json!({"a": []}), json!({"a": {"b": 1}}), json!({"n": 1, "a": [1]})] {
        let answer = with("click", "properties", bad.clone());
        assert_eq!(answer, err(Code::InvalidValue, "properties"), "{bad}");
    }
    let infinite =
        format!(r#"{{"event_type":"click","timestamp":{NOW},"device_id":"d","properties":{{"n":1e999}}}}"#);
    assert_eq!(check_body(&infinite), err(Code::InvalidValue, "properties"));
    let keys = |count: usize| -> Value {
        (0..count).map(|i| (format!("k{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into()
    };
    assert!(with("click", "properties", keys(PROPERTIES_KEYS_MAX)).is_ok());
    let past = with("click", "properties", keys(PROPERTIES_KEYS_MAX + 1));
    assert_eq!(past, err(Code::TooLarge, "properties"));
}

#[test]
fn the_size_of_properties_is_that_of_their_json() {
    let others =
        [json!({"k": ""}), json!({"k": "", "n": -1.25, "m": 1e300, "i": 100, "z": 0, "t": true, "f": false})];
    for mut properties in others {
        let room = PROPERTIES_BYTES_MAX - properties.to_string().replace("e+", "e").len();
        let mut sized = |length: usize| {
            properties["k"] = json!("x".repeat(length));
            let text = properties.to_string().replace("100,", "1e2,");
            check_body(&format!(
                r#"{{"event_type":"click","timestamp":{NOW},"device_id":"d","properties":{text}}}"#
            ))
        };
        assert!(sized(room).is_ok());
        assert_eq!(sized(room + 1), err(Code::TooLarge, "properties"));
    }
}

#[test]
fn an_event_has_at_most_64_kib() {
    let padded = |bytes: usize| {
        let event = format!(r#"{{"event_type":"click","timestamp":{NOW},"device_id":"d"}}"#);
        event.replace("{", &format!("{{{}", " ".repeat(bytes - event.len())))
    };
    assert!(check_body(&padded(EVENT_BYTES_MAX)).is_ok());
    assert_eq!(check_body(&padded(EVENT_BYTES_MAX + 1)), err(Code::TooLarge, ""));
}

#[test]
fn of_several_mistakes_the_first_in_the_order_of_the_contract_counts() {
    let bad = |field: &'static str, value: Value| (field, Some(value));
    let mut changes = vec![
        bad("properties", json!({"a": null})),
        bad("user_agent", json!("x".repeat(1_025))),
        bad("ip", json!("x")),
        bad("install_begin", json!(0)),
        bad("currency", json!("x")),
        bad("value", json!("x")),
        bad("conversion", json!("x".repeat(129))),
        bad("country", json!("x")),
        bad("keyword", json!("x".repeat(257))),
        bad("user_id", json!("")),
        bad("timestamp", json!("x")),
        bad("event_type", json!("x")),
        bad("event_id", json!("")),
    ];
    while let Some((field, _)) = changes.last().cloned() {
        assert_eq!(check("conversion", &changes).unwrap_err().1, field);
        changes.pop();
    }
}
