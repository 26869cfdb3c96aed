//! The rules an event must keep, the same for both protocols.
//!
//! Of several mistakes the first one counts, in the order: size, form (REST alone), then the fields as the API lists
//! them.

use std::{fmt, net::IpAddr};

use model::money::{self, MoneyError};
use proto::events::EventType;

use crate::{
    event::{Code, EventRef, Field, Rejection, Scalar, Shown, TimeRef, TypeRef},
    iso,
    time::{self, TimeError},
};

/// The bytes of one event as sent: of its JSON object, or of its message.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;
/// The bytes of an `event_id`.
pub const EVENT_ID_BYTES_MAX: usize = 64;
/// The bytes of an identity.
pub const IDENTITY_BYTES_MAX: usize = 128;
/// The bytes of a campaign, a channel and the like.
pub const LABEL_BYTES_MAX: usize = 256;
/// The bytes of a conversion's name.
pub const CONVERSION_BYTES_MAX: usize = 128;
/// The bytes of a user agent.
pub const USER_AGENT_BYTES_MAX: usize = 1_024;
/// The keys of the properties.
pub const PROPERTIES_KEYS_MAX: usize = 64;
/// The bytes of the properties, written as JSON without spaces, each character as itself.
pub const PROPERTIES_BYTES_MAX: usize = 8 * 1024;
/// The earliest event time, 2000-01-01, Unix milliseconds.
pub const TIME_MILLIS_MIN: i64 = 946_684_800_000;
/// How far an event time may be ahead of the server, milliseconds.
pub const TIME_AHEAD_MILLIS_MAX: i64 = 24 * 3_600_000;

/// The bytes of a value as text; the longest that means anything is far below it.
const VALUE_BYTES_MAX: usize = 64;

/// The identities in the order of the person key.
pub const IDENTITIES: [Field; 3] = [Field::DeviceId, Field::CookieId, Field::UserId];

/// What the rules read out of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// What happened.
    pub event_type: EventType,
    /// When, Unix milliseconds.
    pub time_millis: i64,
    /// When the download began, Unix milliseconds.
    pub install_begin_millis: Option<i64>,
    /// The value, micros of the currency's unit.
    pub value_micros: i64,
}

/// Checks an event, at a time given in Unix milliseconds.
///
/// # Errors
/// The first rule it does not keep.
pub fn validate(event: &EventRef<'_>, now_millis: i64) -> Result<Checked, Rejection> {
    if event.has(Field::EventId) {
        event_id(event)?;
    }
    let event_type = event_type(event)?;
    let missing = || Rejection::of(Code::MissingField, Field::Timestamp, "required");
    let timestamp = event.timestamp.as_ref().ok_or_else(missing)?;
    let time_millis = moment(Field::Timestamp, timestamp, now_millis)?;
    identities(event)?;
    labels(event)?;
    of_this_type(event, event_type)?;
    length(event, Field::SubPublisher, LABEL_BYTES_MAX)?;
    if let Some(code) = event.text(Field::Country)
        && !iso::is_country(code)
    {
        return Err(Rejection::invalid(Field::Country, "an ISO 3166-1 alpha-2 code", code));
    }
    length(event, Field::Conversion, CONVERSION_BYTES_MAX)?;
    let value_micros = event.text(Field::Value).map_or(Ok(0), |text| value(text, event.value_is_number))?;
    if let Some(code) = event.text(Field::Currency)
        && !iso::is_currency(code)
    {
        return Err(Rejection::invalid(Field::Currency, "an ISO 4217 code", code));
    }
    let install_begin_millis =
        event.install_begin.as_ref().map(|t| moment(Field::InstallBegin, t, now_millis)).transpose()?;
    if let Some(ip) = event.text(Field::Ip)
        && ip.parse::<IpAddr>().is_err()
    {
        return Err(Rejection::invalid(Field::Ip, "an IPv4 or IPv6 address", ip));
    }
    length(event, Field::UserAgent, USER_AGENT_BYTES_MAX)?;
    properties(event)?;
    Ok(Checked { event_type, time_millis, install_begin_millis, value_micros })
}

