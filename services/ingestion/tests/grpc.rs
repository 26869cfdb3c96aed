//! The gRPC service answers as REST does, and streams in order.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Mode, Sandbox, TestLog, eventually};
use ingestion::Config;
use proptest::prelude::*;
use prost::Message;
use prost_types::{ListValue, Struct, Timestamp, Value as ProtoValue, value::Kind};
use proto::{
    events::{Event, EventType},
    ingestion::{IngestEventsRequest, IngestEventsResponse, Status, StreamEventsRequest},
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

fn click(event_id: &str) -> Event {
    Event {
        event_id: event_id.to_owned(),
        event_type: EventType::Click.into(),
        timestamp: Some(Timestamp { seconds: 1_767_225_600, nanos: 0 }),
        device_id: "d".to_owned(),
        ..Event::default()
    }
}

/// The code of an error, as programs read it.
fn reason(status: &tonic::Status) -> String {
    tonic_types::StatusExt::get_error_details(status).error_info().unwrap().reason.clone()
}

/// What of an event REST calls by name.
fn texts(event: &mut Event) -> [(&'static str, &mut String); 20] {
    [
        ("event_id", &mut event.event_id),
        ("device_id", &mut event.device_id),
        ("cookie_id", &mut event.cookie_id),
        ("user_id", &mut event.user_id),
        ("click_id", &mut event.click_id),
        ("app_id", &mut event.app_id),
        ("platform", &mut event.platform),
        ("channel", &mut event.channel),
        ("partner", &mut event.partner),
        ("campaign_id", &mut event.campaign_id),
        ("ad_group_id", &mut event.ad_group_id),
        ("creative_id", &mut event.creative_id),
        ("keyword", &mut event.keyword),
        ("sub_publisher", &mut event.sub_publisher),
        ("country", &mut event.country),
        ("conversion", &mut event.conversion),
        ("value", &mut event.value),
        ("currency", &mut event.currency),
        ("ip", &mut event.ip),
        ("user_agent", &mut event.user_agent),
    ]
}

/// The same event in the words of REST.
fn in_rest(mut event: Event) -> Value {
    let mut fields = Map::new();
    for (name, text) in texts(&mut event) {
        if !text.is_empty() {
            fields.insert(name.to_owned(), json!(text));
        }
    }
    if event.event_type != 0 {
        let name = event.event_type().as_str_name().trim_start_matches("EVENT_TYPE_").to_lowercase();
        fields.insert("event_type".to_owned(), json!(name));
    }
    let millis = |time: &Timestamp| json!(time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000);
    if let Some(time) = &event.timestamp {
        fields.insert("timestamp".to_owned(), millis(time));
    }
    if let Some(time) = &event.install_begin {
        fields.insert("install_begin".to_owned(), millis(time));
    }
    if let Some(properties) = event.properties {
        fields.insert("properties".to_owned(), object(properties));
    }
    Value::Object(fields)
}

fn object(fields: Struct) -> Value {
    Value::Object(fields.fields.into_iter().map(|(key, value)| (key, plain(value))).collect())
}

fn plain(value: ProtoValue) -> Value {
    match value.kind.unwrap() {
        Kind::NullValue(_) => Value::Null,
        Kind::NumberValue(number) => json!(number),
        Kind::StringValue(text) => json!(text),
        Kind::BoolValue(value) => json!(value),
        Kind::StructValue(fields) => object(fields),
        Kind::ListValue(list) => list.values.into_iter().map(plain).collect(),
    }
}

/// A gRPC answer in the words of REST, with assigned ids left out.
fn answer_in_rest(answer: IngestEventsResponse, given: &[Event]) -> Value {
    let items: Vec<_> = answer
        .items
        .into_iter()
        .zip(given)
        .map(|(item, given)| {
            let status = item.status().as_str_name().trim_start_matches("STATUS_").to_lowercase();
            let mut fields = json!({"index": item.index, "status": status});
            let assigned = given.event_id.is_empty();
            assert_eq!(assigned && !item.event_id.is_empty(), assigned && item.status() != Status::Rejected);
            let id = if assigned { String::new() } else { item.event_id };
            for (name, text) in
                [("event_id", id), ("code", item.code), ("field", item.field), ("reason", item.reason)]
            {
                if !text.is_empty() {
                    fields[name] = json!(text);
                }
            }
            fields
        })
        .collect();
    json!({"accepted": answer.accepted, "duplicate": answer.duplicate, "rejected": answer.rejected, "items": items})
}

fn without_assigned(mut answer: Value, given: &[Event]) -> Value {
    for (item, given) in answer["items"].as_array_mut().unwrap().iter_mut().zip(given) {
        if given.event_id.is_empty() {
            item.as_object_mut().unwrap().remove("event_id");
        }
    }
    answer
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zé\"\n]{1,8}",
        1 => prop::sample::select(vec![64, 65, 128, 129, 256, 257, 1_024, 1_025, 70_000]).prop_map(|n| "x".repeat(n)),
        1 => prop::sample::select(vec!["DE", "de", "EUR", "EURO", "1.5", "1e3", "-0", "9000000000000.1", "::1", "1.2.3", "e-1"])
            .prop_map(str::to_owned),
    ]
}

fn time() -> impl Strategy<Value = Timestamp> {
    let seconds = prop_oneof![
        4 => Just(1_767_225_600),
        1 => prop::sample::select(vec![946_684_800, 946_684_799, 0, -1, 4_000_000_000_i64]),
    ];
    (seconds, prop::sample::select(vec![0, 1, 999_999, 1_000_000, 999_999_999]))
        .prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn property() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => text().prop_map(Kind::StringValue),
        3 => (-1_000_000..1_000_000_i32).prop_map(|n| Kind::NumberValue(f64::from(n) / 8.0)),
        3 => any::<bool>().prop_map(Kind::BoolValue),
        1 => Just(Kind::NullValue(0)),
        1 => Just(Kind::ListValue(ListValue::default())),
        1 => Just(Kind::StructValue(Struct::default())),
    ]
}

