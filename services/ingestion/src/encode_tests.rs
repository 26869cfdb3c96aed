#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use prost::Message;
use prost_types::{Struct, Timestamp, Value, value::Kind};
use proto::{
    events::{Event, Frame},
    ingestion::IngestEventsRequest,
};

use super::*;
use crate::{
    event::EventRef,
    message::tests::decoded,
    parse::{Format, Items},
    validate::{TIME_MILLIS_MIN, size, validate},
};

const NOW: i64 = 1_767_225_600_000;
const STAMP: Stamp<'static> = Stamp { event_id: "assigned", currency: "EUR" };

/// Encodes a valid message, completed with the stamp unless it has its own id.
fn encoded(message: &Event) -> Vec<u8> {
    let read = decoded(message);
    let checked = validate(&read, NOW).unwrap();
    let mut out = Vec::new();
    let own = read.text(Field::EventId).unwrap_or(STAMP.event_id);
    event(&mut out, &read, &checked, &Stamp { event_id: own, ..STAMP });
    out
}

/// What the contract fills in, written down on the message itself.
fn completed(mut event: Event) -> Event {
    let or = |text: &mut String, default: &str| {
        if text.is_empty() {
            *text = default.to_owned();
        }
    };
    or(&mut event.event_id, "assigned");
    or(&mut event.app_id, "default");
    if event.event_type() == EventType::Conversion {
        or(&mut event.conversion, "conversion");
        or(&mut event.currency, "EUR");
        or(&mut event.value, "0");
    }
    event
}

#[test]
fn an_event_is_completed() {
    let time = Some(Timestamp { seconds: TIME_MILLIS_MIN / 1_000, nanos: 0 });
    let bare = |event_type: EventType| Event {
        event_type: event_type.into(),
        timestamp: time,
        device_id: "d".to_owned(),
        ..Event::default()
    };
    for event_type in [EventType::Click, EventType::Activity, EventType::Conversion] {
        let decoded = Event::decode(encoded(&bare(event_type)).as_slice()).unwrap();
        assert_eq!(decoded, completed(bare(event_type)));
    }
}

#[test]
fn a_value_is_written_in_its_shortest_form() {
    for (given, written) in [
        ("-0.00", "0"),
        ("0012.340", "12.34"),
        ("-0.000001", "-0.000001"),
        ("100", "100"),
        ("-9000000000000.000000", "-9000000000000"),
        ("8999999999999.999999", "8999999999999.999999"),
    ] {
        let micros = model::money::parse_micros(given).unwrap();
        assert_eq!(value(&mut [0; VALUE_BYTES], micros), written);
    }
    assert_eq!(value(&mut [0; VALUE_BYTES], i64::MIN), "-9223372036854.775808");
}

#[test]
fn a_length_is_that_of_what_is_written() {
    for bytes in [0, 1, 127, 128, 16_383, 16_384] {
        let mut out = Vec::new();
        frame_event(&mut out, &vec![0; bytes]);
        assert_eq!(out.len(), frame_event_bytes(bytes), "{bytes}");
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 3 => "\\PC{1,40}", 1 => "x{120,256}"]
}

fn value_of_property() -> impl Strategy<Value = Kind> {
    prop_oneof![
        "\\PC{0,20}".prop_map(Kind::StringValue),
        "x{100,150}".prop_map(Kind::StringValue),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Kind::NumberValue),
        any::<bool>().prop_map(Kind::BoolValue),
    ]
}

fn time() -> impl Strategy<Value = Timestamp> {
    (TIME_MILLIS_MIN..=NOW)
        .prop_map(|millis| Timestamp { seconds: millis / 1_000, nanos: (millis % 1_000) as i32 * 1_000_000 })
}

pub(crate) fn some_event() -> impl Strategy<Value = Event> {
    let properties = prop::option::of(prop::collection::btree_map("\\PC{0,12}", value_of_property(), 0..6));
    (
        (
            prop_oneof![Just(String::new()), "[A-Za-z0-9_.:-]{1,64}"],
            1..=5_i32,
            time(),
            prop::option::of(time()),
        ),
        prop::collection::vec("[a-zé]{1,60}", 3),
        prop::collection::vec(label(), 10),
        (prop::sample::select(vec!["", "DE", "US"]), prop::sample::select(vec!["", "USD", "JPY"])),
        prop::option::of(-9_000_000_000_000_000_000..=9_000_000_000_000_000_000_i64),
        (prop::sample::select(vec!["", "1.2.3.4", "2001:db8::1"]), label(), properties),
    )
        .prop_map(|(head, ids, labels, codes, micros, tail)| {
            let ((event_id, event_type, timestamp, install_begin), (ip, agent, properties)) = (head, tail);
            let conversion = event_type == 5;
            let touch = event_type <= 3;
            let only = |yes: bool, text: &str| if yes { text.to_owned() } else { String::new() };
            // Money as the contract writes it, without the code under test.
            let value = micros.map_or_else(String::new, |micros| {
                let text = model::money::format_micros(micros.into());
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            });
            Event {
                event_id,
                event_type,
                timestamp: Some(timestamp),
                device_id: ids[0].clone(),
                cookie_id: ids[1].clone(),
                user_id: ids[2].clone(),
                click_id: labels[0].clone(),
                app_id: labels[1].clone(),
                platform: labels[2].clone(),
                channel: labels[3].clone(),
                partner: labels[4].clone(),
                campaign_id: labels[5].clone(),
                ad_group_id: labels[6].clone(),
                creative_id: labels[7].clone(),
                keyword: labels[8].clone(),
                sub_publisher: only(touch, &labels[9]),
                country: codes.0.to_owned(),
                conversion: only(conversion, &ids[0]),
                value: only(conversion, &value),
                currency: only(conversion, codes.1),
                install_begin: install_begin.filter(|_| conversion),
                ip: ip.to_owned(),
                user_agent: agent,
                properties: properties.map(|fields| Struct {
                    fields: fields.into_iter().map(|(key, kind)| (key, Value { kind: Some(kind) })).collect(),
                }),
            }
        })
}

