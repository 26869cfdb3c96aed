//! What is taken, what is refused by name, and what is told beside the score.

use std::collections::HashMap;

use proto::ml::{GetModelRequest, ListModelsRequest, ScoreRequest};
use tonic::Code;

use crate::support::{Gateway, Golden, Models, feature_names, manifest, ml, refused, request};

fn row(values: &[(&str, f64)]) -> HashMap<String, f64> {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[tokio::test]
async fn a_missing_feature_has_the_default_of_the_schema() {
    let gateway = Gateway::ready(&ml().join("models")).await;
    let asked = GetModelRequest { model: "fraud".into(), version: String::new() };
    let schema = gateway.client().get_model(asked).await.unwrap().into_inner();
    assert_eq!(
        schema.features.iter().map(|feature| feature.name.clone()).collect::<Vec<_>>(),
        feature_names()
    );
    assert!(schema.card.contains("simulated") && schema.metrics.contains_key("pr_auc"));
    let defaults = schema.features.into_iter().map(|feature| (feature.name, feature.default_value)).collect();
    let answer = gateway.score(request("fraud", vec![HashMap::new(), defaults])).await.unwrap();
    assert_eq!(answer.rows[0].score, answer.rows[1].score);
    let seconds_after = row(&[("click_to_conversion", 2.0), ("touch_after_install_begin", 10.0)]);
    let fraud = gateway.score(request("fraud", vec![seconds_after])).await.unwrap();
    assert!(fraud.rows[0].calibrated > answer.rows[0].calibrated);
}

#[tokio::test]
async fn what_is_no_number_or_out_of_range_or_unknown_is_refused_by_name() {
    let gateway = Gateway::ready(&ml().join("models")).await;
    let score = async |values: &[(&str, f64)]| {
        gateway.score(request("fraud", vec![HashMap::new(), row(values)])).await
    };
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.001, 1.001] {
        let answer = score(&[("new_device_share", value)]).await;
        refused(answer, Code::InvalidArgument, "rows[1].values.new_device_share");
    }
    for bound in [0.0, 1.0] {
        score(&[("new_device_share", bound)]).await.unwrap();
    }
    refused(score(&[("colour", 1.0)]).await, Code::InvalidArgument, "rows[1].values.colour");
    refused(gateway.score(request("nobody", vec![HashMap::new()])).await, Code::NotFound, "model");
    // There are two models.
    refused(gateway.score(request("", vec![HashMap::new()])).await, Code::InvalidArgument, "fraud, value");
    let later = ScoreRequest { version: "9".into(), ..request("fraud", vec![HashMap::new()]) };
    refused(gateway.score(later).await, Code::NotFound, "version");
}

#[tokio::test]
async fn a_call_has_one_to_the_most_rows() {
    let gateway = Gateway::with(&ml().join("models"), |config| config.rows_max = 3).await;
    gateway.becomes_ready().await;
    refused(gateway.score(request("fraud", Vec::new())).await, Code::InvalidArgument, "rows");
    for count in [1, 3] {
        let answer = gateway.score(request("fraud", vec![HashMap::new(); count])).await.unwrap();
        assert_eq!(answer.rows.len(), count);
    }
    refused(gateway.score(request("fraud", vec![HashMap::new(); 4])).await, Code::OutOfRange, "at most 3");
}

#[tokio::test]
async fn a_contribution_is_what_the_score_loses_with_the_default() {
    let golden = Golden::read();
    let worst =
        (0..golden.rows.len()).max_by(|a, b| golden.scores[*a].total_cmp(&golden.scores[*b])).unwrap();
    let gateway = Gateway::ready(&ml().join("models")).await;
    let values = golden.named(worst);
    let asked =
        ScoreRequest { contributions_max: 3, ..request("fraud", vec![HashMap::new(), values.clone()]) };
    let answer = gateway.score(asked).await.unwrap();
    assert!(answer.rows[0].contributions.is_empty(), "defaults have no reasons");
    let told = &answer.rows[1].contributions;
    assert!(!told.is_empty() && told.len() <= 3);
    assert!(told.is_sorted_by(|a, b| a.contribution.abs() >= b.contribution.abs()));
    for contribution in told {
        let mut without = values.clone();
        without.remove(&contribution.feature).unwrap();
        let score = gateway.score(request("fraud", vec![without])).await.unwrap().rows[0].score;
        assert!((answer.rows[1].score - score - contribution.contribution).abs() < 1e-6);
    }
}

#[tokio::test]
async fn a_value_comes_with_its_interval() {
    let gateway = Gateway::ready(&ml().join("models")).await;
    let big = row(&[("repeat_days", 10.0), ("silence", 1.0), ("recency", 30.0), ("spend_total", 600.0)]);
    let answer = gateway.score(request("value", vec![HashMap::new(), big])).await.unwrap();
    for scored in &answer.rows {
        let interval = scored.interval.as_ref().unwrap();
        assert!(scored.calibrated >= 0.0 && interval.lower <= interval.upper && interval.level == 0.8);
    }
    assert!(answer.rows[1].calibrated > answer.rows[0].calibrated);
}

#[tokio::test]
async fn only_who_has_a_key_may_ask() {
    let gateway = Gateway::ready(&ml().join("models")).await;
    let answer = gateway.open_client().list_models(ListModelsRequest {}).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_gateway_without_a_model_is_not_ready_and_then_is() {
    let models = Models::empty();
    let gateway = Gateway::start(models.path()).await;
    refused(gateway.score(request("", vec![HashMap::new()])).await, Code::NotFound, "no such model");
    assert!(!gateway.health.is_ready());
    models.put(1, &manifest("fraud"), Some(&crate::support::onnx("fraud")));
    gateway.becomes_ready().await;
    // The only one needs no name.
    assert_eq!(gateway.version("").await.unwrap(), "1");
}
