#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proto::{
    events::Event,
    ingestion::{IngestEventsRequest, StreamEventsRequest},
};

use super::*;
use crate::encode::tests::{damaged, flips, some_event};

/// An event as prost decoded it.
pub(crate) fn decoded(event: &Event) -> EventRef<'_> {
    let mut read = EventRef { bytes: event.encoded_len(), ..EventRef::default() };
    for (field, text) in [
        (Field::EventId, &event.event_id),
        (Field::DeviceId, &event.device_id),
        (Field::CookieId, &event.cookie_id),
        (Field::UserId, &event.user_id),
        (Field::ClickId, &event.click_id),
        (Field::AppId, &event.app_id),
        (Field::Platform, &event.platform),
        (Field::Channel, &event.channel),
        (Field::Partner, &event.partner),
        (Field::CampaignId, &event.campaign_id),
        (Field::AdGroupId, &event.ad_group_id),
        (Field::CreativeId, &event.creative_id),
        (Field::Keyword, &event.keyword),
        (Field::SubPublisher, &event.sub_publisher),
        (Field::Country, &event.country),
        (Field::Conversion, &event.conversion),
        (Field::Value, &event.value),
        (Field::Currency, &event.currency),
        (Field::Ip, &event.ip),
        (Field::UserAgent, &event.user_agent),
    ] {
        if !text.is_empty() {
            read.texts[field as usize] = Some(Cow::Borrowed(text));
        }
    }
    read.event_type = match EventType::try_from(event.event_type) {
        Ok(EventType::Unspecified) => None,
        Ok(known) => Some(TypeRef::Known(known)),
        Err(_) => Some(TypeRef::Number(event.event_type)),
    };
    read.timestamp = event.timestamp.map(TimeRef::Message);
    read.install_begin = event.install_begin.map(TimeRef::Message);
    if let Some(properties) = &event.properties {
        read.has_properties = true;
        let entries = properties.fields.iter().take(PROPERTIES_KEYS_MAX + 1);
        read.properties
            .extend(entries.map(|(key, value)| (Cow::Borrowed(key.as_str()), scalar(value.clone()))));
    }
    read
}

/// What is read where it stands is what prost reads; the bytes may be others, which prost does not write again.
fn assert_read_as_prost_reads(message: &[u8]) {
    let mut read = EventRef::default();
    let found = read_event(message, &mut read);
    match Event::decode(message) {
        Ok(event) => {
            assert_eq!(found, Ok(()));
            let decoded = EventRef { bytes: message.len(), ..decoded(&event) };
            assert_eq!(format!("{read:?}"), format!("{decoded:?}"));
        }
        Err(_) => assert_eq!(found, Err(Malformed)),
    }
}

/// The events of a request, and its sequence, in place.
fn walked(form: Form, message: &[u8]) -> Result<(u64, Vec<Event>), Malformed> {
    let mut events = Vec::new();
    let sequence = walk(form, message, |bytes| {
        events.push(Event::decode(bytes)?);
        Ok(Ok(()))
    })?;
    Ok((sequence.unwrap(), events))
}

/// Fields that no event has, of every wire type.
fn unknown_fields() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        &[][..],
        &[0xc8, 0x01, 0x80, 0x01],
        &[0xc9, 0x01, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xca, 0x01, 2, b'x', b'y'],
        &[0xcb, 0x01, 0x08, 0x01, 0xcc, 0x01],
        &[0xcd, 0x01, 1, 2, 3, 4],
        // Its end is missing; a text is a number; the number 0; a length past the end.
        &[0xcb, 0x01],
        &[0x08, 0x01],
        &[0x00],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    ])
    .prop_map(<[u8]>::to_vec)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_event_is_read_as_prost_reads_it(
        parts in prop::collection::vec((some_event(), unknown_fields()), 1..3),
        flips in flips(),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        // Parts in a row are one message, whose fields are given more than once.
        let message: Vec<u8> =
            parts.iter().flat_map(|(event, unknown)| [event.encode_to_vec(), unknown.clone()].concat()).collect();
        for message in [damaged(message.clone(), &flips), message, bytes] {
            assert_read_as_prost_reads(&message);
        }
    }

    #[test]
    fn a_request_is_read_as_prost_reads_it(
        sequences in prop::collection::vec(any::<u64>(), 0..3),
        events in prop::collection::vec(some_event(), 1..3),
        flips in flips(),
    ) {
        let call = IngestEventsRequest { events: events.clone() }.encode_to_vec();
        let mut stream = StreamEventsRequest { sequence: 1, events }.encode_to_vec();
        for sequence in sequences {
            stream.extend(StreamEventsRequest { sequence, events: Vec::new() }.encode_to_vec());
        }
        for (call, stream) in [(damaged(call.clone(), &flips), damaged(stream.clone(), &flips)), (call, stream)] {
            let expected = IngestEventsRequest::decode(call.as_slice());
            let expected = expected.map(|request| (0, request.events)).map_err(|_| Malformed);
            prop_assert_eq!(walked(Form::Call, &call), expected);
            let expected = StreamEventsRequest::decode(stream.as_slice());
            let expected = expected.map(|request| (request.sequence, request.events)).map_err(|_| Malformed);
            prop_assert_eq!(walked(Form::Stream, &stream), expected);
        }
    }
}

#[test]
fn events_are_counted_without_being_read() {
    for count in [0, 1, 7] {
        let events = vec![Event { event_id: "id".to_owned(), ..Event::default() }; count];
        let call = IngestEventsRequest { events: events.clone() }.encode_to_vec();
        let stream = StreamEventsRequest { sequence: 300, events }.encode_to_vec();
        for (form, mut message) in [(Form::Call, call), (Form::Stream, stream)] {
            assert_eq!(super::count(form, &message), count);
            // Of a field that is cut what is before it.
            message.extend([0x0a, 5, 1]);
            assert_eq!(super::count(form, &message), count);
        }
    }
}
