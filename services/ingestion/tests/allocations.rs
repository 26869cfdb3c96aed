//! How often a batch asks the allocator: a count, which no machine makes larger.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    future::{Future, poll_fn},
    task::Poll,
};

use axum::body::Body;
use common::{Sandbox, post};
use http_body_util::BodyExt;
use tower::ServiceExt;

/// Of a batch as a whole.
const BATCH_ALLOCATIONS_MAX: u64 = 72;
/// Of the lists that are longer when a batch is.
const GROWTH_ALLOCATIONS_MAX: u64 = 20;
/// Of each event in the cache of these tests, which keeps the tenant and the id as texts.
const TEST_CACHE_ALLOCATIONS: u64 = 2;

/// The 17 fields of a full click.
fn event(batch: usize, index: usize) -> String {
    format!(
        r#"{{"event_id":"e-{batch}-{index}","event_type":"click","timestamp":1767225600000,"device_id":"d-{index}","click_id":"cl","app_id":"a","platform":"android","channel":"search","partner":"p","campaign_id":"c","ad_group_id":"g","creative_id":"cr","keyword":"running shoes","sub_publisher":"s","country":"DE","ip":"203.0.113.7","user_agent":"Mozilla/5.0"}}"#
    )
}

/// Allocations of one request with so many events, from its head to the last byte of its answer.
async fn allocations(sandbox: &Sandbox, batch: usize, events: usize) -> u64 {
    let items: Vec<String> = (0..events).map(|index| event(batch, index)).collect();
    let body = Body::from(format!("[{}]", items.join(",")));
    let request = post("key-acme", "application/json").body(body).unwrap();
    let routes = sandbox.routes.clone();
    let mut work = Box::pin(async move {
        let response = routes.oneshot(request).await.unwrap();
        (response.status(), response.into_body().collect().await.unwrap().to_bytes())
    });
    // The runtime has one thread, and what is counted is what that thread allocates while it works on the request.
    let mut count = 0;
    let (status, body) = poll_fn(|context| {
        let mut polled = Poll::Pending;
        count += allocation_counter::measure(|| polled = work.as_mut().poll(context)).count_total;
        polled
    })
    .await;
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["accepted"], events);
    count
}

#[tokio::test]
async fn an_event_costs_no_allocation_of_its_own() {
    let sandbox = Sandbox::new(1).await;
    // The first request makes what all others share: series of metrics, tables.
    allocations(&sandbox, 0, 2_000).await;
    let (few, many) = (allocations(&sandbox, 1, 100).await, allocations(&sandbox, 2, 1_100).await);
    println!("{few} allocations for 100 events, {many} for 1,100");
    let test_cache = |events: u64| events * TEST_CACHE_ALLOCATIONS;
    assert!(few <= BATCH_ALLOCATIONS_MAX + test_cache(100), "{few}");
    assert!(
        many <= few + test_cache(1_000) + GROWTH_ALLOCATIONS_MAX,
        "{many}, and {few} for a thousand less"
    );
}
