//! The messages of the service, read where they stand and written straight from the answer.
//!
//! What a message says is what prost says it says; its parts are prost's own, but that texts stay where they are.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};
use prost_types::{Struct, Timestamp, value::Kind};
use proto::{
    events::EventType,
    ingestion::{
        IngestEventsRequest, IngestEventsResponse, Item, Status as ItemStatus, StreamEventsRequest,
        StreamEventsResponse,
    },
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    accept::{self, Answer},
    batch::{Builder, TooMany},
    event::{EventRef, Field, Scalar, TimeRef, TypeRef},
    validate::PROPERTIES_KEYS_MAX,
};

/// Of a call and of a stream, whose messages have a sequence before the same fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `IngestEventsRequest` and its response.
    Call,
    /// `StreamEventsRequest` and its response.
    Stream,
}

/// Hands messages on as bytes, and writes answers.
pub(crate) struct Messages(pub(crate) Form);

/// An answer on its way out.
pub(crate) struct Reply {
    pub(crate) sequence: u64,
    pub(crate) answer: Answer,
}

/// Bytes that are no such message; prost says why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

// === impl Messages ===

impl Codec for Messages {
    type Encode = Reply;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(self.0)
    }

    fn decoder(&mut self) -> Self {
        Self(self.0)
    }
}

