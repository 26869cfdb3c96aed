//! Reports over the embedded engine, REST against gRPC.
//!
//! The program runs itself again as the engine's process, so it needs none that was built before.

#![allow(clippy::unwrap_used)]

mod common;

use std::{ffi::OsString, time::Duration};

use axum::body::Body;
use common::{COMPLETE_THROUGH_SECONDS, READ, Service, inverse};
use http::Method;
use model::{IdentityHash, IdentityKind, TouchKind, Verdict};
use proto::query::{
    Filter, LinearModel, MarkovModel, Model, OrderBy, RunReportRequest, TimeDecayModel, model::Model as Kind,
};
use serde_json::{Value, json};
use warehouse::{CandidateFact, ConversionFact, Facts, MatchType, Progress, Sign, Warehouse};

const ENGINE: &str = "warehouse-engine";
const START_SECONDS_MAX: u64 = 60;

/// 2026-01-10T00:00:00Z.
const NOON_MILLIS: i64 = 1_768_003_200_000;

/// When the facts were recorded.
const RECORDED_MICROS: i64 = NOON_MILLIS * 1_000;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(ENGINE) {
        chdb::child::main().unwrap();
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let program: OsString = std::env::current_exe().unwrap().into();
        let options = chdb::Options::new(folder.path(), vec![program, ENGINE.into()]);
        let supervisor = chdb::Supervisor::start(options).unwrap();
        supervisor.wait_ready(Duration::from_secs(START_SECONDS_MAX)).await.unwrap();
        let endpoint = supervisor.endpoint();
        let warehouse = Warehouse::connect(&warehouse::Config {
            url: endpoint.url.clone(),
            user: endpoint.user.clone(),
            password: endpoint.password.clone(),
            database: "attribution".into(),
        });
        let warehouse = warehouse.unwrap();
        warehouse.migrate().await.unwrap();
        let progress = Progress { partition: 0, batch: 1, to: 1, time_micros: RECORDED_MICROS };
        warehouse.write_batch(progress, 0, &facts()).await.unwrap();

        let service = Service::with(warehouse.clone(), false).await;
        a_report_is_the_same_over_rest_and_grpc(&service).await;
        the_answer_is_the_contracts(&service).await;
        csv_has_the_rows_and_says_whether_there_are_more(&service).await;
        a_moment_that_is_not_complete_is_set_back(&service).await;
        what_the_complete_events_caused_is_in_the_answer(&service).await;
        another_tenant_sees_none_of_it(&service).await;
        let alone = Service::with(warehouse, true).await;
        without_attribution_the_facts_themselves_say_how_far_they_go(&alone).await;
        supervisor.stop(Duration::from_secs(10)).await;
    });
}