fn some_event() -> impl Strategy<Value = Event> {
    let properties = prop::collection::btree_map("[a-z]{0,4}", property(), 0..4);
    (
        prop_oneof![3 => Just(String::new()), 2 => "e[0-9]"],
        prop_oneof![1 => Just(0), 6 => 1..=5_i32],
        prop::option::weighted(0.9, time()),
        prop::option::weighted(0.1, time()),
        prop::collection::vec((1..20_usize, text()), 0..3),
        prop::bool::weighted(0.9),
        prop::option::weighted(0.3, properties),
    )
        .prop_map(|(event_id, event_type, timestamp, install_begin, changes, device, properties)| {
            let mut event = Event { event_id, event_type, timestamp, install_begin, ..Event::default() };
            if device {
                event.device_id = "d".to_owned();
            }
            for (index, text) in changes {
                *texts(&mut event)[index].1 = text;
            }
            let value = |kind| ProtoValue { kind: Some(kind) };
            event.properties = properties
                .map(|fields| Struct { fields: fields.into_iter().map(|(k, v)| (k, value(v))).collect() });
            event
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn both_protocols_give_the_same_answer_and_store_the_same(events in prop::collection::vec(some_event(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (rest, grpc) = (Sandbox::new(4).await, Sandbox::new(4).await);
            let body: Value = events.iter().cloned().map(in_rest).collect();
            let answered = without_assigned(rest.post(body.to_string()).await.json, &events);
            let request = IngestEventsRequest { events: events.clone() };
            let response = grpc.client().ingest_events(request).await.unwrap().into_inner();
            assert_eq!(answer_in_rest(response, &events), answered);
            let stored = async |sandbox: &Sandbox| {
                let mut stored = sandbox.log.events().await;
                for event in &mut stored {
                    if event.event_id.len() == 36 {
                        event.event_id.clear();
                    }
                }
                stored
            };
            assert_eq!(stored(&rest).await, stored(&grpc).await);
        });
    }
}

#[tokio::test]
async fn a_batch_has_at_most_10_000_events_and_8_mib() {
    let sandbox = Sandbox::new(1).await;
    let many = |count: usize| IngestEventsRequest { events: vec![Event::default(); count] };
    let answer = sandbox.client().ingest_events(many(10_000)).await.unwrap().into_inner();
    assert_eq!(answer.rejected, 10_000);
    let status = sandbox.client().ingest_events(many(10_001)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "too_many_events"));
    let of_bytes = |bytes: usize| {
        let batch = |length| IngestEventsRequest {
            events: vec![click("a"), Event { user_agent: "x".repeat(length), ..click("b") }],
        };
        // The length prefixes are those of the largest already.
        let overhead = batch(bytes - 1_000).encoded_len() - (bytes - 1_000);
        let batch = batch(bytes - overhead);
        assert_eq!(batch.encoded_len(), bytes);
        batch
    };
    let answer = sandbox.client().ingest_events(of_bytes(8 * 1024 * 1024)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.items[1].code.as_str()), (1, "too_large"));
    let status = sandbox.client().ingest_events(of_bytes(8 * 1024 * 1024 + 1)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "message_too_large"));
}

