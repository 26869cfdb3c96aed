//! `POST /v1/events` as the contract has it: media types, limits, answers, and what reaches the log.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;

use axum::{body::Body, http::Request};
use common::{Sandbox, click, post, statuses};
use event_log::FRAME_BYTES_MAX;
use model::{IdentityHash, IdentityKind};
use serde_json::{Value, json};

#[tokio::test]
async fn an_answer_says_what_became_of_each_event() {
    let sandbox = Sandbox::new(1).await;
    let euro = r#"{"event_type":"conversion","timestamp":1767225600000,"device_id":"d","currency":"EURO"}"#;
    let body = format!("[{},{},{},{euro}]", click("a", "d"), click("a", "d"), click("c", "d"));
    let answer = sandbox.post(body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        answer.json,
        json!({"accepted":2,"duplicate":1,"rejected":1,
          "items":[{"index":0,"event_id":"a","status":"accepted"},
                   {"index":1,"event_id":"a","status":"duplicate"},
                   {"index":2,"event_id":"c","status":"accepted"},
                   {"index":3,"status":"rejected","code":"invalid_value","field":"currency","reason":"not an ISO 4217 code: \"EURO\""}]})
    );
}

#[tokio::test]
async fn a_rejected_event_is_named_by_its_id_if_that_is_valid() {
    let sandbox = Sandbox::new(1).await;
    let bad = click("a\\u002db", "d").replace("1767225600000", "1");
    let answer = sandbox.post(bad).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.headers["content-type"], "application/json");
    let item = &answer.json["items"][0];
    assert_eq!(
        (&item["event_id"], &item["code"], &item["field"]),
        (&json!("a-b"), &json!("out_of_range"), &json!("timestamp"))
    );
    let answer = sandbox.post(r#"{"q\"\n":1,"event_id":"a b"}"#).await;
    let item = &answer.json["items"][0];
    assert_eq!(
        (&item["event_id"], &item["code"], &item["field"]),
        (&Value::Null, &json!("unknown_field"), &json!("q\"\n"))
    );
    let answer = sandbox.post("7").await;
    assert_eq!((answer.status.as_u16(), &answer.json["items"][0]["field"]), (400, &Value::Null));
}

#[tokio::test]
async fn only_a_batch_of_rejections_alone_is_400() {
    let sandbox = Sandbox::new(1).await;
    assert_eq!(sandbox.post(format!("[{},1]", click("a", "d"))).await.status, 200);
    assert_eq!(
        sandbox.post(format!("[{},1]", click("a", "d"))).await.status,
        200,
        "a duplicate is no rejection"
    );
    let answer = sandbox.post("[1,2]").await;
    assert_eq!((answer.status.as_u16(), &answer.json["rejected"]), (400, &json!(2)));
    for (body, content_type) in
        [("[]", "application/json"), ("", "application/x-ndjson"), ("\n\r\n", "application/x-ndjson")]
    {
        let answer = sandbox.send(post("key-acme", content_type).body(body.into()).unwrap()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json, json!({"accepted":0,"duplicate":0,"rejected":0,"items":[]}));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_problem_that_says_where() {
    let sandbox = Sandbox::new(1).await;
    let good = click("a", "d").into_bytes();
    for (tail, byte) in [(&b"\n{"[..], 2), (b"\n\xff", 1), (b"\n{} {}", 4)] {
        let body = [&good[..], tail].concat();
        let answer = sandbox.send(post("key-acme", "application/x-ndjson").body(body.into()).unwrap()).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.json["code"], "unreadable_body");
        let place = format!("byte {}, line 2", good.len() + byte);
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.ends_with(&place), "{detail:?} {place:?}");
    }
    assert_eq!(sandbox.post("").await.status, 400);
    assert!(sandbox.log.ids().await.is_empty(), "nothing of such a body counts");
}

