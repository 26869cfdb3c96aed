#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, sync::Mutex};

use axum::{Router, http::HeaderMap, response::IntoResponse};
use serde_json::Value;

use super::*;

/// A platform that keeps ids, rejects what has none, and refuses each batch once before it takes it.
#[derive(Default)]
struct Fake {
    ids: HashSet<String>,
    refused: HashSet<Bytes>,
    batches: Vec<usize>,
}

async fn platform() -> (Client, Arc<Mutex<Fake>>) {
    service::install_crypto_provider();
    let fake = Arc::new(Mutex::new(Fake::default()));
    let shared = fake.clone();
    let app = Router::new()
        .fallback(move |_: HeaderMap, body: Bytes| async move { shared.lock().unwrap().answer(&body) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    service::task::spawn("fake", async move { axum::serve(listener, app).await.unwrap() });
    (Client::new(&url, "k").unwrap(), fake)
}

impl Fake {
    fn answer(&mut self, body: &Bytes) -> axum::response::Response {
        if self.refused.insert(body.clone()) {
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")], "").into_response();
        }
        let events: Vec<Value> = serde_json::from_slice(body).unwrap();
        self.batches.push(events.len());
        let (mut counts, mut items) = ([0; 3], Vec::new());
        for (index, event) in events.iter().enumerate() {
            let status = match event["event_id"].as_str() {
                Some(id) if self.ids.insert(id.to_owned()) => 0,
                Some(_) => 1,
                None => 2,
            };
            counts[status] += 1;
            let status = ["accepted", "duplicate", "rejected"][status];
            items.push(serde_json::json!({"index": index, "status": status, "field": "event_id", "code": "missing_field", "reason": "is missing"}));
        }
        let [accepted, duplicate, rejected] = counts;
        let answer = serde_json::json!({"accepted": accepted, "duplicate": duplicate, "rejected": rejected, "items": items});
        let status = if rejected == events.len() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        (status, [("content-type", "application/json")], answer.to_string()).into_response()
    }
}

fn event(place: u64) -> Item {
    Item::Event { place, json: format!("{{\"event_id\":\"e-{place}\"}}") }
}

async fn send_items(client: &Client, items: Vec<Result<Item>>) -> (Result<()>, Tally) {
    let mut tally = Tally::default();
    let progress = Progress::new("test", None);
    let result = send_all(client, items.into_iter(), || 0, &progress, &mut tally).await;
    (result, tally)
}

#[tokio::test]
async fn everything_is_sent_once_and_again_changes_nothing() {
    let (client, fake) = platform().await;
    let count = BATCH_EVENTS_MAX as u64 * 2 + 1;
    let items = || (0..count).map(|place| Ok(event(place))).collect();
    let (result, tally) = send_items(&client, items()).await;
    result.unwrap();
    assert_eq!(tally, Tally { accepted: count, ..Tally::default() });
    let mut batches = fake.lock().unwrap().batches.clone();
    batches.sort_unstable();
    assert_eq!(batches, [1, BATCH_EVENTS_MAX, BATCH_EVENTS_MAX]);
    let (result, tally) = send_items(&client, items()).await;
    result.unwrap();
    assert_eq!(tally, Tally { duplicate: count, ..Tally::default() });
}

#[tokio::test]
async fn rejections_carry_their_places_also_when_all_are_rejected() {
    let (client, _) = platform().await;
    let bad = |place| Ok(Item::Event { place, json: "{}".to_owned() });
    let unreadable = Ok(Item::Bad { place: 9, reason: "not an object".to_owned() });
    let (result, tally) = send_items(&client, vec![bad(7), unreadable, bad(8)]).await;
    result.unwrap();
    assert_eq!(tally.rejected, 3);
    let places: Vec<_> = tally.rejections.iter().map(|rejection| rejection.place).collect();
    assert_eq!(places, [7, 8, 9]);
    assert_eq!(tally.rejections[0].reason, "event_id: is missing (missing_field)");
}

#[tokio::test]
async fn what_was_read_before_an_error_is_sent() {
    let (client, fake) = platform().await;
    let (result, tally) =
        send_items(&client, vec![Ok(event(1)), Err(anyhow::anyhow!("the disk is gone"))]).await;
    assert_eq!(result.unwrap_err().to_string(), "the disk is gone");
    assert!(fake.lock().unwrap().ids.contains("e-1") || tally.accepted == 0);
}

#[test]
fn a_batch_is_full_at_its_bounds() {
    let mut batch = Batch::default();
    assert!(!batch.is_full(BATCH_BYTES_MAX + 1), "a single event goes out, whatever its size");
    for place in 0..BATCH_EVENTS_MAX as u64 - 1 {
        batch.push(event(place));
    }
    assert!(!batch.is_full(1));
    assert!(!batch.is_full(BATCH_BYTES_MAX - batch.json.len()));
    assert!(batch.is_full(BATCH_BYTES_MAX - batch.json.len() + 1));
    batch.push(event(0));
    assert!(batch.is_full(1));
}

#[test]
fn only_the_first_rejections_are_kept() {
    let mut tally = Tally::default();
    for place in (0..20).rev() {
        let rejections = vec![Rejection { place, reason: String::new() }];
        tally.add(Tally { rejected: 1, rejections, ..Tally::default() });
    }
    assert_eq!(
        (tally.rejected, tally.rejections.len(), tally.rejections[9].place),
        (20, REJECTIONS_SHOWN, 9)
    );
}
