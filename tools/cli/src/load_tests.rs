#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use axum::{Router, http::HeaderMap};

use super::*;

#[test]
fn durations_have_a_unit_and_bounds() {
    for (text, seconds) in [("1s", 1), ("5m", 300), ("24h", 86_400), ("86400s", 86_400)] {
        assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
    }
    for wrong in ["", "s", "5", "0s", "25h", "86401s", "-1s", "1.5s"] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn as_much_is_due_as_was_asked() {
    assert_eq!(batches(10_000, Duration::from_secs(30), 100), 3_000);
    assert_eq!(batches(1, Duration::from_secs(1), 100), 1);
}

#[test]
fn every_event_has_its_own_id() {
    let ids = |batch| -> HashSet<String> {
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body(7, batch, 500)).unwrap();
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(0).union(&ids(1)).count(), 1_000);
}

/// One connection, and a platform that stalls once: what became due meanwhile is charged for the stall.
#[tokio::test]
async fn a_stall_is_charged_to_everything_that_was_due() {
    service::install_crypto_provider();
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let app = Router::new().fallback(move |_: HeaderMap, _: Bytes| async move {
        if first.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        r#"{"accepted":1,"duplicate":0,"rejected":0,"items":[]}"#
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), "k").unwrap();
    service::task::spawn("stalling", async move { axum::serve(listener, app).await.unwrap() });
    let plan = Plan {
        start: Instant::now(),
        batches: 20,
        events: 1,
        rate: 100,
        next: AtomicU64::new(0),
        answered: AtomicU64::new(0),
    };
    let outcome = plan.work(&client, 1, plan.start + Duration::from_secs(30)).await.unwrap();
    assert_eq!((outcome.sent, outcome.accepted), (20, 20));
    // All 20 were due within 200 ms, so even the last one waited about 100 ms for the stall to end.
    assert!(outcome.millis(0.1) >= 100.0, "{} ms", outcome.millis(0.1));
}

#[test]
fn refusals_and_failures_are_told_apart() {
    let mut outcome = Outcome::new().unwrap();
    let refusal =
        |status| crate::client::Answer { status, headers: Default::default(), body: Bytes::new() }.success();
    outcome.record(refusal(StatusCode::SERVICE_UNAVAILABLE), Duration::ZERO, 5);
    outcome.record(refusal(StatusCode::BAD_REQUEST), Duration::ZERO, 3);
    assert_eq!((outcome.sent, outcome.refused, outcome.failed, outcome.latency_micros.len()), (8, 5, 3, 0));
    assert!(outcome.verdict(0).unwrap_err().to_string().starts_with("8 events"));
    assert!(Outcome::new().unwrap().verdict(1).is_err());
    assert!(Outcome::new().unwrap().verdict(0).is_ok());
}