/// Checks the size of an event, which comes before all else.
///
/// # Errors
/// It is past [`EVENT_BYTES_MAX`].
pub fn size(event: &EventRef<'_>) -> Result<(), Rejection> {
    if event.bytes <= EVENT_BYTES_MAX {
        return Ok(());
    }
    // How many it has depends on the protocol, the answer must not.
    let reason = format!("an event has at most {EVENT_BYTES_MAX} bytes");
    Err(Rejection::whole(Code::TooLarge, reason))
}

/// Checks the `event_id`, so that the answer for an event that is rejected for another mistake can name it.
///
/// # Errors
/// It is empty, too long, or has other characters than may be.
pub fn event_id(event: &EventRef<'_>) -> Result<(), Rejection> {
    length(event, Field::EventId, EVENT_ID_BYTES_MAX)?;
    let id = event.text(Field::EventId).unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
    if id.is_empty() || !id.bytes().all(allowed) {
        return Err(Rejection::invalid(Field::EventId, "1 to 64 of A-Z a-z 0-9 _ . : -", id));
    }
    Ok(())
}

fn event_type(event: &EventRef<'_>) -> Result<EventType, Rejection> {
    const WANTED: &str = "impression, click, visit, activity or conversion";
    match &event.event_type {
        None => {
            Err(Rejection::of(Code::MissingField, Field::EventType, format!("required: one of {WANTED}")))
        }
        Some(TypeRef::Known(known)) => Ok(*known),
        Some(TypeRef::Word(word)) => Err(Rejection::invalid(Field::EventType, WANTED, word)),
        Some(TypeRef::Number(number)) => {
            Err(Rejection::invalid(Field::EventType, WANTED, number.to_string()))
        }
    }
}

fn moment(field: Field, time: &TimeRef<'_>, now_millis: i64) -> Result<i64, Rejection> {
    let read = match time {
        TimeRef::Number(number) => time::unix_millis(number),
        TimeRef::Text(text) => time::rfc3339_millis(text),
        TimeRef::Message(time) => message_millis(time),
    };
    match read {
        Ok(millis) if millis < TIME_MILLIS_MIN => {
            Err(Rejection::of(Code::OutOfRange, field, "before 2000-01-01"))
        }
        Ok(millis) if millis <= now_millis.saturating_add(TIME_AHEAD_MILLIS_MAX) => Ok(millis),
        Ok(_) => Err(Rejection::of(Code::OutOfRange, field, "more than 24 hours ahead of the server")),
        Err(TimeError::Overflow) => {
            Err(Rejection::of(Code::OutOfRange, field, "not a number of milliseconds that means a time"))
        }
        Err(TimeError::Malformed) => Err(match time {
            TimeRef::Number(number) => Rejection::invalid(field, "an integer of Unix milliseconds", number),
            TimeRef::Text(text) => {
                Rejection::invalid(field, "a time of RFC 3339 such as 2026-01-31T12:00:00Z", text)
            }
            TimeRef::Message(_) => {
                Rejection::of(Code::InvalidValue, field, "nanos must be from 0 to 999999999")
            }
        }),
    }
}

fn message_millis(time: &prost_types::Timestamp) -> Result<i64, TimeError> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(TimeError::Malformed);
    }
    let millis = i64::from(time.nanos) / 1_000_000;
    let whole = time.seconds.checked_mul(1_000).and_then(|seconds| seconds.checked_add(millis));
    whole.ok_or(TimeError::Overflow)
}

fn identities(event: &EventRef<'_>) -> Result<(), Rejection> {
    for field in IDENTITIES {
        length(event, field, IDENTITY_BYTES_MAX)?;
        if event.text(field) == Some("") {
            return Err(Rejection::of(Code::InvalidValue, field, "must not be empty"));
        }
    }
    if IDENTITIES.into_iter().any(|field| event.has(field)) {
        return Ok(());
    }
    let reason = "one of device_id, cookie_id and user_id is required";
    Err(Rejection::of(Code::MissingField, Field::DeviceId, reason))
}