#[tokio::test]
async fn a_message_of_64_kib_is_judged_by_its_fields_and_one_byte_more_by_its_size() {
    let sandbox = Sandbox::new(1).await;
    let of_bytes = |bytes: usize| {
        let event = |length| Event { user_agent: "x".repeat(length), ..click("a") };
        let event = event(bytes - (event(60_000).encoded_len() - 60_000));
        assert_eq!(event.encoded_len(), bytes);
        event
    };
    let events = vec![of_bytes(65_536), of_bytes(65_537)];
    let answer = sandbox.client().ingest_events(IngestEventsRequest { events }).await.unwrap().into_inner();
    let said: Vec<_> = answer.items.iter().map(|item| (item.code.as_str(), item.field.as_str())).collect();
    assert_eq!(said, [("too_long", "user_agent"), ("too_large", "")]);
}

#[tokio::test]
async fn what_rest_cannot_say_is_rejected_here() {
    let sandbox = Sandbox::new(1).await;
    let strange = vec![
        Event { event_type: 9, ..click("a") },
        Event { timestamp: Some(Timestamp { seconds: 1_767_225_600, nanos: -1 }), ..click("a") },
        Event { timestamp: Some(Timestamp { seconds: i64::MAX, nanos: 0 }), ..click("a") },
    ];
    let answer =
        sandbox.client().ingest_events(IngestEventsRequest { events: strange }).await.unwrap().into_inner();
    let said: Vec<_> = answer.items.iter().map(|item| (item.code.as_str(), item.field.as_str())).collect();
    let expected =
        [("invalid_value", "event_type"), ("invalid_value", "timestamp"), ("out_of_range", "timestamp")];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn what_the_log_refuses_is_unavailable_with_a_delay() {
    let sandbox = Sandbox::new(1).await;
    sandbox.log.set(Mode::Refuse);
    let request = IngestEventsRequest { events: vec![click("a")] };
    let status = sandbox.client().ingest_events(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert!(details.retry_info().unwrap().retry_delay.is_some());
}

fn batch(sequence: u64) -> StreamEventsRequest {
    StreamEventsRequest { sequence, events: vec![click(&format!("e{sequence}"))] }
}

#[tokio::test]
async fn a_stream_is_answered_in_order_and_reads_no_more_than_it_works_on() {
    let config = Config { stream_batches_in_flight_max: 3, ..Config::default() };
    let sandbox = Arc::new(Sandbox::with(TestLog::new(1).await, config, Vec::new()).await);
    let (send, receive) = mpsc::channel(100);
    for sequence in 0..50 {
        send.send(batch(sequence * 7)).await.unwrap();
    }
    sandbox.log.set(Mode::Held);
    let mut answers =
        sandbox.client().stream_events(ReceiverStream::new(receive)).await.unwrap().into_inner();
    let reading = service::task::spawn("a client", async move {
        let mut read = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            assert_eq!(answer.accepted, 1);
            read.push(answer.sequence);
        }
        read
    });
    eventually("as many as may be are worked on", || sandbox.log.asked() == 3).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sandbox.log.asked(), 3);
    sandbox.log.set(Mode::Open);
    drop(send);
    assert_eq!(reading.await.unwrap(), (0..50).map(|sequence| sequence * 7).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_that_cannot_be_taken_ends_the_stream_behind_the_answers_before_it() {
    let sandbox = Sandbox::new(1).await;
    let (send, receive) = mpsc::channel(10);
    let mut answers =
        sandbox.client().stream_events(ReceiverStream::new(receive)).await.unwrap().into_inner();
    send.send(batch(1)).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().sequence, 1);
    sandbox.log.set(Mode::Refuse);
    send.send(batch(2)).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    assert!(answers.message().await.is_ok_and(|answer| answer.is_none()));
}

#[tokio::test]
async fn every_batch_of_a_stream_has_its_answer_whatever_it_holds() {
    let sandbox = Sandbox::new(1).await;
    let batches = vec![
        StreamEventsRequest { sequence: u64::MAX, events: Vec::new() },
        StreamEventsRequest { sequence: 0, events: vec![Event::default(), click("a"), click("a")] },
        StreamEventsRequest { sequence: 0, events: vec![Event::default(); 2] },
        StreamEventsRequest { sequence: 5, events: vec![click("a"), click("b")] },
    ];
    let mut answers = sandbox.client().stream_events(tokio_stream::iter(batches)).await.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.items.len() as u32, answer.accepted + answer.duplicate + answer.rejected);
        assert!(answer.items.iter().enumerate().all(|(index, item)| item.index == index as u32));
        said.push((answer.sequence, answer.accepted, answer.duplicate, answer.rejected));
    }
    assert_eq!(said, [(u64::MAX, 0, 0, 0), (0, 1, 1, 1), (0, 0, 0, 2), (5, 1, 1, 0)]);
}

