//! Lifetime values: predicted with a decision or later, by a gateway in any mood.

use super::*;

#[tokio::test]
async fn a_decision_has_the_predicted_value_of_its_person() {
    let world = World::new(Mood::Says(0.25), Rules::default()).await;
    let elsewhere = Event { app_id: "other".into(), ..purchase("app", 5, "1000") };
    let dollars = Event { currency: "USD".into(), ..purchase("usd", 5, "1000") };
    let somebody = Event { device_id: "other".into(), ..purchase("somebody", 5, "1000") };
    world
        .send(vec![
            purchase("early", 140, "10"),
            purchase("late", 70, "20.5"),
            elsewhere,
            dollars,
            somebody,
            purchase("refund", 5, "-7"),
            conversion("install"),
        ])
        .await;
    world.send(vec![purchase("after", -1, "99"), click("t", 60), purchase("c", 0, "30.25")]).await;
    let decision = world.decision("c").await;
    let expected = LifetimeValue {
        present: true,
        // The first of the call's rows is that of another conversion.
        value: 21.0,
        lower: 0.0,
        upper: 42.0,
        level: 0.8,
        currency: "EUR".into(),
        horizon_weeks: 39,
        model: "value".into(),
        version: "3".into(),
        reason: String::new(),
    };
    assert_eq!(decision.lifetime_value, Some(expected));
    let asked = world.fake.values_asked.lock().unwrap();
    let last = asked.last().unwrap();
    assert_eq!((last.contributions_max, &last.model[..]), (0, "value"));
    let values = &last.rows[1].values;
    let row: Vec<f64> = VALUE_NAMES.iter().map(|name| values[*name]).collect();
    assert_eq!(row, [2.0, 20.0, 20.0, 0.0, 60.75, 20.25, 10.0, 30.25, 50.75]);
    assert_eq!(values.len(), VALUE_NAMES.len());
}

#[tokio::test]
async fn who_has_bought_nothing_has_no_value_and_none_is_asked_for() {
    let mut world = World::new(Mood::Says(0.25), Rules::default()).await;
    world.send(vec![purchase("refund", 5, "-7"), click("t", 60), conversion("c")]).await;
    let value = world.decision("c").await.lifetime_value.unwrap();
    assert_eq!((value.present, &value.reason[..]), (false, "the person has not bought anything yet"));
    assert_eq!(world.values_asked(), 0);
    assert!(world.owed(ScoreKind::Value).await.is_empty());

    world.config.value_model = String::new();
    world.restart().await;
    world.send(vec![purchase("p", 0, "10")]).await;
    let decision = world.decision("p").await;
    assert_eq!(decision.lifetime_value, None, "no model of values");
    assert!(decision.score.unwrap().present);
    assert_eq!(world.values_asked(), 0);
}

#[tokio::test]
async fn a_value_is_predicted_once_and_taken_by_every_later_edition() {
    let mut world = World::new(Mood::Says(0.25), Rules::default()).await;
    world.send(vec![click("t", 60), purchase("c", 0, "10")]).await;
    world.value_says(Mood::Says(77.0));
    world.send(vec![click("older", 3_600)]).await;
    world.worker.step().await.unwrap();
    world.restart().await;
    // Another purchase before it, that came late, changes the decision and not the prediction.
    world.send(vec![click("newer", 30), purchase("before", 3, "500")]).await;
    world.worker.step().await.unwrap();
    // As after a kill: everything is read again.
    world.worker = World::start(&world.config, &world.deps, 0);
    world.worker.step().await.unwrap();
    let decision = world.decision("c").await;
    assert_eq!(decision.editions.len(), 3);
    assert_eq!(decision.winner.unwrap().event_id, "newer");
    assert_eq!(decision.lifetime_value.unwrap().value, 20.0);
    let asked = world.fake.values_asked.lock().unwrap().clone();
    let of_c = |request: &&ScoreRequest| request.rows.iter().any(|row| row.values["spend_total"] == 10.0);
    assert_eq!(asked.iter().filter(of_c).count(), 1);
}