impl Decoder for Messages {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

impl Encoder for Messages {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, reply: Reply, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        write(self.0, &reply, to).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Writes a response; its items are its last field.
fn write(form: Form, reply: &Reply, to: &mut impl BufMut) -> Result<(), prost::EncodeError> {
    let Reply { sequence, answer } = reply;
    // At most as many as a batch may have.
    let [accepted, duplicate, rejected] =
        [answer.accepted, answer.duplicate, answer.rejected].map(|count| count as u32);
    let (sequence, items) = (*sequence, Vec::new());
    let items_number = match form {
        Form::Call => {
            IngestEventsResponse { accepted, duplicate, rejected, items }.encode(to)?;
            4
        }
        Form::Stream => {
            StreamEventsResponse { sequence, accepted, duplicate, rejected, items }.encode(to)?;
            5
        }
    };
    let mut message = Item::default();
    for (index, item) in answer.items().enumerate() {
        fill(&mut message, index, item);
        encoding::encode_key(items_number, WireType::LengthDelimited, to);
        message.encode_length_delimited(to)?;
    }
    Ok(())
}

fn fill(message: &mut Item, index: usize, item: accept::Item<'_>) {
    let (id, status) = match item {
        accept::Item::Accepted(id) => (id, ItemStatus::Accepted),
        accept::Item::Duplicate(id) => (id, ItemStatus::Duplicate),
        accept::Item::Rejected(id, _) => (id.unwrap_or_default(), ItemStatus::Rejected),
    };
    message.index = index as u32;
    message.set_status(status);
    let [code, field, reason] = match item {
        accept::Item::Rejected(_, why) => [why.code.name(), &*why.field, &*why.reason],
        _ => [""; 3],
    };
    let texts = [&mut message.event_id, &mut message.code, &mut message.field, &mut message.reason];
    for (place, text) in texts.into_iter().zip([id, code, field, reason]) {
        place.clear();
        place.push_str(text);
    }
}

// === reading ===

/// Reads the events of a request, handing each on; answers its sequence.
///
/// # Errors
/// It has more events than a batch may have, or is no such message.
pub(crate) fn read(form: Form, message: &[u8], batch: &mut Builder<'_>) -> Result<u64, Status> {
    let mut event = EventRef::default();
    let read = walk(form, message, |bytes| {
        read_event(bytes, &mut event)?;
        Ok(batch.push(&event, Ok(())))
    });
    match read {
        Ok(Ok(sequence)) => Ok(sequence),
        Ok(Err(too_many)) => Err(service::Error::from(too_many).into()),
        Err(Malformed) => Err(service::error::of_message(form.refusal(message))),
    }
}

/// How many events a request has, up to where it is no such message.
pub(crate) fn count(form: Form, message: &[u8]) -> usize {
    let mut events = 0;
    // What is wrong with it is told when it is read.
    let _ = walk(form, message, |_| {
        events += 1;
        Ok(Ok(()))
    });
    events
}

/// Finds the events of a request, until one of them is one too many.
fn walk<'a>(
    form: Form,
    mut rest: &'a [u8],
    mut event: impl FnMut(&'a [u8]) -> Result<Result<(), TooMany>, Malformed>,
) -> Result<Result<u64, TooMany>, Malformed> {
    let mut sequence = 0;
    while !rest.is_empty() {
        let (number, wire) = encoding::decode_key(&mut rest)?;
        match (form, number) {
            (Form::Call, 1) | (Form::Stream, 2) => {
                if let Err(too_many) = event(bytes(wire, &mut rest)?)? {
                    return Ok(Err(too_many));
                }
            }
            (Form::Stream, 1) => {
                encoding::uint64::merge(wire, &mut sequence, &mut rest, DecodeContext::default())?;
            }
            _ => encoding::skip_field(wire, number, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(Ok(sequence))
}

impl Form {
    /// What the transport says of a message that it cannot decode.
    #[cold]
    fn refusal(self, message: &[u8]) -> Status {
        let error = match self {
            Self::Call => IngestEventsRequest::decode(message).err(),
            Self::Stream => StreamEventsRequest::decode(message).err(),
        };
        Status::internal(error.map_or_else(|| "not such a message".to_owned(), |error| error.to_string()))
    }
}

/// Makes `event` the event of a message. An empty string, an unspecified type and an absent message are absent fields;
/// of a field that is given twice the last counts, of a message all its parts.
pub(crate) fn read_event<'a>(message: &'a [u8], event: &mut EventRef<'a>) -> Result<(), Malformed> {
    event.clear();
    event.bytes = message.len();
    let mut rest = message;
    let mut properties = None::<Struct>;
    while !rest.is_empty() {
        let (number, wire) = encoding::decode_key(&mut rest)?;
        let context = DecodeContext::default();
        if let Some(Some(field)) = TEXTS_BY_NUMBER.get(number as usize) {
            let text = std::str::from_utf8(bytes(wire, &mut rest)?).map_err(|_| Malformed)?;
            event.texts[*field as usize] = (!text.is_empty()).then_some(Cow::Borrowed(text));
            continue;
        }
        match number {
            2 => {
                let mut number = 0;
                encoding::int32::merge(wire, &mut number, &mut rest, context)?;
                event.event_type = type_ref(number);
            }
            3 => merge_time(wire, &mut event.timestamp, &mut rest)?,
            21 => merge_time(wire, &mut event.install_begin, &mut rest)?,
            24 => encoding::message::merge(wire, properties.get_or_insert_default(), &mut rest, context)?,
            _ => encoding::skip_field(wire, number, &mut rest, context)?,
        }
    }
    if let Some(properties) = properties {
        event.has_properties = true;
        let entries = properties.fields.into_iter().take(PROPERTIES_KEYS_MAX + 1);
        event.properties.extend(entries.map(|(key, value)| (Cow::Owned(key), scalar(value))));
    }
    Ok(())
}

fn merge_time(wire: WireType, place: &mut Option<TimeRef<'_>>, rest: &mut &[u8]) -> Result<(), Malformed> {
    let mut time = match place {
        Some(TimeRef::Message(time)) => *time,
        _ => Timestamp::default(),
    };
    encoding::message::merge(wire, &mut time, rest, DecodeContext::default())?;
    *place = Some(TimeRef::Message(time));
    Ok(())
}

fn bytes<'a>(wire: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    encoding::check_wire_type(WireType::LengthDelimited, wire)?;
    let length = encoding::decode_varint(rest)?;
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (bytes, behind) = split.ok_or(Malformed)?;
    *rest = behind;
    Ok(bytes)
}

fn type_ref(number: i32) -> Option<TypeRef<'static>> {
    match EventType::try_from(number) {
        Ok(EventType::Unspecified) => None,
        Ok(known) => Some(TypeRef::Known(known)),
        Err(_) => Some(TypeRef::Number(number)),
    }
}

fn scalar(value: prost_types::Value) -> Scalar<'static> {
    match value.kind {
        Some(Kind::StringValue(text)) => Scalar::Text(Cow::Owned(text)),
        Some(Kind::NumberValue(number)) => Scalar::Number(number),
        Some(Kind::BoolValue(value)) => Scalar::Bool(value),
        Some(Kind::StructValue(_)) => Scalar::Other("an object"),
        Some(Kind::ListValue(_)) => Scalar::Other("an array"),
        Some(Kind::NullValue(_)) | None => Scalar::Other("null"),
    }
}

/// The string fields of an event by their numbers.
const TEXTS_BY_NUMBER: [Option<Field>; 24] = [
    None,
    Some(Field::EventId),
    None,
    None,
    Some(Field::DeviceId),
    Some(Field::CookieId),
    Some(Field::UserId),
    Some(Field::ClickId),
    Some(Field::AppId),
    Some(Field::Platform),
    Some(Field::Channel),
    Some(Field::Partner),
    Some(Field::CampaignId),
    Some(Field::AdGroupId),
    Some(Field::CreativeId),
    Some(Field::Keyword),
    Some(Field::SubPublisher),
    Some(Field::Country),
    Some(Field::Conversion),
    Some(Field::Value),
    Some(Field::Currency),
    None,
    Some(Field::Ip),
    Some(Field::UserAgent),
];

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
pub(crate) mod tests;
