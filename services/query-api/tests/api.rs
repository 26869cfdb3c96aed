//! Conversions, journeys, settings and refusals, over REST and gRPC.

#![allow(clippy::unwrap_used)]

mod common;

use axum::body::Body;
use common::{ADMIN, INGEST, OTHER, READ, Service, event, inverse};
use http::Method;
use proto::{
    decisions::{
        Candidate, Decision, FraudFinding, FraudRule, LifetimeValue, MatchType, ModelCredit, Score,
        TouchCredit, Verdict, Winner,
    },
    events::{DecisionReason, Event, EventType},
    query::{GetConversionRequest, GetJourneyRequest, RunReportRequest, get_journey_request::Identity},
};
use serde_json::{Value, json};
use tonic::Code;

fn shown(mut event: Event) -> Event {
    event.ip.clear();
    event.user_agent.clear();
    event
}

fn stored_decision(touches: &[Event], conversion: &Event) -> Decision {
    let candidate = |touch: &Event| Candidate {
        touch: Some(shown(touch.clone())),
        verdict: Verdict::Eligible as i32,
        match_type: MatchType::Identity as i32,
        age_millis: 60_000,
        window_millis: 604_800_000,
        fraud: vec![FraudRule::ClickToInstall as i32, FraudRule::CapDay as i32],
        fraud_probability: Some(0.25),
    };
    let third = TouchCredit {
        event_id: touches[0].event_id.clone(),
        conversion_micros: 333_333,
        value_micros: 3_333_333,
    };
    Decision {
        conversion_id: conversion.event_id.clone(),
        conversion: Some(shown(conversion.clone())),
        person_id: "00".into(),
        settings_edition: "sha256:00".into(),
        candidates: touches.iter().map(candidate).collect(),
        winner: Some(Winner {
            event_id: touches[0].event_id.clone(),
            reason: "the only one".into(),
            decided_by: "only_candidate".into(),
            ..Winner::default()
        }),
        credit: vec![ModelCredit { model: "linear".into(), touches: vec![third, TouchCredit::default()] }],
        score: Some(Score {
            present: true,
            fraud_probability: 0.25,
            reasons: vec!["click_to_conversion".into()],
            event_id: touches[0].event_id.clone(),
            model: "fraud".into(),
            version: "1".into(),
        }),
        explanation: "words".into(),
        fraud: vec![FraudFinding { rule: FraudRule::CapDay as i32, reason: "too many".into() }],
        ..Decision::default()
    }
}

/// A touch before, the conversion, and between other conversions three touches after it.
async fn converted() -> (Service, Vec<Event>) {
    let service = Service::start().await;
    let events = vec![
        event("t-1", EventType::Click, 0),
        event("c-1", EventType::Conversion, 1),
        event("t-2", EventType::Click, 1),
        event("t-3", EventType::Visit, 2),
        event("c-2", EventType::Conversion, 3),
        event("t-4", EventType::Impression, 4),
    ];
    service.record(0, &events).await;
    let decision = stored_decision(&events[..1], &events[1]);
    service.decide(1, DecisionReason::Conversion, &decision).await;
    let again = Decision { explanation: "other words".into(), ..decision };
    service.decide(7, DecisionReason::LateTouch, &again).await;
    (service, events)
}

