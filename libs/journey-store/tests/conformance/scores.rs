//! What every store keeps of scores, case by case. Each case gets an empty store.

use std::sync::Arc;

use journey_store::{
    ConversionScores, Generation, JourneyQuery, NewScores, Owed, Position, ScoreKind, Scores, Stores,
    TouchScore, ValueScore,
};

use crate::make::{TENANT, place};

/// Runs every case.
pub async fn run(open: impl AsyncFn() -> Stores) {
    a_touch_of_a_conversion_keeps_its_first_score(open().await).await;
    a_conversion_keeps_its_first_value(open().await).await;
    scores_of_conversions_and_tenants_do_not_meet(open().await).await;
    what_is_owed_is_settled_up_to_a_cause(open().await).await;
    scores_and_values_are_owed_apart(open().await).await;
    a_reset_forgets_scores(open().await).await;
}

/// The scores of a conversion.
pub async fn of(scores: &Arc<dyn Scores>, tenant: &str, conversion_id: &str) -> ConversionScores {
    let query = JourneyQuery { tenant: tenant.into(), conversion_id: conversion_id.to_owned() };
    scores.scores(&[query]).await.unwrap().remove(0)
}

fn score(touch_id: &str, probability: f64) -> TouchScore {
    TouchScore {
        touch_id: touch_id.to_owned(),
        model: "fraud".to_owned(),
        version: "1".to_owned(),
        probability,
        reasons: vec!["because".to_owned()],
    }
}

fn new(tenant: &str, conversion_id: &str, cause: Position, scores: &[TouchScore]) -> NewScores {
    NewScores {
        tenant: tenant.into(),
        conversion_id: conversion_id.to_owned(),
        cause,
        scores: ConversionScores { touches: scores.to_vec(), value: None },
    }
}

fn value(value: f64) -> ValueScore {
    ValueScore {
        model: "value".to_owned(),
        version: "2".to_owned(),
        value,
        lower: 0.0,
        upper: 2.0 * value,
        level: 0.8,
    }
}

fn new_value(conversion_id: &str, cause: Position, said: f64) -> NewScores {
    let scores = ConversionScores { touches: Vec::new(), value: Some(value(said)) };
    NewScores { scores, ..new(TENANT, conversion_id, cause, &[]) }
}

fn owed(conversion_id: &str, cause: Position) -> Owed {
    owed_of(ScoreKind::Fraud, conversion_id, cause)
}

fn owed_of(kind: ScoreKind, conversion_id: &str, cause: Position) -> Owed {
    Owed { kind, tenant: TENANT.into(), conversion_id: conversion_id.to_owned(), cause }
}

async fn a_touch_of_a_conversion_keeps_its_first_score(Stores { scores, .. }: Stores) {
    let first = [score("b", 0.0), score("a", 1.0)];
    scores.put_scores(0, &[new(TENANT, "c", place(3, 0), &first)], &[]).await.unwrap();
    let later = [score("a", 0.5), score("z", 0.25)];
    scores.put_scores(0, &[new(TENANT, "c", place(4, 0), &later)], &[]).await.unwrap();
    let kept = [score("a", 1.0), score("b", 0.0), score("z", 0.25)];
    let found = of(&scores, TENANT, "c").await;
    assert_eq!((&found.touches[..], found.value), (&kept[..], None), "ordered by touch");
}

async fn a_conversion_keeps_its_first_value(Stores { scores, .. }: Stores) {
    let both = NewScores {
        scores: ConversionScores { touches: vec![score("a", 0.5)], value: Some(value(12.5)) },
        ..new(TENANT, "c", place(3, 0), &[])
    };
    scores.put_scores(0, &[both.clone(), new_value("d", place(3, 1), 7.0)], &[]).await.unwrap();
    scores.put_scores(0, &[new_value("c", place(4, 0), 99.0)], &[]).await.unwrap();
    assert_eq!(of(&scores, TENANT, "c").await, both.scores);
    assert_eq!(of(&scores, TENANT, "d").await.value, Some(value(7.0)));
    assert_eq!(of(&scores, "other", "c").await, ConversionScores::default());
    // A touch that is scored later joins them.
    scores.put_scores(0, &[new(TENANT, "d", place(5, 0), &[score("t", 0.1)])], &[]).await.unwrap();
    let joined = ConversionScores { touches: vec![score("t", 0.1)], value: Some(value(7.0)) };
    assert_eq!(of(&scores, TENANT, "d").await, joined);
}

