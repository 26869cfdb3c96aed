//! Writes events and frames as protobuf, straight from what was parsed.
//!
//! The bytes are those that prost writes for the same messages; the field numbers are frozen by the contract.

use proto::events::{EventType, FrameKind};

use crate::{
    event::{EventRef, Field, Scalar},
    validate::Checked,
};

/// What an event gets where it does not say.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// The id, given or assigned.
    pub event_id: &'a str,
    /// The tenant's currency.
    pub currency: &'a str,
}

/// The app of an event that names none.
pub const APP_DEFAULT: &str = "default";

/// The name of a conversion without one.
pub const CONVERSION_DEFAULT: &str = "conversion";

/// The version of the frame's format.
const FRAME_VERSION: u64 = 1;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

/// The string fields of every event but the id, the app and what comes behind the keyword, by number.
const LABELS: [(u64, Field); 11] = [
    (4, Field::DeviceId),
    (5, Field::CookieId),
    (6, Field::UserId),
    (7, Field::ClickId),
    (9, Field::Platform),
    (10, Field::Channel),
    (11, Field::Partner),
    (12, Field::CampaignId),
    (13, Field::AdGroupId),
    (14, Field::CreativeId),
    (15, Field::Keyword),
];

/// Appends an event, complete.
pub fn event(out: &mut Vec<u8>, event: &EventRef<'_>, checked: &Checked, stamp: &Stamp<'_>) {
    let given = |field: Field| event.text(field).unwrap_or_default();
    text(out, 1, stamp.event_id);
    key(out, 2, VARINT);
    varint(out, checked.event_type as u64);
    time(out, 3, checked.time_millis);
    for (number, field) in &LABELS[..4] {
        text(out, *number, given(*field));
    }
    text(out, 8, or(given(Field::AppId), APP_DEFAULT));
    for (number, field) in &LABELS[4..] {
        text(out, *number, given(*field));
    }
    text(out, 16, given(Field::SubPublisher));
    text(out, 17, given(Field::Country));
    if checked.event_type == EventType::Conversion {
        text(out, 18, or(given(Field::Conversion), CONVERSION_DEFAULT));
        let mut digits = [0; VALUE_BYTES];
        text(out, 19, value(&mut digits, checked.value_micros));
        text(out, 20, or(given(Field::Currency), stamp.currency));
        if let Some(millis) = checked.install_begin_millis {
            time(out, 21, millis);
        }
    }
    text(out, 22, given(Field::Ip));
    text(out, 23, given(Field::UserAgent));
    if event.has_properties {
        properties(out, 24, &event.properties);
    }
}

/// What a frame says of all its events.
#[derive(Debug, Clone, Copy)]
pub struct FrameHead<'a> {
    /// Whose events they are.
    pub tenant: &'a str,
    /// The settings edition in force.
    pub settings_edition: &'a str,
    /// When they came in, Unix microseconds.
    pub received_at_micros: i64,
    /// The trace they came in with, or empty.
    pub traceparent: &'a str,
}

impl FrameHead<'_> {
    /// Begins a frame of events; what follows are [`frame_event`]s.
    pub fn write(&self, out: &mut Vec<u8>) {
        key(out, 1, VARINT);
        varint(out, FRAME_VERSION);
        key(out, 2, VARINT);
        varint(out, FrameKind::Events as u64);
        text(out, 3, self.tenant);
        text(out, 4, self.settings_edition);
        if self.received_at_micros != 0 {
            key(out, 5, VARINT);
            varint(out, self.received_at_micros as u64);
        }
        text(out, 6, self.traceparent);
    }
}

/// Appends an encoded event to a frame.
pub fn frame_event(out: &mut Vec<u8>, event: &[u8]) {
    key(out, 7, BYTES);
    varint(out, event.len() as u64);
    out.extend_from_slice(event);
}

/// The bytes that [`frame_event`] appends for an event of this length.
pub fn frame_event_bytes(event_bytes: usize) -> usize {
    1 + varint_bytes(event_bytes) + event_bytes
}

fn or<'a>(given: &'a str, default: &'a str) -> &'a str {
    if given.is_empty() { default } else { given }
}