#[tokio::test]
async fn a_conversion_is_the_same_over_rest_and_grpc() {
    let (service, _) = converted().await;
    let rest = service.get("/v1/conversions/c-1", READ).await;
    assert_eq!(
        (rest.status.as_u16(), &rest.headers["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let request = GetConversionRequest { event_id: "c-1".into() };
    let grpc = service.grpc("acme").get_conversion(request).await.unwrap().into_inner().decision.unwrap();
    assert_eq!(inverse::decision(&rest.json()), grpc);
    assert_eq!(grpc.explanation, "other words");
    assert!(!rest.text().contains("planted-agent") && !rest.text().contains("192.0.2.7"));
}

#[tokio::test]
async fn a_lifetime_value_is_the_same_over_rest_and_grpc_with_and_without_a_prediction() {
    let (service, events) = converted().await;
    let decision = stored_decision(&events[..1], &events[1]);
    let none = LifetimeValue { reason: "the model gateway was away".into(), ..LifetimeValue::default() };
    let predicted = LifetimeValue {
        present: true,
        value: 55.25,
        lower: 0.0,
        upper: 130.5,
        level: 0.8,
        currency: "EUR".into(),
        horizon_weeks: 39,
        model: "value".into(),
        version: "1".into(),
        reason: String::new(),
    };
    let shown = [
        json!(null),
        json!({"present": false, "value": null, "lower": null, "upper": null, "level": null, "currency": null,
            "horizon_weeks": null, "model": null, "version": null, "reason": "the model gateway was away"}),
        json!({"present": true, "value": 55.25, "lower": 0, "upper": 130.5, "level": 0.8, "currency": "EUR",
            "horizon_weeks": 39, "model": "value", "version": "1", "reason": null}),
    ];
    for (cause, (value, shown)) in (20..).zip([None, Some(none), Some(predicted)].into_iter().zip(shown)) {
        let decision = Decision { lifetime_value: value, ..decision.clone() };
        service.decide(cause, DecisionReason::Score, &decision).await;
        let rest = service.get("/v1/conversions/c-1", READ).await.json();
        assert_eq!(rest["lifetime_value"], shown);
        let request = GetConversionRequest { event_id: "c-1".into() };
        let grpc = service.grpc("acme").get_conversion(request).await.unwrap().into_inner().decision.unwrap();
        assert_eq!(grpc.lifetime_value, decision.lifetime_value);
        assert_eq!(inverse::decision(&rest), grpc);
    }
}

#[tokio::test]
async fn editions_come_the_one_in_force_first_and_later_touches_last() {
    let (service, _) = converted().await;
    let shown = service.get("/v1/conversions/c-1", READ).await.json();
    let editions: Vec<_> = shown["editions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|edition| {
            (
                edition["cause"]["offset"].as_u64().unwrap(),
                edition["reason"].as_str().unwrap(),
                edition["in_force"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(editions, [(7, "late_touch", true), (1, "conversion", false)]);
    assert_eq!(shown["editions"][0]["recorded_at"], "2026-01-01T00:00:00.000007Z");
    let candidates: Vec<_> = shown["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| {
            (
                candidate["touch"]["event_id"].as_str().unwrap(),
                candidate["verdict"].as_str().unwrap(),
                candidate["age_millis"].as_i64().unwrap(),
            )
        })
        .collect();
    // A touch of the same moment is not after the conversion; the stored decision speaks for it.
    assert_eq!(
        candidates,
        [
            ("t-1", "eligible", 60_000),
            ("t-3", "after_conversion", -60_000),
            ("t-4", "after_conversion", -180_000)
        ]
    );
}

#[tokio::test]
async fn later_touches_fill_the_candidates_and_no_more() {
    let service = Service::start().await;
    let touch = |n: i64| event(&format!("t-{n:04}"), EventType::Click, n);
    let conversion = event("c", EventType::Conversion, 1);
    let after: Vec<_> = (2..1_202).map(touch).collect();
    service.record(0, &[touch(0), conversion.clone()]).await;
    service.record(2, &after).await;
    service.decide(1, DecisionReason::Conversion, &stored_decision(&[touch(0)], &conversion)).await;
    let shown = service.get("/v1/conversions/c", READ).await.json();
    let candidates = shown["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 1_000);
    assert_eq!(candidates[999]["touch"]["event_id"], "t-1000");
}

#[tokio::test]
async fn a_journey_is_the_same_over_rest_and_grpc_page_by_page() {
    let (service, events) = converted().await;
    let mut told = Vec::new();
    let mut token = String::new();
    loop {
        let rest = service.get(&format!("/v1/journeys?device_id=d&limit=4&page_token={token}"), READ).await;
        let request = GetJourneyRequest {
            identity: Some(Identity::DeviceId("d".into())),
            limit: Some(4),
            page_token: token,
        };
        let grpc = service.grpc("acme").get_journey(request).await.unwrap().into_inner();
        assert_eq!(inverse::journey(&rest.json()), grpc);
        assert_eq!(rest.json()["identities"], json!([{ "kind": "device_id", "value": "d" }]));
        told.extend(grpc.events);
        token = grpc.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    // Oldest first, then by event id: c-1 and t-2 are of one minute.
    assert_eq!(told, events.into_iter().map(shown).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_belongs_to_another_tenant_is_as_if_it_were_not_there() {
    let (service, _) = converted().await;
    let edition = service.front.settings().load().tenant("acme").unwrap().edition.clone();
    for (there, nowhere) in [
        ("/v1/conversions/c-1".to_owned(), "/v1/conversions/c-9"),
        ("/v1/journeys?device_id=d".to_owned(), "/v1/journeys?device_id=e"),
        (format!("/v1/settings/{edition}"), "/v1/settings/sha256:00"),
    ] {
        let theirs = service.get(&there, OTHER).await;
        let none = service.get(nowhere, OTHER).await;
        assert_eq!(theirs.problem().0, 404, "{there}");
        assert_eq!(theirs.body, none.body, "{there}");
        assert_eq!(service.get(&there, READ).await.status, 200, "{there}");
    }
    let request = GetConversionRequest { event_id: "c-1".into() };
    assert_eq!(service.grpc("other").get_conversion(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn touches_and_conversions_not_yet_decided_are_not_found() {
    let (service, _) = converted().await;
    for id in ["t-1", "c-2", "c%201", "%ff"] {
        let status = service.get(&format!("/v1/conversions/{id}"), READ).await.problem().0;
        assert!(status == 404 || id == "%ff" && status == 400, "{id}: {status}");
    }
    for length in [64, 65, 8_000] {
        let path = format!("/v1/conversions/{}", "i".repeat(length));
        assert_eq!(service.get(&path, READ).await.problem().0, 404, "{length}");
    }
}

#[tokio::test]
async fn every_route_wants_a_key_and_the_right_scope() {
    let (service, _) = converted().await;
    let edition = service.front.settings().load().tenant("acme").unwrap().edition.clone();
    let settings = format!("/v1/settings/{edition}");
    for (method, path) in [
        (Method::POST, "/v1/reports"),
        (Method::GET, "/v1/conversions/c-1"),
        (Method::GET, "/v1/journeys?device_id=d"),
        (Method::GET, settings.as_str()),
    ] {
        for (key, status) in [("", 401), ("unknown", 401), (INGEST, 403)] {
            let answer = service.call(method.clone(), path, key, &[], Body::from("not JSON")).await;
            assert_eq!(answer.problem().0, status, "{path} {key:?}");
        }
        let answer = service.call(method.clone(), path, ADMIN, &[], Body::from("{}")).await;
        assert_eq!(answer.status, if path == settings { 200 } else { 403 }, "{path}");
        let answer = service.call(Method::DELETE, path, READ, &[], Body::empty()).await;
        assert_eq!(answer.problem().0, 405, "{path}");
        assert!(answer.headers["allow"].to_str().unwrap().contains(method.as_str()), "{path}");
    }
}

#[tokio::test]
async fn an_edition_is_the_text_it_is_the_digest_of() {
    use sha2::{Digest, Sha256};
    let service = Service::start().await;
    let edition = service.front.settings().load().tenant("acme").unwrap().edition.clone();
    let answer = service.get(&format!("/v1/settings/{edition}"), READ).await;
    let digest: String = Sha256::digest(&answer.body).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(format!("sha256:{digest}"), *edition);
    assert_eq!(answer.json()["windows"]["click"], 604_800_000);
}

#[tokio::test]
async fn the_description_is_open_to_all() {
    let service = Service::start().await;
    let answer = service.get("/openapi.json", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), query_api::openapi_document());
}

#[tokio::test]
async fn a_wrong_question_is_refused_alike_and_names_its_field() {
    let service = Service::start().await;
    let question =
        json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"], "limit": 100_001 });
    let rest = service.post("/v1/reports", &question).await;
    assert_eq!(rest.problem(), (400, "limit".to_owned()));
    let request = RunReportRequest {
        from: "2026-01-01".into(),
        to: "2026-02-01".into(),
        models: vec![proto::query::Model {
            model: Some(proto::query::model::Model::Linear(proto::query::LinearModel {})),
        }],
        limit: Some(100_001),
        ..RunReportRequest::default()
    };
    let status = service.grpc("acme").run_report(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(Value::from(status.message()), rest.json()["detail"]);

    for (path, headers, body, expected) in [
        ("/v1/reports?formt=csv", [("content-type", "application/json")], "{}", (400, "formt")),
        ("/v1/reports", [("content-type", "text/plain")], "{}", (415, "")),
        ("/v1/reports", [("content-encoding", "br")], "{}", (415, "")),
        ("/v1/reports", [("accept", "*/*")], "{", (400, "")),
        ("/v1/reports", [("accept", "*/*")], "{}", (400, "from")),
    ] {
        let answer = service.call(Method::POST, path, READ, &headers, Body::from(body)).await;
        let (status, field) = answer.problem();
        assert_eq!((status, field.as_str()), expected, "{path} {headers:?} {body}");
    }
}

#[tokio::test]
async fn without_a_warehouse_reports_are_unavailable_and_journeys_are_told() {
    let (service, _) = converted().await;
    let question = json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"] });
    let answer = service.post("/v1/reports", &question).await;
    assert_eq!(answer.problem().0, 503);
    assert!(answer.headers.contains_key("retry-after"));
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    assert_eq!(service.get("/v1/journeys?device_id=d", READ).await.status, 200);
}

#[tokio::test]
async fn a_wait_for_what_was_acknowledged_ends_with_a_retry() {
    let service = Service::start().await;
    let question = json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"] });
    let answer = service.post("/v1/reports?consistency=acknowledged", &question).await;
    assert_eq!(answer.problem().0, 503);
    assert_eq!(answer.json()["code"], "not_complete");
    assert!(answer.headers.contains_key("retry-after"));
}