#[tokio::test]
async fn one_stream_past_the_bound_is_refused_until_one_has_ended() {
    let config = Config { streams_max: 2, ..Config::default() };
    let sandbox = Sandbox::with(TestLog::new(1).await, config, Vec::new()).await;
    let mut client = sandbox.client();
    let (first_send, receive) = mpsc::channel(10);
    let mut first = client.stream_events(ReceiverStream::new(receive)).await.unwrap().into_inner();
    let (_second_send, receive) = mpsc::channel(10);
    let second = client.stream_events(ReceiverStream::new(receive)).await.unwrap();
    let refused = client.stream_events(tokio_stream::empty()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "overloaded"));
    // The others go on, and their places are free however they end.
    first_send.send(batch(1)).await.unwrap();
    assert_eq!(first.message().await.unwrap().unwrap().accepted, 1);
    drop(first_send);
    assert!(first.message().await.unwrap().is_none());
    drop(first);
    assert!(client.stream_events(tokio_stream::empty()).await.is_ok());
    drop(second);
    assert!(client.stream_events(tokio_stream::empty()).await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_taken_ends_a_stream_with_its_own_error() {
    let events = |count: usize| (0..count).map(|i| click(&format!("e{i}"))).collect::<Vec<_>>();
    let large = vec![Event { user_agent: "x".repeat(8 * 1024 * 1024), ..click("a") }];
    for (events, code, name, retry) in [
        (events(2), Code::ResourceExhausted, "over_quota", true),
        (events(4), Code::ResourceExhausted, "batch_over_quota", true),
        (events(10_001), Code::OutOfRange, "too_many_events", false),
        (large, Code::OutOfRange, "message_too_large", false),
    ] {
        let sandbox = Sandbox::new(1).await;
        let (send, receive) = mpsc::channel(10);
        let mut client = sandbox.client_of("other");
        let mut answers = client.stream_events(ReceiverStream::new(receive)).await.unwrap().into_inner();
        // Of a quota of three at once.
        let first = StreamEventsRequest { sequence: 1, events: vec![click("a"), click("b")] };
        send.send(first).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().accepted, 2);
        send.send(StreamEventsRequest { sequence: 2, events }).await.unwrap();
        let status = answers.message().await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, name));
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert_eq!(details.retry_info().is_some(), retry, "{name}");
        assert!(answers.message().await.is_ok_and(|answer| answer.is_none()));
        assert_eq!(sandbox.log.ids().await, ["a", "b"]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_its_stream_frees_its_ids() {
    let sandbox = Sandbox::new(1).await;
    let (send, receive) = mpsc::channel(10);
    let mut answers =
        sandbox.client().stream_events(ReceiverStream::new(receive)).await.unwrap().into_inner();
    sandbox.log.set(Mode::Held);
    send.send(batch(1)).await.unwrap();
    let log = Arc::clone(&sandbox.log);
    let reading = service::task::spawn("a client", async move { answers.message().await.is_ok() });
    eventually("the batch is worked on", || log.asked() == 1).await;
    let request = IngestEventsRequest { events: vec![click("e1"), click("own")] };
    let mut client = sandbox.client();
    let waiting = service::task::spawn("another", async move { client.ingest_events(request).await });
    eventually("another carries its own and waits", || sandbox.log.asked() == 2).await;
    reading.abort();
    assert!(reading.await.is_err());
    sandbox.log.set(Mode::Open);
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable);
    let request = IngestEventsRequest { events: vec![click("e1")] };
    assert_eq!(sandbox.client().ingest_events(request).await.unwrap().into_inner().accepted, 1);
}

#[tokio::test]
async fn the_shutdown_ends_a_stream_once_what_was_read_is_answered() {
    let sandbox = Sandbox::new(1).await;
    let (send, receive) = mpsc::channel(10);
    let mut answers =
        sandbox.client().stream_events(ReceiverStream::new(receive)).await.unwrap().into_inner();
    sandbox.log.set(Mode::Held);
    send.send(batch(1)).await.unwrap();
    let log = Arc::clone(&sandbox.log);
    let reading =
        service::task::spawn("a client", async move { (answers.message().await, answers.message().await) });
    eventually("the batch is worked on", || log.asked() == 1).await;
    sandbox.shutdown.cancel();
    sandbox.log.set(Mode::Open);
    let (first, second) = reading.await.unwrap();
    assert_eq!(first.unwrap().unwrap().sequence, 1);
    assert_eq!(second.unwrap_err().code(), Code::Unavailable);
}