#[tokio::test]
async fn whatever_the_model_of_values_does_the_decision_is_made_and_valued_later() {
    const WRONG: &str = "the model gateway's answer was no value with an interval for each conversion";
    for (mood, why) in [
        (Mood::Away, "the model gateway did not take the call"),
        (Mood::Silent, "the model gateway did not answer within 20 ms"),
        (Mood::Says(f64::NAN), WRONG),
        (Mood::Says(f64::INFINITY), WRONG),
        (Mood::Between(0.0, f64::NAN), WRONG),
        (Mood::Between(f64::NEG_INFINITY, 30.0), WRONG),
        (Mood::Between(30.0, 10.0), WRONG),
        (Mood::WithoutInterval, WRONG),
        (Mood::OneRowTooFew, WRONG),
        (Mood::OneRowTooMany, WRONG),
        (Mood::WithoutModel, WRONG),
    ] {
        let mut world = World::new(Mood::Says(0.25), Rules::default()).await;
        world.value_says(mood);
        if mood == Mood::Silent {
            world.config.score_deadline_millis = 20;
            world.restart().await;
        }
        world.send(vec![purchase("c", 0, "10")]).await;
        let value = world.decision("c").await.lifetime_value.unwrap();
        assert_eq!(value, LifetimeValue { reason: why.into(), ..LifetimeValue::default() });
        assert_eq!(world.owed(ScoreKind::Value).await, ["c"], "{why}");
        assert!(world.owed(ScoreKind::Fraud).await.is_empty(), "{why}");

        // It is owed over a restart, and while the model has nothing to say it is not asked for again.
        world.restart().await;
        world.worker.step().await.unwrap();
        assert_eq!(world.log.end(0).await.unwrap().offset, 1, "{why}");

        world.value_says(Mood::Says(33.0));
        world.config.score_deadline_millis = 1_000;
        world.restart().await;
        world.worker.step().await.unwrap();
        world.worker.step().await.unwrap();
        let decision = world.decision("c").await;
        assert_eq!(World::reasons(&decision), [DecisionReason::Score, DecisionReason::Conversion], "{why}");
        let value = decision.lifetime_value.unwrap();
        assert_eq!((value.present, value.value), (true, 33.0), "{why}");
        assert!(world.owed(ScoreKind::Value).await.is_empty(), "{why}");
    }
}

#[tokio::test]
async fn neither_model_waits_for_the_other_nor_changes_who_wins() {
    let all = [
        (Mood::Says(0.25), Mood::Away),
        (Mood::Away, Mood::Says(20.0)),
        (Mood::Says(0.25), Mood::Says(20.0)),
    ];
    let mut decided = Vec::new();
    for (fraud, value) in all {
        let world = World::new(fraud, Rules::default()).await;
        world.value_says(value);
        world.send(vec![click("t", 60), purchase("c", 0, "10")]).await;
        let decision = world.decision("c").await;
        assert_eq!(decision.score.as_ref().unwrap().present, fraud != Mood::Away);
        assert_eq!(decision.lifetime_value.as_ref().unwrap().present, value != Mood::Away);
        assert_eq!(world.owed(ScoreKind::Fraud).await.len(), usize::from(fraud == Mood::Away));
        assert_eq!(world.owed(ScoreKind::Value).await.len(), usize::from(value == Mood::Away));
        decided.push((decision.winner, decision.credit, decision.explanation));
    }
    assert!(decided.iter().all(|other| *other == decided[0]), "{decided:?}");
}

#[tokio::test]
async fn scores_that_are_owed_come_while_values_cannot_be_had() {
    let mut world = World::new(Mood::Away, Rules::default()).await;
    world.value_says(Mood::Away);
    world.send(vec![click("t", 60), purchase("both", 0, "10"), conversion("score")]).await;
    world.send(vec![Event { device_id: "organic".into(), ..purchase("value", 0, "10") }]).await;
    world.says(Mood::Says(0.5));
    world.restart().await;
    world.worker.step().await.unwrap();
    world.worker.step().await.unwrap();
    for id in ["both", "score"] {
        assert!(world.decision(id).await.score.unwrap().present, "{id}");
    }
    assert!(world.owed(ScoreKind::Fraud).await.is_empty());
    let mut owed = world.owed(ScoreKind::Value).await;
    owed.sort();
    assert_eq!(owed, ["both", "score", "value"]);
    assert_eq!(
        World::reasons(&world.decision("value").await),
        [DecisionReason::Conversion],
        "not asked in vain"
    );
}

#[tokio::test]
async fn an_interval_holds_the_value_that_it_is_of() {
    for ((lower, upper), shown) in
        [((5.0, 30.0), (5.0, 30.0)), ((0.0, 12.0), (0.0, 20.0)), ((25.0, 30.0), (20.0, 30.0))]
    {
        let world = World::new(Mood::Says(0.25), Rules::default()).await;
        world.value_says(Mood::Between(lower, upper));
        world.send(vec![purchase("c", 0, "10")]).await;
        let value = world.decision("c").await.lifetime_value.unwrap();
        assert_eq!((value.lower, value.upper), shown);
    }
}

#[tokio::test]
async fn without_a_gateway_a_decision_says_nothing_of_values() {
    let mut world = World::new(Mood::Says(0.25), Rules::default()).await;
    world.deps.gateway = None;
    world.restart().await;
    world.send(vec![purchase("c", 0, "10")]).await;
    assert_eq!(world.decision("c").await.lifetime_value, None);
    assert_eq!(world.values_asked() + world.calls(), 0);
}