fn key(out: &mut Vec<u8>, number: u64, wire: u64) {
    varint(out, number << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_bytes(number: usize) -> usize {
    (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// Nothing for an empty string: in proto3 it is the same as an absent one.
fn text(out: &mut Vec<u8>, number: u64, text: &str) {
    match text.len() {
        0 => {}
        // Nearly every text: its key and its length are written at once.
        len @ 1..0x80 => {
            let tag = number << 3 | BYTES;
            match tag {
                0..0x80 => out.extend_from_slice(&[tag as u8, len as u8]),
                _ => out.extend_from_slice(&[tag as u8 | 0x80, (tag >> 7) as u8, len as u8]),
            }
            out.extend_from_slice(text.as_bytes());
        }
        len => {
            key(out, number, BYTES);
            varint(out, len as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn time(out: &mut Vec<u8>, number: u64, millis: i64) {
    key(out, number, BYTES);
    let length_at = out.len();
    out.push(0);
    let (seconds, nanos) = (millis.div_euclid(1_000), millis.rem_euclid(1_000) * 1_000_000);
    if seconds != 0 {
        key(out, 1, VARINT);
        varint(out, seconds as u64);
    }
    if nanos != 0 {
        key(out, 2, VARINT);
        varint(out, nanos as u64);
    }
    // Two keys of one byte and at most ten and five of numbers.
    out[length_at] = (out.len() - length_at - 1) as u8;
}

fn properties(out: &mut Vec<u8>, number: u64, properties: &[(std::borrow::Cow<'_, str>, Scalar<'_>)]) {
    let field_bytes = |content: usize| 1 + varint_bytes(content) + content;
    let value_bytes = |value: &Scalar<'_>| match value {
        Scalar::Text(text) => field_bytes(text.len()),
        Scalar::Number(_) => 9,
        Scalar::Bool(_) => 2,
        Scalar::Other(_) => 0,
    };
    let entry_bytes = |key: &str, value: &Scalar<'_>| {
        let key = if key.is_empty() { 0 } else { field_bytes(key.len()) };
        key + field_bytes(value_bytes(value))
    };
    let all = properties.iter().map(|(key, value)| field_bytes(entry_bytes(key, value))).sum::<usize>();
    key(out, number, BYTES);
    varint(out, all as u64);
    for (name, value) in properties {
        key(out, 1, BYTES);
        varint(out, entry_bytes(name, value) as u64);
        text(out, 1, name);
        key(out, 2, BYTES);
        varint(out, value_bytes(value) as u64);
        match value {
            // A oneof: written also when empty, or it would be no value at all.
            Scalar::Text(text) => {
                key(out, 3, BYTES);
                varint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
            Scalar::Number(number) => {
                key(out, 2, FIXED64);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Scalar::Bool(value) => {
                key(out, 4, VARINT);
                out.push(u8::from(*value));
            }
            // The rules let none through.
            Scalar::Other(_) => {}
        }
    }
}

/// The bytes of the longest value: a sign, nineteen digits and a point.
const VALUE_BYTES: usize = 21;

/// Writes micros as a decimal number in its shortest form, from the end of the buffer.
fn value(buffer: &mut [u8; VALUE_BYTES], micros: i64) -> &str {
    let mut at = VALUE_BYTES;
    let mut put = |byte: u8| {
        at -= 1;
        buffer[at] = byte;
    };
    let magnitude = micros.unsigned_abs();
    let (mut whole, mut fraction) = (magnitude / 1_000_000, magnitude % 1_000_000);
    if fraction != 0 {
        let mut decimals = 6;
        while fraction % 10 == 0 {
            fraction /= 10;
            decimals -= 1;
        }
        for _ in 0..decimals {
            put(b'0' + (fraction % 10) as u8);
            fraction /= 10;
        }
        put(b'.');
    }
    loop {
        put(b'0' + (whole % 10) as u8);
        whole /= 10;
        if whole == 0 {
            break;
        }
    }
    if micros < 0 {
        put(b'-');
    }
    // ASCII, as written above.
    std::str::from_utf8(&buffer[at..]).unwrap_or("0")
}

#[cfg(test)]
#[path = "encode_tests.rs"]
pub(crate) mod tests;
