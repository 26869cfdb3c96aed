#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// What a reading of a body comes to, in plain words: of each item its fields or its first mistake.
type Read = Result<Vec<Item>, (usize, usize)>;
type Item = Result<Map<String, Value>, (Code, String)>;

fn read(body: impl AsRef<[u8]>, format: Format) -> Read {
    let at = |error: Unreadable| (error.byte, error.line);
    let body = body.as_ref();
    let mut items = Items::new(body, format).map_err(at)?;
    let mut event = EventRef::default();
    let mut out = Vec::new();
    while let Some(form) = items.next(&mut event).map_err(at)? {
        out.push(form.map(|()| plain(&event)).map_err(|r| (r.code, r.field.into_owned())));
    }
    Ok(out)
}

fn read_json(body: &str) -> Read {
    read(body, Format::Json)
}

#[test]
fn events_are_counted_without_being_read() {
    for events in [0, 1, 7] {
        let event = json!({"event_id": "an event_type", "event_type": "click"}).to_string();
        let all = vec![event; events];
        assert_eq!(count(format!("[{}]", all.join(",")).as_bytes()), events);
        assert_eq!(count(all.join("\n").as_bytes()), events);
        assert_eq!(count(format!("[{}", all.join(",")).as_bytes()), events, "cut");
    }
}

fn plain(event: &EventRef<'_>) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| assert!(fields.insert(name.to_owned(), value).is_none());
    for (name, text) in FIELDS.iter().zip(&event.texts) {
        if let Some(text) = text {
            put(name, json!(text));
        }
    }
    match &event.event_type {
        Some(TypeRef::Known(known)) => {
            let name = known.as_str_name().strip_prefix("EVENT_TYPE_").unwrap().to_lowercase();
            put("event_type", json!(name));
        }
        Some(TypeRef::Word(word)) => put("event_type", json!(word)),
        Some(TypeRef::Number(_)) => panic!("no number comes by REST"),
        None => {}
    }
    for (name, time) in [("timestamp", &event.timestamp), ("install_begin", &event.install_begin)] {
        match time {
            Some(TimeRef::Number(number)) => put(name, serde_json::from_str(number).unwrap()),
            Some(TimeRef::Text(text)) => put(name, json!(text)),
            Some(TimeRef::Message(_)) => panic!("no message comes by REST"),
            None => {}
        }
    }
    if event.has_properties {
        let scalar = |value: &Scalar<'_>| match value {
            Scalar::Text(text) => json!(text),
            Scalar::Number(number) => json!(number),
            Scalar::Bool(value) => json!(value),
            Scalar::Other(_) => Value::Null,
        };
        let properties: Map<_, _> =
            event.properties.iter().map(|(key, value)| (key.to_string(), scalar(value))).collect();
        assert_eq!(properties.len(), event.properties.len());
        put("properties", json!(properties));
    }
    fields
}

const FIELDS: [&str; 24] = [
    "event_id",
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
    "ip",
    "user_agent",
    "event_type",
    "timestamp",
    "install_begin",
    "properties",
];

/// The same reading over a tree of values: the plain, slow model.
fn model(body: &[u8], format: Format) -> Option<Vec<Item>> {
    let text = std::str::from_utf8(body).ok()?;
    let values = match format {
        Format::Json => match serde_json::from_str(text).ok()? {
            Value::Array(items) => items,
            one => vec![one],
        },
        Format::Lines => text
            .split('\n')
            .filter(|line| !line.trim_matches([' ', '\t', '\r']).is_empty())
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .ok()?,
    };
    Some(values.into_iter().map(model_item).collect())
}

/// Whether a body can be read: the form alone, not what numbers and escapes mean.
fn well_formed(body: &str, format: Format) -> bool {
    let is_json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let is_blank = |line: &str| line.trim_matches([' ', '\t', '\r']).is_empty();
    match format {
        Format::Json => is_json(body),
        Format::Lines => body.split('\n').all(|line| is_blank(line) || is_json(line)),
    }
}

fn model_item(value: Value) -> Item {
    let Value::Object(mut fields) = value else { return Err((Code::InvalidValue, String::new())) };
    for (name, value) in &mut fields {
        if !FIELDS.contains(&name.as_str()) {
            return Err((Code::UnknownField, name.clone()));
        }
        let fits = match name.as_str() {
            "timestamp" | "install_begin" => value.is_number() || value.is_string(),
            "value" => value.is_number() || value.is_string(),
            "properties" => value.is_object(),
            _ => value.is_string(),
        };
        if !fits {
            return Err((Code::InvalidValue, name.clone()));
        }
        if name == "value" && value.is_number() {
            *value = json!(value.to_string());
        }
        if let Value::Object(properties) = value {
            for property in properties.values_mut() {
                match property {
                    Value::Number(number) => *property = json!(number.as_f64()),
                    Value::String(_) | Value::Bool(_) => {}
                    _ => *property = Value::Null,
                }
            }
        }
    }
    Ok(fields)
}