async fn a_report_is_the_same_over_rest_and_grpc(service: &Service) {
    let interval = |request: RunReportRequest| RunReportRequest {
        from: "2026-01-01".into(),
        to: "2026-02-01".into(),
        ..request
    };
    let linear = || Model { model: Some(Kind::Linear(LinearModel {})) };
    let decay = || Model { model: Some(Kind::TimeDecay(TimeDecayModel { half_life: "1h".into() })) };
    let markov = || Model { model: Some(Kind::Markov(MarkovModel { order: None })) };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (json, request) in [
        (json!({ "models": ["linear"] }), RunReportRequest { models: vec![linear()], ..Default::default() }),
        (
            json!({
                "models": ["linear", { "time_decay": { "half_life": "1h" } }, "markov"], "dimensions": ["channel"],
                "measures": ["persons", "value", "conversions", "touches"], "lookback": "90d",
                "order_by": [{ "field": "value", "descending": true }], "limit": 3,
            }),
            RunReportRequest {
                models: vec![linear(), decay(), markov()],
                dimensions: names(&["channel"]),
                measures: names(&["persons", "value", "conversions", "touches"]),
                lookback: "90d".into(),
                order_by: vec![OrderBy { field: "value".into(), descending: true }],
                limit: Some(3),
                ..Default::default()
            },
        ),
        (
            json!({
                "models": ["linear"], "dimensions": ["day", "currency", "partner"], "measures": ["conversions"],
                "filters": [{ "dimension": "channel", "in": ["email", "organic"] }],
            }),
            RunReportRequest {
                models: vec![linear()],
                dimensions: names(&["day", "currency", "partner"]),
                measures: names(&["conversions"]),
                filters: vec![Filter { dimension: "channel".into(), r#in: names(&["email", "organic"]) }],
                ..Default::default()
            },
        ),
    ] {
        let mut question = json!({ "from": "2026-01-01", "to": "2026-02-01" });
        question.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        let rest = service.post("/v1/reports", &question).await;
        assert_eq!(rest.status, 200, "{}", rest.text());
        let rest = rest.json();
        let dimensions: Vec<_> = request.dimensions.clone();
        let dimensions: Vec<_> = dimensions.iter().map(String::as_str).collect();
        let grpc = service.grpc("acme").run_report(interval(request)).await.unwrap().into_inner();
        let rows = |name: &str, dimensions: &[&str]| -> Vec<_> {
            rest[name].as_array().unwrap().iter().map(|row| inverse::row(row, dimensions)).collect()
        };
        assert_eq!(rows("rows", &dimensions), grpc.rows, "{question}");
        assert!(!grpc.rows.is_empty(), "{question}");
        assert_eq!(rows("totals", &[]), grpc.totals, "{question}");
        assert_eq!(rest["truncated"], grpc.truncated);
        let method = grpc.method.unwrap();
        assert_eq!(rest["method"]["settings_edition"], Value::from(method.settings_edition));
        assert_eq!(inverse::time(&rest["method"]["as_of"]), method.as_of);
        assert_eq!(inverse::time(&rest["method"]["complete_through"]), method.complete_through);
        assert_eq!(rest["method"]["models"].as_array().unwrap().len(), method.models.len());
    }
}

// Of 10 EUR a third each to the three touches of c-1; c-2, 5 EUR, has none.
async fn the_answer_is_the_contracts(service: &Service) {
    let question = json!({
        "from": "2026-01-10", "to": "2026-01-11", "models": ["linear"], "dimensions": ["channel"],
        "measures": ["conversions", "value", "touches", "persons"],
    });
    let answer = service.post("/v1/reports", &question).await.json();
    assert_eq!(
        answer["rows"],
        json!([
            { "model": "linear", "channel": "email", "currency": "EUR", "conversions": 0.666667, "value": "6.666667", "touches": 2, "persons": 1 },
            { "model": "linear", "channel": "organic", "currency": "EUR", "conversions": 1, "value": "5.000000", "touches": 0, "persons": 1 },
            { "model": "linear", "channel": "search", "currency": "EUR", "conversions": 0.333333, "value": "3.333333", "touches": 1, "persons": 1 },
        ])
    );
    assert_eq!(
        answer["totals"],
        json!([{ "model": "linear", "currency": "EUR", "conversions": 2, "value": "15.000000", "touches": 3, "persons": 2 }])
    );
    assert_eq!(answer["method"]["complete_through"], "2027-01-01T00:00:00Z");
    assert_eq!(answer["method"]["as_of"], "2027-01-01T00:00:01Z");
    assert_eq!(answer["method"]["models"], json!(["linear"]));
    assert_eq!(answer["truncated"], false);
    assert!(answer["query_ms"].as_f64().unwrap() > 0.0);
    assert!(answer["method"].get("notes").is_none());
}

async fn csv_has_the_rows_and_says_whether_there_are_more(service: &Service) {
    let question = json!({
        "from": "2026-01-10", "to": "2026-01-11", "models": ["linear"], "dimensions": ["channel"], "limit": 2,
    });
    let body = || Body::from(question.to_string());
    let named = service.call(Method::POST, "/v1/reports?format=csv", READ, &[], body()).await;
    let accepted = service.call(Method::POST, "/v1/reports", READ, &[("accept", "text/csv")], body()).await;
    assert_eq!(named.body, accepted.body);
    assert!(named.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    assert_eq!(named.headers["x-truncated"], "true");
    assert_eq!(
        named.text(),
        "model,channel,currency,conversions,value\nlinear,email,EUR,0.666667,6.666667\nlinear,organic,EUR,1,5.000000\n"
    );
}

async fn a_moment_that_is_not_complete_is_set_back(service: &Service) {
    let ask = |as_of: &str| json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"], "as_of": as_of });
    let past = service.post("/v1/reports", &ask("2027-01-01T00:00:00.000001Z")).await.json();
    assert_eq!(past["method"]["as_of"], "2027-01-01T00:00:00Z");
    assert_eq!(past["method"]["notes"].as_array().unwrap().len(), 1);
    let at = service.post("/v1/reports", &ask("2027-01-01T00:00:00Z")).await.json();
    assert!(at["method"].get("notes").is_none());
    // Facts recorded at a moment are not yet known at it, and are just after.
    let known = service.post("/v1/reports", &ask("2026-01-10T00:00:00.000001Z")).await.json();
    assert_eq!(known["totals"][0]["conversions"], 2);
    let unknown = service.post("/v1/reports", &ask("2026-01-10T00:00:00Z")).await.json();
    assert_eq!(unknown["rows"], json!([]));
    assert_eq!(COMPLETE_THROUGH_SECONDS, 1_798_761_600);
}

// c-3 was decided again under a record of the half second after `complete_through`.
async fn what_the_complete_events_caused_is_in_the_answer(service: &Service) {
    let ask = |as_of: Value| {
        json!({
            "from": "2026-03-01", "to": "2026-04-01", "models": ["last_touch"], "dimensions": ["channel"],
            "measures": ["conversions"], "as_of": as_of,
        })
    };
    let channel = |answer: &Value| answer["rows"][0]["channel"].clone();
    let now = service.post("/v1/reports", &ask(Value::Null)).await.json();
    assert_eq!(channel(&now), "search");
    assert_eq!(now["rows"].as_array().unwrap().len(), 1);
    // As it was known at that moment it stands as before, and the moments that `method` names give the same again.
    let then = service.post("/v1/reports", &ask(now["method"]["complete_through"].clone())).await.json();
    assert_eq!(
        (channel(&then), &then["method"]["as_of"]),
        ("email".into(), &now["method"]["complete_through"])
    );
    let again = service.post("/v1/reports", &ask("2030-01-01T00:00:00Z".into())).await.json();
    assert_eq!((&again["rows"], &again["method"]["as_of"]), (&then["rows"], &then["method"]["as_of"]));
}

async fn another_tenant_sees_none_of_it(service: &Service) {
    let body = json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"] });
    let theirs =
        service.call(Method::POST, "/v1/reports", common::OTHER, &[], Body::from(body.to_string())).await;
    assert_eq!(theirs.json()["rows"], json!([]));
}

async fn without_attribution_the_facts_themselves_say_how_far_they_go(service: &Service) {
    let body = json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"] });
    let answer = service.post("/v1/reports", &body).await.json();
    assert_eq!(answer["method"]["complete_through"], "2026-01-10T00:00:00.000001Z");
    assert_eq!(answer["method"]["notes"].as_array().unwrap().len(), 1);
    assert_eq!(answer["totals"][0]["conversions"], 2);
    let waiting = service.post("/v1/reports?consistency=acknowledged", &body).await;
    assert_eq!(waiting.problem().0, 503);
}

fn facts() -> Facts {
    let candidate = |id: &str, channel: &str, hours: i64| CandidateFact {
        touch_id: id.into(),
        kind: TouchKind::Click,
        time_millis: NOON_MILLIS - hours * 3_600_000,
        channel: channel.into(),
        partner: String::new(),
        campaign_id: String::new(),
        ad_group_id: String::new(),
        creative_id: String::new(),
        keyword: String::new(),
        match_type: MatchType::Identity,
        verdict: Verdict::Eligible,
    };
    let conversion = |id: &str, user: &str, value: i64, candidates: Vec<CandidateFact>| ConversionFact {
        tenant: "acme".into(),
        app_id: "default".into(),
        conversion_id: id.into(),
        time_millis: NOON_MILLIS,
        recorded_at_micros: RECORDED_MICROS,
        sign: Sign::Assert,
        identity: IdentityHash::new("acme", IdentityKind::User, user),
        platform: String::new(),
        country: String::new(),
        conversion: "purchase".into(),
        currency: "EUR".into(),
        value_micros: value * 1_000_000,
        winner: candidates.len().checked_sub(1).map(|last| last as u16),
        candidates,
    };
    let path =
        vec![candidate("t-1", "email", 3), candidate("t-2", "search", 2), candidate("t-3", "email", 1)];
    let mut early = conversion("c-3", "w", 7, vec![candidate("t-4", "email", 2)]);
    early.time_millis += 60 * 24 * 3_600_000;
    let mut late = ConversionFact { candidates: vec![candidate("t-5", "search", 1)], ..early.clone() };
    late.recorded_at_micros = COMPLETE_THROUGH_SECONDS * 1_000_000 + 500_000;
    let gone =
        ConversionFact { sign: Sign::Retract, recorded_at_micros: late.recorded_at_micros, ..early.clone() };
    Facts {
        conversions: vec![
            conversion("c-1", "u", 10, path),
            conversion("c-2", "v", 5, Vec::new()),
            early,
            gone,
            late,
        ],
        ..Facts::default()
    }
}