#[tokio::test]
async fn media_types_are_two_and_without_one_it_is_json() {
    let sandbox = Sandbox::new(1).await;
    for (content_type, status) in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json;charset=iso-8859-1", 200),
        ("application/x-ndjson ; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/x-ndjson", 200),
        ("text/plain", 415),
        ("application/jsonp", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ] {
        let request = post("key-acme", content_type).body(click("a", "d").into()).unwrap();
        assert_eq!(sandbox.send(request).await.status, status, "{content_type}");
    }
    let request = Request::post("/v1/events").header("authorization", "Bearer key-acme");
    assert_eq!(sandbox.send(request.body(click("a", "d").into()).unwrap()).await.status, 200);
    let request = post("key-acme", "application/json").header("content-encoding", "br");
    assert_eq!(sandbox.send(request.body(click("a", "d").into()).unwrap()).await.status, 415);
}

#[tokio::test]
async fn a_body_may_be_compressed() {
    let sandbox = Sandbox::new(1).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(click("a", "d").as_bytes()).unwrap();
    let zstd = zstd::encode_all(click("b", "d").as_bytes(), 1).unwrap();
    for (encoding, body) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
        let request = post("key-acme", "application/json").header("content-encoding", encoding);
        assert_eq!(sandbox.send(request.body(body.into()).unwrap()).await.status, 200);
    }
    assert_eq!(sandbox.log.ids().await, ["a", "b"]);
}

#[tokio::test]
async fn a_batch_has_at_most_10_000_items_and_8_mib() {
    let sandbox = Sandbox::new(4).await;
    let lines = |count: usize| {
        (0..count).map(|i| click(&format!("e{i}"), &format!("d{i}")) + "\n").collect::<String>()
    };
    let send =
        |body: String| sandbox.send(post("key-acme", "application/x-ndjson").body(body.into()).unwrap());
    let answer = send(lines(10_001)).await;
    assert_eq!((answer.status.as_u16(), answer.json["code"].as_str()), (413, Some("too_many_events")));
    assert!(sandbox.log.ids().await.is_empty());
    let answer = send(lines(10_000)).await;
    assert_eq!((answer.status.as_u16(), &answer.json["accepted"]), (200, &json!(10_000)));
    // Rejected items count, too.
    assert_eq!(send("1\n".repeat(10_001)).await.status, 413);
    assert_eq!(send("1\n".repeat(10_000)).await.status, 400);
    let padded = |bytes: usize| {
        let event = click("p", "d");
        let padding = " ".repeat(bytes - event.len());
        padding + &event
    };
    assert_eq!(sandbox.statuses(padded(8 * 1024 * 1024)).await, ["accepted"]);
    assert_eq!(sandbox.post(padded(8 * 1024 * 1024 + 1)).await.status, 413);
    let bomb = zstd::encode_all(padded(8 * 1024 * 1024 + 1).as_bytes(), 1).unwrap();
    let request = post("key-acme", "application/json").header("content-encoding", "zstd");
    assert_eq!(sandbox.send(request.body(bomb.into()).unwrap()).await.status, 413);
}

#[tokio::test]
async fn an_event_of_64_kib_is_taken_and_one_byte_more_is_that_events_mistake() {
    let sandbox = Sandbox::new(1).await;
    let padded = |id: &str, bytes: usize| {
        let event = click(id, "d");
        event.replacen('{', &format!("{{{}", " ".repeat(bytes - event.len())), 1)
    };
    let body = format!("[{},{}]", padded("a", 65_536), padded("b", 65_537));
    let answer = sandbox.post(body).await;
    assert_eq!(statuses(&answer.json), ["accepted", "rejected"]);
    assert_eq!(answer.json["items"][1]["code"], "too_large");
}

#[tokio::test]
async fn only_a_key_that_may_ingest_gets_in() {
    let sandbox = Sandbox::new(1).await;
    let open = Request::post("/v1/events").body(Body::from(click("a", "d"))).unwrap();
    assert_eq!(sandbox.send(open).await.status, 401);
    for (key, status) in [("key-nobody", 401), ("key-reader", 403), ("key-acme", 200)] {
        let request = post(key, "application/json").body(click("a", "d").into()).unwrap();
        assert_eq!(sandbox.send(request).await.status, status, "{key}");
    }
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let request = post("key-acme", "application/json").method(method);
        let answer = sandbox.send(request.body(click("b", "d").into()).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers["allow"].as_bytes()),
            (405, &b"POST"[..]),
            "{method}"
        );
    }
    assert_eq!(sandbox.log.ids().await, ["a"]);
}