#[test]
fn the_three_forms_of_a_body_read_the_same() {
    let (one, two) = (r#"{"event_type":"click","value":1.50}"#, r#" {"device_id":"d"} "#);
    let items = |body: &str, format| read(body, format).unwrap();
    let both = items(&format!("[{one},{two}]"), Format::Json);
    assert_eq!(both.len(), 2);
    assert_eq!(items(&format!("{one}\n{two}"), Format::Lines), both);
    assert_eq!(items(&format!("\n \r\n{one}\r\n\t\n{two}\n\n"), Format::Lines), both);
    assert_eq!(items(one, Format::Json), both[..1]);
    assert_eq!(items("[]", Format::Json), []);
    assert_eq!(items(" [ ] \n", Format::Json), []);
    assert_eq!(items("", Format::Lines), []);
    assert_eq!(items("\r\n \n", Format::Lines), []);
}

#[test]
fn a_value_keeps_its_text() {
    let items = read_json(r#"{"value":1.50}"#).unwrap();
    assert_eq!(items[0].as_ref().unwrap()["value"], json!("1.50"));
    let items = read_json(r#"{"value":"-0"}"#).unwrap();
    assert_eq!(items[0].as_ref().unwrap()["value"], json!("-0"));
}

#[test]
fn a_mistake_inside_an_item_is_that_items_alone() {
    let good = r#"{"event_type":"click"}"#;
    for (bad, code, field) in [
        ("1", Code::InvalidValue, ""),
        ("null", Code::InvalidValue, ""),
        ("[[{}]]", Code::InvalidValue, ""),
        ("\"x\"", Code::InvalidValue, ""),
        (r#"{"device_id":1}"#, Code::InvalidValue, "device_id"),
        (r#"{"device_id":null}"#, Code::InvalidValue, "device_id"),
        (r#"{"event_id":true}"#, Code::InvalidValue, "event_id"),
        (r#"{"event_type":2}"#, Code::InvalidValue, "event_type"),
        (r#"{"timestamp":{"a":[1,{}]}}"#, Code::InvalidValue, "timestamp"),
        (r#"{"install_begin":false}"#, Code::InvalidValue, "install_begin"),
        (r#"{"value":[]}"#, Code::InvalidValue, "value"),
        (r#"{"properties":"x"}"#, Code::InvalidValue, "properties"),
        (r#"{"properties":{"a":1,"\u0061":2}}"#, Code::InvalidValue, "properties"),
        (r#"{"properties":{"\ud800":1}}"#, Code::InvalidValue, "properties"),
        (r#"{"keyword":"\ud800"}"#, Code::InvalidValue, "keyword"),
        (r#"{"event_type":"\ud800"}"#, Code::InvalidValue, "event_type"),
        (r#"{"timestamp":"\ud800"}"#, Code::InvalidValue, "timestamp"),
        (r#"{"user_id":"a","user_id":"a"}"#, Code::InvalidValue, "user_id"),
        (r#"{"timestamp":1,"timestamp":1}"#, Code::InvalidValue, "timestamp"),
        (r#"{"properties":{},"properties":{}}"#, Code::InvalidValue, "properties"),
        (r#"{"nope":{"a":[[[]]]},"device_id":1}"#, Code::UnknownField, "nope"),
        (r#"{"device_id":1,"nope":2}"#, Code::InvalidValue, "device_id"),
        (r#"{"\u006eope":2}"#, Code::UnknownField, "nope"),
        (r#"{"\ud800":2}"#, Code::UnknownField, "\u{fffd}"),
        (r#"{"":2}"#, Code::UnknownField, ""),
        (r#"{"Device_id":"d"}"#, Code::UnknownField, "Device_id"),
    ] {
        for (body, format) in [
            (format!("[{good},{bad},{good}]"), Format::Json),
            (format!("{good}\n{bad}\n{good}\n"), Format::Lines),
        ] {
            let items = read(&body, format).unwrap();
            assert_eq!(items.len(), 3, "{body}");
            assert!(items[0].is_ok() && items[2].is_ok(), "{body}");
            assert_eq!(items[1], Err((code, field.to_owned())), "{body}");
        }
    }
    // Such a body alone is one item, too.
    assert_eq!(read_json("42").unwrap(), [Err((Code::InvalidValue, String::new()))]);
}

#[test]
fn a_long_unknown_name_is_cut() {
    let items = read_json(&format!(r#"{{"{}":1}}"#, "é".repeat(500))).unwrap();
    assert_eq!(items[0], Err((Code::UnknownField, "é".repeat(128))));
}

#[test]
fn what_is_not_json_says_where() {
    for (body, format, byte, line) in [
        ("", Format::Json, 0, 1),
        ("  ", Format::Json, 2, 1),
        ("{", Format::Json, 1, 1),
        ("{}{}", Format::Json, 2, 1),
        ("[{}", Format::Json, 3, 1),
        ("[{},]", Format::Json, 4, 1),
        ("[,{}]", Format::Json, 1, 1),
        ("[{} {}]", Format::Json, 4, 1),
        ("[{}]\n]", Format::Json, 5, 2),
        ("{\n\"a\":\nnope}", Format::Json, 7, 3),
        ("{}\n{]\n{}", Format::Lines, 4, 2),
        ("{}\n{\n}", Format::Lines, 4, 2),
        ("{} {}", Format::Lines, 3, 1),
        ("{\"nope\":[1,2}\n", Format::Lines, 12, 1),
    ] {
        assert_eq!(read(body, format), Err((byte, line)), "{body:?}");
    }
    assert_eq!(read(b"[{},\n\xff]", Format::Json), Err((5, 2)));
    for format in [Format::Json, Format::Lines] {
        assert_eq!(read("\u{feff}{}", format), Err((0, 1)));
    }
    assert_eq!(read(b"{}\n{}\n\xc3", Format::Lines), Err((6, 3)));
}

#[test]
fn depth_is_no_matter() {
    let deep = format!(r#"{{"nope":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(read_json(&deep).unwrap(), [Err((Code::UnknownField, "nope".to_owned()))]);
    assert_eq!(read_json(&"[".repeat(100_000)), Err((100_000, 1)));
}

#[test]
fn an_items_size_is_from_brace_to_brace() {
    let body = "[ {\"event_id\" : 1 } ,{}]";
    let mut items = Items::new(body.as_bytes(), Format::Json).unwrap();
    let mut event = EventRef::default();
    let _ = items.next(&mut event).unwrap();
    assert_eq!(event.bytes, 17);
    let _ = items.next(&mut event).unwrap();
    assert_eq!(event.bytes, 2);
}

#[test]
fn one_key_more_than_may_be_is_kept_and_no_further_one() {
    for (keys, kept) in [(PROPERTIES_KEYS_MAX, 64), (65, 65), (1_000, 65)] {
        let fields: Vec<_> = (0..keys).map(|i| format!("\"k{i}\":{i}")).collect();
        let body = format!(r#"{{"properties":{{{}}}}}"#, fields.join(","));
        let items = read_json(&body).unwrap();
        assert_eq!(items[0].as_ref().unwrap()["properties"].as_object().unwrap().len(), kept);
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => "\\PC{0,12}".prop_map(Value::from),
        1 => prop::sample::select(vec!["click", "conversion", "activity"]).prop_map(Value::from),
        1 => any::<i32>().prop_map(Value::from),
        1 => Just(json!(12.25)),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-c\"é]{0,2}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn some_event() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        20 => prop::sample::select(FIELDS.to_vec()).prop_map(str::to_owned),
        1 => "[a-z_]{0,10}",
    ];
    let text = "\\PC{0,12}".prop_map(Value::from);
    let fields = prop::collection::hash_map(name, prop_oneof![4 => text, 1 => value()], 0..8);
    prop_oneof![
        9 => fields.prop_map(|map| Value::Object(map.into_iter().collect())),
        1 => value(),
    ]
}

proptest! {
    #[test]
    fn a_number_is_the_one_that_was_written(number in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO) {
        // Both are shortest forms that only this number rounds to.
        for text in [serde_json::to_string(&number).unwrap(), format!("{number:e}")] {
            let body = format!(r#"{{"properties":{{"n":{text}}}}}"#);
            let mut items = Items::new(body.as_bytes(), Format::Json).unwrap();
            let mut event = EventRef::default();
            items.next(&mut event).unwrap().unwrap().unwrap();
            let [(_, Scalar::Number(read))] = event.properties[..] else { panic!("{event:?}") };
            prop_assert_eq!(read.to_bits(), number.to_bits(), "{}", text);
        }
    }

    #[test]
    fn a_body_reads_as_the_model_reads_it(
        items in prop::collection::vec(some_event(), 0..5),
        pretty in any::<bool>(),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let write = |value: &Value| if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let mut array = write(&json!(items)).unwrap().into_bytes();
        let mut lines = items.iter().map(|item| item.to_string() + "\r\n").collect::<String>().into_bytes();
        if let Some(cut) = cut {
            array.truncate(cut.index(array.len() + 1));
            lines.truncate(cut.index(lines.len() + 1));
        }
        for (body, format) in [(array, Format::Json), (lines, Format::Lines)] {
            prop_assert_eq!(read(&body, format).ok(), model(&body, format), "{}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        jsonish in "[\\[\\]{}:,\"\\\\u0-9eE.tfn a-c\n-]{0,80}",
    ) {
        for format in [Format::Json, Format::Lines] {
            let _ = read(&bytes, format);
            prop_assert_eq!(read(&jsonish, format).is_ok(), well_formed(&jsonish, format), "{:?}", jsonish);
        }
    }
}