fn labels(event: &EventRef<'_>) -> Result<(), Rejection> {
    for field in [
        Field::ClickId,
        Field::AppId,
        Field::Platform,
        Field::Channel,
        Field::Partner,
        Field::CampaignId,
        Field::AdGroupId,
        Field::CreativeId,
        Field::Keyword,
    ] {
        length(event, field, LABEL_BYTES_MAX)?;
    }
    Ok(())
}

fn of_this_type(event: &EventRef<'_>, event_type: EventType) -> Result<(), Rejection> {
    let touch = matches!(event_type, EventType::Impression | EventType::Click | EventType::Visit);
    if !touch && event.has(Field::SubPublisher) {
        let reason = "only an impression, a click or a visit has it";
        return Err(Rejection::of(Code::UnknownField, Field::SubPublisher, reason));
    }
    if event_type == EventType::Conversion {
        return Ok(());
    }
    for field in [Field::Conversion, Field::Value, Field::Currency, Field::InstallBegin] {
        if event.has(field) {
            return Err(Rejection::of(Code::UnknownField, field, "only a conversion has it"));
        }
    }
    Ok(())
}

fn length(event: &EventRef<'_>, field: Field, bytes_max: usize) -> Result<(), Rejection> {
    match event.text(field) {
        Some(text) if text.len() > bytes_max => {
            let reason = format!("at most {bytes_max} bytes of UTF-8, not {}", text.len());
            Err(Rejection::of(Code::TooLong, field, reason))
        }
        _ => Ok(()),
    }
}

fn value(text: &str, is_number: bool) -> Result<i64, Rejection> {
    if text.len() > VALUE_BYTES_MAX {
        let reason = format!("at most {VALUE_BYTES_MAX} characters, not {}", text.len());
        return Err(Rejection::of(Code::TooLong, Field::Value, reason));
    }
    let micros = if is_number { money::parse_json_micros(text) } else { money::parse_micros(text) };
    micros.map_err(|error| {
        let code = match error {
            MoneyError::OutOfRange => Code::OutOfRange,
            MoneyError::Malformed | MoneyError::TooPrecise => Code::InvalidValue,
        };
        Rejection::of(code, Field::Value, format!("{error}: {}", Shown(text)))
    })
}

fn properties(event: &EventRef<'_>) -> Result<(), Rejection> {
    let refuse = |code, reason: String| Err(Rejection::of(code, Field::Properties, reason));
    if event.properties.len() > PROPERTIES_KEYS_MAX {
        return refuse(Code::TooLarge, format!("at most {PROPERTIES_KEYS_MAX} keys"));
    }
    // Two braces, and for each entry two quotes, a colon and, but for the first, a comma.
    let mut bytes = 2 + (4 * event.properties.len()).saturating_sub(1);
    for (key, value) in &event.properties {
        bytes += key.len();
        bytes += match value {
            Scalar::Text(text) => 2 + text.len(),
            Scalar::Bool(value) => 5 - usize::from(*value),
            Scalar::Number(number) if number.is_finite() => number_bytes(*number),
            Scalar::Number(_) => {
                return refuse(Code::InvalidValue, format!("{} fits no double", Shown(key)));
            }
            Scalar::Other(what) => {
                let wanted = "must be a string, a number or a boolean";
                return refuse(Code::InvalidValue, format!("{} {wanted}, not {what}", Shown(key)));
            }
        };
    }
    if bytes > PROPERTIES_BYTES_MAX {
        return refuse(Code::TooLarge, format!("at most {PROPERTIES_BYTES_MAX} bytes, not {bytes}"));
    }
    Ok(())
}

/// The bytes of a number in its shortest form, decimal or with an exponent.
fn number_bytes(number: f64) -> usize {
    struct Count(usize);
    impl fmt::Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let magnitude = number.abs();
    let mut count = Count(0);
    // Counting cannot fail.
    let _ = if magnitude == 0.0 || (1e-7..1e21).contains(&magnitude) {
        fmt::write(&mut count, format_args!("{number}"))
    } else {
        fmt::write(&mut count, format_args!("{number:e}"))
    };
    count.0
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
