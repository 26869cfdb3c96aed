//! An event as it came in, borrowed, whichever protocol it came by; and why one is rejected.

use std::{borrow::Cow, fmt};

use proto::events::EventType;

/// The fields of an event. The first [`TEXTS`] are strings; the names are those of REST and of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Field {
    /// The client's idempotency key.
    EventId,
    /// A device.
    DeviceId,
    /// A browser.
    CookieId,
    /// A user.
    UserId,
    /// The network's own id of the click.
    ClickId,
    /// The app or site.
    AppId,
    /// The platform.
    Platform,
    /// The channel.
    Channel,
    /// The partner.
    Partner,
    /// The campaign.
    CampaignId,
    /// The ad group.
    AdGroupId,
    /// The creative.
    CreativeId,
    /// The keyword.
    Keyword,
    /// The partner's publisher.
    SubPublisher,
    /// The country.
    Country,
    /// The conversion's name.
    Conversion,
    /// The conversion's value, a decimal number.
    Value,
    /// The value's currency.
    Currency,
    /// The client's address.
    Ip,
    /// The client's user agent.
    UserAgent,
    /// What happened.
    EventType,
    /// When.
    Timestamp,
    /// When the download began.
    InstallBegin,
    /// Anything else.
    Properties,
}

/// How many of the fields are strings.
pub const TEXTS: usize = 20;

/// An event before any rule was applied to it. One is used for many events in a row, so that its allocations are.
#[derive(Debug, Default)]
pub struct EventRef<'a> {
    /// The string fields by [`Field`]; of gRPC, where an empty string is an absent one, never empty.
    pub texts: [Option<Cow<'a, str>>; TEXTS],
    /// Whether the value is a JSON number, which may have an exponent.
    pub value_is_number: bool,
    /// What happened.
    pub event_type: Option<TypeRef<'a>>,
    /// When.
    pub timestamp: Option<TimeRef<'a>>,
    /// When the download began.
    pub install_begin: Option<TimeRef<'a>>,
    /// Whether there are properties, be they empty.
    pub has_properties: bool,
    /// At most one more than may be, so that there are too many.
    pub properties: Vec<(Cow<'a, str>, Scalar<'a>)>,
    /// The bytes of the event as sent.
    pub bytes: usize,
}

/// A type as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeRef<'a> {
    /// One of the five.
    Known(EventType),
    /// Another word (REST).
    Word(Cow<'a, str>),
    /// Another number (gRPC).
    Number(i32),
}

/// A time as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeRef<'a> {
    /// A JSON number.
    Number(&'a str),
    /// A JSON string.
    Text(Cow<'a, str>),
    /// A message.
    Message(prost_types::Timestamp),
}

/// The value of a property as sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A number; not finite if it fits no double.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// What may not be there, with its article.
    Other(&'static str),
}

/// What kind of mistake an event was rejected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A required field is not there.
    MissingField,
    /// There is no such field, or not for this type of event.
    UnknownField,
    /// The value is of another form.
    InvalidValue,
    /// The string is too long.
    TooLong,
    /// The number or time is past a bound.
    OutOfRange,
    /// The event or its properties are too large.
    TooLarge,
}

/// Why an event was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of mistake.
    pub code: Code,
    /// The field; empty where it is the event as a whole.
    pub field: Cow<'static, str>,
    /// What is wrong, in words.
    pub reason: Cow<'static, str>,
}

// === impl Field ===

/// All fields in the order of the enum.
const ALL: [(Field, &str); 24] = [
    (Field::EventId, "event_id"),
    (Field::DeviceId, "device_id"),
    (Field::CookieId, "cookie_id"),
    (Field::UserId, "user_id"),
    (Field::ClickId, "click_id"),
    (Field::AppId, "app_id"),
    (Field::Platform, "platform"),
    (Field::Channel, "channel"),
    (Field::Partner, "partner"),
    (Field::CampaignId, "campaign_id"),
    (Field::AdGroupId, "ad_group_id"),
    (Field::CreativeId, "creative_id"),
    (Field::Keyword, "keyword"),
    (Field::SubPublisher, "sub_publisher"),
    (Field::Country, "country"),
    (Field::Conversion, "conversion"),
    (Field::Value, "value"),
    (Field::Currency, "currency"),
    (Field::Ip, "ip"),
    (Field::UserAgent, "user_agent"),
    (Field::EventType, "event_type"),
    (Field::Timestamp, "timestamp"),
    (Field::InstallBegin, "install_begin"),
    (Field::Properties, "properties"),
];