async fn scores_of_conversions_and_tenants_do_not_meet(Stores { scores, .. }: Stores) {
    let put = [
        new(TENANT, "c", place(0, 0), &[score("t", 0.1)]),
        new(TENANT, "d", place(0, 1), &[score("t", 0.2)]),
        new("other", "c", place(0, 2), &[score("t", 0.3)]),
    ];
    scores.put_scores(0, &put, &[]).await.unwrap();
    let query = |tenant: &str, id: &str| JourneyQuery { tenant: tenant.into(), conversion_id: id.to_owned() };
    let queries = [query("other", "c"), query(TENANT, "e"), query(TENANT, "d"), query(TENANT, "c")];
    let found = scores.scores(&queries).await.unwrap();
    let found: Vec<Vec<f64>> =
        found.iter().map(|of| of.touches.iter().map(|score| score.probability).collect()).collect();
    assert_eq!(found, [vec![0.3], vec![], vec![0.2], vec![0.1]]);
}

async fn what_is_owed_is_settled_up_to_a_cause(Stores { scores, .. }: Stores) {
    let all = [owed("a", place(1, 0)), owed("b", place(1, 1)), owed("c", place(1, 2))];
    scores.put_scores(0, &[], &all).await.unwrap();
    let mut found = scores.owed(0, ScoreKind::Fraud, 10).await.unwrap();
    found.sort();
    assert_eq!(found, all);
    assert_eq!(scores.owed(0, ScoreKind::Fraud, 2).await.unwrap().len(), 2);
    assert_eq!(scores.owed(1, ScoreKind::Fraud, 10).await.unwrap(), [], "of another partition");

    // It was owed again since it was asked for.
    let again = owed("b", place(5, 0));
    scores.put_scores(0, &[], std::slice::from_ref(&again)).await.unwrap();
    scores.settle(0, &all).await.unwrap();
    assert_eq!(scores.owed(0, ScoreKind::Fraud, 10).await.unwrap(), std::slice::from_ref(&again));
    scores.settle(0, &[again]).await.unwrap();
    assert_eq!(scores.owed(0, ScoreKind::Fraud, 10).await.unwrap(), []);
}

async fn scores_and_values_are_owed_apart(Stores { scores, .. }: Stores) {
    let fraud = owed_of(ScoreKind::Fraud, "a", place(1, 0));
    let values = [owed_of(ScoreKind::Value, "a", place(1, 0)), owed_of(ScoreKind::Value, "b", place(1, 1))];
    scores.put_scores(0, &[], &[std::slice::from_ref(&fraud), &values].concat()).await.unwrap();
    assert_eq!(scores.owed(0, ScoreKind::Fraud, 10).await.unwrap(), std::slice::from_ref(&fraud));
    let mut found = scores.owed(0, ScoreKind::Value, 10).await.unwrap();
    found.sort();
    assert_eq!(found, values);
    assert_eq!(scores.owed(0, ScoreKind::Value, 1).await.unwrap().len(), 1);
    assert_eq!(scores.owed(1, ScoreKind::Value, 10).await.unwrap(), [], "of another partition");
    scores.settle(0, &values[..1]).await.unwrap();
    assert_eq!(scores.owed(0, ScoreKind::Fraud, 10).await.unwrap(), [fraud]);
    assert_eq!(scores.owed(0, ScoreKind::Value, 10).await.unwrap(), values[1..]);
}

async fn a_reset_forgets_scores(Stores { outbox, scores, .. }: Stores) {
    let put = [new(TENANT, "c", place(0, 0), &[score("t", 0.1)]), new_value("d", place(0, 1), 1.0)];
    let owed = [ScoreKind::Fraud, ScoreKind::Value].map(|kind| owed_of(kind, "c", place(0, 0)));
    scores.put_scores(0, &put, &owed).await.unwrap();
    outbox.reset(Generation { log: 1, id: 2 }).await.unwrap();
    for id in ["c", "d"] {
        assert_eq!(of(&scores, TENANT, id).await, ConversionScores::default());
    }
    for kind in [ScoreKind::Fraud, ScoreKind::Value] {
        assert_eq!(scores.owed(0, kind, 10).await.unwrap(), []);
    }
}