#[tokio::test]
async fn frames_carry_tenant_edition_time_and_trace() {
    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sandbox = Sandbox::new(1).await;
    let before = jiff::Timestamp::now().as_microsecond();
    let request = post("key-acme", "application/json").header("traceparent", TRACEPARENT);
    let event = r#"{"event_type":"conversion","timestamp":"2026-01-01T00:00:00.5Z","user_id":"u"}"#;
    let answer = sandbox.send(request.body(event.into()).unwrap()).await;
    assert_eq!(answer.status, 200);
    let frames = sandbox.log.frames().await;
    let [(_, _, frame)] = frames.as_slice() else { panic!("{} frames", frames.len()) };
    assert_eq!((frame.version, frame.kind, frame.tenant.as_str()), (1, 1, "acme"));
    assert_eq!(frame.traceparent, TRACEPARENT);
    let settings = sandbox.front.settings().load();
    assert_eq!(frame.settings_edition, *settings.tenant("acme").unwrap().edition);
    assert!((before..=jiff::Timestamp::now().as_microsecond()).contains(&frame.received_at_micros));
    let event = &frame.events[0];
    assert_eq!(event.event_id, answer.json["items"][0]["event_id"].as_str().unwrap());
    let stamped = [&event.app_id, &event.conversion, &event.value, &event.currency].map(String::as_str);
    assert_eq!(stamped, ["default", "conversion", "0", "CHF"]);
}

#[tokio::test]
async fn an_event_goes_to_the_partition_of_its_first_identity() {
    let sandbox = Sandbox::new(4).await;
    let ids = [
        (r#""device_id":"D","cookie_id":"C","user_id":"U""#, IdentityKind::Device, "D"),
        (r#""user_id":"U","cookie_id":"C""#, IdentityKind::Cookie, "C"),
        (r#""user_id":"U""#, IdentityKind::User, "U"),
    ];
    let mut used = std::collections::HashSet::new();
    for i in 0..16 {
        for (identities, kind, value) in ids {
            let body = format!(r#"{{"event_type":"visit","timestamp":1767225600000,{identities}}}"#)
                .replace(":\"D\"", &format!(":\"D{i}\""))
                .replace(":\"C\"", &format!(":\"C{i}\""))
                .replace(":\"U\"", &format!(":\"U{i}\""));
            let answer = sandbox.post(body).await;
            let id = answer.json["items"][0]["event_id"].as_str().unwrap().to_owned();
            let expected = IdentityHash::new("acme", kind, &format!("{value}{i}")).partition(4);
            let frames = sandbox.log.frames().await;
            let found = frames.iter().find(|(_, _, frame)| frame.events.iter().any(|e| e.event_id == id));
            assert_eq!(found.unwrap().0, expected);
            used.insert(expected);
        }
    }
    assert_eq!(used.len(), 4);
}

#[tokio::test]
async fn a_batch_larger_than_a_frame_is_split_and_nothing_is_lost() {
    let sandbox = Sandbox::new(2).await;
    let agent = "x".repeat(1_000);
    let events: Vec<_> = (0..1_500)
        .map(|i| {
            click(&format!("e{i:04}"), &format!("d{i}"))
                .replace('}', &format!(",\"user_agent\":\"{agent}\"}}"))
        })
        .collect();
    let answer = sandbox.post(format!("[{}]", events.join(","))).await;
    assert_eq!(answer.json["accepted"], json!(1_500));
    let frames = sandbox.log.frames().await;
    assert!(frames.len() >= 4, "{}", frames.len());
    assert!(frames.iter().all(|(_, bytes, _)| *bytes <= FRAME_BYTES_MAX));
    // As few as their bytes fit in: only the last of a partition has room left.
    let roomy = frames.iter().filter(|(_, bytes, _)| *bytes < FRAME_BYTES_MAX - 2_000).count();
    assert!(roomy <= 2, "{roomy}");
    let ids: Vec<_> = (0..1_500).map(|i| format!("e{i:04}")).collect();
    assert_eq!(sandbox.log.ids().await, ids);
}
