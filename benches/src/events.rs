//! Events made beforehand: bodies in which only the ids are written anew, so that making them costs next to nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use proto::{
    events::{Event, EventType},
    ingestion::IngestEventsRequest,
};

/// The bytes of an event in JSON: 17 fields.
pub(crate) const EVENT_BYTES: usize = 605;

/// Digits of the number in an event id, and in a device id.
const ID_DIGITS: usize = 12;
/// Devices that events are spread over.
const DEVICES: u64 = 1_000_000;

/// Digits of a time in Unix milliseconds.
const MILLIS_DIGITS: usize = 13;
/// Events come in the order of their times, this many of each millisecond of the day before.
const EVENTS_PER_MILLI: u64 = 10;
const BEFORE_MILLIS: u64 = 24 * 60 * 60 * 1_000;
/// Of as many events one is late, by this much.
const LATE_EACH: u64 = 50;
const LATE_MILLIS: u64 = 60 * 60 * 1_000;

const ID: &str = "bench-000000000000";
const DEVICE: &str = "device-000000000000";
const CHANNELS: [&str; 6] = ["search", "social", "email", "display", "affiliate", "direct"];

/// The numbers of event ids: each is used once in a run.
#[derive(Debug)]
pub(crate) struct Ids(AtomicU64);

/// A body with places in it for the ids.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// Where the number of each event id and that of its device begin.
    places: Vec<(usize, usize)>,
    /// Where the time of each event begins; none in a message.
    times: Vec<usize>,
    /// The time of event 0, Unix milliseconds.
    start_millis: u64,
}

/// Which events a body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Clicks.
    Clicks,
    /// Of ten events nine clicks and one conversion.
    Journeys,
}

// === impl Ids ===

impl Ids {
    /// From 0 on.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The id of the last event that was made.
    pub(crate) fn last(&self) -> String {
        format!("bench-{:0ID_DIGITS$}", self.0.load(Ordering::Relaxed).saturating_sub(1))
    }

    fn take(&self, count: usize) -> u64 {
        self.0.fetch_add(count as u64, Ordering::Relaxed)
    }
}

// === impl Template ===

impl Template {
    /// An array of events in JSON; of one event the object alone.
    pub(crate) fn json(events: usize, mix: Mix) -> Self {
        let items: Vec<String> = (0..events).map(|index| json(&event(index, mix))).collect();
        let body = if events == 1 { items.concat() } else { format!("[{}]", items.join(",")) };
        let mut template = Self::of(body.into_bytes());
        let time = br#""timestamp":"#;
        let found = template.bytes.windows(time.len()).enumerate().filter(|(_, window)| window == time);
        template.times = found.map(|(at, _)| at + time.len()).collect();
        template
    }

    /// An `IngestEventsRequest`.
    pub(crate) fn grpc(events: usize, mix: Mix) -> Self {
        let events = (0..events).map(|index| event(index, mix)).collect();
        Self::of(IngestEventsRequest { events }.encode_to_vec())
    }

