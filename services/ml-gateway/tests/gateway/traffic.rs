//! Who is answered by which version: weights, shadows, pins, the spare one, and drift.

use std::{collections::HashMap, fs};

use proto::ml::{ListModelsRequest, ScoreRequest};
use tonic::Code;

use crate::{
    model_server::{ModelServer, Mood, manifest_at},
    support::{Gateway, Models, eventually, manifest, onnx, refused, request, sample},
};

/// Writes traffic.toml whole.
fn traffic(models: &Models, text: &str) {
    let aside = models.path().join("fraud/.traffic");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, models.path().join("fraud/traffic.toml")).unwrap();
}

async fn in_service(gateway: &Gateway) -> Vec<String> {
    let listed = gateway.client().list_models(ListModelsRequest {}).await.unwrap().into_inner();
    listed.models.into_iter().filter(|model| model.in_service).map(|model| model.version).collect()
}

/// Two versions of the fraud model from their files.
async fn two() -> (Models, Gateway) {
    let models = Models::fraud();
    models.put(2, &manifest("fraud"), Some(&onnx("fraud")));
    let gateway = Gateway::ready(models.path()).await;
    (models, gateway)
}

#[tokio::test]
async fn of_a_thousand_calls_a_tenth_goes_to_a_version_of_that_weight() {
    let (models, gateway) = two().await;
    traffic(&models, "[weights]\n1 = 90\n2 = 10\n");
    eventually("both are in service", async || in_service(&gateway).await == ["1", "2"]).await;
    let mut second = 0;
    for _ in 0..1_000 {
        second += u32::from(gateway.version("fraud").await.unwrap() == "2");
    }
    // They take turns as evenly as multiples of the golden ratio fill a line.
    assert!((97..=103).contains(&second), "{second}");
}

#[tokio::test]
async fn rolling_back_is_a_line_and_a_broken_line_changes_nothing() {
    let (models, gateway) = two().await;
    assert_eq!(gateway.version("fraud").await.unwrap(), "2");
    traffic(&models, "[weights]\n1 = 1\n");
    eventually("version 1 answers", async || gateway.version("fraud").await.unwrap() == "1").await;
    traffic(&models, "[weights]\n2 = 0\n");
    eventually("it says why", async || {
        gateway.broken("1").await.contains("traffic.toml: weights: they add up to 0")
    })
    .await;
    assert_eq!(gateway.version("fraud").await.unwrap(), "1");
    // Weights name what works: of a version that is not there none of the calls are.
    traffic(&models, "[weights]\n1 = 1\n7 = 1000\n");
    eventually("it is mended", async || gateway.broken("1").await.is_empty()).await;
    assert_eq!(gateway.version("fraud").await.unwrap(), "1");
    traffic(&models, "[weights]\n7 = 1\n");
    eventually("nobody answers", async || gateway.version("fraud").await.is_err()).await;
    refused(gateway.score(request("fraud", vec![HashMap::new()])).await, Code::Unavailable, "model_broken");
    fs::remove_file(models.path().join("fraud/traffic.toml")).unwrap();
    eventually("the newest answers", async || {
        gateway.version("fraud").await.is_ok_and(|version| version == "2")
    })
    .await;
}

#[tokio::test]
async fn a_pin_holds_for_its_tenant() {
    let (models, gateway) = two().await;
    traffic(&models, "[pins]\ndefault = 1\nother = 2\n");
    eventually("the pinned one answers", async || gateway.version("fraud").await.unwrap() == "1").await;
    let named = ScoreRequest { version: "2".into(), ..request("fraud", vec![HashMap::new()]) };
    assert_eq!(
        gateway.score(named).await.unwrap().version,
        "2",
        "a version that is named is a version that is named"
    );
    traffic(&models, "[pins]\nother = 1\n");
    eventually("another's pin is another's", async || gateway.version("fraud").await.unwrap() == "2").await;
}

#[tokio::test]
async fn a_shadow_is_compared_and_its_crash_is_nobodys() {
    telemetry::metrics::install().unwrap();
    let (server, address) = ModelServer::start().await;
    let models = Models::fraud();
    // A version that no other test has: metrics are those of the process.
    let (number, url) = (301, format!("kserve+grpc://{address}/fraud"));
    models.put(number, &manifest_at(&url), None);
    traffic(&models, &format!("shadow = [{number}]\n"));
    let gateway = Gateway::ready(models.path()).await;
    let difference = format!("ml_shadow_difference_count{{model=\"fraud\",version=\"{number}\"}}");
    eventually("the shadow is compared", async || {
        assert_eq!(gateway.version("fraud").await.unwrap(), "1");
        sample(&difference) >= 1.0
    })
    .await;
    let failures =
        |reason| format!("ml_failures_total{{model=\"fraud\",version=\"{number}\",reason=\"{reason}\"}}");
    for (mood, reason) in [(Mood::NaN, "model_wrong_answer"), (Mood::Away, "model_away")] {
        server.is(mood);
        eventually(reason, async || {
            assert_eq!(gateway.version("fraud").await.unwrap(), "1");
            sample(&failures(reason)) >= 1.0
        })
        .await;
    }
    assert_eq!(in_service(&gateway).await, ["1"]);
}

#[tokio::test]
async fn where_a_version_fails_the_next_one_answers() {
    telemetry::metrics::install().unwrap();
    let (server, address) = ModelServer::start().await;
    let models = Models::fraud();
    let number = 302;
    models.put(number, &manifest_at(&format!("kserve+grpc://{address}/fraud")), None);
    let gateway = Gateway::ready(models.path()).await;
    eventually("the new one answers", async || gateway.version("fraud").await.unwrap() == number.to_string())
        .await;
    server.is(Mood::NaN);
    assert_eq!(gateway.version("fraud").await.unwrap(), "1");
    let fallbacks = format!("ml_fallbacks_total{{model=\"fraud\",version=\"{number}\"}}");
    assert_eq!(sample(&fallbacks), 1.0);
    let named = ScoreRequest { version: number.to_string(), ..request("fraud", vec![HashMap::new()]) };
    refused(gateway.score(named).await, Code::Unavailable, "model_wrong_answer");
    server.is(Mood::Good);
    eventually("it is back", async || gateway.version("fraud").await.unwrap() == number.to_string()).await;
}

#[tokio::test]
async fn drift_is_told_after_a_window_of_rows_and_not_before() {
    telemetry::metrics::install().unwrap();
    let models = Models::empty();
    let number = 303;
    models.put(number, &manifest("fraud"), Some(&onnx("fraud")));
    let gateway = Gateway::with(models.path(), |config| config.drift_rows = 1_000).await;
    gateway.becomes_ready().await;
    let index = |input| format!("ml_drift_psi{{model=\"fraud\",version=\"{number}\",input=\"{input}\"}}");
    let score = async |rows: Vec<HashMap<String, f64>>| gateway.score(request("fraud", rows)).await.unwrap();
    score(vec![HashMap::new(); 999]).await;
    assert!(sample(&index("score")).is_nan(), "the window is not full");
    score(vec![HashMap::new()]).await;
    // All rows are in one bin.
    assert!(sample(&index("score")) > 0.25 && sample(&index("click_to_conversion")) > 0.25);
    let golden = crate::support::Golden::read();
    score((0..1_000).map(|row| golden.named(row)).collect()).await;
    // Of later days than those of training, and of other fraudsters.
    assert!(sample(&index("click_to_conversion")) < 0.25, "{}", sample(&index("click_to_conversion")));
}
