//! Reports are a function of the set of accepted events.

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use testkit::process::Platform;

use crate::{launch, ledger::acknowledged, seeded};

const PERSONS: u32 = 15;
const EVENTS: u32 = 300;
const CHANNELS: [&str; 5] = ["search", "social", "email", "direct", "display"];

/// Touches, links and conversions of a few persons within a month, in the order of their times.
fn events(rng: &mut SmallRng) -> Vec<Value> {
    let mut times: Vec<u32> = (0..EVENTS).map(|_| rng.random_range(0..30 * 24 * 60)).collect();
    times.sort_unstable();
    let mut all = Vec::new();
    for (index, minute) in times.into_iter().enumerate() {
        let person = rng.random_range(0..PERSONS);
        let kind = ["click", "impression", "visit", "activity", "conversion"][rng.random_range(0..5)];
        let mut event = json!({
            "event_id": format!("e{index}"), "event_type": kind,
            "timestamp": 1_767_225_600_000_u64 + u64::from(minute) * 60_000,
        });
        // A device of the person's three, its user, or both, which links them.
        let (device, user) = ((rng.random_range(0..4), rng.random_range(0..2)), format!("u{person}"));
        if device.0 < 3 {
            event["device_id"] = format!("d{person}.{}", device.0).into();
        }
        if device.0 == 3 || device.1 == 1 {
            event["user_id"] = user.into();
        }
        match kind {
            "conversion" => {
                event["conversion"] = ["purchase", "signup"][rng.random_range(0..2)].into();
                event["value"] =
                    format!("{}.{:02}", rng.random_range(0..500), rng.random_range(0..100)).into();
                event["currency"] = ["EUR", "USD"][rng.random_range(0..2)].into();
            }
            "activity" => {}
            _ => {
                event["channel"] = CHANNELS[rng.random_range(0..CHANNELS.len())].into();
                event["campaign_id"] = format!("c{}", rng.random_range(0..4)).into();
            }
        }
        all.push(event);
    }
    all
}

/// The answers to questions of every kind, without the moments in them.
async fn reports(platform: &Platform) -> Vec<String> {
    let models = json!([
        "decision",
        "first_touch",
        "last_touch",
        "last_non_direct",
        "linear",
        "position_based",
        "time_decay",
        "markov",
        "shapley"
    ]);
    let several = json!(["linear", "time_decay", "decision"]);
    let mut answers = Vec::new();
    for mut question in [
        json!({"models": models, "dimensions": ["channel"], "measures": ["conversions", "value", "touches", "persons"]}),
        json!({"models": models, "dimensions": ["channel"], "lookback": "2d", "measures": ["conversions", "value"]}),
        json!({"models": several, "dimensions": ["campaign_id", "day", "conversion"], "lookback": "90d"}),
        json!({"models": several, "dimensions": ["channel"], "path_transforms": ["exposure", {"remove_if_last_and_not_all": "direct"}]}),
        json!({"models": several, "dimensions": [], "filters": [{"dimension": "conversion", "in": ["purchase"]}]}),
    ] {
        question["from"] = "2026-01-01".into();
        question["to"] = "2026-02-01".into();
        question["limit"] = 100_000.into();
        let mut answer = platform.report(&question).await;
        assert!(!answer["rows"].as_array().unwrap().is_empty(), "{answer}");
        answer.as_object_mut().unwrap().remove("query_ms").unwrap();
        for moment in ["as_of", "complete_through"] {
            answer["method"].as_object_mut().unwrap().remove(moment).unwrap();
        }
        answers.push(answer.to_string());
    }
    answers
}

/// Sends all events in batches, each event so often, with so many kills in between; then the reports.
async fn send(
    mut sent: Vec<Value>,
    partitions: u32,
    repeats_max: u32,
    kills: usize,
    rng: &mut SmallRng,
) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let start = launch(folder.path()).env("ATTRIBUTION_LOG_PARTITIONS", partitions.to_string());
    if repeats_max > 1 {
        sent = sent
            .into_iter()
            .flat_map(|event| vec![event; rng.random_range(1..=repeats_max) as usize])
            .collect();
        sent.shuffle(rng);
    }
    let deaths: Vec<usize> = (0..kills).map(|_| rng.random_range(0..sent.len())).collect();
    let mut platform = start.ready().await;
    let mut at = 0;
    while at < sent.len() {
        let to = (at + rng.random_range(1..60)).min(sent.len());
        let answer = platform.post("/v1/events", &Value::Array(sent[at..to].to_vec())).await.unwrap();
        assert!(acknowledged(&answer), "{}", answer.body);
        if deaths.iter().any(|death| (at..to).contains(death)) {
            platform.kill().await;
            platform = start.ready().await;
        }
        at = to;
    }
    let answers = reports(&platform).await;
    platform.stop().await;
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn order_repetition_batches_partitions_and_kills_leave_the_same_reports() {
    let mut rng = seeded("order");
    let events = events(&mut SmallRng::seed_from_u64(rng.random()));
    let first = send(events.clone(), 1, 1, 0, &mut rng).await;
    for (way, (partitions, repeats_max, kills)) in [(4, 10, 2), (1, 3, 1)].into_iter().enumerate() {
        let other = send(events.clone(), partitions, repeats_max, kills, &mut rng).await;
        for (question, (first, other)) in first.iter().zip(&other).enumerate() {
            assert_eq!(first, other, "question {question}, way {way}");
        }
    }
}