/// Encodes an event if it keeps the rules.
fn accepted(read: &EventRef<'_>, form: Result<(), crate::event::Rejection>) -> Option<Vec<u8>> {
    let checked = size(read).and(form).and_then(|()| validate(read, NOW)).ok()?;
    let mut out = Vec::new();
    let own = read.text(Field::EventId).unwrap_or(STAMP.event_id);
    event(&mut out, read, &checked, &Stamp { event_id: own, ..STAMP });
    Some(out)
}

/// What was stored is a valid event, and stored again it is the same.
fn assert_settled(bytes: &[u8]) {
    let stored = Event::decode(bytes).unwrap();
    assert_eq!(accepted(&decoded(&stored), Ok(())).as_deref(), Some(bytes));
    assert_eq!(stored.encode_to_vec().len(), bytes.len());
}

/// Flips bits here and there.
pub(crate) fn damaged(mut bytes: Vec<u8>, flips: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, bit) in flips {
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
    }
    bytes
}

pub(crate) fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 0..4)
}

/// An event as REST has it.
fn json(event: &Event) -> String {
    let mut fields = serde_json::Map::new();
    let name = event.event_type().as_str_name().strip_prefix("EVENT_TYPE_").unwrap().to_lowercase();
    fields.insert("event_type".to_owned(), name.into());
    let time = event.timestamp.unwrap_or_default();
    fields.insert("timestamp".to_owned(), (time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000).into());
    for (name, text) in [
        ("event_id", &event.event_id),
        ("device_id", &event.device_id),
        ("user_id", &event.user_id),
        ("channel", &event.channel),
        ("value", &event.value),
        ("currency", &event.currency),
        ("ip", &event.ip),
    ] {
        if !text.is_empty() {
            fields.insert(name.to_owned(), text.as_str().into());
        }
    }
    serde_json::Value::Object(fields).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_left_of_damaged_messages_is_stored_as_it_is(
        events in prop::collection::vec(some_event(), 1..3),
        flips in flips(),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let batch = IngestEventsRequest { events };
        for bytes in [damaged(batch.encode_to_vec(), &flips), bytes] {
            let Ok(batch) = IngestEventsRequest::decode(bytes.as_slice()) else { continue };
            for event in &batch.events {
                if let Some(stored) = accepted(&decoded(event), Ok(())) {
                    assert_settled(&stored);
                }
            }
        }
    }

    #[test]
    fn what_is_left_of_damaged_bodies_is_stored_as_it_is(
        events in prop::collection::vec(some_event(), 1..4),
        flips in flips(),
    ) {
        let texts: Vec<_> = events.iter().map(json).collect();
        for (format, body) in [(Format::Json, format!("[{}]", texts.join(", "))), (Format::Lines, texts.join("\n"))] {
            let body = damaged(body.into_bytes(), &flips);
            let Ok(mut items) = Items::new(&body, format) else { continue };
            let mut read = EventRef::default();
            let mut count = 0;
            while let Ok(Some(form)) = items.next(&mut read) {
                count += usize::from(form.is_ok());
                if let Some(stored) = accepted(&read, form) {
                    assert_settled(&stored);
                }
            }
            prop_assert!(!flips.is_empty() || count == events.len());
        }
    }
}

proptest! {
    #[test]
    fn an_event_is_the_bytes_that_prost_writes(event in some_event()) {
        let bytes = encoded(&event);
        let expected = completed(event);
        prop_assert_eq!(&Event::decode(bytes.as_slice()).unwrap(), &expected);
        prop_assert_eq!(&bytes, &expected.encode_to_vec());
    }

    #[test]
    fn a_frame_is_the_bytes_that_prost_writes(
        events in prop::collection::vec(some_event(), 0..4),
        received_at_micros in 0..i64::MAX,
        traceparent in "[0-9a-f-]{0,55}",
    ) {
        let frame = Frame {
            version: 1,
            kind: FrameKind::Events.into(),
            tenant: "acme".to_owned(),
            settings_edition: "sha256:00".to_owned(),
            received_at_micros,
            traceparent: traceparent.clone(),
            events: events.iter().cloned().map(completed).collect(),
            redecides: Vec::new(),
        };
        let head = FrameHead {
            tenant: "acme",
            settings_edition: "sha256:00",
            received_at_micros,
            traceparent: &traceparent,
        };
        let mut out = Vec::new();
        head.write(&mut out);
        events.iter().for_each(|event| frame_event(&mut out, &encoded(event)));
        prop_assert_eq!(out, frame.encode_to_vec());
    }
}