    fn of(bytes: Vec<u8>) -> Self {
        let number = |prefix: &str| {
            let text = prefix.as_bytes();
            let found = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text);
            found.map(|(at, _)| at + text.len() - ID_DIGITS).collect::<Vec<_>>()
        };
        let places = number(ID).into_iter().zip(number(DEVICE)).collect();
        let start_millis = jiff::Timestamp::now().as_millisecond() as u64 - BEFORE_MILLIS;
        Self { bytes, places, times: Vec::new(), start_millis }
    }

    pub(crate) fn events(&self) -> usize {
        self.places.len()
    }

    /// The body with ids that were not used before.
    pub(crate) fn fill(&mut self, ids: &Ids) -> &[u8] {
        let first = ids.take(self.places.len());
        for (number, &(id, device)) in (first..).zip(&self.places) {
            digits(&mut self.bytes[id..id + ID_DIGITS], number);
            // Spread evenly, and not in the order of ids.
            digits(
                &mut self.bytes[device..device + ID_DIGITS],
                number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % DEVICES,
            );
        }
        for (number, &time) in (first..).zip(&self.times) {
            let late = if number % LATE_EACH == 0 { LATE_MILLIS } else { 0 };
            let millis = self.start_millis + number / EVENTS_PER_MILLI - late;
            digits(&mut self.bytes[time..time + MILLIS_DIGITS], millis);
        }
        &self.bytes
    }
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The event at a place of a batch.
pub(crate) fn event(index: usize, mix: Mix) -> Event {
    let now = jiff::Timestamp::now().as_millisecond() + index as i64;
    let conversion = mix == Mix::Journeys && index % 10 == 9;
    let timestamp = prost_types::Timestamp { seconds: now / 1_000, nanos: (now % 1_000) as i32 * 1_000_000 };
    let event_type = if conversion { EventType::Conversion } else { EventType::Click };
    let mut event = Event {
        event_id: ID.to_owned(),
        event_type: event_type.into(),
        timestamp: Some(timestamp),
        device_id: DEVICE.to_owned(),
        click_id: format!("EAIaIQobChMI{index:03}7u3q8pKCAxVhEQYAHR5nDjQEAAYASAAEgKx"),
        app_id: "com.example.shop".to_owned(),
        platform: "android".to_owned(),
        channel: CHANNELS[index % CHANNELS.len()].to_owned(),
        partner: "example-ads".to_owned(),
        campaign_id: format!("campaign-summer-sale-{:04}", index % 40),
        ad_group_id: format!("ad-group-{:05}", index % 200),
        creative_id: format!("creative-{:06}", index % 500),
        keyword: "running shoes men".to_owned(),
        country: "DE".to_owned(),
        ip: "203.0.113.77".to_owned(),
        user_agent: "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko)"
            .to_owned(),
        ..Event::default()
    };
    if conversion {
        event.conversion = "purchase".to_owned();
        event.value = "49.90".to_owned();
    } else {
        event.sub_publisher = "placement-top-banner".to_owned();
    }
    let missing = EVENT_BYTES.saturating_sub(json(&event).len());
    event.user_agent.extend(std::iter::repeat_n('x', missing));
    event
}

fn json(event: &Event) -> String {
    let time = event.timestamp.unwrap_or_default();
    let millis = time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000;
    let kind = if event.event_type() == EventType::Conversion { "conversion" } else { "click" };
    let mut text = format!(
        r#"{{"event_id":"{}","event_type":"{kind}","timestamp":{millis},"device_id":"{}""#,
        event.event_id, event.device_id
    );
    for (name, value) in [
        ("click_id", &event.click_id),
        ("app_id", &event.app_id),
        ("platform", &event.platform),
        ("channel", &event.channel),
        ("partner", &event.partner),
        ("campaign_id", &event.campaign_id),
        ("ad_group_id", &event.ad_group_id),
        ("creative_id", &event.creative_id),
        ("keyword", &event.keyword),
        ("sub_publisher", &event.sub_publisher),
        ("country", &event.country),
        ("conversion", &event.conversion),
        ("value", &event.value),
        ("ip", &event.ip),
        ("user_agent", &event.user_agent),
    ] {
        if !value.is_empty() {
            text.push_str(&format!(r#","{name}":"{value}""#));
        }
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn events_have_the_size_they_are_said_to_have_and_ids_of_their_own() {
        let ids = Ids::new();
        let mut seen = HashSet::new();
        let mut template = Template::json(100, Mix::Journeys);
        for _ in 0..3 {
            let events: Vec<serde_json::Map<String, serde_json::Value>> =
                serde_json::from_slice(template.fill(&ids)).unwrap();
            assert_eq!(events.len(), 100);
            for event in events {
                assert_eq!(serde_json::to_string(&event).unwrap().len(), EVENT_BYTES);
                assert_eq!(event.len(), if event["event_type"] == "click" { 17 } else { 18 });
                assert!(seen.insert(event["event_id"].as_str().unwrap().to_owned()));
            }
        }
    }

    #[test]
    fn the_message_has_the_same_ids_as_the_text() {
        let (mut json, mut grpc) = (Template::json(10, Mix::Clicks), Template::grpc(10, Mix::Clicks));
        let request = IngestEventsRequest::decode(grpc.fill(&Ids::new())).unwrap();
        let text = String::from_utf8(json.fill(&Ids::new()).to_vec()).unwrap();
        assert_eq!((grpc.events(), json.events()), (10, 10));
        for event in request.events {
            assert!(text.contains(&event.event_id) && text.contains(&event.device_id));
        }
    }
}
