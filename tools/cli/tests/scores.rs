//! Models in the standalone process: their scores are in decisions, and without their library all else goes on.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::json;
use testkit::process::{Launch, eventually};

fn launch(data: &Path) -> Launch {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ml/models").canonicalize().unwrap();
    Launch::new(env!("CARGO_BIN_EXE_attribution"), data)
        .env("ATTRIBUTION_ML__MODELS", format!("onnx://{}", models.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_have_the_probability_of_the_committed_model() {
    let folder = tempfile::tempdir().unwrap();
    let platform = launch(&folder.path().join("data")).ready().await;
    let touch =
        |id: &str, at: &str| json!({"event_id": id, "event_type": "click", "timestamp": at, "user_id": "u"});
    let events = json!([
        touch("early", "2026-01-05T11:00:00Z"),
        touch("late", "2026-01-05T11:58:00Z"),
        {"event_id": "c", "event_type": "conversion", "timestamp": "2026-01-05T12:00:00Z", "user_id": "u",
            "conversion": "install"},
    ]);
    assert_eq!(platform.post("/v1/events", &events).await.unwrap().status, 200);
    // It may be decided before the model is there, or past the deadline: then it is decided again.
    eventually("it is scored", async || {
        let decision = platform.get("/v1/conversions/c").await.unwrap();
        decision.status == 200 && decision.body["score"]["present"] == true
    })
    .await;
    let decision = platform.get("/v1/conversions/c").await.unwrap().body;
    let score = &decision["score"];
    let told = [&score["event_id"], &score["model"], &score["version"]];
    assert_eq!(told, ["late", "fraud", "1"], "{decision}");
    let probability = score["fraud_probability"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&probability), "{decision}");
    let shown = decision["candidates"][1]["fraud_probability"].as_f64().unwrap();
    assert!((shown - probability).abs() <= 5e-7, "{decision}");
    assert_eq!(score["reasons"].as_array().unwrap().len(), 3, "{decision}");
    assert_eq!(decision["winner"]["event_id"], "late", "nothing is rejected unless the settings say so");
    let value = &decision["lifetime_value"];
    let told = [&value["present"], &value["reason"]];
    assert_eq!(told, [&json!(false), &json!("the person has not bought anything yet")], "{decision}");
    let told = platform.get("/v2/models/fraud").await.unwrap();
    assert_eq!((told.status.as_u16(), &told.body["versions"]), (200, &json!(["1"])), "{}", told.body);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_have_the_value_that_the_committed_model_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let platform = launch(&folder.path().join("data")).ready().await;
    let purchase = |id: &str, at: &str, value: &str| {
        json!({"event_id": id, "event_type": "conversion", "timestamp": at, "user_id": "u", "conversion": "purchase",
            "value": value, "currency": "USD"})
    };
    // Once a month, from March to December.
    let months = (3..=12).map(|month| {
        purchase(
            &format!("p{month}"),
            &format!("2025-{month:02}-05T12:00:00Z"),
            if month < 12 { "40" } else { "50.50" },
        )
    });
    assert_eq!(platform.post("/v1/events", &months.collect()).await.unwrap().status, 200);
    let shown = async |id: &str| platform.get(&format!("/v1/conversions/{id}")).await.unwrap().body;
    eventually("all are valued", async || {
        for month in 3..=12 {
            if shown(&format!("p{month}")).await["lifetime_value"]["present"] != true {
                return false;
            }
        }
        true
    })
    .await;
    // What the gateway says of these features, asked by another protocol, is what the decision has.
    let weeks = |days: f64| (days / 7.0 * 1_000.0).round_ties_even() / 1_000.0;
    let days = 275.0;
    let row = [9.0, weeks(days), weeks(days), 0.0, 410.5, 41.05, 40.0, 50.5, 130.5];
    let question =
        json!({"inputs": [{"name": "features", "shape": [1, 9], "datatype": "FP64", "data": row}]});
    let answer = platform.post("/v2/models/value/infer", &question).await.unwrap().body;
    let outputs = answer["outputs"].as_array().unwrap();
    let output = |name: &str| {
        let output = outputs.iter().find(|output| output["name"] == name).unwrap();
        output["data"][0].as_f64().unwrap()
    };
    let decision = shown("p12").await;
    let value = &decision["lifetime_value"];
    let told = ["currency", "horizon_weeks", "model", "version", "reason"].map(|name| value[name].clone());
    assert_eq!(told, [json!("USD"), json!(39), json!("value"), json!("1"), json!(null)], "{decision}");
    assert_eq!(value["level"].as_f64(), Some(0.8), "{decision}");
    for (name, of) in [("value", "calibrated"), ("lower", "lower"), ("upper", "upper")] {
        let (shown, said) = (value[name].as_f64().unwrap(), output(of));
        assert!((shown - said).abs() <= 1e-5 * said.abs(), "{name}: {shown}, the gateway says {said}");
    }
    // Who bought once is predicted to spend less.
    let first = shown("p3").await["lifetime_value"]["value"].as_f64().unwrap();
    assert!(first < value["value"].as_f64().unwrap(), "{first}, {decision}");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_library_of_models_the_platform_starts_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let launch = launch(&folder.path().join("data"));
    let platform = launch.env("ATTRIBUTION_ONNXRUNTIME_LIB", "/nowhere/libonnxruntime.so").ready().await;
    platform.logs("/nowhere/libonnxruntime.so: there is no such file; scripts/fetch-onnxruntime.sh").await;
    assert_eq!(platform.get("/v2/models/fraud").await.unwrap().status, 503);
    assert_eq!(platform.get("/v2/health/ready").await.unwrap().status, 503);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_without_a_model_is_scored_when_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let launch = || launch(&folder.path().join("data"));
    let platform = launch().env("ATTRIBUTION_ONNXRUNTIME_LIB", "/nowhere/libonnxruntime.so").ready().await;
    let events = json!([
        {"event_id": "t", "event_type": "click", "timestamp": "2026-01-05T11:00:00Z", "user_id": "u"},
        {"event_id": "c", "event_type": "conversion", "timestamp": "2026-01-05T12:00:00Z", "user_id": "u"},
    ]);
    assert_eq!(platform.post("/v1/events", &events).await.unwrap().status, 200);
    let path = "/v1/conversions/c";
    eventually("it is decided", async || platform.get(path).await.unwrap().status == 200).await;
    let decision = platform.get(path).await.unwrap().body;
    assert_eq!(
        (&decision["winner"]["event_id"], &decision["score"]["present"]),
        (&json!("t"), &json!(false))
    );
    assert_eq!(decision["score"]["reasons"], json!(["the model gateway did not take the call"]));
    platform.stop().await;

    let platform = launch().ready().await;
    eventually("it is scored", async || platform.get(path).await.unwrap().body["score"]["present"] == true)
        .await;
    let decision = platform.get(path).await.unwrap().body;
    let reasons: Vec<_> =
        decision["editions"].as_array().unwrap().iter().map(|edition| edition["reason"].clone()).collect();
    assert_eq!((&reasons[0], reasons.last().unwrap()), (&json!("score"), &json!("conversion")), "{decision}");
    assert_eq!(decision["winner"]["event_id"], "t");
    platform.stop().await;
}