impl Field {
    /// Its name.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }

    /// The field of this name.
    pub fn named(name: &str) -> Option<Self> {
        // A jump by length, and then a few numbers are compared; a walk over the table would call for each name.
        Some(match name {
            "event_id" => Self::EventId,
            "device_id" => Self::DeviceId,
            "cookie_id" => Self::CookieId,
            "user_id" => Self::UserId,
            "click_id" => Self::ClickId,
            "app_id" => Self::AppId,
            "platform" => Self::Platform,
            "channel" => Self::Channel,
            "partner" => Self::Partner,
            "campaign_id" => Self::CampaignId,
            "ad_group_id" => Self::AdGroupId,
            "creative_id" => Self::CreativeId,
            "keyword" => Self::Keyword,
            "sub_publisher" => Self::SubPublisher,
            "country" => Self::Country,
            "conversion" => Self::Conversion,
            "value" => Self::Value,
            "currency" => Self::Currency,
            "ip" => Self::Ip,
            "user_agent" => Self::UserAgent,
            "event_type" => Self::EventType,
            "timestamp" => Self::Timestamp,
            "install_begin" => Self::InstallBegin,
            "properties" => Self::Properties,
            _ => return None,
        })
    }
}

// === impl EventRef ===

impl<'a> EventRef<'a> {
    /// Makes it the empty event.
    pub fn clear(&mut self) {
        self.texts.fill_with(|| None);
        self.value_is_number = false;
        self.event_type = None;
        self.timestamp = None;
        self.install_begin = None;
        self.has_properties = false;
        self.properties.clear();
        self.bytes = 0;
    }

    /// A string field, if it is there.
    pub fn text(&self, field: Field) -> Option<&str> {
        self.texts[field as usize].as_deref()
    }

    /// Whether a field is there.
    pub fn has(&self, field: Field) -> bool {
        match field {
            Field::EventType => self.event_type.is_some(),
            Field::Timestamp => self.timestamp.is_some(),
            Field::InstallBegin => self.install_begin.is_some(),
            Field::Properties => self.has_properties,
            text => self.texts[text as usize].is_some(),
        }
    }
}

// === impl Rejection ===

impl Code {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::MissingField => "missing_field",
            Self::UnknownField => "unknown_field",
            Self::InvalidValue => "invalid_value",
            Self::TooLong => "too_long",
            Self::OutOfRange => "out_of_range",
            Self::TooLarge => "too_large",
        }
    }
}

impl Rejection {
    /// For a field.
    pub fn of(code: Code, field: Field, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, field: Cow::Borrowed(field.name()), reason: reason.into() }
    }

    /// For the event as a whole.
    pub fn whole(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, field: Cow::Borrowed(""), reason: reason.into() }
    }

    /// For a field whose value is of another form: says what it should be, and shows it.
    pub fn invalid(field: Field, not: &str, value: impl AsRef<str>) -> Self {
        Self::of(Code::InvalidValue, field, format!("not {not}: {}", Shown(value.as_ref())))
    }
}

/// A client's text in a message: quoted, with control characters escaped, and cut.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

/// The characters that are shown of a client's text.
const SHOWN_CHARS_MAX: usize = 64;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_CHARS_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name_and_no_other() {
        for (index, (field, name)) in ALL.into_iter().enumerate() {
            assert_eq!(field as usize, index);
            assert_eq!(Field::named(name), Some(field));
            assert_eq!(Field::named(&name.to_uppercase()), None);
            assert_eq!(Field::named(&format!("{name} ")), None);
        }
        assert_eq!(ALL.iter().filter(|(field, _)| (*field as usize) < TEXTS).count(), TEXTS);
        assert_eq!(Field::named(""), None);
    }

    #[test]
    fn a_shown_text_is_cut_between_characters() {
        assert_eq!(Shown("EURO").to_string(), "\"EURO\"");
        assert_eq!(Shown("a\"\n").to_string(), "\"a\\\"\\n\"");
        assert_eq!(Shown(&"é".repeat(64)).to_string(), format!("\"{}\"", "é".repeat(64)));
        assert_eq!(Shown(&"é".repeat(65)).to_string(), format!("\"{}\"…", "é".repeat(64)));
    }
}
