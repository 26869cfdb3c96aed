//! Every answer is counted, under the names that dashboards use.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Mode, Sandbox, click, eventually};

#[tokio::test]
async fn events_are_counted_by_result_and_while_they_wait() {
    telemetry::metrics::install().unwrap();
    let sandbox = Arc::new(Sandbox::new(1).await);
    let shows = |line: &str| telemetry::metrics::render().lines().any(|shown| shown == line);
    sandbox.log.set(Mode::Held);
    let client = Arc::clone(&sandbox);
    let body = format!("[{},{},{},7]", click("a", "d"), click("a", "d"), click("b", "d"));
    let answer = service::task::spawn("a client", async move { client.post(body).await });
    eventually("the append is asked for", || sandbox.log.asked() == 1).await;
    assert!(shows("kafka_producer_queue_size 2"));
    assert!(!shows("ingestion_events_total{result=\"accepted\"} 2"), "counted before it was durable");
    sandbox.log.set(Mode::Open);
    assert_eq!(answer.await.unwrap().status, 200);
    let page = telemetry::metrics::render();
    for line in [
        "kafka_producer_queue_size 0",
        "ingestion_events_total{result=\"accepted\"} 2",
        "ingestion_events_total{result=\"duplicate\"} 1",
        "ingestion_events_total{result=\"rejected\"} 1",
    ] {
        assert!(shows(line), "{line} in\n{page}");
    }
}
